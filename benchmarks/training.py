"""What `fit` costs beside a bare loop on the same network, and what a step consists of.

    python benchmarks/training.py                    one thread
    python benchmarks/training.py --only mlp psld    some of the cases
    python benchmarks/training.py --device cuda      on a GPU; counts copies to it, too
    python benchmarks/training.py --device mps       on a Mac
    python benchmarks/training.py --compile          with the network compiled; beside
                                                     it a mode, such as reduce-overhead

The bare loop is what one would write by hand for one network and one process: gather a
batch, draw noise and levels, scale, forward, squared error of the noise, backward, clip
the gradient, fused AdamW. All that could be computed before the loop is:
components of the data, and for phases a table of coefficients at 1000 times. It has no
averages of the weights, no law of the data, no log, no checks and no seeds; network,
batch, precision, optimizer and data are those of `fit`, log-SNRs are drawn alike.

`fit` is called as a user calls it, without a folder. Its timer is called once per step,
and there the bare loop gets its turns: so many steps of the one, so many of the other.
The ratio is the median over turns of the time of `fit` over that of its bare neighbour;
in parentheses the quartiles. On a CPU with one thread, time is CPU time of the process,
otherwise wall time after synchronisation.

Counts are those of one step (torch.profiler), in `fit` / in the bare loop: operators;
reads of a number, which wait for the device (`aten::_local_scalar_dense`); and on a GPU
launches of kernels, copies from the host and waits for a stream.
"""

import argparse, copy, gc, json, math, platform, sys, time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from gud_nb.basis import DCT, Pixel, Whitened, spectrum_order
from gud_nb.data import digits, gaussian_field
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import MLP, UNet, bands
from gud_nb.recipe import psld, vp
from gud_nb.schedule import Family, LinearBeta, soft_conditioning
from gud_nb.train import Training, fit

VP = LinearDiffusion(vp(), LinearBeta())
PSLD = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))


# --------------------------------------------------------------------------- the models
@dataclass(frozen=True, eq=False)
class Case:
    "A model, its data, and a bare loop's noising of a batch."

    model: nn.Module
    x: Tensor  # (n, *data)
    noising: object  # (numbers of images) -> input, level, target, map of the answer
    batch: int
    mixed: bool = False  # bfloat16 in the network


def fields(shape: tuple, n: int) -> Tensor:
    "Smooth random images, (n, *shape)."
    x = gaussian_field(shape, 2.0, n, torch.Generator().manual_seed(0))
    return x / 3


def vp_case(net: nn.Module, x: Tensor, batch: int, device, mixed=False) -> Case:
    "VP in pixels, one log-SNR for each image, as cosine schedules have it."
    basis = Pixel(tuple(x.shape[1:]))
    rank = 256 if x[0].numel() > 1024 else None
    model = ScoreModel(net, VP, basis, fit_law(VP, basis, x, rank)).to(device)
    x, ones = x.to(device), [1] * (x.ndim - 1)

    def noising(i):
        chi, u = x[i], torch.rand(len(i), device=device).clamp(1e-4, 1 - 1e-4)
        angle = (math.pi / 2 * u).reshape(-1, *ones)
        n = torch.randn_like(chi)
        level = -2 * torch.log(torch.tan(math.pi / 2 * u))
        return angle.cos() * chi + angle.sin() * n, level, n, None

    return Case(model, x, noising, batch, mixed)


def family_case(net_of, x: Tensor, batch: int, device, mixed=False, n=16) -> Case:
    "Soft conditioning of cosine components, 128 members, one log-SNR for each group."
    basis = Whitened.fit(DCT(tuple(x.shape[1:])), x, floor=1e-3)
    v = basis.scale.square()
    fixed = dict(variances=v, whitened=True)
    family = Family(soft_conditioning, dict(a=(0.4, 1.6)), fixed)
    groups = bands(spectrum_order(v), n)
    d = LinearDiffusion(vp(), family())
    law = fit_law(d, basis, x)
    model = ScoreModel(net_of(n), d, basis, law, groups=groups, family=family)
    model = model.to(device)
    members = [family(a=0.4 + 1.2 * i / 128) for i in range(128)]
    both = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ends = torch.stack([m.gamma(both) for m in members])
    low, high = ends.float().to(device).unbind(1)  # on the device, before the loop
    means = nn.functional.one_hot(groups.flatten(), n).float()
    means = (means / means.sum(0)).to(device)
    x = x.to(device)
    chi_all, back, ones = basis(x), basis.rotation, [1] * (x.ndim - 1)

    def noising(i):
        chi, k = chi_all[i], torch.randint(len(low), (len(i),), device=device)
        t = torch.rand(len(i), *ones, device=device)
        gamma = low[k] + t * (high[k] - low[k])
        n, sigma = torch.randn_like(chi), (gamma / 2).exp()
        seen = (chi + sigma * n) * (1 + sigma.square()).rsqrt()
        return back.inv(seen), -gamma.flatten(1) @ means, n, back

    return Case(model, x, noising, batch, mixed)


def psld_case(net: nn.Module, x: Tensor, batch: int, device, mixed=False) -> Case:
    "PSLD in the paper's form: all phases in, the noise of all phases out, HSM."
    model = PhaseModel(net, PSLD, Pixel(tuple(x.shape[1:]))).to(device)
    times = torch.linspace(1e-5, 1, 1000, dtype=torch.float64)
    like, ones = torch.zeros(1000, 2, 1, 1, 1), [1] * (x.ndim - 1)
    p = PSLD.perturb(torch.ones(1000, 1, 1, 1), times, like)
    level = PSLD.log_snr(times, like).flatten().float().to(device)
    mean, L = (v.flatten(1).to(device, torch.float32) for v in (p.mean, p.L))
    x, C = x.to(device), x.shape[1]

    def noising(i):
        chi, k = x[i], torch.randint(1000, (len(i),), device=device)
        n = torch.randn(len(i), 2, *x.shape[1:], device=device)
        m = mean[k].reshape(-1, 2, *ones)
        xx, _, mx, mm = L[k].reshape(-1, 4, *ones).unbind(1)
        z = m * chi[:, None]
        first = xx * n[:, 0]
        second = mx * n[:, 0] + mm * n[:, 1]
        z = z + torch.stack([first, second], 1)
        return z.flatten(1, 2), level[k], n.flatten(1, 2), None

    assert C * 2 == net.config["channels_in"]
    return Case(model, x, noising, batch, mixed)


def cases(device, small: bool) -> dict:
    "All that is compared: functions that build it, by name."
    n, batch, width = (256, 8, 8) if small else (2048, 64, 24)
    how = dict(width=width)

    def grey():
        return fields((1, 28, 28), n)

    def colour():
        return fields((3, 32, 32), n)

    def mlp():
        net = MLP((1, 8, 8), width=16 if small else 128)
        return vp_case(net, digits().x, batch, device)

    def mlp_family():
        def net(groups):
            return MLP((1, 8, 8), width=16 if small else 128, groups=groups)

        return family_case(net, digits().x, batch, device)

    def unet(x, mixed):
        return vp_case(UNet(x.shape[1], **how), x, batch, device, mixed)

    def family(mixed):
        def net(groups):
            return UNet(1, groups=groups, **how)

        return family_case(net, grey(), batch, device, mixed)

    return {
        "mlp": mlp,
        "mlp family": mlp_family,
        "unet": lambda: unet(grey(), False),
        "unet bf16": lambda: unet(grey(), True),
        "family": lambda: family(False),
        "family bf16": lambda: family(True),
        "psld": lambda: psld_case(UNet(2, **how), grey(), batch, device),
        "psld bf16": lambda: psld_case(UNet(2, **how), grey(), batch, device, True),
        "colour": lambda: unet(colour(), False),
        "colour bf16": lambda: unet(colour(), True),
    }


# ------------------------------------------------------------------------ the bare loop
def bare_loop(case: Case, device, compiled=False):
    "A generator that makes a step each time."
    net = copy.deepcopy(case.model.network).train()
    if compiled:
        net.compile(mode=compiled if isinstance(compiled, str) else None)
    weights = list(net.parameters())
    how = dict(lr=1e-3, weight_decay=0.0, fused=True)
    optimizer = torch.optim.AdamW(weights, **how)
    kind = torch.device(device).type
    while True:
        order = torch.randperm(len(case.x), device=device)
        for i in order.split(case.batch):
            if len(i) < case.batch:
                continue
            x, level, target, back = case.noising(i)
            with torch.autocast(kind, torch.bfloat16, enabled=case.mixed):
                out = net(x, level)
            out = out.float() if back is None else back(out.float())
            loss = (out - target).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield loss


# ------------------------------------------------------------------------- taking turns
class Turns:
    "A timer for `fit`: lets a bare loop have its turns, and takes the time of both."

    def __init__(self, bare, device, block: int, rounds: int, threads: int):
        self.bare, self.device, self.block = bare, torch.device(device), block
        cpu = self.device.type == "cpu" and threads == 1
        self.timer = time.process_time if cpu else time.perf_counter
        self.left = rounds
        self.steps = -1  # steps of `fit` that are done
        self.pairs = []  # seconds of a step of (fit, bare)
        self.counts = None  # of (fit, bare)
        self.profiler = None

    def wait(self):
        "Until the device has done all that was asked of it."
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()

    def now(self) -> float:
        "Seconds, when all is done."
        self.wait()
        return self.timer()

    def __call__(self) -> float:
        "Called by `fit` at its beginning and after each step; 1 when all is measured."
        self.steps += 1
        warm, done = 3 * self.block, self.steps - 3 * self.block
        if self.steps == warm:
            for _ in range(self.block):
                next(self.bare)
            self.profiler = profiled()
        elif done == self.block:
            self._count()
            self.began = self.now()
        elif done > self.block and done % self.block == 0:
            self._turn()
        return float(self.left <= 0)

    def _turn(self):
        mine = self.now() - self.began
        began = self.now()
        for _ in range(self.block):
            next(self.bare)
        its = self.now() - began
        self.pairs.append((mine / self.block, its / self.block))
        self.left -= 1
        self.began = self.now()

    def _count(self):
        self.wait()
        mine = counted(self.profiler, self.block)
        profiler = profiled()
        for _ in range(self.block):
            next(self.bare)
        self.wait()
        self.counts = mine, counted(profiler, self.block)


COUNTS = {
    "operators": "aten::",
    "reads": "aten::_local_scalar_dense",
    "launches": "LaunchKernel",
    "graphs": "cudaGraphLaunch",
    "copies": "Memcpy HtoD",
    "waits": "cudaStreamSynchronize",
}


def profiled():
    "A profiler that has begun."
    from torch.profiler import ProfilerActivity, profile

    what = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        what.append(ProfilerActivity.CUDA)
    profiler = profile(activities=what)
    profiler.start()
    return profiler


def counted(profiler, steps: int) -> dict:
    "What one of so many steps has done."
    profiler.stop()
    seen = profiler.key_averages()
    found = {}
    for name, mark in COUNTS.items():
        found[name] = sum(e.count for e in seen if mark in e.key) / steps
    return found


def measure(case: Case, device, a) -> dict:
    "The ratio of a case, seconds and counts of a step."
    turns = Turns(
        bare_loop(case, device, a.compile), device, a.block, a.rounds, a.threads
    )
    how = dict(batch=case.batch, mixed=case.mixed, compile=a.compile)
    plan = Training(minutes=1 / 60, timer=turns, **how)
    fit(case.model, case.x, plan, cpu=torch.device(device).type == "cpu")
    ratios = [mine / its for mine, its in turns.pairs]
    low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    mine, its = (median(v) for v in zip(*turns.pairs))
    ours, bare = turns.counts
    found = dict(ratio=middle, low=low, high=high, fit_ms=1e3 * mine, bare_ms=1e3 * its)
    counts = {name: [ours[name], bare[name]] for name in COUNTS}
    return found | dict(images_per_second=case.batch / mine, counts=counts)


def table(found: dict) -> str:
    "Markdown."
    head = "| case | ratio | fit, ms | bare, ms | images/s | "
    head += " | ".join(COUNTS) + " |"
    lines = [head, "|---|" + "---:|" * (4 + len(COUNTS))]
    for name, r in found.items():
        counts = (f"{a:.4g} / {b:.4g}" for a, b in r["counts"].values())
        line = f"| {name} | {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f}) | "
        line += f"{r['fit_ms']:.2f} | {r['bare_ms']:.2f} | "
        line += f"{r['images_per_second']:.0f} | " + " | ".join(counts) + " |"
        lines.append(line)
    return "\n".join(lines)


def device_name(device) -> str:
    "Of the card, or of the processor."
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def arguments() -> argparse.Namespace:
    about, _, rest = __doc__.partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=about, epilog=rest, formatter_class=form)
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    p.add_argument("--only", nargs="+", metavar="CASE", help="some of the cases")
    p.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    p.add_argument("--block", type=int, default=5, help="steps of a turn (default 5)")
    p.add_argument("--rounds", type=int, default=12, help="turns (default 12)")
    says = "compile the network, in this mode of torch.compile if one is given"
    p.add_argument("--compile", nargs="?", const=True, default=False, help=says)
    p.add_argument("--small", action="store_true", help="small sizes, for a try")
    p.add_argument("--json", type=Path, help="write all numbers to this file")
    return p.parse_args()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    known, found = cases(a.device, a.small), {}
    for name in a.only or known:
        torch.manual_seed(0)
        found[name] = measure(known[name](), a.device, a)
        print(name, f"{found[name]['ratio']:.3f}", file=sys.stderr, flush=True)
        gc.collect()
    print(f"{device_name(a.device)}, torch {torch.__version__}\n\n{table(found)}")
    if a.json:
        about = dict(device=device_name(a.device), torch=torch.__version__)
        text = json.dumps(about | dict(cases=found), indent=1)
        a.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
