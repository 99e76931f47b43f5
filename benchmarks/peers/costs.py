"""What the libraries cost beside the network: ratios, measured in turns.

    python benchmarks/peers/costs.py overhead --psld PATH
    python benchmarks/peers/costs.py perturb --psld PATH --gud PATH --gud-python PYTHON
    python benchmarks/peers/costs.py training
    python benchmarks/peers/costs.py memory
    python benchmarks/peers/costs.py import

One thread, float32, CPU time; the C library is told to keep freed memory. In each round
every side runs once, one after the other; a ratio is that of a side to the `base` of
its case in the same round. results_costs.csv gets the median over the rounds and the
quartiles. Nothing else is stored: times in seconds differ from machine to machine.

* `overhead`: a step of a sampler, of a whole run of 20 steps, its table of coefficients
  included, with a denoiser that returns a tensor it holds. `one` is one image of
  3 x 32 x 32, `batch` 64. Base: a loop of DDIM with numbers computed beforehand. PSLD:
  base is this package's sampler of the same name.
* `perturb`: noise for a batch of 64 images, each at a time of its own, normal numbers
  given. Base: two lookups in a table of 1000 times and x times a plus noise times b.
* `training`: a step of `fit` against loops on the same network and optimizer: by hand,
  with the noising of diffusers, and with the loss of azula. The cases are those of
  training.py: an MLP on digits of 8 x 8, a U-Net on 28 x 28, one schedule or a family
  of schedules per component, and PSLD; 20 steps or 1 in a turn.
* `memory`: the largest resident size in a run of 20 steps less that before, over the
  size of the batch of 4 images, by side of the image. One run, in a process that gives
  back what is freed.
* `import`: CPU seconds of an import over those of `import torch`, in new processes.
"""

import argparse
import csv
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from types import SimpleNamespace

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # training.py, released.py
FIELDS = "what case library name base ratio low high rounds".split()
STEPS, SIDES = 20, (64, 128, 256)


# ------------------------------------------------------------------------ taking turns
def seconds(
    run: Callable,  # without arguments
    enough: float = 0.05,  # CPU seconds that a measurement takes at least
) -> float:  # CPU seconds of one run
    "The mean of as many runs as fill a moment."
    began, n = time.process_time(), 0
    while time.process_time() - began < enough:
        run()
        n += 1
    return (time.process_time() - began) / n


def turns(
    sides: dict,  # name -> function without arguments
    base: str,  # one of the names
    rounds: int,  # how often each has its turn
) -> dict:  # name -> ratios to the base, one for each round
    "Every side once in each round, and its ratio to the base of that round."
    for run in sides.values():
        run()  # warm
    found = {name: [] for name in sides}
    for _ in range(rounds):
        spent = {name: seconds(run) for name, run in sides.items()}
        for name in sides:
            found[name].append(spent[name] / spent[base])
    return found


def rows(
    what: str,  # the command
    case: str,  # what is alike for all sides
    found: dict,  # (library, name) -> ratios
    base: str,  # in words
) -> list[dict]:
    "Medians and quartiles."
    out = []
    for (library, name), ratios in found.items():
        low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        row = dict(what=what, case=case, library=library, name=name, base=base)
        row |= {
            k: f"{v:.3g}" for k, v in zip(("ratio", "low", "high"), (middle, low, high))
        }
        out.append(row | dict(rounds=len(ratios)))
        print(*out[-1].values(), sep=", ", flush=True)
    return out


# ----------------------------------------------------------------------------- samplers
def kept(
    chi: Tensor,  # (batch, *data)
) -> Callable:  # (y, log_snr) -> chi
    "A denoiser that costs nothing."

    def denoiser(y, log_snr, labels=None):
        return chi

    return denoiser


def by_hand(
    x: Tensor,  # (batch, *data)
) -> Callable:
    "DDIM with its numbers computed beforehand."
    t = torch.linspace(1, 1e-3, STEPS + 1, dtype=torch.float64)
    alpha = torch.exp(-(0.1 * t + 9.95 * t**2) / 2)
    sigma = (1 - alpha**2).sqrt()
    ratio = (sigma[1:] / sigma[:-1]).tolist()
    rest = (alpha[1:] - alpha[:-1] * sigma[1:] / sigma[:-1]).tolist()

    def run():
        z, chi = x, x
        for a, b in zip(ratio, rest):
            z = a * z + b * chi
        return z

    return run


def our_run(
    process: str,  # VP, GUD or PSLD
    method: Callable,  # a sampler
    x: Tensor,  # (batch, *data)
) -> Callable:
    "A sampler of this package: diffusion, grid and table made in the run."
    from gud_nb.denoiser import Score
    from gud_nb.diffusion import LinearDiffusion, hsm
    from gud_nb.recipe import psld, vp
    from gud_nb.sampler import quadratic, sample
    from gud_nb.schedule import LinearBeta, soft_conditioning

    side = x.shape[-1]
    f = torch.arange(1, side + 1, dtype=torch.float64)
    variances = (side**2 / (f[:, None] ** 2 + f**2)).expand(x.shape[1:])
    recipe = psld() if process == "PSLD" else vp()
    z, denoiser = x[:, None].repeat(1, recipe.k, 1, 1, 1), kept(x)

    def run():
        schedule = LinearBeta()
        if process == "GUD":
            schedule = soft_conditioning(variances, 1.0)
        if process == "PSLD":
            schedule = LinearBeta(8.0, 8.0)
        d = LinearDiffusion(recipe, schedule, hsm(recipe) if recipe.k > 1 else None)
        times = quadratic(STEPS)
        return sample(method, d, Score(d, denoiser), z, times, final=False)

    return run


def diffusers_run(
    name: str,  # of the scheduler
    x: Tensor,  # (batch, *data)
    **how,  # its settings
) -> Callable:
    "A scheduler of diffusers, made in the run."
    import diffusers

    kind = getattr(diffusers, f"{name}Scheduler")

    def run():
        s, z = kind(prediction_type="sample", **how), x
        s.set_timesteps(STEPS)
        for t in s.timesteps:
            z = s.step(x, t, z, return_dict=False)[0]
        return z

    return run


def k_run(
    name: str,  # of the function
    x: Tensor,  # (batch, *data)
    noisy: bool = False,  # with draws of its own in place of a Brownian tree
) -> Callable:
    "A function of k-diffusion."
    from solvers import _sampling

    library = _sampling()
    how = {}
    if noisy:
        how["noise_sampler"] = lambda first, last: torch.randn_like(x)

    def run():
        sigmas = library.get_sigmas_karras(STEPS, 0.01, 150.0)
        function = getattr(library, f"sample_{name}")
        return function(lambda z, sigma: x, x, sigmas, disable=True, **how)

    return run


def azula_run(
    name: str,  # of the class
    x: Tensor,  # (batch, *data)
    **how,  # its settings
) -> Callable:
    "A sampler of azula."
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Kept(Denoiser):
        "Returns what it holds."

        schedule = VPSchedule()

        def forward(self, x_t, t, **_):
            return DiracPosterior(mean=x)

    kind, denoiser = getattr(sample, f"{name}Sampler"), Kept()

    def run():
        with torch.no_grad():
            return kind(denoiser, steps=STEPS, silent=True, **how)(x)

    return run


def on_vp(
    x: Tensor,  # (batch, *data)
) -> dict:  # (library, name) -> run
    "Samplers of VP, and of ours with a schedule for each component."
    from gud_nb.adams import sde_dpm_solver, unipc
    from gud_nb.integrators import DPMSolver
    from gud_nb.sampler import ddim

    sde = dict(algorithm_type="sde-dpmsolver++")
    found = {
        ("by hand", "DDIM"): by_hand(x),
        ("diffusers", "DDIM"): diffusers_run("DDIM", x, clip_sample=False),
        ("k-diffusion", "DDIM"): k_run("euler", x),
        ("azula", "DDIM"): azula_run("DDIM", x),
        ("gud_nb", "DDIM"): our_run("VP", ddim, x),
        ("diffusers", "2M"): diffusers_run("DPMSolverMultistep", x),
        ("k-diffusion", "2M"): k_run("dpmpp_2m", x),
        ("azula", "2M"): azula_run("xEAB", x, order=2),
        ("gud_nb", "2M"): our_run("VP", DPMSolver(2), x),
        ("diffusers", "SDE 2M"): diffusers_run("DPMSolverMultistep", x, **sde),
        ("k-diffusion", "SDE 2M"): k_run("dpmpp_2m_sde", x, noisy=True),
        ("gud_nb", "SDE 2M"): our_run("VP", sde_dpm_solver(2), x),
        ("diffusers", "UniPC 2"): diffusers_run("UniPCMultistep", x),
        ("gud_nb", "UniPC 2"): our_run("VP", unipc(2), x),
    }
    found["gud_nb", "2M, a schedule per component"] = our_run("GUD", DPMSolver(2), x)
    return found


def released_psld(
    path: Path,  # of the clone
) -> tuple:  # the process, its samplers by name
    "The released PSLD code with the values of its paper."
    from solvers import _released

    process, kinds = _released(path)
    how = dict(n_timesteps=STEPS, beta_min=8.0, beta_max=8.0, nu=4.01, gamma=0.01)
    how |= dict(kappa=0.04, numerical_eps=1e-9, decomp_mode="lower")
    space = SimpleNamespace(model=SimpleNamespace(sde=SimpleNamespace(**how)))
    return process(space), kinds


def on_psld(
    x: Tensor,  # (batch, *data)
    path: Path,  # of the clone
) -> dict:  # (library, name) -> run
    "Samplers of PSLD."
    from gud_nb.sampler import euler_maruyama, sscs

    sde, kinds = released_psld(path)
    z = torch.cat([x, x], 1)
    times = torch.linspace(0, 1 - 1e-3, STEPS + 1, dtype=torch.float64)

    def theirs(name):
        sampler = kinds[name](None, sde, lambda u, t: u)
        return lambda: sampler.sample(z, times, STEPS, denoise=False)

    found = {}
    for name, method in {"EM": euler_maruyama, "SSCS": sscs}.items():
        found["gud_nb", name] = our_run("PSLD", method, x)
        found["PSLD", name] = theirs(name)
    return found


def overhead(a) -> list[dict]:
    "A step of every sampler, and an evaluation of the small U-Net."
    from gud_nb.network import UNet

    out = []
    for case, n in (("one", 1), ("batch", 64)):
        x = torch.randn(n, 3, 32, 32)
        hand, net = "DDIM by hand", UNet(3).eval()

        def network(x=x, net=net):
            with torch.no_grad():
                net(x, torch.zeros(len(x)))

        sides = on_vp(x) | {("U-Net", "an evaluation"): network}
        found = turns(sides, ("by hand", "DDIM"), a.rounds)
        times = found["U-Net", "an evaluation"]  # one for each step of a run
        found["U-Net", "an evaluation"] = [STEPS * v for v in times]
        out += rows("overhead", f"VP, {case}", found, hand)
        for name in ("EM", "SSCS") if a.psld else ():
            sides = {k: f for k, f in on_psld(x, a.psld).items() if k[1] == name}
            found = turns(sides, ("gud_nb", name), a.rounds)
            out += rows("overhead", f"PSLD, {case}", found, f"gud_nb {name}")
    return out


# ------------------------------------------------------------------------------ noising
def noisings(a) -> dict:  # (library, name) -> run
    "Noise for a batch of 64, each image at its own time."
    from azula.noise import VPSchedule
    from diffusers import DDPMScheduler
    from gud_nb.diffusion import LinearDiffusion, hsm
    from gud_nb.recipe import psld, vp
    from gud_nb.schedule import LinearBeta
    from released import diffusion_of

    x, n = torch.randn(2, 64, 3, 32, 32)
    k, t = torch.randint(1000, (64,)), torch.linspace(1e-3, 1, 64)
    ones, pair = (-1, 1, 1, 1), torch.stack([n, n], 1)
    table = torch.rand(2, 1000)
    scheduler, schedule = DDPMScheduler(), VPSchedule()

    def hand():
        alpha, sigma = table[:, k]
        return alpha.reshape(ones) * x + sigma.reshape(ones) * n

    def by_azula():
        alpha, sigma = schedule(t.reshape(ones))
        return alpha * x + sigma * n

    def ours(d, noise):
        return lambda: d.perturb(x, t.double(), noise)

    d = LinearDiffusion(vp(), LinearBeta())
    p = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), hsm(psld()))
    found = {
        ("by hand", "VP"): hand,
        ("diffusers", "VP"): lambda: scheduler.add_noise(x, n, k),
        ("k-diffusion", "VE"): lambda: x + n * t.reshape(ones),
        ("azula", "VP"): by_azula,
        ("gud_nb", "VP"): ours(d, n[:, None]),
        ("gud_nb", "GUD"): ours(diffusion_of("gud"), n[:, None]),
        ("gud_nb", "PSLD"): ours(p, pair),
    }
    if a.psld:
        sde, _ = released_psld(a.psld)
        m, u, late = torch.zeros_like(x), torch.cat([n, n], 1), t.double()
        found["PSLD", "PSLD"] = lambda: sde.perturb_data(x, m, 0, sde.mm_0, late, eps=u)
    return found


def perturb(a) -> list[dict]:
    "What noising a batch costs."
    found = turns(noisings(a), ("by hand", "VP"), a.rounds)
    if a.gud:
        from released import Side

        file = str(HERE.parent / "released.py")
        sides = [
            Side([a.gud_python, file, "--gud", a.gud, "--serve", "gud"]),
            Side([sys.executable, file, "--serve", "ours"]),
        ]
        ratios = []
        for _ in range(a.rounds):
            for side, name in zip(sides, ("perturb", "gud perturb")):
                side.least.clear()
                side.run(name)
            ratios.append(sides[0].least["perturb"] / sides[1].least["gud perturb"])
        for side in sides:
            side.close()
        base = "gud_nb GUD"
        gud = {("GUD, jitted", "GUD"): ratios}
        return rows("perturb", "batch", found, "by hand") + rows(
            "perturb", "a schedule per component", gud, base
        )
    return rows("perturb", "batch", found, "by hand")


# ----------------------------------------------------------------------------- training
def loops(case) -> dict:  # name -> generator that makes a step each time
    "Loops on the network of a case, as other libraries let one write them."
    import copy
    from dataclasses import replace

    from azula.denoise import SimpleDenoiser
    from azula.noise import VPSchedule
    from diffusers import DDPMScheduler
    from training import bare_loop

    scheduler = DDPMScheduler()
    log_snr = torch.logit(scheduler.alphas_cumprod.clamp(1e-6, 1 - 1e-6))

    def noising(i):
        chi, n = case.x[i], torch.randn_like(case.x[i])
        t = torch.randint(1000, (len(i),))
        return scheduler.add_noise(chi, n, t), log_snr[t], n, None

    def by_azula():
        net = copy.deepcopy(case.model.network)
        denoiser = SimpleDenoiser(net, VPSchedule()).train()
        weights = list(net.parameters())
        optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
        while True:
            for i in torch.randperm(len(case.x)).split(case.batch):
                if len(i) < case.batch:
                    continue
                loss = denoiser.loss(case.x[i], torch.rand(len(i)))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                yield loss

    return {
        "by hand": lambda: bare_loop(case, "cpu", False),
        "diffusers": lambda: bare_loop(replace(case, noising=noising), "cpu", False),
        "azula": by_azula,
    }


def training(a) -> list[dict]:
    "A step of `fit` over a step of each loop."
    from gud_nb.train import Training, fit
    from training import Turns, cases

    out = []
    few = max(3, a.rounds // 3)
    plan_of = {"mlp": a.rounds, "mlp family": a.rounds}
    plan_of |= {name: few for name in ("unet", "family", "psld")}
    for name, rounds in plan_of.items():
        torch.manual_seed(0)
        case = cases("cpu", False)[name]()
        for library, loop in loops(case).items():
            if name != "mlp" and library != "by hand":
                continue
            block = 20 if name.startswith("mlp") else 1
            timer = Turns(loop(), "cpu", block, rounds, 1)
            plan = Training(minutes=1 / 60, timer=timer, batch=case.batch)
            fit(case.model, case.x, plan, cpu=True)
            ratios = [mine / its for mine, its in timer.pairs]
            found = {("gud_nb", "fit"): ratios}
            out += rows("training", name, found, f"loop, {library}")
    return out


# ------------------------------------------------------------------- memory and imports
def runs_of_memory() -> dict:  # "library, name" -> function of x that prepares a run
    "Second-order multistep samplers; each imports its library alone."

    def ours(process):
        from gud_nb.integrators import DPMSolver

        return lambda x: our_run(process, DPMSolver(2), x)

    return {
        "diffusers, 2M": lambda: lambda x: diffusers_run("DPMSolverMultistep", x),
        "k-diffusion, 2M": lambda: lambda x: k_run("dpmpp_2m", x),
        "azula, 2M": lambda: lambda x: azula_run("xEAB", x, order=2),
        "gud_nb, 2M": lambda: ours("VP"),
        "gud_nb, 2M of PSLD": lambda: ours("PSLD"),
        "gud_nb, 2M, a schedule per component": lambda: ours("GUD"),
    }


def give_back_memory():
    "Let the C library give back all that is freed, so that a peak is that of a run."
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-3, 2**16)  # M_MMAP_THRESHOLD
    mallopt(-1, 0)  # M_TRIM_THRESHOLD


def peak(
    key: str,  # of runs_of_memory
    side: int,  # of the images
) -> float:  # batches of images
    "The largest resident size of a run in this process, over the size of the batch."
    from scaling import status

    give_back_memory()
    prepared = runs_of_memory()[key]()
    prepared(torch.randn(4, 3, 8, 8))()  # what is loaded when it is first used
    run = prepared(torch.randn(4, 3, side, side))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = status("VmRSS")
    run()
    return (status("VmHWM") - before) / (4 * 3 * side**2 * 4 / 1024)


def memory(a) -> list[dict]:
    "Memory of a run against the side of the image, in a new process for each."
    out = []
    for key in runs_of_memory():
        library, name = key.split(", ", 1)
        for side in SIDES:
            command = [sys.executable, str(HERE / "costs.py"), "peak", key, str(side)]
            text = subprocess.run(command, capture_output=True, text=True, check=True)
            found = {(library, name): [float(json.loads(text.stdout))]}
            out += rows("memory", str(side), found, "batch of images")
    return out


STUBS = """
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
folder = list(find_spec("k_diffusion").submodule_search_locations)
bare = ["k_diffusion", "torchvision", "torchvision.transforms"]
bare += ["torchvision.transforms.functional", "PIL", "PIL.Image"]
for name in bare:
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__spec__ = ModuleSpec(name, None)
sys.modules["k_diffusion"].__path__ = folder
"""
IMPORTS = {
    "torch": ("", "import torch"),
    "azula": ("", "import azula.denoise, azula.noise, azula.sample"),
    "diffusers": ("", "from diffusers import DDPMScheduler, UNet2DModel"),
    "k-diffusion": (STUBS, "import k_diffusion.sampling"),
    "gud_nb": ("", "import gud_nb.sampler, gud_nb.diffusion, gud_nb.denoiser"),
    "gud_nb, training": ("", "import gud_nb.train, gud_nb.network"),
}


def imports(a) -> list[dict]:
    "CPU time of an import in a new process, over that of torch."
    found = {(name, line): [] for name, (_, line) in IMPORTS.items()}
    for _ in range(a.rounds):
        spent = {}
        for name, (before, line) in IMPORTS.items():
            code = f"{before}\nimport time\nb = time.process_time()\n{line}\n"
            code += "print(time.process_time() - b)"
            command = [sys.executable, "-W", "ignore", "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            spent[name] = float(done.stdout.splitlines()[-1])
        for (name, line), ratios in found.items():
            ratios.append(spent[name] / spent["torch"])
    return rows("import", "new process", found, "import torch")


def keep(
    what: str,  # the command
    new: list[dict],  # its rows
):
    "Store the rows of a command in place of those that were there."
    path, old = HERE / "results_costs.csv", []
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        old = [r for r in csv.DictReader(lines) if r["what"] != what]
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(old + new)


def main():
    "Measure one kind of cost."
    from released import keep_memory

    torch.set_num_threads(1)
    sys.stdout.reconfigure(errors="backslashreplace")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = dict(overhead=overhead, perturb=perturb, training=training)
    commands |= {"memory": memory, "import": imports}
    p.add_argument("what", choices=[*commands, "peak"])
    p.add_argument("of", nargs="*", help=argparse.SUPPRESS)
    p.add_argument("--rounds", type=int, default=9, help="turns (default 9)")
    p.add_argument("--psld", type=Path, metavar="PATH", help="released PSLD code")
    p.add_argument("--gud", metavar="PATH", help="released GUD code")
    p.add_argument("--gud-python", metavar="PYTHON", help="that has jax")
    a = p.parse_args()
    if a.what == "peak":
        return print(peak(a.of[0], int(a.of[1])))
    keep_memory()
    keep(a.what, commands[a.what](a))


if __name__ == "__main__":
    main()
