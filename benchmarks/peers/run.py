"""Samplers of other libraries beside ours, at equal numbers of evaluations.

    GUD_DATA=folder python benchmarks/peers/run.py gaussian --psld PATH
    GUD_DATA=folder python benchmarks/peers/run.py mixture --psld PATH
    GUD_DATA=folder python benchmarks/peers/run.py trained --images 2000
    GUD_DATA=folder python benchmarks/peers/run.py trained --peers azula \\
        --solvers "zEAB 3" --grids "even log-SNR to 0.0105"
    python benchmarks/peers/run.py table

`gaussian` is exact: the 2-Wasserstein distance of the samples' law from that of normal
data, over the size of the data, without a draw. `mixture` compares 4000 samples with
the shape of the members, and with as many fresh draws. `trained` compares images
of a shipped model with the training images: Fréchet and energy distance of features.
First states have the exact law of the noised data (of a trained model: of its normal
law), so that what is measured is the sampler.

Rows are appended to results_<what>.csv in the folder `--out` and are not computed
again. `evaluations` are those really made; a budget is what they may not exceed.
`table` prints the best of each library at each budget, a mean over the seeds.
"""

import argparse
import csv
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import problems
import torch
from problems import Problem
from solvers import RandomRun, Solver, UnitRun, solvers, steps_for
from torch import Tensor

from gud_nb.denoiser import Mixture
from gud_nb.evaluate import energy_distance, feature_extractor, measure
from gud_nb.files import fashion_mnist

HERE = Path(__file__).resolve().parent
WHAT = [("gaussian", "distance"), ("mixture", "within"), ("mixture", "sliced")]
WHAT += [("trained", "frechet")]
BUDGETS = {"gaussian": [5, 10, 20, 50], "mixture": [5, 10, 20, 50]}
BUDGETS |= {"trained": [10, 20, 50], "table": [5, 10, 20, 50]}
FOUND = "within sliced energy".split()  # figures of a row of `mixture`
KEY = "library solver grid law process evaluations n images seed".split()
# what `trained` runs where nothing is named: (library, solver, grid)
SELECTED = [
    ("k-diffusion", "dpmpp_2m_sde", "karras 0.02 to 80.0"),
    ("diffusers", "SASolver", "its own"),
    ("azula", "zEAB 3", "karras to 0.0105"),
    ("diffusers", "UniPC 2", "karras"),
    ("gud_nb", "SDE-DPMSolver(2)", "edm 0.001, final"),
    ("gud_nb", "SASolver(3)", "even_log_snr 0.001, final"),
    ("gud_nb", "DPMSolver(2)", "even_log_snr 0.001, final"),
]


def key(
    row: dict,  # a row, its values as numbers or text
) -> tuple:  # of text
    "What tells rows apart."
    return tuple(str(row[k]) for k in KEY if k in row)


def stored(
    what: str,  # gaussian, mixture or trained
    folder: Path,  # where results_<what>.csv is
) -> list[dict]:  # of text; [] where there are none
    "Rows that were measured."
    path = folder / f"results_{what}.csv"
    if not path.exists():
        return []
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def store(
    what: str,  # gaussian, mixture or trained
    folder: Path,  # where results_<what>.csv is, or shall be
    row: dict,  # with the columns of the rows before
):
    "Append a row, and begin the file with a header if there is none."
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{what}.csv"
    new = not path.exists()
    row = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(*row.values(), sep=", ", flush=True)


def forget(
    what: str,  # gaussian, mixture or trained
    folder: Path,  # where results_<what>.csv is
    old: tuple,  # key of a row
):
    "Take a row out of a table."
    rows = [row for row in stored(what, folder) if key(row) != old]
    path = folder / f"results_{what}.csv"
    if not rows:
        return path.unlink()
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Table:
    "What is asked for and what of that is there."

    def __init__(
        self,
        a: argparse.Namespace,  # of the command line
    ):
        self.a, self.fresh = a, set()
        self.done = {key(row) for row in stored(a.what, a.out)}

    def chosen(
        self,
        process: str,  # VP or PSLD
    ) -> list[Solver]:
        "The solvers that were asked for, in the order in which they were named."
        a, some = self.a, solvers(self.a.psld)
        some = [s for s in some if process in s.processes]
        if a.what == "trained" and not (a.peers or a.solvers or a.grids):
            return [s for s in some if (s.library, s.name, s.grid) in SELECTED]
        some = [s for s in some if not a.peers or s.library in a.peers]
        some = [s for s in some if not a.grids or s.grid in a.grids]
        if not a.solvers:
            return some
        return [s for name in a.solvers for s in some if s.name == name]

    def wanted(
        self,
        problem: Problem,  # what is sampled
        solver: Solver,  # by what
    ) -> Iterator[tuple]:  # of (steps, draws of noise, row without figures)
        "The runs of one solver, one for each budget."
        spent = set()
        for budget in self.a.budgets:
            n, evaluations, draws = steps_for(solver, problem, budget)
            if n < 1 or evaluations in spent:
                continue
            spent.add(evaluations)
            row = dict(library=solver.library, solver=solver.name, grid=solver.grid)
            row |= dict(law=problem.name, process=problem.process)
            yield n, draws, row | dict(evaluations=evaluations)

    def missing(
        self,
        row: dict,  # without figures
    ) -> bool:
        "Whether a row is not there, or is to be made again."
        return key(row) not in (self.fresh if self.a.again else self.done)

    def keep(
        self,
        row: dict,  # with figures
    ):
        "Store a row, in place of one that was there."
        if key(row) in self.done:
            forget(self.a.what, self.a.out, key(row))
        self.done.add(key(row))
        self.fresh.add(key(row))
        store(self.a.what, self.a.out, row)


def gaussian(
    table: Table,  # what is asked for
):
    "Distances of normal data, exactly."
    for name, spectrum in problems.SPECTRA.items():
        if table.a.laws and name not in table.a.laws:
            continue
        variances = spectrum()
        for process in problems.PROCESSES:
            problem = problems.gaussian(name, process, variances)
            for solver in table.chosen(process):
                for n, draws, row in table.wanted(problem, solver):
                    if table.missing(row):
                        found = exact(solver, problem, n, draws)
                        table.keep(row | dict(distance=found))


def exact(
    solver: Solver,  # what samples
    problem: Problem,  # of normal data
    n: int,  # steps
    draws: int,  # of noise
) -> float:  # ≥ 0; nan where it does not go through
    "2-Wasserstein distance of the samples' law from the data's, over the data's size."
    try:
        last = solver(UnitRun(problem, draws), n)
    except ValueError as error:
        print(f"{solver.name}, {solver.grid}: {error}")
        return math.nan
    variances = problem.law.variances
    gap = (last.double().square().sum(0).sqrt() - variances.sqrt()).square()
    return (gap.sum() / variances.sum()).sqrt().item()


def sliced(
    a: Tensor,  # (n, 2)
    b: Tensor,  # (n, 2)
    slices: int = 64,  # directions, evenly
) -> float:  # ≥ 0
    "Sliced 2-Wasserstein distance of points in the plane."
    angle = torch.arange(slices, dtype=torch.float64) * math.pi / slices
    along = torch.stack([angle.cos(), angle.sin()])
    a, b = ((v.double() @ along).sort(0).values for v in (a, b))
    return (a - b).square().mean().sqrt().item()


def within(
    x: Tensor,  # (n, 2)
    law: Mixture,  # of members far apart and of equal size, around 0
) -> float:  # ≥ 0, in units of the members' standard deviation
    """2-Wasserstein distance of the members' shape: radially and across, rms.

    Every point counts for the nearest member, as far as it is from its mean. How many
    points a member has is of no consequence, and so neither is the luck of the draw.
    """
    means, scale = law.means.double(), law.variances.double().max().sqrt()
    near = means[torch.cdist(x.double(), means).argmin(1)]
    radial = near / near.norm(dim=1, keepdim=True)
    across = torch.stack([-radial[:, 1], radial[:, 0]], 1)
    off = (x.double() - near) / scale
    found = torch.stack([(off * v).sum(1) for v in (radial, across)], 1).sort(0).values
    i = (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)
    normal = torch.special.ndtri(i)[:, None]
    return (found - normal).square().mean().sqrt().item()


def mixture(
    table: Table,  # what is asked for
):
    "Distances of samples from fresh draws of the law; first those of other draws."
    for process in problems.PROCESSES:
        problem, n = problems.mixture(process), table.a.samples
        fresh = {seed: draws(problem, n, 1000 + seed) for seed in table.a.seeds}
        if process == "VP":
            same = Solver("data", "fresh draws", "", data)
            for seed in table.a.seeds:
                row = dict(library="data", solver="fresh draws", grid="")
                row |= dict(law=problem.name, process=process, evaluations=0)
                compare(table, same, problem, 0, row, seed, fresh[seed])
        for solver in table.chosen(process):
            for steps, _, row in table.wanted(problem, solver):
                for seed in table.a.seeds:
                    compare(table, solver, problem, steps, row, seed, fresh[seed])


def data(
    run: RandomRun,  # what it is given
    n: int,  # not used
) -> Tensor:  # (batch, *comp)
    "Draws of the data themselves."
    return run.start(1e-12)


def draws(
    problem: Problem,  # of a law
    n: int,  # number
    seed: int,  # of the generator
) -> Tensor:  # (n, *comp)
    "Fresh draws of the data."
    return data(RandomRun(problem, n, torch.Generator().manual_seed(seed)), 0)


def compare(
    table: Table,  # what is there
    solver: Solver,  # what samples
    problem: Problem,  # what is sampled
    steps: int,  # of the solver
    row: dict,  # without figures
    seed: int,  # of the samples
    fresh: Tensor,  # (n, *comp) draws of the data
):
    "One row of `mixture`."
    row = row | dict(n=table.a.samples, seed=seed)
    if not table.missing(row):
        return
    run = RandomRun(problem, table.a.samples, torch.Generator().manual_seed(seed))
    began, found = time.process_time(), dict.fromkeys(FOUND, math.nan)
    try:
        x = solver(run, steps)
    except ValueError as error:
        print(f"{solver.name}, {solver.grid}: {error}")
        x = torch.full_like(fresh, math.nan)
    spent = time.process_time() - began
    if bool(x.isfinite().all()):
        found["within"] = within(x, problem.law)
        found["sliced"] = sliced(x, fresh)
        found["energy"] = float(energy_distance(x, fresh))
    figures = {k: row.pop(k) for k in ("n", "seed")}
    table.keep(row | found | figures | dict(processor_seconds=spent))


def trained(
    table: Table,  # what is asked for
):
    "Distances of samples of a shipped model from the training images."
    a, (problem, model) = table.a, problems.trained(table.a.model)
    features = feature_extractor("fashion_mnist")
    real = features(fashion_mnist(train=True).x)
    for solver in table.chosen(problem.process):
        runs = list(table.wanted(problem, solver))
        for seed in a.seeds:
            for n, _, row in runs:
                figures = dict(images=a.images, seed=seed)
                if not table.missing(row | figures):
                    continue
                began = time.process_time()
                x = images(solver, problem, model, n, seed, a)
                figures |= dict(processor_seconds=time.process_time() - began)
                found = dict(frechet=math.nan, energy=math.nan)
                if bool(x.isfinite().all()):
                    measured = measure("", features(x.clamp(-1, 1)), real)
                    found = {k: float(measured[k]) for k in found}
                table.keep(row | found | figures)


def images(
    solver: Solver,  # what samples
    problem: Problem,  # the model as a problem
    model,  # for its basis
    n: int,  # steps
    seed: int,  # of the samples
    a: argparse.Namespace,  # images, batch
) -> Tensor:  # (images, *data)
    "Samples of a model."
    g, out = torch.Generator().manual_seed(seed), []
    for first in range(0, a.images, a.batch):
        run = RandomRun(problem, min(a.batch, a.images - first), g)
        out.append(model.basis.inv(solver(run, n)))
    return torch.cat(out)


def best(
    rows: list[dict],  # of one library, law and process
    figure: str,  # the column that counts
    budget: int,  # evaluations
) -> str:  # in words
    "The least figure within a budget, a mean over the seeds, and whose it is."
    groups = defaultdict(list)
    for row in rows:
        value = float(row[figure])
        if int(row["evaluations"]) <= budget and not math.isnan(value):
            groups[row["solver"], row["grid"], row["evaluations"]].append(value)
    if not groups:
        return "–"
    most = max(map(len, groups.values()))
    means = {k: sum(v) / len(v) for k, v in groups.items() if len(v) == most}
    (solver, grid, spent), value = min(means.items(), key=lambda item: item[1])
    values = groups[solver, grid, spent]
    error = ""
    if len(values) > 1:
        square = sum((v - value) ** 2 for v in values) / (len(values) - 1)
        error = f" ± {math.sqrt(square / len(values)):.1g}"
    where = f", {grid}" if grid else ""
    return f"{value:.3g}{error} ({solver}{where}; {spent})"


def table(
    a: argparse.Namespace,  # out, budgets
):
    "Print the best of each library at each budget."
    for what, figure in WHAT:
        groups = defaultdict(lambda: defaultdict(list))
        for row in stored(what, a.out):
            if row["solver"] in (a.without or ()):
                continue
            groups[row["law"], row["process"]][row["library"]].append(row)
        for (law, process), libraries in groups.items():
            print(f"\n{law}, {process}: {figure}\n")
            print("|", " | ".join(["library", *map(str, a.budgets)]), "|")
            print("|", " | ".join(["---"] * (1 + len(a.budgets))), "|")
            for library, rows in sorted(libraries.items()):
                cells = [best(rows, figure, budget) for budget in a.budgets]
                print("|", " | ".join([library, *cells]), "|")


def arguments() -> argparse.Namespace:
    "What is asked for on the command line."
    sys.stdout.reconfigure(errors="backslashreplace")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    p.add_argument("what", choices=["gaussian", "mixture", "trained", "table"])
    several = dict(nargs="+", metavar="NAME")
    p.add_argument("--peers", **several, help="of these libraries alone")
    p.add_argument("--solvers", **several, help="these alone, in this order")
    p.add_argument("--grids", **several, help="on these grids alone")
    p.add_argument("--laws", **several, help="of gaussian: with these spectra alone")
    p.add_argument("--without", **several, help="of table: these solvers left out")
    p.add_argument("--budgets", type=int, nargs="+", help="evaluations (5 10 20 50)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--samples", type=int, default=4000, help="of mixture")
    p.add_argument("--images", type=int, default=2000, help="of trained")
    p.add_argument("--batch", type=int, default=200, help="images at a time")
    p.add_argument("--model", default="vp-fashion-mnist", help="that is sampled")
    p.add_argument("--psld", type=Path, metavar="PATH", help="released PSLD code")
    p.add_argument("--out", type=Path, default=HERE, help="folder of the tables")
    p.add_argument("--again", action="store_true", help="measure stored rows anew")
    p.add_argument("--list", action="store_true", help="print what there is")
    a = p.parse_args()
    a.budgets = a.budgets or BUDGETS[a.what]
    return a


def main():
    "Measure what is missing from a table, or print the best of all."
    torch.set_num_threads(1)
    a = arguments()
    if a.list:
        for s in solvers(a.psld):
            print(s.library, s.name, s.grid, *s.processes, sep="\t")
        return
    commands: dict[str, Callable] = dict(gaussian=gaussian, mixture=mixture)
    if a.what == "table":
        return table(a)
    commands |= dict(trained=trained)
    commands[a.what](Table(a))


if __name__ == "__main__":
    main()
