"""What a sampler costs beside its network: milliseconds per step with a network that costs nothing, and as a share of a U-Net's time.

    python benchmarks/sampling.py --threads 2

States are (64, 3, 32, 32, k) in float32, one clock for all, times on the quadratic grid. Noise is drawn beforehand; what drawing it
costs is a line of its own. The grid is used twice and the second run is timed, since coefficients are computed once for each time and
remembered; --cold times the first run.
"""

import argparse
import time

import torch

from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import DEIS, DPMSolver, Splitting, ancestral
from gud_nb.network import UNet
from gud_nb.recipe import psld, vp
from gud_nb.sampler import (
    ddim,
    euler_maruyama,
    exponential_heun,
    flow_euler,
    heun,
    quadratic,
    sample,
    sscs,
)
from gud_nb.schedule import LinearBeta

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
parser.add_argument("--steps", type=int, default=20, help="steps of a run")
parser.add_argument("--runs", type=int, default=7, help="runs; the fastest counts")
parser.add_argument("--device", default="cpu", help="cpu or cuda")
parser.add_argument(
    "--cold", action="store_true", help="time the first run with a grid"
)
a = parser.parse_args()
torch.set_num_threads(a.threads)


def fastest(run, runs: int = a.runs) -> float:
    "Milliseconds of the fastest of several runs."
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        run()
        if a.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best * 1e3


x = torch.randn(64, 3, 32, 32, device=a.device)
net, half = UNet(3).eval().to(a.device), torch.zeros(64, device=a.device)
with torch.no_grad():
    network = fastest(lambda: net(x, half))
print(
    f"one evaluation of the small U-Net, batch 64: {network:.1f} ms; {a.threads} threads; torch {torch.__version__}"
)
print(
    f"drawing noise of shape (64, 3, 32, 32, 2): {fastest(lambda: torch.randn(64, 3, 32, 32, 2, device=a.device)):.2f} ms"
)
print(
    f"{'':6}{'sampler':18}{'ms per step':>12}{'per evaluation, share of the network':>40}"
)
steps = {
    s.__name__: s
    for s in (flow_euler, ddim, heun, exponential_heun, euler_maruyama, sscs, ancestral)
}
steps |= {
    "DPMSolver(2)": DPMSolver(2),
    "DPMSolver(3)": DPMSolver(3),
    "DEIS(3)": DEIS(3),
    "OBAB": Splitting("OBAB"),
}
for name, recipe, clock in (
    ("VP", vp(), LinearBeta()),
    ("PSLD", psld(), LinearBeta(8.0, 8.0)),
):
    z = torch.randn(64, 3, 32, 32, recipe.k, device=a.device)
    for label, step in steps.items():
        if recipe.k == 1 and isinstance(step, Splitting):
            continue
        d = LinearDiffusion(recipe, clock, Sigma0=hsm(recipe))
        draws = getattr(step, "noises", 1)
        noise = (
            [torch.randn((draws,) * (draws > 1) + tuple(z.shape), device=a.device)]
            * a.steps
            if draws
            else None
        )
        run = lambda: sample(
            step, d, lambda z, t: z, z, quadratic(a.steps), noise=noise, final=False
        )
        if not a.cold:
            run()
        each = fastest(run, 1 if a.cold else a.runs) / a.steps
        print(
            f"{name:6}{label:18}{each:12.2f}{each / getattr(step, 'evaluations', 1) / network:39.1%}"
        )
