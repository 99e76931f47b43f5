"""The speed of this package beside the codes that the papers' authors released.

    python benchmarks/released.py --psld PATH                       PSLD (PyTorch)
    python benchmarks/released.py --gud PATH --gud-python PYTHON    GUD (JAX)
    python benchmarks/released.py --psld PATH --old PATH            an older version too

--psld takes a clone of github.com/mandt-lab/PSLD, --gud one of
github.com/mathisgerdes/unified-diffusion; a part whose path is not given is left out.
The first needs PyTorch alone: modules that it imports and does not use here are
replaced by empty ones. The second needs an interpreter that has jax, flax, diffrax and
bijx. --old takes a checkout of this package from before its states were
(batch, k, *components); with it every row has a second figure.

Every side runs in a process of its own, one thread, float32, states of 64 x 3 x 32 x 32
components. The sides take turns, so that a busy moment meets all alike, and the least
of several measurements counts, in seconds of CPU time. Only ratios are printed: figures
in seconds are not stable from machine to machine, ratios are.

The C library is told to keep freed memory, on every side. By its usual settings a
process without large tensors gives it back to the system after most operations and pays
for new pages in the next, which can be most of the time; a process in which a network
has run pays little of that. --plain-malloc leaves these settings alone: ratios are then
lower, and say less from one run to the next.

What is compared. Steps of samplers are whole runs of --steps steps, divided by their
number, with a network that costs nothing: its output is its input. Noise is drawn
inside of the run on every side. `first` makes a new diffusion and a new grid for each
run, `again` uses both a second time. `score`: the network gives the score. `denoiser`:
it gives the posterior mean of the data, and the score is computed from that, as the
released PSLD step computes its score from the network's noise. The released PSLD
sampler computes in float64 whatever the dtype of its state, since its times are
float64. The released GUD code has one sampler, Euler-Maruyama, to which all of ours are
compared; `flow`, `ddim`, `dpm2` and `split` (like sscs, two draws of noise) are written
here, as jitted steps on its schedule, to say what compiled code makes of other kinds.
"""

import argparse, ctypes, json, os, subprocess, sys, time
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

BATCH, IMAGE = 64, (3, 32, 32)


# ------------------------------------------------------------------------ taking turns
def serve(tasks: dict, timer=time.process_time):
    """Answer each line of standard input, the name of a task, with its seconds.

    A task is a function without arguments that returns another one, which is timed: so
    a task can prepare what should not count.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(list(tasks)), file=answers, flush=True)
    for line in sys.stdin:
        print(shortest(tasks[json.loads(line)], timer), file=answers, flush=True)


def keep_memory():
    "Let the C library keep what is freed instead of giving it back to the system."
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another library: it stays as it is
        return
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
    mallopt(-3, 2**28)  # M_MMAP_THRESHOLD


def shortest(task, timer=time.process_time, runs: int = 3, enough: float = 0.1):
    "The least of several runs of a task, in seconds; short ones are run more often."
    task()()  # warms up
    taken = []
    while len(taken) < runs or sum(taken) < enough:
        run = task()
        began = timer()
        run()
        taken.append(timer() - began)
    return min(taken)


class Side:
    "A process that runs tasks by their names."

    def __init__(self, command: list, path: str | None = None, threads: int = 1):
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        if path:
            env["PYTHONPATH"] = str(path)
        self.process = subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.tasks = json.loads(self._read())
        self.least = {}

    def _read(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)} ended early")
        return line

    def run(self, name: str):
        "Run a task; `least` keeps the shortest that was seen, in seconds."
        if name not in self.tasks:
            return
        print(json.dumps(name), file=self.process.stdin, flush=True)
        taken = float(self._read())
        self.least[name] = min(self.least.get(name, taken), taken)

    def ratio(self, name: str, other: "Side", its: str) -> float:
        "Seconds of a task over those of another side's; nan where one has none."
        nan = float("nan")
        return self.least.get(name, nan) / other.least.get(its, nan)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def take_turns(pairs: list, rounds: int):
    "Run tasks, given as (side, name), so many times over."
    for _ in range(rounds):
        for side, name in dict.fromkeys(pairs):
            side.run(name)


# ------------------------------------------------------------------------ this package
def samplers() -> dict:
    "The samplers of this package by name; of phase space alone: those in PHASES."
    from gud_nb import integrators, sampler

    names = "flow_euler heun ddim exponential_heun euler_maruyama sscs".split()
    found = {n: getattr(sampler, n) for n in names}
    found["ancestral"] = integrators.ancestral
    for kind in ("DPMSolver", "DEIS"):
        for order in (2, 3):
            found[f"{kind}({order})"] = getattr(integrators, kind)(order)
    found["euler_maruyama + correction"] = integrators.predictor_corrector(
        sampler.euler_maruyama
    )
    for word in PHASES:
        found[word] = integrators.Splitting(word)
    return found


PHASES = ("BAB", "OBAB")
STOCHASTIC = "euler_maruyama sscs ancestral OBAB".split() + [
    "euler_maruyama + correction"
]


TWO_DRAWS = ("sscs", "euler_maruyama + correction")


def state_layout_is_old() -> bool:
    "Whether states are (batch, *components, k) and not (batch, k, *components)."
    from gud_nb import sampler

    return not hasattr(sampler, "Sampler")


def free_score(z, t):
    "A score that costs nothing."
    return z


def free_denoiser(y, log_snr, labels=None):
    "A denoiser that costs nothing."
    return y


def diffusion_of(process: str):
    "PSLD with hybrid score matching, or GUD: VP with a schedule for each component."
    import torch
    from gud_nb.diffusion import LinearDiffusion, hsm
    from gud_nb.recipe import psld, vp
    from gud_nb.schedule import LinearBeta, soft_conditioning

    if process == "psld":
        recipe = psld()
        return LinearDiffusion(recipe, LinearBeta(8.0, 8.0), Sigma0=hsm(recipe))
    return LinearDiffusion(vp(), soft_conditioning(torch.as_tensor(spectrum()), 1.0))


def spectrum():
    "Variances (3, 32, 32) that fall with frequency, as a numpy array."
    import numpy as np

    f = np.arange(1, 33)
    return np.broadcast_to(30.0 / (f[:, None] ** 2 + f**2), IMAGE).copy()


def our_tasks(steps: int) -> dict:
    "What this package is timed at."
    import torch

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    tasks = {}
    for process in ("psld", "gud"):
        d = diffusion_of(process)
        z = torch.randn(state_shape(d.k))
        tasks |= noising_tasks(process, d, z, draw)
        for name, step in samplers().items():
            if d.k == 1 and name in PHASES:
                continue
            tasks |= sampling_tasks(process, name, step, z, draw, steps)
    return tasks


def state_shape(k: int) -> tuple:
    "That of a state with k phases."
    return (BATCH, *IMAGE, k) if state_layout_is_old() else (BATCH, k, *IMAGE)


def noising_tasks(process: str, d, z, draw) -> dict:
    "Noise for a batch of training, each image at its own time, new ones in each step."
    import torch

    chi, t = torch.randn(BATCH, *IMAGE), torch.linspace(1e-3, 1, BATCH).double()

    def given():
        now = t.clone()
        return lambda: d.perturb(chi, now, z)

    def drawn():
        now = t.clone()
        return lambda: d.perturb(chi, now, torch.randn(z.shape, generator=draw))

    return {f"{process} perturb": given, f"{process} noising": drawn}


def sampling_tasks(process: str, name: str, step, z, draw, steps: int) -> dict:
    "A run of a sampler: with a score or a denoiser, on a grid that is new or known."
    from gud_nb.sampler import sample, uniform

    known = diffusion_of(process), uniform(steps)

    def prepare(kind, again):
        d, grid = known if again else (diffusion_of(process), uniform(steps))
        score = free_score if kind == "score" else denoising(d)
        return lambda: sample(step, d, score, z, grid, generator=draw, final=False)

    kinds = ("score",) if state_layout_is_old() else ("score", "denoiser")
    return {
        f"{process} {name} {kind} {when}": partial(prepare, kind, when == "again")
        for kind in kinds
        for when in ("first", "again")
    }


def denoising(d):
    "The score that the denoiser without cost gives under a diffusion."
    from gud_nb.denoiser import Score

    return Score(d, free_denoiser)


# --------------------------------------------------------------------------- their code
def psld_tasks(path: str, steps: int) -> dict:
    "The released PSLD code: perturbation kernel, Euler-Maruyama, symmetric splitting."
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(path) / "main"))
    for name in ("torchvision", "torchvision.transforms", "PIL", "PIL.Image"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
    for name in ("models", "samplers"):  # without what their __init__ would import
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(Path(path) / "main" / name)]
    from models.sde.psld import PSLD
    from samplers.sde import EulerMaruyamaSampler, SSCSSampler

    sde = PSLD(
        SimpleNamespace(
            model=SimpleNamespace(
                sde=SimpleNamespace(
                    n_timesteps=1000,
                    beta_min=8.0,
                    beta_max=8.0,
                    nu=4.01,
                    gamma=0.01,
                    kappa=0.04,
                    numerical_eps=1e-9,
                    decomp_mode="lower",
                )
            )
        )
    )
    x, eps = torch.randn(BATCH, *IMAGE), torch.randn(BATCH, 6, 32, 32)
    m, state = torch.zeros_like(x), torch.randn(BATCH, 6, 32, 32)
    times = torch.linspace(0, 1 - 1e-3, steps + 1, dtype=torch.float64)

    def perturb(t):
        return lambda: sde.perturb_data(x, m, 0, sde.mm_0, t, eps=eps)

    def run(kind):
        sampler = kind(None, sde, free_score)
        return lambda: sampler.sample(state, times, steps, denoise=False)

    t = torch.linspace(1e-3, 1, BATCH, dtype=torch.float64)
    return {
        "perturb": lambda: perturb(t),
        "perturb32": lambda: perturb(t.float()),
        "em": lambda: run(EulerMaruyamaSampler),
        "sscs": lambda: run(SSCSSampler),
    }


def gud_tasks(path: str, steps: int) -> dict:
    "The released GUD code, jitted; and samplers of other kinds on its schedule."
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one thread, for XLA too
    sys.path.insert(0, str(Path(path) / "src"))
    import gud, jax
    import jax.numpy as jnp

    v = jnp.asarray(spectrum().reshape(-1), jnp.float32)
    space, keys = gud.Space(), jax.random.key(0)
    schedule = gud.soft_conditioning_schedule(labels=-jnp.log(v), softness=1.0)
    x, z = jax.random.normal(keys, (2, BATCH, v.size, 1))
    t = jnp.linspace(1e-3, 1, BATCH)

    def model(ns, data):
        return data

    def noising(key, x, t):
        data = gud.Data(space, comp_white=x)
        noised, eps = gud.ou_process(key, data, schedule(t, shape=x.shape))
        return noised.comp_white, eps.comp_white

    def perturb(z, x, t):
        ns = schedule(t, shape=x.shape)
        return ns.alpha * x + ns.sigma * z

    def em(key, x):
        return gud.sample_reverse_sde(
            key, BATCH, model, schedule, space, x.shape[1:], dt=1 / steps, t_end=1e-3
        )

    runs = {"noising": (noising, keys, x, t), "perturb": (perturb, z, x, t)}
    runs["em"] = em, keys, x
    loops = other_kinds(gud, schedule, x, steps)
    tasks = {name: lambda run=run: run for name, run in loops.items()}
    for name, (f, *given) in runs.items():
        f = jax.jit(f)
        tasks[name] = lambda f=f, g=given: lambda: jax.block_until_ready(f(*g))
    return tasks


def other_kinds(gud, schedule, x, steps: int) -> dict:
    """Samplers that the released GUD code has not, on a schedule of its.

    Steps are jitted one by one, with the network's noise as an argument, here x itself:
    inside of one jitted loop XLA would see through a network that costs nothing.
    """
    import jax
    import jax.numpy as jnp

    times = list(jnp.linspace(1, 1e-3, steps + 1))

    def levels(t):
        ns = schedule(t)
        return ns.alpha[:, None], ns.sigma[:, None], -ns.gamma[:, None] / 2

    def flow(t, s, x, eps):
        velocity = gud.epsilon_to_velocity(eps, x, schedule(t, shape=x.shape))
        return (x + (t - s) * velocity,)

    def ddim(t, s, x, eps):
        (a, b, _), (a1, b1, _) = levels(t), levels(s)
        return (a1 / a * (x - b * eps) + b1 * eps,)

    def dpm2(t, s, x, eps, last, before):
        (a, b, lam), (a1, b1, lam1) = levels(t), levels(s)
        chi, h = (x - b * eps) / a, lam1 - lam
        ahead = chi + (chi - last) * h / (2 * (lam - before))
        return b1 / b * x - a1 * jnp.expm1(-h) * ahead, chi, lam

    def split(t, s, x, eps, key):
        now, later = schedule(t), schedule(s)
        dB = jax.nn.softplus(now.gamma) - jax.nn.softplus(later.gamma)
        half = jnp.exp(-dB / 4)[:, None]
        kick, dB = jnp.sqrt(-jnp.expm1(-dB / 2))[:, None], dB[:, None]
        first, second = jax.random.normal(key, (2, *x.shape))
        y = half * x + kick * first
        y = y + dB * (y - eps / now.sigma[:, None])
        return half * y + kick * second, jax.random.split(key)[0]

    def loop(step, *past):
        step, state = jax.jit(step), (x, *past)

        def run():
            now = state
            for t, s in zip(times[:-1], times[1:]):
                now = step(t, s, now[0], *now)
            return jax.block_until_ready(now)

        return run

    return {
        "flow": loop(flow),
        "ddim": loop(ddim),
        "dpm2": loop(dpm2, x, levels(times[0])[2] - 1.0),
        "split": loop(split, jax.random.key(1)),
    }


# --------------------------------------------------------------------------- the tables
def psld_table(ours: Side, old: Side | None, theirs: Side, rounds: int):
    "How many times faster than the released PSLD code this package is."
    rows = [
        ("perturbation", "psld perturb", "perturb", 3),
        ("perturbation, their times in float32", "psld perturb", "perturb32", None),
    ]
    for name in samplers():
        its = "sscs" if name == "sscs" else "em"
        for kind in ("score", "denoiser"):
            for when in ("first", "again"):
                label = f"{name}, {kind}, {when}"
                rows.append((label, f"psld {name} {kind} {when}", its, 4))
    pairs = [(theirs, its) for _, _, its, _ in rows]
    pairs += [(s, name) for _, name, _, _ in rows for s in (ours, old) if s]
    take_turns(pairs, rounds)
    print("\nPSLD: how many times faster than the released code, one step")
    for label, name, its, goal in rows:
        if name not in ours.tasks:
            continue
        now = theirs.ratio(its, ours, name)
        text = f"  {label:44} {its:9} {now:6.1f}"
        if old:
            text += f"   older {theirs.ratio(its, old, name):6.1f}"
        if goal:
            text += f"   goal {goal}: {'met' if now >= goal else 'MISSED'}"
        print(text)


def gud_table(ours: Side, old: Side | None, theirs: Side, rounds: int):
    "How many times the time of the jitted GUD code this package takes."
    rows = [
        ("noising, noise drawn", "gud noising", ("noising", "noising")),
        ("noising, noise given", "gud perturb", ("perturb", "perturb")),
    ]
    for name in samplers():
        if name in PHASES:
            continue
        alike = "ddim" if name in ("ddim", "exponential_heun") else "dpm2"
        if name in ("flow_euler", "heun"):
            alike = "flow"
        if name in STOCHASTIC:
            alike = "split" if name in TWO_DRAWS else "em"
        for kind in ("score", "denoiser"):
            for when in ("first", "again"):
                label = f"{name}, {kind}, {when}"
                rows.append((label, f"gud {name} {kind} {when}", ("em", alike)))
    pairs = [(theirs, n) for n in theirs.tasks]
    pairs += [(s, name) for _, name, _ in rows for s in (ours, old) if s]
    take_turns(pairs, rounds)
    print(
        "\nGUD, a schedule for each component: time as a multiple of the jitted one's"
    )
    print(f"  {'':44} {'released':>9} {'of its kind':>14}")
    for label, name, (released, alike) in rows:
        if name not in ours.tasks:
            continue
        first, second = (ours.ratio(name, theirs, n) for n in (released, alike))
        text = f"  {label:44} {first:6.2f}    {second:6.2f} ({alike})"
        if old:
            a, b = (old.ratio(name, theirs, n) for n in (released, alike))
            text += f"   older {a:5.2f} {b:5.2f}"
        good = "met" if first <= 1.5 else "MISSED"
        print(text + f"   goal 1.5: {good}")


def main():
    about, _, rest = __doc__.partition("\n\n")
    p = argparse.ArgumentParser(
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--psld", metavar="PATH", help="clone of the released PSLD code")
    p.add_argument("--gud", metavar="PATH", help="clone of the released GUD code")
    p.add_argument(
        "--gud-python",
        metavar="PYTHON",
        default=sys.executable,
        help="interpreter that has jax (default: this one)",
    )
    p.add_argument("--old", metavar="PATH", help="an older checkout of this package")
    p.add_argument("--steps", type=int, default=20, help="steps of a run (default 20)")
    p.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    p.add_argument("--serve", choices=["ours", "psld", "gud"], help=argparse.SUPPRESS)
    p.add_argument(
        "--plain-malloc", action="store_true", help="the C library's usual settings"
    )
    a = p.parse_args()
    if a.serve and not a.plain_malloc:
        keep_memory()
    if a.serve == "ours":
        return serve(our_tasks(a.steps))
    if a.serve == "psld":
        return serve(psld_tasks(a.psld, a.steps))
    if a.serve == "gud":
        return serve(gud_tasks(a.gud, a.steps))
    compare(a)


def compare(a):
    "Start a process for each side that was given, and print the tables."
    here = str(Path(__file__).resolve())
    often = ["--plain-malloc"] * a.plain_malloc + ["--steps", str(a.steps), "--serve"]
    ours = Side([sys.executable, here, *often, "ours"], os.environ.get("PYTHONPATH"))
    old = Side([sys.executable, here, *often, "ours"], a.old) if a.old else None
    if a.psld:
        theirs = Side([sys.executable, here, "--psld", a.psld, *often, "psld"])
        psld_table(ours, old, theirs, a.rounds)
        theirs.close()
    if a.gud:
        theirs = Side([a.gud_python, here, "--gud", a.gud, *often, "gud"])
        gud_table(ours, old, theirs, a.rounds)
        theirs.close()
    if not (a.psld or a.gud):
        print("nothing to compare with: give --psld or --gud")
    for side in (ours, old):
        if side:
            side.close()


if __name__ == "__main__":
    main()
