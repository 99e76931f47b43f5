"""Tables of the stored rows, for the page that shows them."""

import csv
import math
import random
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).resolve().parent
LIBRARIES = ("gud_nb", "diffusers", "azula", "k-diffusion", "PSLD", "GUD", "MDM")
BUDGETS = (5, 10, 20, 50)
FIGURES = {"gaussian": "distance", "mixture": "within"}
COSTS = {
    ("overhead", "VP, one"): "a step beside the network, one image",
    ("overhead", "VP, batch"): "a step beside the network, 64 images",
    ("overhead", "PSLD, one"): "a step of PSLD, one image",
    ("overhead", "PSLD, batch"): "a step of PSLD, 64 images",
    ("perturb", "batch"): "noising 64 images",
    ("perturb", "a schedule per component"): "noising 64 images",
    ("memory", "256"): "memory of a run, 256 × 256",
    ("import", "new process"): "import",
}


def rows_of(
    kind: str,  # of which file
    /,
    **values,  # that the rows have
) -> list[dict]:  # of text
    "Stored rows."
    path = HERE / f"results_{kind}.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [r for r in rows if all(r[k] == v for k, v in values.items())]


# --------------------------------------------------------------------------- errors
def errors(
    law: str = "",  # "": solvers without a law; otherwise those with "own" or "wrong"
) -> dict:  # (process, data, library) -> {(solver, grid): {evaluations: error}}
    "Errors on Gaussian data and on the mixture, means over the seeds."
    found = defaultdict(list)
    for what, figure in FIGURES.items():
        for r in rows_of(what):
            has = r["solver"].rpartition(", ")[2].removesuffix(" law")
            wanted = has == law if law else not r["solver"].endswith(" law")
            if wanted and r["library"] != "data":
                where = r["process"], r["law"], r["library"]
                key = where, (r["solver"], r["grid"]), int(r["evaluations"])
                found[key].append(float(r[figure]))
    out = defaultdict(lambda: defaultdict(dict))
    for (where, solver, spent), values in found.items():
        if math.isfinite(mean(values)):
            out[where][solver][spent] = mean(values)
    return out


def best(
    solvers: dict,  # {(solver, grid): {evaluations: error}}
    budget: int,  # evaluations
) -> tuple[float, str]:  # inf where there is none
    "The least error within a budget, and whose it is."
    fits = [
        (value, solver)
        for (solver, _), by in solvers.items()
        for spent, value in by.items()
        if spent <= budget
    ]
    return min(fits, default=(math.inf, ""))


def errors_behind() -> list[dict]:
    "Where another library is ahead of ours without a law."
    known, out = errors(), []
    for process, data, library in list(known):
        if library != "gud_nb":
            continue
        for budget in BUDGETS:
            mine, solver = best(known[process, data, library], budget)
            others = [
                (*best(known.get((process, data, name), {}), budget), name)
                for name in LIBRARIES[1:]
            ]
            value, other, name = min(others)
            if value < mine:
                row = {"process": process, "data": data, "evaluations": budget}
                row |= {"ahead": f"{name}, {other}", "error": value}
                row |= {"ours": solver, "our error": mine}
                out.append(row | {"ours over that": mine / value})
    return out


def as_many(
    budgets: tuple = (5, 10, 20),  # evaluations
    tries: int = 1000,  # random choices
) -> list[dict]:
    """The best of each library, and of as many of our solvers, drawn at random.

    VP on the covariance of CIFAR-10; the mean over the choices.
    """
    known, draw, out = errors(), random.Random(0), []
    where = {name: known["VP", "CIFAR-10", name] for name in LIBRARIES[:4]}
    for name, solvers in where.items():
        row = {"library": name, "solvers": len(solvers)}
        for b in budgets:
            row[f"{b} evaluations"] = best(solvers, b)[0]
            if name != "gud_nb":
                ours = [best({k: v}, b)[0] for k, v in where["gud_nb"].items()]
                n = min(len(solvers), len(ours))
                least = mean(min(draw.sample(ours, n)) for _ in range(tries))
                row[f"{b}, of as many ours"] = least
        out.append(row)
    return out


def trained() -> list[dict]:
    "Fréchet distances on one network, mean ± standard deviation over the seeds."
    found = defaultdict(lambda: defaultdict(list))
    for r in rows_of("trained", images="2000"):
        key = r["library"], r["solver"], r["grid"]
        found[key][r["evaluations"]].append(float(r["frechet"]))

    def words(values):
        if len(values) < 2:
            return f"{values[0]:.2f} (one seed)" if values else "–"
        return f"{mean(values):.2f} ± {stdev(values):.2f}"

    out = []
    for key, by in sorted(found.items(), key=lambda item: mean(item[1]["10"])):
        row = dict(zip(("library", "sampler", "grid"), key))
        out.append(row | {f"{n} evaluations": words(by[n]) for n in ("10", "20")})
    return out


# ---------------------------------------------------------------------------- costs
def number(
    row: dict,  # of costs
) -> float:
    "Its ratio."
    return float(row["ratio"])


def costs_behind() -> list[dict]:
    "Our costs over the least of the others, and of training over each loop."
    out = []
    for (what, case), words in COSTS.items():
        rows = rows_of("costs", what=what, case=case)
        if case == "a schedule per component":  # the base is ours
            base = dict(rows[0], library="gud_nb", ratio="1")
            rows = [base, *rows]
        for mine in [r for r in rows if r["library"] == "gud_nb"]:
            rest = [r for r in rows if r["library"] not in ("gud_nb", "by hand")]
            rest = [r for r in rest if r["library"] not in ("torch", "U-Net")]
            if what != "import":
                rest = [r for r in rest if r["name"] == mine["name"]]
            if rest:
                least, name = min(rest, key=number), mine["name"]
                row = {"cost": words, "of": name.replace("import ", "")}
                row |= {"least of the others": least["library"]}
                out.append(row | {"ours over that": number(mine) / number(least)})
    for r in rows_of("costs", what="training"):
        row = {"cost": "a step of training", "of": r["case"]}
        row |= {"least of the others": r["base"]}
        out.append(row | {"ours over that": number(r)})
    return sorted(out, key=lambda r: -r["ours over that"])


def costs(
    what: str,  # overhead, perturb, training or import
    *cases: str,  # of that
) -> list[dict]:
    "Rows of costs, with quartiles, and as a share of the U-Net where that is known."
    out = []
    for case in cases:
        rows = rows_of("costs", what=what, case=case)
        nets = [number(r) for r in rows if r["library"] == "U-Net"]
        for r in rows:
            if r["library"] in ("U-Net", "by hand", "torch"):
                continue
            spread = f"{r['ratio']} ({r['low']} to {r['high']})"
            row = {"case": case, "library": r["library"], "of": r["name"]}
            row |= {"over": r["base"], "ratio": spread}
            if nets:
                row |= {"share of the U-Net": f"{number(r) / nets[0]:.1%}"}
            out.append(row)
    return out


# ------------------------------------------------------------------------- features
def features() -> list[dict]:
    "A row for each feature, a column for each library."
    marks, cells = {"yes": "●", "part": "◐", "no": "–"}, defaultdict(dict)
    for r in rows_of("features"):
        text = " ".join(v for v in (marks[r["mark"]], r["says"]) if v)
        cells[r["feature"]][r["library"]] = text
    return [{"feature": f} | {n: c[n] for n in LIBRARIES} for f, c in cells.items()]
