"""What the transition costs, in milliseconds of this machine, and how exact it is.

    python benchmarks/transition.py                     both shapes of B, two threads
    python benchmarks/transition.py --threads 1         the same with one
    python benchmarks/transition.py --device cuda       on a GPU
    python benchmarks/transition.py --save costs.json   keep the figures
    python benchmarks/transition.py --accuracy          errors against 80 digits

Measured are the propagator, the covariance and its Cholesky factor together, in
float64, from the start of hybrid score matching: once with a B of its own for every
component, (64, 3072), and once with one B per image, (64,). Beside them, in turns so
that a busy moment meets all alike, one training step (forward, backward, Adam) of a
U-Net on a batch (64, 6, 32, 32), position and momentum of colour images. Every figure
is the median of --repeats measurements; on a busy machine the least says more.

Errors: Φ against its largest entry; Σ diagonals relative, off-diagonals against the
geometric mean of their diagonals; L and its inverse transpose diagonals relative, the
rest against the norm of their row. Third order for B from 1e-4 to 50, all others from
1e-8 to 1e3.
"""

import argparse
import sys
import json
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from gud_nb.network import UNet
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.transition import transition, tril_inverse

CASES = {
    "VP": vp(),
    "CLD": cld(),
    "PSLD .005": psld(0.005, 4.005),
    "PSLD .01": psld(),
    "PSLD .25": psld(0.25, 4.25),
    "underdamped": psld(0.01, 1.0, M=0.05),
    "overdamped": psld(0.01, 8.0, M=1.0),
    "third order": third_order(),
}


def random_aux(
    recipe,  # k phases
    kappa: float = 0.04,  # variance of the auxiliary phases, in units of S
):  # (k, k)
    "The start of hybrid score matching: position known, the rest random."
    parts = torch.tensor([0.0] + [kappa] * (recipe.k - 1), dtype=torch.float64)
    return torch.diag(parts) * recipe.S


# Cost


def training_step(
    batch: int,  # images
    width: int,  # of the U-Net
    device: str,  # where
):  # a function of nothing
    "One step of a U-Net: forward, backward, Adam."
    net = UNet(6, width=width).to(device)
    adam = torch.optim.Adam(net.parameters(), 1e-4)
    x = torch.randn(batch, 6, 32, 32, device=device)
    noise, level = torch.randn_like(x), torch.zeros(batch, device=device)

    def run():
        loss = F.mse_loss(net(x, level), noise)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return run


def milliseconds(
    tasks: dict,  # name -> function of nothing
    repeats: int,  # rounds that count
    device: str,  # where they run
) -> dict:  # name -> median and least
    "Milliseconds of each task, measured in turns after two rounds that do not count."

    def wait():
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    taken = {k: [] for k in tasks}
    for i in range(repeats + 2):
        for name, run in tasks.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            if i > 1:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {k: {"median": median(v), "least": min(v)} for k, v in taken.items()}


def transitions(args) -> dict:  # name -> function of nothing
    "Each recipe for B per component and per image, from 6e-6 to 15."
    log = torch.empty(args.batch, args.components, dtype=torch.float64)
    B = log.uniform_(-12, 2.7).exp().to(args.device)
    tasks = {}
    for shape, b in (("per component", B), ("per image", B[:, 0])):
        for name, recipe in CASES.items():
            if recipe.k > 2 and b.ndim > 1:
                continue  # general matrices: not made for this
            start = random_aux(recipe).to(args.device)
            tasks[f"{name}, {shape}"] = partial(transition, recipe, b, start)
    return tasks


def cost(args) -> dict:  # name -> median and least milliseconds
    "Each recipe next to the training step."
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    step = training_step(args.batch, args.width, args.device)
    tasks = {"training step": step} | transitions(args)
    found = milliseconds(tasks, args.repeats, args.device)
    step = found["training step"]
    print(f"a U-Net of width {args.width}, {args.batch} images, one training step:")
    print(f"  {step['median']:.0f} ms (least {step['least']:.0f} ms)")
    shapes = f"({args.batch}, {args.components}) and ({args.batch},)"
    print(f"Φ, Σ and L together, B of shape {shapes}; share of the step:")
    for k, v in found.items():
        if k == "training step":
            continue
        figures = (f"{v[n]:8.2f} ms {v[n] / step[n]:7.2%}" for n in ("median", "least"))
        print(f"  {k:27}", *figures)
    return found


# Accuracy


def exact(
    mp,  # the module mpmath, set to the digits wanted
    recipe,  # its float64 matrices A and D count
    B: float,  # > 0
) -> tuple:  # Φ(B), P(B)
    "Propagator and noise in many digits."
    k, A, D = recipe.k, mp.matrix(recipe.A.tolist()), recipe.D.tolist()
    M = mp.matrix(k * k, k * k)  # A S + S Aᵀ = -2D, as a linear system
    for i in range(k):
        for j in range(k):
            for n in range(k):
                M[i * k + j, n * k + j] += A[i, n]
                M[i * k + j, i * k + n] += A[j, n]
    right = [-2 * mp.mpf(D[i][j]) for i in range(k) for j in range(k)]
    s = mp.lu_solve(M, mp.matrix(right))
    S = mp.matrix([[s[i * k + j] for j in range(k)] for i in range(k)])
    Phi = mp.expm(A * mp.mpf(B) / 2, method="taylor")
    return Phi, S - Phi * S * Phi.T


def off(
    mp,  # the module mpmath
    got,  # (k, k) tensor
    want,  # (k, k) matrix of mpmath
    size,  # (i, j) -> the size that an error is measured in
) -> float:
    "The largest error of a matrix."
    places = [(i, j) for i in range(want.rows) for j in range(want.cols)]
    misses = (abs(mp.mpf(got[p].item()) - want[p]) / size(*p) for p in places)
    return float(max(misses))


def factor_error(
    mp,  # the module mpmath
    got,  # (k, k) tensor, triangular
    want,  # (k, k) matrix of mpmath
) -> float:
    "The largest error: of a diagonal relative, of the rest against its row."
    rows = [mp.sqrt(sum(v**2 for v in row)) for row in want.tolist()]
    return off(mp, got, want, lambda i, j: want[i, i] if i == j else rows[i])


def errors(
    mp,  # the module mpmath
    recipe,  # k phases
    B: float,  # > 0
) -> list:  # of Φ, then of Σ, L, L⁻ᵀ for either start
    "Errors from a known start and from a random auxiliary."
    Phi, P = exact(mp, recipe, B)
    top = max(abs(v) for v in Phi)
    got = transition(recipe, B)[0]
    vanished = top <= 1e-300
    out = [float(got.abs().max() > 1e-300)] if vanished else []
    out = out or [off(mp, got, Phi, lambda i, j: top)]
    for Sigma0 in (None, random_aux(recipe)):
        _, Sigma, L = transition(recipe, B, Sigma0)
        want = P if Sigma0 is None else P + Phi * mp.matrix(Sigma0.tolist()) * Phi.T
        sizes = [mp.sqrt(want[i, i]) for i in range(recipe.k)]
        out.append(off(mp, Sigma, want, lambda i, j: sizes[i] * sizes[j]))
        factor = mp.cholesky(want)
        out.append(factor_error(mp, L, factor))
        out.append(factor_error(mp, tril_inverse(L).mT, (factor**-1).T))
    return out


def accuracy() -> dict:  # name -> worst errors
    "The worst error of everything over all B."
    import mpmath as mp

    mp.mp.dps, found = 80, {}
    print(f"{'':22}{'known start':>30}{'random auxiliary':>30}")
    heads = "Φ Σ L L⁻ᵀ Σ L L⁻ᵀ".split()
    print(f"{'':12}" + "".join(f"{n:>10}" for n in heads))
    third = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 50.0]
    half_decades = [10.0 ** (e / 2) for e in range(-16, 7)]
    for name, r in CASES.items():
        stops = half_decades if r.k < 3 else third
        found[name] = [max(e) for e in zip(*(errors(mp, r, b) for b in stops))]
        print(f"{name:12}" + "".join(f"{e:10.0e}" for e in found[name]), flush=True)
    return found


def arguments() -> argparse.Namespace:
    "What the command line says."
    sys.stdout.reconfigure(errors="backslashreplace")
    about, _, rest = __doc__.partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=about, epilog=rest, formatter_class=raw)
    numbers = {
        "batch": (64, "images in a batch"),
        "components": (3072, "components of an image"),
        "width": (16, "width of the U-Net, the smallest in use"),
        "repeats": (9, "measurements of each figure"),
        "threads": (2, "threads that PyTorch may use"),
    }
    for name, (value, words) in numbers.items():
        words = f"{words} (default {value})"
        p.add_argument(f"--{name}", type=int, default=value, help=words)
    p.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    p.add_argument("--accuracy", action="store_true", help="errors instead of cost")
    p.add_argument("--save", type=Path, help="write the figures to this JSON file")
    return p.parse_args()


def main():
    "Measure, print, save."
    args = arguments()
    if args.accuracy:
        found = {"accuracy": accuracy()}
    else:
        found = {"device": args.device, "threads": args.threads}
        found["milliseconds"] = cost(args)
    if args.save:
        text = json.dumps(found | {"torch": torch.__version__}, indent=1)
        args.save.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
