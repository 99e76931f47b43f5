"""Error against evaluations for the models that ship with the package: the run behind the table of `nbs/31_samplers.ipynb`.

    GUD_DATA=folder python studies/samplers.py vp
    GUD_DATA=folder python studies/samplers.py psld
    GUD_DATA=folder python studies/samplers.py psld --budgets 25 --samplers "DEIS(2)" "DEIS(3)" --grids all

Every sampler spends the same number of evaluations of the network, the final denoising step among them. Rows are appended to
studies/samplers_<process>.csv as they come, and rows that are there already are not computed again.
"""

import argparse
import csv
import time
from pathlib import Path

import torch

from gud_nb.data import fashion_mnist
from gud_nb.evaluate import feature_extractor, measure
from gud_nb.integrators import DEIS, DPMSolver, Splitting, ancestral
from gud_nb.sampler import (
    ddim,
    edm,
    euler_maruyama,
    evaluations,
    exponential_heun,
    heun,
    log_snr,
    quadratic,
    sscs,
)
from gud_nb.train import from_pretrained

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("process", choices=["vp", "psld"])
parser.add_argument("--images", type=int, default=500, help="samples for each row")
parser.add_argument(
    "--budgets",
    type=int,
    nargs="+",
    default=[5, 10, 25, 50, 100],
    help="evaluations of the network",
)
parser.add_argument(
    "--samplers", nargs="+", help="these alone, by their names in the table"
)
parser.add_argument(
    "--grids",
    nargs="+",
    help="these grids instead of the usual one or two of each sampler; 'all' for every grid",
)
parser.add_argument("--seed", type=int, default=0)
a = parser.parse_args()

torch.set_num_threads(1)
model, features = (
    from_pretrained(f"{a.process}-fashion-mnist"),
    feature_extractor("fashion_mnist"),
)
real = features(fashion_mnist(train=True).x)
d, out = model.diffusion, Path(__file__).with_name(f"samplers_{a.process}.csv")
samplers = {
    "Euler-Maruyama": euler_maruyama,
    "SSCS": sscs,
    "ancestral": ancestral,
    "Heun": heun,
    "DDIM": ddim,
    "exponential Heun": exponential_heun,
    "DPMSolver(2)": DPMSolver(2),
    "DPMSolver(3)": DPMSolver(3),
    "DEIS(2)": DEIS(2),
    "DEIS(3)": DEIS(3),
}
if d.k > 1:
    samplers |= {"OBAB reduced": Splitting("OBAB"), "BAB reduced": Splitting("BAB")}
grids = {
    "quadratic": quadratic,
    "log_snr": lambda n: log_snr(d, n),
    "clock": lambda n: log_snr(d.schedule, n),
    "edm": lambda n: edm(d, n),
    "quadratic 1e-4": lambda n: quadratic(n, 1e-4),
    "log_snr 1e-4": lambda n: log_snr(d, n, 1e-4),
    "clock 1e-4": lambda n: log_snr(d.schedule, n, 1e-4),
    "edm 1e-4": lambda n: edm(d, n, 1e-4),
}
usual = {
    name: ["quadratic"] for name in ("SSCS", "Heun", "OBAB reduced", "BAB reduced")
} | {name: ["log_snr"] for name in samplers if "(" in name}
unknown = set(a.samplers or []) - set(samplers) | set(a.grids or []) - set(grids) - {
    "all"
}
if unknown:
    parser.error(
        f"unknown: {sorted(unknown)}; samplers are {list(samplers)}, grids {list(grids)} or all"
    )
fields = [
    "model",
    "sampler",
    "grid",
    "evaluations",
    "frechet",
    "energy",
    "images",
    "seed",
    "processor_seconds",
]
done = (
    {
        (r["sampler"], r["grid"], int(r["evaluations"]), int(r["seed"]))
        for r in csv.DictReader(out.open())
    }
    if out.exists()
    else set()
)
if not done:
    out.write_text(",".join(fields) + "\n")
for budget in a.budgets:
    for name in a.samplers or samplers:
        for grid in (
            usual.get(name, ["quadratic", "log_snr"])
            if not a.grids
            else grids
            if "all" in a.grids
            else a.grids
        ):
            step, times = samplers[name], grids[grid]
            n = (budget - evaluations(step, 0)) // getattr(step, "evaluations", 1)
            if n < 1 or (name, grid, budget, a.seed) in done:
                continue
            began, g = time.process_time(), torch.Generator().manual_seed(a.seed)
            try:
                row = measure(
                    name,
                    features(
                        model.sample(a.images, step, times(n), g, batch=100).clamp(
                            -1, 1
                        )
                    ),
                    real,
                )
            except ValueError as error:
                row = dict(sample=name, frechet=float("nan"), energy=float("nan"))
                print(error)
            row = [
                f"{a.process}-fashion-mnist",
                name,
                grid,
                budget,
                float(row["frechet"]),
                float(row["energy"]),
                a.images,
                a.seed,
                time.process_time() - began,
            ]
            with out.open("a", newline="") as f:
                csv.writer(f).writerow(
                    [f"{v:.4g}" if isinstance(v, float) else v for v in row]
                )
            print(row, flush=True)
