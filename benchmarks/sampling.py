"""What a sampler costs beside its network: in milliseconds, and as a share of a U-Net.

    python benchmarks/sampling.py                 one thread
    python benchmarks/sampling.py --old PATH      beside an older version, with ratios
    python benchmarks/sampling.py --device cuda   on a GPU; counts copies to it, too

States are (64, k, 3, 32, 32) in float32; VP and PSLD with one schedule for all
components, GUD (VP) with one for each; noise is drawn beforehand. `first` makes a new
diffusion and a new grid for each run, `again` is the second batch with both. `free` is
a score that costs nothing, its output being its input; `law` is the exact score of a
law with independent components, `Score(diffusion, Independent(mean, variances))`.

On a CPU with one thread, seconds are those of CPU time, and the least of several runs
counts, so that a busy machine does little harm; otherwise wall time is taken.
--old takes a checkout of this package from before its states were (batch, k,
*components). It runs in a process of its own, in turns with this version, and the
ratios new / old are printed: below 1 this version is faster.
"""

import argparse, os, sys, time
from functools import partial
from pathlib import Path

from released import BATCH, IMAGE, PHASES, Side, diffusion_of, free_score, samplers
from released import serve, state_layout_is_old, state_shape, take_turns

PROCESSES = ("VP", "PSLD", "GUD")


def diffusion(process: str):
    "The diffusion of a name."
    from gud_nb.diffusion import LinearDiffusion
    from gud_nb.recipe import vp
    from gud_nb.schedule import LinearBeta

    if process == "VP":
        return LinearDiffusion(vp(), LinearBeta())
    return diffusion_of(process.lower())


def exact_score(d, z):
    "The score of independent normal components under a diffusion."
    import torch

    mean, variances = torch.zeros(IMAGE), torch.linspace(0.1, 2, 3072).reshape(IMAGE)
    if state_layout_is_old():
        from gud_nb.score import GaussianScore

        return GaussianScore(d, mean, variances)
    from gud_nb.denoiser import Independent, Score

    return Score(d, Independent(mean, variances))


def run_of(process: str, step, steps: int, device: str):
    "A function of (kind of score, whether again) that prepares a run of a sampler."
    import torch
    from gud_nb.sampler import quadratic, sample

    known = diffusion(process), quadratic(steps)
    z = torch.randn(state_shape(known[0].k), device=device)
    draws = getattr(step, "noises", 1)  # older steps say so only where it is not 1
    drawn = torch.randn(max(draws, 1), *z.shape, device=device)
    noise = [drawn if draws > 1 else drawn[0]] * steps if draws else None

    def prepare(kind: str, again: bool):
        d, grid = known if again else (diffusion(process), quadratic(steps))
        score = free_score if kind == "free" else exact_score(d, z)

        def run():
            sample(step, d, score, z, grid, noise=noise, final=False)
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    return prepare


def tasks(steps: int, device: str, threads: int) -> dict:
    "All that is timed, by name."
    import torch
    from gud_nb.network import UNet

    torch.set_num_threads(threads)
    net, x = UNet(3).eval().to(device), torch.randn(BATCH, *IMAGE, device=device)
    level = torch.zeros(BATCH, device=device)

    def network():
        with torch.no_grad():
            net(x, level)
        if device == "cuda":
            torch.cuda.synchronize()

    found = {"network": lambda: network}
    for process in PROCESSES:
        for name, step in samplers().items():
            if process != "PSLD" and name in PHASES:
                continue
            prepare = run_of(process, step, steps, device)
            for kind in ("free", "law"):
                for when in ("first", "again"):
                    label = f"{process} {name} {kind} {when}"
                    found[label] = partial(prepare, kind, when == "again")
    return found


def copies(run) -> int:
    "How many times a run copies from the host to the GPU."
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
    return sum(e.count for e in seen.key_averages() if "Memcpy HtoD" in e.key)


def print_copies(steps: int):
    "Copies of a whole run, and how many more there are for each step more."
    print(
        f"\ncopies from the host to the GPU: a run of {steps} steps, and each step more"
    )
    for process in PROCESSES:
        for name, step in samplers().items():
            if process != "PSLD" and name in PHASES:
                continue
            few, many = (
                copies(run_of(process, step, n, "cuda")("law", False))
                for n in (steps, 2 * steps)
            )
            print(f"  {process:5} {name:28} {few:5d} {(many - few) / steps:7.2f}")


def table(new: Side, old: Side | None, steps: int):
    "Print what was measured."
    network = new.least["network"]
    print(f"one evaluation of the small U-Net, batch {BATCH}: {1e3 * network:.1f} ms")
    print("milliseconds a step: first use of a grid, again; `again` as a share of the")
    print(
        "network for one step" + ("; ratios new / old, first and again" if old else "")
    )
    for name in new.tasks:
        if not name.endswith(" first"):
            continue
        label, again = name.removesuffix(" first"), name.replace(" first", " again")
        a, b = (1e3 * new.least[n] / steps for n in (name, again))
        text = f"  {label:44} {a:7.2f} {b:7.2f} {b / network / 1e3:7.1%}"
        if old:
            text += f"   {new.ratio(name, old, name):5.2f}"
            text += f" {new.ratio(again, old, again):5.2f}"
        print(text)


def main():
    about, _, rest = __doc__.partition("\n\n")
    p = argparse.ArgumentParser(
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    p.add_argument("--steps", type=int, default=20, help="steps of a run (default 20)")
    p.add_argument("--rounds", type=int, default=3, help="turns (default 3)")
    p.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="default cpu"
    )
    p.add_argument("--old", metavar="PATH", help="an older checkout of this package")
    p.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.serve:
        timer = time.process_time
        if a.device == "cuda" or a.threads > 1:
            timer = time.perf_counter
        return serve(tasks(a.steps, a.device, a.threads), timer)
    command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
    for name in ("threads", "steps", "device"):
        command += [f"--{name}", str(getattr(a, name))]
    new = Side(command, os.environ.get("PYTHONPATH"), a.threads)
    old = Side(command, a.old, a.threads) if a.old else None
    sides = [new] + [old] * bool(old)
    take_turns([(side, name) for name in new.tasks for side in sides], a.rounds)
    table(new, old, a.steps)
    for side in sides:
        side.close()
    if a.device == "cuda":
        print_copies(a.steps)


if __name__ == "__main__":
    main()
