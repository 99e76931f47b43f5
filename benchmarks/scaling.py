"""How memory and time grow with the side of an image.

    python benchmarks/scaling.py                          sides 32, 64, 128, 256
    python benchmarks/scaling.py --only energy grid       some of the cases
    python benchmarks/scaling.py --old PATH               an older version too

Images are (3, side, side), so the number of components grows with the square of the
side: memory and time that are linear in it have the exponent 2, a matrix of all pairs
of components has the exponent 4. The basis is cosines, whose two matrices make 3.

Every case at every side runs in a process of its own, with one thread. Memory is the
largest resident size while it runs, less that before, in MiB; time is CPU time, of the
fastest of up to three runs. A process that would need more than --memory GiB, or more
than --seconds of CPU time, is ended: then larger sides of that case are left out.
Exponents are fitted by least squares to the sides that need more than 4 MiB, or 2 ms.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from math import log
from pathlib import Path

BATCH = 4


# ---------------------------------------------------------------------------- the cases
def setting(side: int):
    "Shape, variances that fall with frequency, and a schedule for each component."
    import torch

    from gud_nb.schedule import soft_conditioning

    f = torch.arange(1, side + 1, dtype=torch.float64)
    variances = (side**2 / (f[:, None] ** 2 + f**2)).expand(3, side, side).clone()
    return (3, side, side), variances, soft_conditioning(variances, 1.0)


def grid_fastest(side: int):
    "The grid `fastest`, 25 steps."
    from gud_nb.sampler import fastest

    schedule = setting(side)[2]
    return lambda: fastest(schedule, 25)


def grid_even(side: int):
    "The grid of even steps in log-SNR, 25 steps."
    from gud_nb import sampler

    schedule = setting(side)[2]
    grid = getattr(sampler, "even_log_snr", None) or sampler.log_snr
    return lambda: grid(schedule, 25)


def measure_overlap(side: int):
    "`overlap`: how much of their active time two components share."
    from gud_nb.schedule import overlap

    _, variances, schedule = setting(side)
    return lambda: overlap(schedule, variances)


def energy(side: int):
    "A model with channel=True, whose network sees a map of the noise: made, run once."
    return model(side, channel=True)


def plain_model(side: int):
    "The same model without that map."
    return model(side, channel=False)


def model(side: int, channel: bool):
    "A model with a network that costs nothing, in cosines, made and run once."
    import torch

    from gud_nb.basis import DCT
    from gud_nb.diffusion import LinearDiffusion
    from gud_nb.model import ScoreModel
    from gud_nb.recipe import vp

    shape, variances, schedule = setting(side)
    d, mean, y = (
        LinearDiffusion(vp(), schedule),
        torch.zeros(shape),
        torch.randn(2, *shape),
    )
    old = is_old()

    class Free(torch.nn.Module):
        "Its first channels."

        def forward(self, x, log_snr, labels=None):
            return x[:, :3]

    def run():
        with torch.no_grad():
            if old:
                from gud_nb.score import Gaussian

                made = ScoreModel(
                    Free(), d, DCT(shape), Gaussian(mean, variances), channel=channel
                )
                return made(y[..., None], torch.tensor([0.3, 0.7]))
            from gud_nb.denoiser import Independent

            made = ScoreModel(
                Free(), d, DCT(shape), Independent(mean, variances), channel=channel
            )
            return made(y[:, None], torch.tensor([0.3, 0.7]))

    return run


def is_old() -> bool:
    "Whether states are (batch, *components, k) and not (batch, k, *components)."
    from gud_nb import sampler

    return not hasattr(sampler, "Sampler")


def training_frames(side: int):
    "Coefficients of one training step: PSLD, a schedule for each component."
    import torch

    from gud_nb.diffusion import LinearDiffusion, hsm
    from gud_nb.recipe import psld

    shape, _, schedule = setting(side)
    d = LinearDiffusion(psld(), schedule, Sigma0=hsm(psld()))
    chi, t = torch.randn(BATCH, *shape), torch.linspace(0.1, 0.9, BATCH).double()
    noise = torch.randn((BATCH, *shape, 2) if is_old() else (BATCH, 2, *shape))

    def run():
        now = t.clone()
        noised = d.perturb(chi, now, noise)
        return noised, d.kernel(now, noised.z)

    return run


def sampling_coefficients(side: int):
    "Twenty steps of a sampler with memory, PSLD, a schedule per component."
    import torch

    from gud_nb.diffusion import LinearDiffusion, hsm
    from gud_nb.integrators import DPMSolver
    from gud_nb.recipe import psld
    from gud_nb.sampler import sample, uniform

    shape, _, schedule = setting(side)
    d = LinearDiffusion(psld(), schedule, Sigma0=hsm(psld()))
    z = torch.randn((1, *shape, 2) if is_old() else (1, 2, *shape))
    return lambda: sample(DPMSolver(2), d, lambda z, t: z, z, uniform(20), final=False)


def images(side: int, n: int = 64):
    "Components (n, 3, side, side) to fit a law to."
    import torch

    return torch.randn(n, 3, side, side)


def fit_independent(side: int):
    "A law of independent components, fitted to 64 images."
    fit, chi = laws().fit_gaussian, images(side)
    return lambda: fit(chi, independent=True)


def fit_factors(side: int):
    "A law with 16 common factors, fitted to 64 images."
    module, chi = laws(), images(side)
    fit = getattr(module, "fit_low_rank", None) or module.fit_factors
    return lambda: fit(chi, 16)


def laws():
    "The module that fits laws."
    if is_old():
        from gud_nb import score as module
    else:
        from gud_nb import denoiser as module
    return module


def dct(side: int):
    "Cosines: there and back, a batch of four."
    from gud_nb.basis import DCT

    return there_and_back(DCT((3, side, side)), side)


def haar(side: int):
    "Haar wavelets of three levels: there and back, a batch of four."
    from gud_nb.basis import Wavelet

    return there_and_back(Wavelet((3, side, side), "haar", 3), side)


def there_and_back(basis, side: int):
    "Components, and the image again."
    x = images(side, BATCH)
    return lambda: basis.inv(basis(x))


CASES = {
    "grid fastest": grid_fastest,
    "grid even_log_snr": grid_even,
    "overlap": measure_overlap,
    "energy map, channel=True": energy,
    "model, channel=False": plain_model,
    "frames of a training step": training_frames,
    "DPMSolver(2), 20 steps": sampling_coefficients,
    "fit, independent": fit_independent,
    "fit, 16 common factors": fit_factors,
    "DCT": dct,
    "Haar": haar,
}


# ----------------------------------------------------------------- one case, one side
def status(field: str) -> int:
    "A line of this process's status, in KiB."
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise SystemExit(f"no {field} in /proc/self/status: this benchmark needs Linux")


def measure(case: str, side: int, memory: float, seconds: float):
    "Run a case at a side and print its MiB and seconds as JSON."
    import torch

    torch.set_num_threads(1)
    CASES[case](8)()  # what is loaded when it is first used
    limit = int(memory * 2**30) + 1024 * status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    spent = int(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (spent, spent + 5))
    run = CASES[case](side)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before, taken, started = status("VmRSS"), [], time.process_time()
    while len(taken) < 3 and time.process_time() - started < 3:
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    print(json.dumps([(status("VmHWM") - before) / 1024, min(taken)]))


# ---------------------------------------------------------------------------- all of it
def run_case(case: str, side: int, a, path: str | None) -> tuple | str:
    "MiB and seconds of a case at a side in a new process, or why it was ended."
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if path:
        env["PYTHONPATH"] = path
    command = [sys.executable, str(Path(__file__).resolve()), "--case", case]
    for name in ("memory", "seconds"):
        command += [f"--{name}", str(getattr(a, name))]
    command += ["--sides", str(side)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode == 0:
        return tuple(json.loads(done.stdout.splitlines()[-1]))
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "time" if done.returncode == -signal.SIGXCPU else "memory"
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    if "memory" in last.lower():
        return "memory"
    print(f"  {case}, side {side}: {last}", file=sys.stderr)
    return "error"


def exponent(sides: list, values: list, least: float) -> str:
    "The power of the side that values grow with, fitted where they exceed `least`."
    points = [(log(s), log(v)) for s, v in zip(sides, values) if v and v > least]
    if len(points) < 2:
        return "   -"
    n = len(points)
    x, y = (sum(p[i] for p in points) / n for i in (0, 1))
    slope = sum((p - x) * (q - y) for p, q in points)
    return f"{slope / sum((p - x) ** 2 for p, _ in points):4.1f}"


def report(name: str, sides: list, found: list):
    "Two lines, memory and time, one figure for each side."
    for what, i, scale, least in (("MiB", 0, 1, 4), ("ms", 1, 1e3, 2)):
        values = [None if isinstance(f, str) else scale * f[i] for f in found]
        text = "".join(
            f"{f:>9}" if v is None else f"{v:9.1f}" for f, v in zip(found, values)
        )
        power = exponent(sides, values, least)
        print(f"  {name:34} {what:4}{text}   side^{power}", flush=True)
        name = ""


def main():
    about, _, rest = __doc__.partition("\n\n")
    p = argparse.ArgumentParser(
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256])
    p.add_argument("--only", nargs="+", default=[""], help="words in names of cases")
    p.add_argument("--memory", type=float, default=6.0, help="GiB (default 6)")
    p.add_argument(
        "--seconds", type=float, default=60.0, help="of CPU time (default 60)"
    )
    p.add_argument("--old", metavar="PATH", help="an older checkout of this package")
    p.add_argument("--case", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.case:
        return measure(a.case, a.sides[0], a.memory, a.seconds)
    print(f"  {'side':39}" + "".join(f"{s:9}" for s in a.sides) + "   grows as")
    versions = {"": os.environ.get("PYTHONPATH")} | (
        {", older": a.old} if a.old else {}
    )
    for case in CASES:
        if not any(word in case for word in a.only):
            continue
        for version, path in versions.items():
            found = []
            for side in a.sides:
                ended = found and isinstance(found[-1], str)
                found.append(found[-1] if ended else run_case(case, side, a, path))
            report(case + version, a.sides, found)


if __name__ == "__main__":
    main()
