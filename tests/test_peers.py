"The comparison with other libraries: its harness, and the rows that are shown."

import csv
import math
import sys
from pathlib import Path

import pytest
import torch

PEERS = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"
sys.path.append(str(PEERS))

import features  # noqa: E402
import problems  # noqa: E402
import solvers  # noqa: E402
import peer_tables as tables  # noqa: E402
from run import exact  # noqa: E402


@pytest.mark.parametrize("name", ["UniPC(2)", "SSCS"])  # without noise and with
@pytest.mark.parametrize("process", ["VP", "PSLD"])
def test_a_stored_row_is_what_the_samplers_give(name, process):
    torch.set_num_threads(1)
    grid = "edm 0.001, final"
    solver = next(s for s in solvers.solvers() if (s.name, s.grid) == (name, grid))
    problem = problems.gaussian("power law", process, problems.power_law())
    n, spent, draws = solvers.steps_for(solver, problem, 10)
    where = dict(law="power law", process=process, solver=name, grid=grid)
    (row,) = tables.rows_of("gaussian", **where, evaluations=str(spent))
    found = exact(solver, problem, n, draws)
    assert math.isclose(found, float(row["distance"]), rel_tol=1e-3)


def test_leading_rows_were_the_same_when_run_again():
    rows = tables.rows_of("again")
    assert {r["library"] for r in rows} == {*tables.LIBRARIES[:5]}
    for r in rows:  # tables have four figures; an exact sampler has rounding alone
        old, new = float(r["stored"]), float(r["again"])
        assert math.isclose(old, new, rel_tol=2e-3, abs_tol=1e-12), r


def test_every_cell_of_the_features_has_evidence():
    text = (PEERS / "features.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    shown = [(r["feature"], r["library"]) for r in tables.rows_of("features")]
    assert [(r["feature"], r["library"]) for r in rows] == shown
    assert all(r["evidence"] and r["mark"] in ("yes", "part", "no") for r in rows)


def test_our_own_features_are_there():
    root = Path(features.__file__).resolve().parents[2] / "gud_nb"
    for r in tables.rows_of("features", library="gud_nb"):
        for evidence in r["evidence"].split("; "):
            if not evidence.startswith("none"):  # what is missing may come
                assert features.holds(evidence, "gud_nb", root), r
