"""One network under four recipes, and streams of noise of one sampler.

    GUD_DATA=folder python studies/recipes.py recipes
    GUD_DATA=folder python studies/recipes.py ends
    GUD_DATA=folder python studies/recipes.py streams

`recipes` samples the shipped model fashion-mnist, which was trained without a recipe,
under VP, CLD, PSLD and third-order Langevin: the same network, sampler, grid in the
noise level and number of evaluations (25), classes in turn. `ends` stops CLD and third
order at the log-SNR at which VP ends. `streams` samples
psld-fashion-mnist by SSCS (50 evaluations, quadratic times) with six seeds of the
noise, 500 images each, and asks how much of a distance is the mix of classes: it is
measured again for draws from these images with as many of each class. Rows of raw
samples go to studies/results.csv.
"""

import math
from pathlib import Path

import torch
from rows import parser, record

from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.evaluate import feature_extractor, frechet_distance, load_classifier
from gud_nb.files import fashion_mnist
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import SSCS, edm, quadratic
from gud_nb.saved import from_pretrained
from gud_nb.schedule import LinearBeta

WEIGHTS = Path(__file__).resolve().parent.parent / "gud_nb" / "weights"


class Ruler:
    "The Fréchet distance to the training images."

    def __init__(self):
        self.features = feature_extractor("fashion_mnist")
        self.real = self.features(fashion_mnist(train=True).x)

    def __call__(self, row: dict, x: torch.Tensor):
        "Rows of one set of samples."
        found = frechet_distance(self.features(x), self.real).value
        record(row, "Fréchet distance", found)
        record(row, "pixels out of range", (x.abs() > 1.05).float().mean().item())


@torch.no_grad()
def draw(model, n: int, seed: int, **how) -> torch.Tensor:
    "Raw samples."
    g = torch.Generator().manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16):
        return model.sample(n, generator=g, **how).float()


def processes() -> dict:
    "Recipes with the schedules of their papers."
    steady, langevin = LinearBeta(8.0, 8.0), third_order()
    out = {"vp": LinearDiffusion(vp(), LinearBeta(0.1, 20.0))}
    for name, r in dict(cld=cld(), psld=psld(), third_order=langevin).items():
        out[name] = LinearDiffusion(r, steady, Sigma0=hsm(r))
    return out


def recipes(n: int, seeds: list):
    "The same network under each recipe."
    model, ruler = from_pretrained("fashion-mnist"), Ruler()
    for seed in seeds:
        for name, d in processes().items():
            x = draw(model.with_diffusion(d), n, seed, labels=torch.arange(n) % 10)
            row = dict(study="recipes", case=name, sampler="default", grid="default")
            ruler(row | dict(evaluations=25, sampling_seed=seed, n=n), x)


def ends(n: int, seeds: list):
    "CLD and third order again, stopped at the log-SNR at which a run of VP ends."
    model, ruler, every = from_pretrained("fashion-mnist"), Ruler(), processes()
    level = every["vp"].log_snr(1e-3, torch.zeros(1, 1, 1)).item()
    for seed in seeds:
        for name in ("cld", "third_order"):
            times = edm(every[name], 24, sigma_min=math.exp(-level / 2))
            how = dict(labels=torch.arange(n) % 10, times=times)
            x = draw(model.with_diffusion(every[name]), n, seed, **how)
            row = dict(study="recipes, stopped", case=name, sampler="default")
            row |= dict(grid="edm", evaluations=25, sampling_seed=seed, n=n)
            ruler(row, x)


def streams(n: int, seeds: list):
    "A sampler on several streams of noise, and the mix of classes that each has."
    model, ruler = from_pretrained("psld-fashion-mnist"), Ruler()
    judge = load_classifier(WEIGHTS / "fashion-mnist-classifier")
    for seed in seeds:
        x = draw(model, n, seed, sampler=SSCS(), times=quadratic(49))
        row = dict(study="streams", case="psld-fashion-mnist", sampler="SSCS")
        row |= dict(grid="quadratic", evaluations=50, sampling_seed=seed, n=n)
        ruler(row, x)
        found = judge(x).argmax(1)
        counts = torch.bincount(found, minlength=10)
        record(row, "images of the rarest class", counts.min().item())
        record(row, "images of the commonest class", counts.max().item())
        g, parts = torch.Generator().manual_seed(0), []
        for k in range(10):
            own = (found == k).nonzero().flatten()
            parts.append(own[torch.randint(len(own), (n // 10,), generator=g)])
        even = frechet_distance(ruler.features(x[torch.cat(parts)]), ruler.real).value
        record(row, "Fréchet distance, classes in equal parts", even)


def main():
    "Sample and measure, with one thread."
    p = parser(__doc__)
    p.add_argument("what", choices=["recipes", "ends", "streams"])
    p.add_argument("--n", type=int, help="samples of a set; 2000, of streams 500")
    p.add_argument("--seeds", type=int, nargs="+", help="of the noise")
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.what in ("recipes", "ends"):
        what = dict(recipes=recipes, ends=ends)[a.what]
        what(a.n or 2000, a.seeds or [0, 1, 2])
    else:
        streams(a.n or 500, a.seeds or list(range(6)))


if __name__ == "__main__":
    main()
