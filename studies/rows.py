"""Rows of the tables that studies keep."""

import csv
from pathlib import Path


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
