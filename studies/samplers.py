"""Samplers compared at equal cost: the runs behind `nbs/31_samplers.ipynb`.

    GUD_DATA=folder python studies/samplers.py gaussian
    GUD_DATA=folder python studies/samplers.py vp
    GUD_DATA=folder python studies/samplers.py psld
    GUD_DATA=folder python studies/samplers.py gud --images 2000 --seeds 0 1 2 \\
        --budgets 10 25 --samplers "SDE 2M" "UniPC 2" --grids fastest

`gaussian` propagates Gaussian data with the covariance of CIFAR-10 exactly, without a
draw; `vp`, `psld` and `gud` sample with the models of Fashion-MNIST that ship with the
package. Every sampler spends the same number of evaluations; for the models the final
denoising step is one of them. Rows are appended to samplers_<what>.csv in the folder
`--out`, and rows that are there already are not computed again. A short try:

    GUD_DATA=folder python studies/samplers.py vp --out /tmp/try --images 20 \\
        --budgets 5 --samplers DDIM
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import parser
from torch import Tensor

from gud_nb.adams import ExponentialAdams, sde_dpm_solver, unipc
from gud_nb.basis import moments
from gud_nb.denoiser import Independent
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, measure
from gud_nb.files import cifar10, fashion_mnist
from gud_nb.integrators import DEIS, DPMSolver, Splitting, ancestral, gaussian_distance
from gud_nb.recipe import psld, vp
from gud_nb.sampler import (
    Sampler,
    ddim,
    edm,
    euler_maruyama,
    evaluations,
    even_log_snr,
    exponential_heun,
    fastest,
    flow_euler,
    heun,
    quadratic,
    sscs,
)
from gud_nb.saved import from_pretrained
from gud_nb.schedule import LinearBeta

HERE = Path(__file__).resolve().parent
SAMPLERS = {
    "Euler-Maruyama": euler_maruyama,
    "SSCS": sscs,
    "ancestral": ancestral,
    "OBAB reduced": Splitting("OBAB"),
    "flow Euler": flow_euler,
    "Heun": heun,
    "BAB reduced": Splitting("BAB"),
    "DDIM": ddim,
    "exponential Heun": exponential_heun,
    "DPMSolver(2)": DPMSolver(2),
    "DPMSolver(3)": DPMSolver(3),
    "DEIS(2)": DEIS(2),
    "DEIS(3)": DEIS(3),
    "UniPC 2": unipc(2),
    "noise 3": ExponentialAdams(3, law=math.inf),
    "SDE 2M": sde_dpm_solver(2),
}
GRIDS = "quadratic", "even_log_snr", "even_log_snr of the schedule", "edm", "fastest"
ENDS = {"": 1e-3, " 1e-4": 1e-4}  # the last time, by what is written behind a grid
EXACT = dict(model=str, sampler=str, grid=str, evaluations=int, distance=float)
DRAWN = dict(model=str, sampler=str, grid=str, evaluations=int, frechet=float)
DRAWN |= dict(energy=float, images=int, seed=int, processor_seconds=float)
# what grids are called in rows that were stored before their names changed
EARLIER = {"log_snr": GRIDS[1], "clock": GRIDS[2]}


def make_grid(
    name: str,  # one of GRIDS, perhaps with " 1e-4" behind it
    diffusion: LinearDiffusion,  # whose log-SNR it follows
    n: int,  # number of steps
) -> Tensor:  # (n+1,)
    "A grid by its name in the tables."
    bare = name.removesuffix(" 1e-4")
    eps = ENDS[name.removeprefix(bare)]
    if bare == "quadratic":
        return quadratic(n, eps)
    if bare in ("edm", "fastest"):
        make = edm if bare == "edm" else fastest
        scalar = bare == "edm" or diffusion.is_scalar
        return make(diffusion if scalar else diffusion.schedule, n, eps)
    whole = bare == "even_log_snr"
    return even_log_snr(diffusion if whole else diffusion.schedule, n, eps)


def usual_grids(name: str) -> list[str]:
    "The grids that a sampler is given unless others are named."
    if name in ("SSCS", "Heun", "OBAB reduced", "BAB reduced"):
        return ["quadratic"]
    if "(" in name:
        return ["even_log_snr"]
    return ["quadratic", "even_log_snr"]


def stored(
    what: str,  # gaussian, vp, psld or gud
    folder: Path | str = HERE,  # where samplers_<what>.csv is
) -> list[dict]:  # [] where there is none
    "Rows that were measured, as numbers, with the names of grids as they are now."
    path = Path(folder) / f"samplers_{what}.csv"
    kinds, rows = EXACT if what == "gaussian" else DRAWN, []
    if not path.exists():
        return rows
    for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        row = {name: kind(line[name]) for name, kind in kinds.items()}
        for old, new in EARLIER.items():
            bare = row["grid"].removesuffix(" 1e-4")
            if bare == old:
                row["grid"] = row["grid"].replace(old, new)
        rows.append(row)
    return rows


def store(what: str, folder: Path, row: dict):
    "Append a row, and begin the file with a header if there is none."
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samplers_{what}.csv"
    new = not path.exists()
    row = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(*row.values(), sep=", ", flush=True)


def key(row: dict) -> tuple:
    "What tells rows apart."
    names = ("model", "sampler", "grid", "evaluations", "seed", "images")
    return tuple(row[k] for k in names if k in row)


def steps_for(sampler: Sampler, budget: int, final: bool) -> int:
    "The number of steps that a budget of evaluations is enough for, or less than 1."
    return (budget - evaluations(sampler, 0, final)) // sampler.evaluations


def cifar_spectrum(n: int = 20_000) -> Tensor:
    "The variances (3072,) of the principal components of n images, falling."
    covariance = moments(cifar10(train=True).x[:n])[1]
    return torch.linalg.eigvalsh(covariance).flip(0).clamp(min=1e-6)


def processes() -> dict[str, LinearDiffusion]:
    "Both processes on the schedules of their papers."
    return {
        "VP": LinearDiffusion(vp(), LinearBeta()),
        "PSLD": LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld())),
    }


def exact(
    variances: Tensor,  # (m,) of the data's independent components
    budgets: list[int],  # numbers of evaluations
    names: list[str],  # of samplers
    done: set,  # keys of rows that are not wanted
    keep: Callable,  # called with every row
):
    "Distances of Gaussian data, exactly, without the final denoising step."
    law = Independent(torch.zeros_like(variances), variances)
    for process, d in processes().items():
        bare = GRIDS[:3] if d.k > 1 else GRIDS[:2]  # for VP the third is the second
        grids = [name + end for end in ENDS for name in bare]
        for name, budget, grid in _combinations(names, budgets, grids):
            sampler = SAMPLERS[name]
            n = steps_for(sampler, budget, final=False)
            row = dict(model=process, sampler=name, grid=grid, evaluations=budget)
            splits = isinstance(sampler, Splitting)
            if n < 1 or (splits and d.k == 1) or key(row) in done:
                continue
            times = make_grid(grid, d, n)
            keep(row | dict(distance=gaussian_distance(sampler, d, law, times)))


def _combinations(names: list, budgets: list, grids: list) -> list[tuple]:
    "Every sampler with every budget on every grid."
    return [(s, b, g) for s in names for b in budgets for g in grids]


def trained(
    what: str,  # vp, psld or gud
    a: argparse.Namespace,  # images, budgets, samplers, grids, seed
    done: set,  # keys of rows that are not wanted
    keep: Callable,  # called with every row
):
    "Distances of samples of a shipped model from the training images."
    title = f"{what}-fashion-mnist"
    model, features = from_pretrained(title), feature_extractor("fashion_mnist")
    real, d = features(fashion_mnist(train=True).x), model.diffusion
    everything = [name + end for end in ENDS for name in GRIDS]
    names = a.samplers or [s for s in SAMPLERS if s != "flow Euler"]
    for budget in a.budgets:
        for name in names:
            chosen = everything if a.grids == ["all"] else a.grids
            for grid in chosen or usual_grids(name):
                sampler = SAMPLERS[name]
                n = steps_for(sampler, budget, final=True)
                row = dict(model=title, sampler=name, grid=grid, evaluations=budget)
                splits = isinstance(sampler, Splitting)
                if n < 1 or (splits and d.k == 1):
                    continue
                for seed in a.seeds:
                    if key(row | dict(seed=seed, images=a.images)) in done:
                        continue
                    how = dict(images=a.images, seed=seed)
                    began = time.process_time()
                    found = distances(model, features, real, sampler, grid, n, how)
                    spent = time.process_time() - began
                    keep(row | found | how | dict(processor_seconds=spent))


def distances(
    model, features, real: Tensor, sampler: Sampler, grid: str, n: int, how: dict
) -> dict:
    "Fréchet and energy distance of one sampler; nan where its states are not finite."
    g = torch.Generator().manual_seed(how["seed"])
    times = make_grid(grid, model.diffusion, n)
    try:
        x = model.sample(how["images"], sampler, times, g, batch=100)
    except ValueError as error:
        print(error)
        return dict(frechet=math.nan, energy=math.nan)
    row = measure(grid, features(x.clamp(-1, 1)), real)
    return {k: float(row[k]) for k in ("frechet", "energy")}


def arguments() -> argparse.Namespace:
    "What is asked for on the command line, checked."
    p = parser(__doc__)
    p.add_argument("what", choices=["gaussian", "vp", "psld", "gud"])
    p.add_argument("--images", type=int, default=500, help="samples for each row")
    p.add_argument("--budgets", type=int, nargs="+", help="numbers of evaluations")
    p.add_argument("--samplers", nargs="+", help="these alone, as the tables name them")
    p.add_argument("--grids", nargs="+", help="instead of the usual; 'all' for every")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the samples")
    p.add_argument("--out", type=Path, default=HERE, help="folder of the table")
    a = p.parse_args()
    known = {name + end for end in ENDS for name in GRIDS} | {"all"}
    unknown = set(a.samplers or ()) - set(SAMPLERS) | set(a.grids or ()) - known
    if unknown:
        p.error(
            f"got {sorted(unknown)}, want samplers among {list(SAMPLERS)} "
            f"and grids among {sorted(known)}"
        )
    if a.budgets is None:
        middle = 20 if a.what == "gaussian" else 25
        last = [200] if a.what == "gaussian" else []
        a.budgets = [5, 10, middle, 50, 100, *last]
    return a


def main():
    "Measure what is missing from a table."
    a = arguments()
    torch.set_num_threads(1)
    done = {key(row) for row in stored(a.what, a.out)}

    def keep(row: dict):
        store(a.what, a.out, row)

    if a.what != "gaussian":
        return trained(a.what, a, done, keep)
    exact(cifar_spectrum(), a.budgets, a.samplers or list(SAMPLERS), done, keep)


if __name__ == "__main__":
    main()
