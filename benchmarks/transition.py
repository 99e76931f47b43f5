"""What the transition costs, in milliseconds of this machine, and how exact it is.

    python benchmarks/transition.py                     both clocks, two threads
    python benchmarks/transition.py --threads 1         the same with one
    python benchmarks/transition.py --device cuda       on a GPU
    python benchmarks/transition.py --save costs.json   keep the figures
    python benchmarks/transition.py --accuracy          instead: errors against 80 digits (needs mpmath)

Measured are the propagator, the covariance and its Cholesky factor together, in float64, from the start of hybrid score matching:
once for a clock of its own for every component, (64, 3072), and once for one clock value per image, (64,). Beside them, in turns so
that a busy moment meets all alike, one training step (forward, backward, Adam) of a U-Net on a batch (64, 6, 32, 32), position and
momentum of colour images. Every figure is the median of --repeats measurements; on a busy machine the least of them says more.

Errors: Φ against its largest entry; Σ diagonals relative, off-diagonals against the geometric mean of their diagonals; L and its
inverse transpose diagonals relative, the rest against the norm of their row. Third order for clocks from 1e-4 to 50, all others
from 1e-8 to 1e3.
"""

import argparse, json, time
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


def random_aux(recipe, kappa: float = 0.04):
    "The start of hybrid score matching: position known, the rest random."
    return (
        torch.diag(torch.tensor([0.0] + [kappa] * (recipe.k - 1), dtype=torch.float64))
        * recipe.S
    )


# ------------------------------------------------------------------------------------------------------------------------------- cost
def training_step(batch: int, width: int, device: str):
    "One step of a U-Net: forward, backward, Adam; as a function of nothing."
    net, x = (
        UNet(6, width=width).to(device),
        torch.randn(batch, 6, 32, 32, device=device),
    )
    adam, noise, level = (
        torch.optim.Adam(net.parameters(), 1e-4),
        torch.randn_like(x),
        torch.zeros(batch, device=device),
    )

    def run():
        loss = F.mse_loss(net(x, level), noise)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return run


def milliseconds(tasks: dict, repeats: int, device: str) -> dict:
    "Median and least milliseconds of each task, measured in turns after two rounds that do not count."

    def wait():
        torch.cuda.synchronize() if device.startswith("cuda") else None

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


def cost(args) -> dict:
    "Each recipe on both clocks, next to the training step."
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    step, tasks = (
        "training step",
        {"training step": training_step(args.batch, args.width, args.device)},
    )
    log = torch.empty(args.batch, args.components, dtype=torch.float64).uniform_(
        -12, 2.7
    )  # clocks from 6e-6 to 15
    for shape, B in (
        ("per component", log.exp().to(args.device)),
        ("per image", log[:, 0].exp().to(args.device)),
    ):
        for name, r in CASES.items():
            if r.k > 2 and B.ndim > 1:
                continue  # general matrices: not made for this
            tasks[f"{name}, {shape}"] = (
                lambda r=r, B=B, C=random_aux(r).to(args.device): transition(r, B, C)
            )
    found = milliseconds(tasks, args.repeats, args.device)
    print(
        f"training step of a U-Net of width {args.width} on {args.batch} images: {found[step]['median']:.0f} ms "
        f"(least {found[step]['least']:.0f} ms)\n"
        f"Φ, Σ and L together, clocks of shape ({args.batch}, {args.components}) and ({args.batch},):"
    )
    for k, v in found.items():
        if k != step:
            print(
                f"  {k:27} {v['median']:8.2f} ms  {v['median'] / found[step]['median']:7.2%} of it   "
                f"least {v['least']:8.2f} ms  {v['least'] / found[step]['least']:7.2%}"
            )
    return found


# --------------------------------------------------------------------------------------------------------------------------- accuracy
def exact(mp, recipe, B: float):
    "Φ(B) and P(B) in the digits that mpmath is set to, for the recipe's float64 matrices A and D."
    k, A, D = recipe.k, mp.matrix(recipe.A.tolist()), recipe.D.tolist()
    M = mp.matrix(k * k, k * k)  # A S + S Aᵀ = -2D, as a linear system
    for i in range(k):
        for j in range(k):
            for n in range(k):
                M[i * k + j, n * k + j] += A[i, n]
                M[i * k + j, i * k + n] += A[j, n]
    s = mp.lu_solve(
        M, mp.matrix([-2 * mp.mpf(D[i][j]) for i in range(k) for j in range(k)])
    )
    S = mp.matrix([[s[i * k + j] for j in range(k)] for i in range(k)])
    Phi = mp.expm(A * mp.mpf(B) / 2, method="taylor")
    return Phi, S - Phi * S * Phi.T


def errors(mp, recipe, B: float) -> list:
    "Errors of Φ, and of Σ, L and its inverse transpose from a known start and from a random auxiliary."
    Phi, P = exact(mp, recipe, B)
    k, out = recipe.k, []

    def off(got, want, size):
        return float(
            max(
                abs(mp.mpf(got[i, j].item()) - want[i, j]) / size(i, j)
                for i in range(k)
                for j in range(k)
            )
        )

    def row(want, i):
        return mp.sqrt(sum(want[i, n] ** 2 for n in range(k)))

    top = max(abs(v) for v in Phi)
    for Sigma0 in (None, random_aux(recipe)):
        got = transition(recipe, B, Sigma0)
        want = P if Sigma0 is None else P + Phi * mp.matrix(Sigma0.tolist()) * Phi.T
        if not out:
            out.append(
                off(got[0], Phi, lambda i, j: top)
                if top > 1e-300
                else float(got[0].abs().max() > 1e-300)
            )
        L = mp.cholesky(want)
        V = (L**-1).T
        out += [
            off(got[1], want, lambda i, j: mp.sqrt(want[i, i] * want[j, j])),
            off(got[2], L, lambda i, j: L[i, i] if i == j else row(L, i)),
            off(
                tril_inverse(got[2]).mT,
                V,
                lambda i, j: V[i, i] if i == j else row(V, i),
            ),
        ]
    return out


def accuracy() -> dict:
    "The worst error of everything over the clocks."
    import mpmath as mp

    mp.mp.dps, found = 80, {}
    print(f"{'':22}{'known start':>30}{'random auxiliary':>30}")
    print(f"{'':12}" + "".join(f"{n:>10}" for n in "Φ Σ L L⁻ᵀ Σ L L⁻ᵀ".split()))
    for name, r in CASES.items():
        clocks = (
            [10.0 ** (e / 2) for e in range(-16, 7)]
            if r.k < 3
            else [1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 50.0]
        )
        found[name] = [max(e) for e in zip(*(errors(mp, r, b) for b in clocks))]
        print(f"{name:12}" + "".join(f"{e:10.0e}" for e in found[name]), flush=True)
    return found


def main():
    about, _, rest = __doc__.partition("\n\n")
    p = argparse.ArgumentParser(
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--batch", type=int, default=64, help="images in a batch (default 64)"
    )
    p.add_argument(
        "--components",
        type=int,
        default=3072,
        help="components of an image (default 3072)",
    )
    p.add_argument(
        "--width",
        type=int,
        default=16,
        help="width of the U-Net (default 16, the smallest in use)",
    )
    p.add_argument(
        "--repeats", type=int, default=9, help="measurements of each figure (default 9)"
    )
    p.add_argument(
        "--threads",
        type=int,
        default=2,
        help="threads that PyTorch may use (default 2)",
    )
    p.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    p.add_argument(
        "--accuracy", action="store_true", help="print the errors instead of the cost"
    )
    p.add_argument("--save", type=Path, help="write the figures to this JSON file")
    args = p.parse_args()
    found = (
        {"accuracy": accuracy()}
        if args.accuracy
        else {
            "device": args.device,
            "threads": args.threads,
            "milliseconds": cost(args),
        }
    )
    if args.save:
        args.save.write_text(
            json.dumps(found | {"torch": torch.__version__}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
