"""Rows of the tables that studies keep."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev


def parser(
    about: str,  # the docstring of a script
) -> argparse.ArgumentParser:  # to be given its arguments
    "A command line; what a terminal can't show does not stop a run."
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=about, formatter_class=form)


def append(
    table: Path,  # a CSV file; made with a header where there is none
    row: dict,  # numbers and words by column; what it lacks stays empty
    columns=None,  # all of them, in order; None: those of the row
):
    "Write a row below the others, and print it."
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns or row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


RESULTS = Path(__file__).resolve().parent / "results.csv"
COLUMNS = (
    "study case seed sampler grid evaluations sampling_seed n images at measure value "
    "commit command"
).split()


def record(
    row: dict,  # what was done, by the names in `COLUMNS`
    measure: str,  # what was measured
    value: float,  # the number
):
    "A row of studies/results.csv, with the commit and the command that made it."
    git = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    command = " ".join(["python", f"studies/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    row = row | dict(measure=measure, value=f"{value:.6g}")
    row |= dict(commit=os.environ.get("GUD_COMMIT", commit), command=command)
    append(RESULTS, row, COLUMNS)


def recorded(
    **where,  # values of columns, e.g. study="recipes", case="vp"
) -> list[dict]:  # in the order in which they were written
    "Rows of studies/results.csv, their values as numbers."
    found = csv.DictReader(RESULTS.read_text(encoding="utf-8").splitlines())
    where = {k: str(v) for k, v in where.items()}
    return [
        row | dict(value=float(row["value"]))
        for row in found
        if all(row[k] == v for k, v in where.items())
    ]


def spread(
    values: list[float],  # one for each seed
    figures: int = 3,  # of the mean
) -> str:  # empty where there are none
    "Mean ± standard deviation over seeds."
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.{figures}g} (one seed)"
    return f"{mean(values):.{figures}g} ± {stdev(values):.2g}"
