"""Accuracy and Fréchet distance against the scale of guidance, on Fashion-MNIST.

    GUD_DATA=folder python studies/guidance.py train --side 14
    GUD_DATA=folder python studies/guidance.py measure --side 14 --seeds 0 1 2
    GUD_DATA=folder python studies/guidance.py real --side 14
    GUD_DATA=folder python studies/guidance.py train --side 28
    GUD_DATA=folder python studies/guidance.py ship

One network, trained with labels of which a fifth were left out, is guided in two ways:

    classifier-free    by the difference that the labels make
    classifier         without labels, by a classifier of noisy images, seed 1

At 28×28 the network is the shipped model fashion-mnist, at 14×14 (2×2 pixels averaged)
one of STEPS steps, seed 0; `train` makes it and the noisy classifier. `measure` draws n
samples, classes in turn, at each scale with each sampling seed, raw, in bfloat16, with
the default sampler, and adds rows to studies/results.csv. Judge is the classifier that
ships for this size: another network, of another seed, for clean images. Distances are
those of all samples from all training images, and the mean over the classes of those
from the images of a class, each with n / 10 samples, so larger for that alone. `real`
measures n images of the test set, as many of each class. `ship` writes the noisy
classifier at 28×28 into gud_nb/weights.
"""

import time
from pathlib import Path
from statistics import mean

import torch
from rows import parser, record

from gud_nb.basis import Pixel
from gud_nb.data import Images
from gud_nb.diffusion import LinearDiffusion
from gud_nb.evaluate import feature_extractor, frechet_distance, load_classifier
from gud_nb.files import fashion_mnist
from gud_nb.guidance import (
    load_noisy_classifier,
    noisy_accuracy,
    save_noisy_classifier,
    train_noisy_classifier,
    with_classifier,
)
from gud_nb.model import DiffusionModel, ScoreModel, fit_law
from gud_nb.network import UNet
from gud_nb.recipe import vp
from gud_nb.saved import from_pretrained
from gud_nb.schedule import LinearBeta
from gud_nb.train import Training, fit

WEIGHTS = Path(__file__).resolve().parent.parent / "gud_nb" / "weights"
SCALES = 0.0, 0.5, 1.0, 2.0, 4.0
EVALUATIONS = 25  # of the default sampler
STEPS, BATCH = 1000, 128  # of the network at 14×14
GUIDE = dict(steps=1500, batch=128, seed=1)  # of the noisy classifiers
GUIDE_14 = GUIDE | dict(steps=1000)


def images(side: int, train: bool = True) -> Images:
    "Fashion-MNIST, perhaps with each 2×2 pixels averaged."
    full = fashion_mnist(train)
    if side == 28:
        return full
    x = torch.nn.functional.avg_pool2d(full.x, 2)
    return Images(x, full.labels, "fashion_mnist at 14×14", full.classes)


def trained(side: int, out: Path) -> DiffusionModel:
    "The network with labels: the shipped one, or one trained here once."
    if side == 28:
        return from_pretrained("fashion-mnist")
    folder = out / "model-14"
    if (folder / "model.safetensors").exists():
        return from_pretrained(folder)
    data, d = images(side), LinearDiffusion(vp(), LinearBeta(0.1, 20.0))
    pixel = Pixel(data.shape)
    torch.manual_seed(0)
    net = UNet(1, width=16, mults=(1, 2), classes=10)
    model = ScoreModel(net, d, pixel, fit_law(d, pixel, data, 196))
    plan = Training(
        steps=STEPS, batch=BATCH, lr=2e-3, ema=0.998, mixed=True, unlabelled=0.2
    )
    fit(model, data, plan, cpu=True, every=200)
    model.save_pretrained(folder, about=dict(steps=STEPS, images=STEPS * BATCH))
    return model.eval()


def train(side: int, out: Path):
    "The noisy classifier of a size, and where there is none the network."
    begin, model = time.process_time(), trained(side, out)
    print(f"network: {time.process_time() - begin:.0f} s of the processor", flush=True)
    data, begin = images(side), time.process_time()
    how = GUIDE if side == 28 else GUIDE_14
    guide = train_noisy_classifier(model, data.x, data.labels, mixed=True, **how)
    facts = dict(data=data.name, **how, seconds=round(time.process_time() - begin))
    save_noisy_classifier(out / f"guide-{side}", guide, **facts)
    test, g = images(side, False), torch.Generator().manual_seed(0)
    levels = (6.0, 2.0, 0.0, -2.0, -4.0)
    right = {v: noisy_accuracy(guide, test.x, test.labels, v, g) for v in levels}
    print(facts, {v: round(a, 3) for v, a in right.items()}, flush=True)


class Judge:
    "What is measured of images: features, and the classifier that ships for a size."

    def __init__(self, side: int):
        name = f"fashion_mnist{'' if side == 28 else '_14'}"
        self.features, data = feature_extractor(name), images(side)
        self.head = load_classifier(
            WEIGHTS / (name.replace("_", "-") + "-classifier")
        ).head
        self.real, self.labels = self.features(data.x), data.labels

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, labels: torch.Tensor, row: dict):
        "Three rows for images of these labels."
        found = self.features(x)
        right = (self.head(found).argmax(1) == labels).double().mean().item()
        by_class = [
            frechet_distance(found[labels == c], self.real[self.labels == c]).value
            for c in range(10)
        ]
        record(row, "accuracy", right)
        record(row, "Fréchet distance", frechet_distance(found, self.real).value)
        record(row, "Fréchet distance by class", mean(by_class))


@torch.no_grad()
def measure(side: int, seeds: list[int], n: int, out: Path):
    "Samples at every scale of both guidances: three rows for each seed."
    model, guide = trained(side, out), load_noisy_classifier(out / f"guide-{side}")
    judge, labels = Judge(side), torch.arange(n) % 10
    ways = {"classifier-free": model, "classifier": with_classifier(model, guide)}
    todo = [(s, g, case) for s in seeds for g in SCALES for case in ways]
    for seed, scale, case in todo:
        if scale > 0 or case == "classifier-free":  # the same samples at scale 0
            guided = ways[case]
            g, begin = torch.Generator().manual_seed(seed), time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                how = dict(labels=labels, guidance=scale)
                x = guided.sample(n, generator=g, **how).float()
            print(f"{time.process_time() - begin:.0f} s of the processor", flush=True)
            row = dict(study="guidance", case=f"{case}, {side}×{side}", seed=0, n=n)
            row |= dict(sampler="default", grid="default", evaluations=EVALUATIONS)
            row |= dict(sampling_seed=seed, images=model.about["images"], at=scale)
            judge(x, labels, row)


def real(side: int, n: int):
    "The same of images of the test set, the first n / 10 of each class: three rows."
    test = images(side, False)
    each = [(test.labels == c).nonzero()[: n // 10, 0] for c in range(10)]
    each = torch.cat(each)
    row = dict(study="guidance", case=f"real images, {side}×{side}", n=len(each))
    Judge(side)(test.x[each], test.labels[each], row)


CARD = """# Fashion-MNIST, a classifier of noisy images

A small convolutional network (`gud_nb.guidance.NoisyEncoder`, {parameters:,} \
parameters, float16) for images with Gaussian noise of any log-SNR, to guide models of \
the same pixels: `gud_nb.guidance.with_classifier`.

* Data: Fashion-MNIST, 60000 training images in [-1, 1].
* Training: {steps} steps of {batch}, AdamW, one cycle, seed {seed}, {seconds} s of \
one core (`studies/guidance.py`), log-SNRs of the cosine schedule.
* Accuracy on 10000 test images at log-SNR {accuracy}.

    gud_sample --model fashion-mnist-phases --classifier fashion-mnist-guide --class bag
"""


def ship(out: Path):
    "The noisy classifier at 28×28, in the package."
    guide = load_noisy_classifier(out / "guide-28")
    test, g = images(28, False), torch.Generator().manual_seed(0)
    levels = (6.0, 2.0, 0.0, -2.0, -4.0)
    right = {v: noisy_accuracy(guide, test.x, test.labels, v, g) for v in levels}
    folder = WEIGHTS / "fashion-mnist-guide"
    facts = guide.about | dict(classes=images(28, False).classes)
    save_noisy_classifier(folder, guide, **facts)
    count = sum(p.numel() for p in guide.parameters())
    said = ", ".join(f"{v:g}: {a:.1%}" for v, a in right.items())
    card = CARD.format(parameters=count, accuracy=said, **guide.about)
    (folder / "README.md").write_text(card, encoding="utf-8")


def main():
    "Train, measure samples or real images, or ship, with one thread."
    p = parser(__doc__)
    p.add_argument("what", choices=["train", "measure", "real", "ship"])
    p.add_argument("--side", type=int, choices=[14, 28], default=28, help="pixels")
    p.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of sampling"
    )
    p.add_argument("--n", type=int, default=2000, help="samples of each scale")
    out = Path("runs") / "guidance"
    p.add_argument("--out", type=Path, default=out, help="of what is trained")
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.what == "train":
        train(a.side, a.out)
    elif a.what == "measure":
        measure(a.side, a.seeds, a.n, a.out)
    elif a.what == "real":
        real(a.side, a.n)
    else:
        ship(a.out)


if __name__ == "__main__":
    main()
