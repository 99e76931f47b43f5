"""Train the classifiers whose features `gud_nb.evaluate` measures in.

    GUD_DATA=folder python studies/train_classifiers.py digits fashion_mnist

They are written to gud_nb/weights; fashion_mnist_14 and cifar10_16 are for images of
half the size, each pixel the average of 2x2. Seed 0, one thread is enough: digits about
5 CPU-seconds, Fashion-MNIST about 200, 100 at 14x14, CIFAR-10 at 16x16 about 200. The
same seed, thread count and PyTorch version give the same weights.
"""

from pathlib import Path

import torch

from gud_nb.data import Images
from gud_nb.evaluate import accuracy, load_classifier, save_classifier, train_classifier
from gud_nb.files import load
from rows import parser

WEIGHTS = Path(__file__).resolve().parent.parent / "gud_nb" / "weights"
SETTINGS = dict(
    digits=dict(epochs=40, width=12, batch=64, seed=0),
    fashion_mnist=dict(epochs=8, width=24, batch=128, seed=0),
    fashion_mnist_14=dict(epochs=8, width=24, batch=128, seed=0),
    cifar10_16=dict(epochs=12, width=24, batch=128, seed=0),
)
TITLES = dict(digits="Digits", fashion_mnist="Fashion-MNIST")
TITLES["fashion_mnist_14"] = "Fashion-MNIST at 14×14"
TITLES["cifar10_16"] = "CIFAR-10 at 16×16"
CARD = """# {title} classifier

A small convolutional network (`gud_nb.evaluate.Classifier`, {parameters:,} \
parameters, float16) whose 64 penultimate activations serve as
features for the Fréchet and energy distances of `gud_nb.evaluate`. It is a ruler for \
this package's samples and meant for nothing else:
distances in its features cannot be compared with those in any other network's.

* Data: {title}, {n_train} training images in [-1, 1], no augmentation.
* Training: {epochs} epochs in batches of {batch}, AdamW, one cycle, seed {seed} \
(`studies/train_classifiers.py`).
* Accuracy on {n_test} test images: {accuracy:.1%}.
"""


def images(name: str, train: bool) -> Images:
    "The data of a classifier."
    whole = name.removesuffix("_14").removesuffix("_16")
    found = load(whole, train)
    if name == whole:
        return found
    x = torch.nn.functional.avg_pool2d(found.x, 2)
    return Images(x, found.labels, found.name, found.classes)


def train(name: str):
    "Train, save, read back and measure one classifier."
    train_set, test_set = images(name, train=True), images(name, train=False)
    settings = SETTINGS[name]
    model = train_classifier(train_set.x, train_set.labels, classes=10, **settings)
    folder = WEIGHTS / f"{name.replace('_', '-')}-classifier"
    sizes = dict(n_train=len(train_set.x), n_test=len(test_set.x))
    facts = dict(data=name, **settings, **sizes)
    del facts["width"]
    save_classifier(folder, model, **facts)
    # of the float16 weights, as they ship
    share = accuracy(load_classifier(folder), test_set.x, test_set.labels)
    facts["accuracy"] = round(share, 4)
    save_classifier(folder, model, **facts)
    count = sum(p.numel() for p in model.parameters())
    title = TITLES[name]
    card = CARD.format(title=title, parameters=count, **facts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(
        f"{name}: {count:,} parameters, accuracy {facts['accuracy']:.4f} "
        f"on {facts['n_test']} test images, {folder}"
    )


if __name__ == "__main__":
    p = parser(__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SETTINGS))
    names = p.parse_args().names or list(SETTINGS)
    if set(names) - set(SETTINGS):
        p.error(f"got {', '.join(names)}, want some of {', '.join(SETTINGS)}")
    for name in names:
        train(name)
