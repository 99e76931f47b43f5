"""Measure the rows that lead a table once more, and say what has changed.

    GUD_DATA=folder python benchmarks/peers/again.py --psld PATH
    GUD_DATA=folder python benchmarks/peers/again.py --what mixture --libraries gud_nb

Of every solver of this package, and of every other library, the best stored row at each
number of evaluations is run again with the present code. results_again.csv gets a row
for each: the stored figure and the new one. On normal data (`gaussian`, the distance)
both are exact; on the mixture (`within`) they are those of seed 0, so equal code gives
equal figures.
"""

import argparse
import csv
import math
import sys
from pathlib import Path

import problems
import torch
from run import exact, within
from solvers import RandomRun, Solver, solvers, steps_for

HERE = Path(__file__).resolve().parent
FIGURES = {"gaussian": "distance", "mixture": "within"}
FIELDS = "what library solver grid law process evaluations stored again".split()


def stored(
    what: str,  # gaussian or mixture
) -> list[dict]:  # of text; of several seeds the first
    "The rows of a table that have a figure."
    path = HERE / f"results_{what}.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [r for r in rows if r.get("seed", "0") == "0" and r["library"] != "data"]


def leading(
    rows: list[dict],  # of a table
    figure: str,  # the column that counts
) -> list[dict]:  # of rows
    "The best rows: of each solver of ours, and of each other library."
    best = {}
    for r in rows:
        whose = r["solver"] if r["library"] == "gud_nb" else ""
        key = r["law"], r["process"], r["library"], whose, r["evaluations"]
        value = float(r[figure])
        if not math.isnan(value) and value < float(
            best.get(key, {figure: "inf"})[figure]
        ):
            best[key] = r
    return list(best.values())


def measured(
    what: str,  # gaussian or mixture
    solver: Solver,  # what samples
    problem: problems.Problem,  # what is sampled
    evaluations: int,  # as stored
    n: int = 4000,  # samples of the mixture
) -> float:  # ≥ 0
    "The figure of a row, now."
    steps, _, draws = steps_for(solver, problem, evaluations)
    if what == "gaussian":
        return exact(solver, problem, steps, draws)
    run = RandomRun(problem, n, torch.Generator().manual_seed(0))
    return within(solver(run, steps), problem.law)


def main():
    "Run the rows again, and print the largest change."
    torch.set_num_threads(1)
    sys.stdout.reconfigure(errors="backslashreplace")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    p.add_argument("--what", nargs="+", default=list(FIGURES), choices=FIGURES)
    p.add_argument("--libraries", nargs="+", metavar="NAME", help="these alone")
    p.add_argument("--psld", type=Path, metavar="PATH", help="released PSLD code")
    p.add_argument("--out", type=Path, default=HERE / "results_again.csv")
    a = p.parse_args()
    known = {(s.library, s.name, s.grid): s for s in solvers(a.psld)}
    spectra = {name: f() for name, f in problems.SPECTRA.items()}
    out, changes = [], []
    for what in a.what:
        for r in leading(stored(what), FIGURES[what]):
            solver = known.get((r["library"], r["solver"], r["grid"]))
            if solver is None or a.libraries and r["library"] not in a.libraries:
                continue
            law, process = r["law"], r["process"]
            problem = problems.mixture(process)
            if what == "gaussian":
                problem = problems.gaussian(law, process, spectra[law])
            value = measured(what, solver, problem, int(r["evaluations"]))
            old = float(r[FIGURES[what]])
            row = {k: r[k] for k in FIELDS if k in r}
            out.append(dict(what=what, **row, stored=old, again=f"{value:.4g}"))
            changes.append(abs(value - old) / max(old, 1e-12))  # less is rounding
            if changes[-1] > 1e-3:
                print(*out[-1].values(), sep=", ", flush=True)
    with a.out.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(out)
    print(f"{len(out)} rows, largest change {max(changes):.1g}")


if __name__ == "__main__":
    main()
