"""One run on a GPU: is all as on the CPU, does training work, and how fast is it?

    python benchmarks/gpu.py                         at most five minutes on one GPU
    python benchmarks/gpu.py --only samplers fit     some of the parts
    python benchmarks/gpu.py --device cpu --quick    a try where there is no GPU

Data are random fields and the digits of scikit-learn. The parts:

    samplers   Every recipe (VP, CLD, PSLD, third order) under every schedule (linear
               beta, cosine, soft by component) by every sampler of notebooks 08 to 08d,
               12 steps in float32 with the exact score of a Gaussian law. The same
               start and noise on the CPU, in float64 and in float32. An error is the
               largest difference from float64, over the root mean square of what it is
               an error of: of positions, of all phases (of the worst phase). Those of
               positions should be 1e-5 at most; larger ones are listed. Other phases
               are no result: for CLD and in third order, the step to t = 0 makes them
               small differences of large numbers, so their errors may exceed them.
    laws       Posterior mean, log density and draws of every kind of Gaussian law, on
               the device in float32 and on the CPU in float64.
    fit        The loss falls (on 512 images with the same noise before and after), in
               float32 and bfloat16, for a family and for phases; a run that is ended by
               a signal and resumed ends in the same bits.
    compiled   The same with torch.compile, also with CUDA graphs.
    training   Images per second of `fit`, and its time over that of a bare loop
               (benchmarks/training.py), with counts of a step.
    sampling   Milliseconds of a step of a sampler with a U-Net: until all is asked for
               (host), of kernels (device), until all is done; and what a step more
               adds: copies from the host, waits, launches.

Results go to gpu-CARD.json and gpu-CARD.md in --out, after every part. Parts that
would begin after --seconds are left out, and named.
"""

import argparse
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import torch
import training
from torch import Tensor

from gud_nb import adams, integrators, paths, sampler
from gud_nb.basis import DCT, Pixel, Whitened, spectrum_order
from gud_nb.data import digits, gaussian_field
from gud_nb.denoiser import Dense, Independent, LowRank, Score, Spectral
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.model import PhaseModel, ScoreModel, fit_law
from gud_nb.network import MLP, UNet, bands
from gud_nb.objective import Draws
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.schedule import Cosine, Family, LinearBeta, soft_conditioning
from gud_nb.train import Loss, Training, fit

GOAL = 1e-5  # error of positions in float32


class Enough(Exception):
    "The time is over."


class Limit:
    "Raises once so many seconds have passed."

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def __call__(self):
        if time.monotonic() > self.end:
            raise Enough


def said(e: BaseException) -> str:
    "An error in a line."
    return f"{type(e).__name__}: {' '.join(str(e).split())}"[:300]


# ------------------------------------------------------------------------- the samplers
SHAPE = (1, 4, 4)
RECIPES = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
VARIANCES = torch.linspace(0.05, 2.0, 16, dtype=torch.float64).reshape(SHAPE)
SCHEDULES = {
    "linear": LinearBeta(),
    "cosine": Cosine(),
    "soft": soft_conditioning(VARIANCES, 1.0),
}


def law_of(schedule: str):
    "A law with correlations under one schedule, without under many."
    mean = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(SHAPE)
    if schedule == "soft":
        return Independent(mean, VARIANCES)
    return Spectral(mean, VARIANCES.flatten(), orthonormal(16))


def orthonormal(n: int) -> Tensor:
    "Orthonormal columns (n, n)."
    made = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(n, n, generator=made).double())[0]


def all_samplers(k: int, law) -> dict:
    "Every sampler for k phases, by name; some are made for a law."
    names = "euler_maruyama flow_euler heun ddim exponential_heun sscs".split()
    found = {n: getattr(sampler, n) for n in names}
    found["ancestral"] = integrators.ancestral
    corrected = integrators.predictor_corrector
    found["euler_maruyama, corrected"] = corrected(sampler.euler_maruyama)
    found["ddim, corrected"] = corrected(sampler.ddim)
    for kind in (integrators.DPMSolver, integrators.DEIS):
        found |= {f"{kind.__name__}({q})": kind(q) for q in (1, 2, 3)}
    found["Conjugate(0)"] = integrators.Conjugate(0.0)
    found["Conjugate(.1)"] = integrators.Conjugate(0.1)
    for q in (1, 2, 3):
        found[f"unipc({q})"] = adams.unipc(q)
        found[f"sde_dpm_solver({q})"] = adams.sde_dpm_solver(q)
    found["unipc(2, law)"] = adams.unipc(2, law)
    found["sde_dpm_solver(2, law)"] = adams.sde_dpm_solver(2, law)
    found["sa_solver(2, 0.5)"] = adams.sa_solver(2, 0.5)
    found["noise, 3 predictions"] = adams.ExponentialAdams(3, law=float("inf"))
    if k > 1:
        for word in ("BA", "BAB", "OBA", "BAO", "OBAB"):
            found[word] = integrators.Splitting(word)
        found["BAB, naive"] = integrators.Splitting("BAB", reduced=False)
        found["ConjugateSplitting"] = integrators.ConjugateSplitting()
    for name in ("heun", "sde_dpm_solver(2)"):
        found[f"{name} with churn"] = paths.Rising(found[name])
    return found


def errors(found: Tensor, right: Tensor) -> tuple[float, float]:
    "Of states (batch, k, *comp): of positions, and of the worst phase."
    off = (found.cpu().double() - right).abs().flatten(2).amax((0, 2))
    size = right.square().mean((0, *range(2, right.ndim))).sqrt()
    each = off / size
    return each[0].item(), each.max().item()


def run_of(method, d, law, times, device, dtype, seed=0) -> Tensor:
    "The states at the end of a run; all randomness is the same for any device."
    made = torch.Generator().manual_seed(seed)
    z = torch.randn(4, d.k, *SHAPE, generator=made).to(device, dtype)
    draws, noise = method.noises, None
    if draws:
        shape = z.shape if draws == 1 else (draws, *z.shape)
        noise = torch.randn(len(times) - 1, *shape, generator=made).to(device, dtype)
    z = d.prior(z)
    return sampler.sample(method, d, Score(d, law), z, times, noise=noise)


def check_samplers(a, limit: Limit) -> dict:
    "Errors by (recipe, sampler), each the largest over the schedules."
    found = dict(errors={}, larger=[], failed=[], adaptive={})
    recipes = list(RECIPES.items())[:: 2 if a.quick else 1]
    try:
        for (recipe, r), schedule in product(recipes, SCHEDULES):
            start = None if r.k == 1 else hsm(r)
            d = LinearDiffusion(r, SCHEDULES[schedule], start)
            check_methods(a, limit, recipe, schedule, d, found)
            check_adaptive(a, recipe, schedule, d, found)
    except Enough:
        found["failed"].append(f"{recipe}, {schedule} and later: the time was over")
    return found


def check_methods(a, limit: Limit, recipe: str, schedule: str, d, found: dict):
    "All samplers of one process."
    law = law_of(schedule)
    methods = all_samplers(d.k, law)
    for name in list(methods)[:: 4 if a.quick else 1]:
        limit()
        times = sampler.quadratic(12)
        if "churn" in name:
            times = paths.churn(d, times, 4.0)
        try:
            how = methods[name], d, law, times
            right = run_of(*how, "cpu", torch.float64)
            here = errors(run_of(*how, a.device, torch.float32), right)
            cpu = errors(run_of(*how, "cpu", torch.float32), right)
        except Exception as e:
            found["failed"].append(f"{recipe}, {schedule}, {name}: {said(e)}")
            continue
        now, run = dict(zip(HEADS, (*here, *cpu))), f"{recipe}, {name}"
        old = found["errors"].get(run, now)
        found["errors"][run] = {h: max(old[h], now[h]) for h in HEADS}
        if not here[0] <= GOAL:
            found["larger"].append(dict(run=f"{recipe}, {schedule}, {name}", **now))


HEADS = ["positions", "all phases", "positions, CPU", "all phases, CPU"]


def product(first, second):
    "All pairs."
    return [(a, b) for a in first for b in second]


def check_adaptive(a, recipe: str, schedule: str, d, found: dict):
    "The adaptive solver at a tolerance of 1e-4, on the device and on the CPU."
    score = Score(d, law_of(schedule))

    def run(device, dtype):
        made = torch.Generator().manual_seed(0)
        z = torch.randn(4, d.k, *SHAPE, generator=made).to(device, dtype)
        how = dict(rtol=1e-4, atol=1e-4, eps=0.2)
        return integrators.dormand_prince(d, score, d.prior(z), **how)[0]

    try:
        right = run("cpu", torch.float64)
        now = errors(run(a.device, torch.float32), right)[0]
        found["adaptive"][recipe] = max(found["adaptive"].get(recipe, 0.0), now)
    except Exception as e:
        found["failed"].append(f"{recipe}, {schedule}, dormand_prince: {said(e)}")


# ----------------------------------------------------------------------------- the laws
def check_laws(a, limit: Limit) -> dict:
    "The largest error of each law, relative to the size of what it gives."
    mean, V = torch.linspace(-1, 1, 16).double().reshape(SHAPE), orthonormal(16)
    F = V[:, :3] * torch.tensor([2.0, 1.0, 0.5])
    laws = {
        "Independent": Independent(mean, VARIANCES),
        "Spectral": Spectral(mean, VARIANCES.flatten(), V),
        "Spectral, rank 3": Spectral(mean, torch.ones(3).double(), V[:, :3], 0.1),
        "Dense": Dense(mean, V * VARIANCES.flatten() @ V.T),
        "LowRank": LowRank(mean, F, 0.1 + 0 * mean),
    }
    y = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    one, many = torch.linspace(-8, 8, 8).double(), 4 * torch.randn(8, *SHAPE).double()
    small, rows = y.to(a.device, torch.float32), {}
    for name, law in laws.items():
        limit()
        for kind, level in (("one level", one), ("a level each", many)):
            own = level.to(a.device, torch.float32)
            wide = own.cpu().double()  # the same numbers
            pairs = {
                "posterior mean": (law(small, own), law(y, wide)),
                "log density": (law.log_prob(small, own), law.log_prob(y, wide)),
                "draws": (law.sample(small, own), law.sample(y, wide)),
            }
            if name == "Dense" and kind == "a level each":
                del pairs["draws"]  # any root will do: axes may turn
            rows[f"{name}, {kind}"] = {
                what: (
                    (got.cpu().double() - want).abs().max() / want.abs().max()
                ).item()
                for what, (got, want) in pairs.items()
            }
    return dict(errors=rows)


# -------------------------------------------------------------------------- the trainer
VP = LinearDiffusion(vp(), LinearBeta())
PSLD = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), hsm(psld()))


def digits_model(a, kind: str):
    "An untrained model of digits."
    torch.manual_seed(0)
    x, pixel = digits().x, Pixel((1, 8, 8))
    sizes = dict(width=8 if a.quick else 24, mults=(1, 2), middle=2)
    if kind == "phases":
        return PhaseModel(UNet(2, **sizes), PSLD, pixel)
    if kind == "family":
        basis = Whitened.fit(DCT((1, 8, 8)), x, floor=1e-3)
        v = basis.scale.square()
        fixed = dict(variances=v, whitened=True)
        family = Family(soft_conditioning, dict(a=(0.4, 1.6)), fixed)
        d, groups = LinearDiffusion(vp(), family()), bands(spectrum_order(v), 8)
        net, law = UNet(1, groups=8, **sizes), fit_law(d, basis, x)
        return ScoreModel(net, d, basis, law, groups=groups, family=family)
    net = MLP((1, 8, 8), width=64) if kind == "mlp" else UNet(1, **sizes)
    return ScoreModel(net, VP, pixel, fit_law(VP, pixel, x))


def trained(a, kind: str, steps: int, **how) -> dict:
    "What a short training gives: the loss before and after, and its speed."
    model = digits_model(a, kind)
    plan = Training(**(dict(steps=steps, batch=64, lr=2e-3, warmup=20) | how))
    before = held(model.to(a.device), a)
    began = time.monotonic()
    log = fit(model, digits().x, plan, cpu=on_cpu(a), every=max(1, steps // 10))
    taken = time.monotonic() - began
    with torch.compiler.set_stance("force_eager"):  # nothing is compiled once more
        after = held(model, a)
        x = model.sample(16, times=sampler.quadratic(5))
    half = log[len(log) // 2]  # from here on nothing is compiled any more
    per = (log[-1]["seconds"] - half["seconds"]) / (log[-1]["step"] - half["step"])
    found = dict(before=before, after=after, falls=after < before)
    found |= dict(samples_finite=bool(x.isfinite().all()))
    return found | dict(step_ms=1e3 * per, seconds=taken)


@torch.no_grad()
def held(model, a) -> float:
    "The loss on 512 images, always with the same noise."
    loss = Loss(model, Training(steps=1))
    draws = Draws(512, torch.Generator(a.device).manual_seed(1))
    return loss(digits().x[:512].to(a.device), None, draws).item()


def on_cpu(a) -> bool:
    return torch.device(a.device).type == "cpu"


def weights(a, kind: str, steps: int, out=None, end: int | None = None, **how):
    "The weights after a run, which a signal ends after so many steps."
    model, calls = digits_model(a, kind), [0]

    def timer():
        calls[0] += 1
        if calls[0] - 1 == end:
            os.kill(os.getpid(), signal.SIGTERM)
        return time.monotonic()

    plan = Training(steps=steps, batch=32, timer=timer)
    try:
        fit(model, digits().x, plan, out=out, cpu=on_cpu(a), **how)
    except SystemExit as e:
        return e.code
    return torch.cat([p.detach().flatten().cpu() for p in model.network.parameters()])


def resumed(a, kind: str) -> dict:
    "Whether a run ended by a signal and resumed gives the bits of one that was not."
    same = dict(enabled=True, benchmark=False, deterministic=True)
    with torch.backends.cudnn.flags(**same), tempfile.TemporaryDirectory() as folder:
        whole, once_more = (weights(a, kind, 24) for _ in range(2))
        code = weights(a, kind, 24, folder, end=11)
        again = weights(a, kind, 24, folder, resume=True)
    bits = dict(same_bits=torch.equal(whole, again))
    return dict(exit_code=code) | bits | dict(repeats=torch.equal(whole, once_more))


def check_fit(a, limit: Limit) -> dict:
    "Everything about `fit` but compilation, by name."
    n = 60 if a.quick else 300
    twice = dict(ema=(0.99, 0.999), accumulate=2)
    plans = {
        "MLP": partial(trained, a, "mlp", n),
        "U-Net": partial(trained, a, "unet", n),
        "U-Net, bfloat16": partial(trained, a, "unet", n, mixed=True),
        "U-Net, two averages, two parts": partial(trained, a, "unet", n, **twice),
        "family": partial(trained, a, "family", n),
        "phases": partial(trained, a, "phases", n),
        "MLP, resumed": partial(resumed, a, "mlp"),
        "U-Net, resumed": partial(resumed, a, "unet"),
    }
    return dict(runs=each(plans, limit))


def check_compiled(a, limit: Limit) -> dict:
    "Training of compiled networks, by name."
    n, low = 60 if a.quick else 300, dict(mixed=True)
    graphs = "reduce-overhead"
    plans = {
        "MLP": partial(trained, a, "mlp", n, compile=True),
        "U-Net, bfloat16, CUDA graphs": partial(
            trained, a, "unet", n, compile=graphs, **low
        ),
        "U-Net, bfloat16": partial(trained, a, "unet", n, compile=True, **low),
        "MLP, CUDA graphs": partial(trained, a, "mlp", n, compile=graphs),
    }
    plans = dict(list(plans.items())[: 1 if a.quick else None])
    return dict(runs=each(plans, limit))


def each(tasks: dict, limit: Limit) -> dict:
    "The results of functions; of those that fail the error, of late ones nothing."
    found = {}
    for name, task in tasks.items():
        try:
            limit()
            found[name] = task()
        except Enough:
            found[name] = dict(error="left out: the time was over")
        except Exception as e:
            traceback.print_exc()
            found[name] = dict(error=said(e))
        print(f"    {name}: {found[name]}"[:200], file=sys.stderr, flush=True)
    return found


# ---------------------------------------------------------------------------- the speed
def check_training(a, limit: Limit) -> dict:
    "Throughput and overhead, by benchmarks/training.py."
    names = ["unet bf16", "family bf16", "psld bf16", "mlp", "colour bf16", "unet"]
    known = training.cases(a.device, small=a.quick)
    how = argparse.Namespace(threads=torch.get_num_threads(), compile=False)
    how.block, how.rounds = (2, 2) if a.quick else (10, 8)

    def task(name):
        torch.manual_seed(0)
        return training.measure(known[name](), a.device, how)

    names = names[:3] if a.quick else names
    return dict(cases=each({n: partial(task, n) for n in names}, limit))


def busy(profiler) -> float:
    "Seconds that kernels and copies took on the device."
    total = 0.0
    for e in profiler.key_averages():
        on_device = "cuda" in str(e.device_type).lower()
        own = getattr(e, "self_device_time_total", 0.0)
        total += own if on_device else 0.0
    return total / 1e6


def sampling_of(a, method, model) -> dict:
    "Times of a step, and what a step more adds to the counts."
    few, many = (4, 8) if a.quick else (10, 30)
    n = 4 if a.quick else 64

    def run(steps):
        made = torch.Generator(a.device).manual_seed(0)
        return model.sample(n, method, sampler.quadratic(steps), made, batch=n)

    def wait():
        if torch.device(a.device).type in ("cuda", "mps"):
            getattr(torch, torch.device(a.device).type).synchronize()

    def timed(steps):
        wait()
        began = time.perf_counter()
        run(steps)
        asked = time.perf_counter()
        wait()
        return asked - began, time.perf_counter() - began

    timed(few), timed(many)
    short, long = (min(timed(s) for _ in range(3)) for s in (few, many))
    seen = []
    for steps in (few, many):
        wait()
        profiler = training.profiled()
        run(steps)
        wait()
        counts = training.counted(profiler, 1)
        seen.append(counts | dict(device_s=busy(profiler)))
    more = many - few
    found = dict(host_ms=1e3 * (long[0] - short[0]) / more)
    found["all_ms"] = 1e3 * (long[1] - short[1]) / more
    found["device_ms"] = 1e3 * (seen[1]["device_s"] - seen[0]["device_s"]) / more
    counts = {k: (seen[1][k] - seen[0][k]) / more for k in training.COUNTS}
    run_counts = {k: seen[0][k] for k in training.COUNTS}
    return found | dict(a_step_more=counts, a_run=run_counts, steps=few)


def check_sampling(a, limit: Limit) -> dict:
    "Samplers with a U-Net on 28×28, batch 64."
    shape, width = (1, 28, 28), 8 if a.quick else 24
    x = gaussian_field(shape, 2.0, 512, torch.Generator().manual_seed(0)) / 3
    pixel = Pixel(shape)
    law = fit_law(VP, pixel, x, 64)
    one = ScoreModel(UNet(1, width=width), VP, pixel, law).to(a.device).eval()
    two = PhaseModel(UNet(2, width=width), PSLD, pixel).to(a.device).eval()
    basis = Whitened.fit(DCT(shape), x, floor=1e-3)
    soft = LinearDiffusion(vp(), soft_conditioning(basis.scale.square(), 1.0))
    soft = LinearDiffusion(soft.recipe, soft.schedule)
    own = fit_law(soft, basis, x)
    many = ScoreModel(UNet(1, width=width), soft, basis, own).to(a.device).eval()
    phases = one.with_diffusion(PSLD)
    solver = integrators.DPMSolver(2)
    tasks = {
        "VP, DPMSolver(2)": (solver, one),
        "VP, default (sde_dpm_solver(2))": (adams.default_sampler, one),
        "VP, euler_maruyama": (sampler.euler_maruyama, one),
        "PSLD by a denoiser, DPMSolver(2)": (solver, phases),
        "PSLD by a denoiser, default": (adams.default_sampler, phases),
        "PSLD, all phases, sscs": (sampler.sscs, two),
        "soft, DPMSolver(2)": (solver, many),
        "soft, default": (adams.default_sampler, many),
    }
    tasks = dict(list(tasks.items())[:: 3 if a.quick else 1])
    return dict(
        runs=each({n: partial(sampling_of, a, *t) for n, t in tasks.items()}, limit)
    )


# --------------------------------------------------------------------------- the report
def markdown(found: dict) -> str:
    "All results as tables."
    about = found["about"]
    lines = [f"# {about['device']}", ""]
    lines += [f"{k}: {v}  " for k, v in about.items() if k != "device"]
    for part, write in WRITERS.items():
        if part in found:
            lines += [
                "",
                f"## {part.capitalize()} ({found[part]['seconds']:.0f} s)",
                "",
            ]
            error = found[part].get("error")
            lines += [error] if error else write(found[part])
    return "\n".join(lines) + "\n"


def rows(heads: list, body: list) -> list[str]:
    "Lines of a table."
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    return lines + [f"| {' | '.join(map(shown, line))} |" for line in body]


def shown(v) -> str:
    "A number short."
    if isinstance(v, bool):
        return "yes" if v else "**no**"
    return f"{v:.3g}" if isinstance(v, float) else str(v)


def write_samplers(part: dict) -> list[str]:
    body = [[name, *(e[h] for h in HEADS)] for name, e in part["errors"].items()]
    lines = ["Largest relative error against float64, over the schedules.", ""]
    lines += rows(["run", *HEADS], body)
    lines += ["", f"Larger than {GOAL:g} on the device:", ""]
    over = [[e["run"], *(e[h] for h in HEADS)] for e in part["larger"]]
    lines += rows(["run", *HEADS], over) if over else ["none"]
    lines += ["", "dormand_prince at a tolerance of 1e-4, positions:", ""]
    lines += rows(["recipe", "error"], list(map(list, part["adaptive"].items())))
    return lines + ["", *(f"- failed: {f}" for f in part["failed"])]


def write_laws(part: dict) -> list[str]:
    heads = ["posterior mean", "log density", "draws"]
    body = [[n, *(e.get(h, "") for h in heads)] for n, e in part["errors"].items()]
    return rows(["law", *heads], body)


def write_runs(part: dict) -> list[str]:
    lines = []
    for name, run in part["runs"].items():
        facts = (f"{k} {shown(v)}" for k, v in run.items() if not isinstance(v, dict))
        lines.append(f"- {name}: {', '.join(facts)}")
    return lines


def write_training(part: dict) -> list[str]:
    good = {n: c for n, c in part["cases"].items() if "ratio" in c}
    bad = [f"- {n}: {c['error']}" for n, c in part["cases"].items() if "ratio" not in c]
    return [training.table(good), "", *bad]


def write_sampling(part: dict) -> list[str]:
    heads = ["host, ms", "device, ms", "all, ms"]
    names = list(training.COUNTS)
    body, bad = [], []
    for name, r in part["runs"].items():
        if "error" in r:
            bad.append(f"- {name}: {r['error']}")
            continue
        each = [r["host_ms"], r["device_ms"], r["all_ms"]]
        body.append([name, *each, *(r["a_step_more"][k] for k in names)])
    return rows(["a step of", *heads, *names], body) + ["", *bad]


WRITERS = {
    "samplers": write_samplers,
    "laws": write_laws,
    "fit": write_runs,
    "compiled": write_runs,
    "training": write_training,
    "sampling": write_sampling,
}
PARTS = {
    "laws": check_laws,
    "samplers": check_samplers,
    "training": check_training,
    "sampling": check_sampling,
    "fit": check_fit,
    "compiled": check_compiled,
}


def arguments() -> argparse.Namespace:
    about, _, rest = __doc__.partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=about, epilog=rest, formatter_class=form)
    p.add_argument("--device", default="cuda", help="default cuda")
    p.add_argument("--quick", action="store_true", help="small sizes, fewer runs")
    p.add_argument("--only", nargs="+", choices=list(PARTS), help="some of the parts")
    p.add_argument("--seconds", type=float, default=280, help="in all (default 280)")
    here = Path(__file__).resolve().parent
    p.add_argument("--out", type=Path, default=here, help="folder of the results")
    return p.parse_args()


def main():
    a = arguments()
    warnings.simplefilter("ignore")
    if on_cpu(a):
        torch.set_num_threads(1)
    limit, name = Limit(a.seconds), training.device_name(a.device)
    about = dict(device=name, torch=torch.__version__, python=platform.python_version())
    about |= dict(cuda=str(torch.version.cuda), host=platform.machine(), quick=a.quick)
    found = dict(about=about)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    a.out.mkdir(parents=True, exist_ok=True)
    for part in a.only or PARTS:
        print(part, file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            limit()
            found[part] = PARTS[part](a, limit)
        except Enough:
            found[part] = dict(error="left out: the time was over")
        except Exception as e:
            traceback.print_exc()
            found[part] = dict(error=said(e))
        found[part]["seconds"] = time.monotonic() - began
        text = json.dumps(found, indent=1)
        (a.out / f"gpu-{slug}.json").write_text(text + "\n", encoding="utf-8")
        (a.out / f"gpu-{slug}.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
