"""How far each way of conditioning is from the exact posterior.

    python studies/posterior.py gaussian
    python studies/posterior.py mixture

Gaussian data: a smooth field of 4×4 pixels, of which the left half is measured with
noise of variance .01. Every run is a linear map of the start, the measurement and the
noise, which unit vectors show completely: no sampling error. Mixture: images of 2×2
pixels, of which the left column is measured without noise; 2000 samples of each of
three posteriors, three sampling seeds. Rows go to studies/results.csv.
"""

import math

import torch
from rows import parser, record

from gud_nb.basis import Pixel, Wavelet, column_order
from gud_nb.condition import (
    DPS,
    Given,
    LawCovariance,
    Mask,
    Method,
    MomentMatching,
    PiGDM,
    Replacement,
    Seen,
)
from gud_nb.core import act
from gud_nb.denoiser import Mixture, Score, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.recipe import psld, third_order, vp
from gud_nb.sampler import (
    ImageNoise,
    even_log_snr,
    exponential_heun,
    marginal_covariance,
    sample,
)
from gud_nb.schedule import LinearGamma, sequential

RECIPES = {"VP": vp(), "PSLD": psld(), "third order": third_order()}
STEPS = 50


def methods_for(law):
    "Every method, with steps enough for a small problem."
    return {
        "moment matching": MomentMatching(steps=40),
        "law's covariance": LawCovariance(law, steps=40),
        "PiGDM, v = 1": PiGDM(1.0),
        "PiGDM, v = 100": PiGDM(100.0),
        "DPS": DPS(),
        "replacement": Replacement(),
    }


def process(recipe, schedule):
    "A recipe that has the log-SNR of the schedule, integrated start included."
    start = hsm(recipe) if recipe.k > 1 else None
    return LinearDiffusion(recipe, schedule, start, by_snr=recipe.k > 1)


def processes(basis):
    "Every recipe, on one schedule for all components and on one for each."
    schedules = {
        "one schedule": LinearGamma(-9.0, 12.0),
        "one each": sequential(column_order(basis), 0.5, -9.0, 12.0),
    }
    for name, recipe in RECIPES.items():
        for other, schedule in schedules.items():
            yield f"{name}, {other}", process(recipe, schedule)


def smooth(H, W, length=1.5, rough=0.05):
    "The covariance of a smooth field on a grid, and a little that is rough."
    at = torch.cartesian_prod(torch.arange(H), torch.arange(W)).double()
    near = torch.exp(-torch.cdist(at, at).square() / (2 * length**2))
    return (1 - rough) * near + rough * torch.eye(H * W).double()


def matrix(f, shape):
    "The matrix of a linear map of tensors of a shape."
    d = math.prod(shape)
    return f(torch.eye(d).double().reshape(d, *shape)).flatten(1).T


def run(d, law, h, method, times):
    "A run as a linear map: from the state, from the measurement, from the noise."
    comp, k = tuple(law.shape), d.k
    n, seen = math.prod(comp), tuple(h(torch.zeros(1, *comp).double()).shape[1:])
    m = math.prod(seen)
    unit = torch.eye(k * n + m + n).double()
    z, o, noise = unit.split([k * n, m, n], 1)
    o, noise = h.measurement.kept(o.reshape(-1, *seen)), noise.reshape(-1, *comp)
    score = Score(d, Given(law, h, o, method, noise))
    end = sample(
        exponential_heun, d, score, z.reshape(-1, k, *comp), times, final=False
    )
    y = d.kernel(float(times[-1]), end).observe(end).flatten(1).T
    return y.split([k * n, m, n], 1)


def bures(A, B):
    "The Wasserstein distance of two Gaussian laws of the same mean."
    values, U = torch.linalg.eigh(A)
    root = U * values.clamp(min=0).sqrt() @ U.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()
    return (A.trace() + B.trace() - 2 * cross).clamp(min=0).sqrt()


def gaussian_errors(d, law, h, method):
    "Errors of the mean and of the covariance, in standard deviations of the answer."
    times = even_log_snr(d, STEPS) if d.is_scalar else even_log_snr(d.schedule, STEPS)
    A, K, N = run(d, law, h, method, times)
    C, H = law.covariance_matrix(), matrix(h.linear, law.shape)
    Co = H @ C @ H.T + h.variance * torch.eye(len(H)).double()
    gain = torch.linalg.solve(Co, H @ C).T
    rest = C - gain @ H @ C
    rest = (rest + rest.T) / 2
    like = torch.zeros(1, d.k, *law.shape).double()
    first = d.kernel(1.0, like).phi.expand(1, -1, *law.shape)[0].flatten(1)
    start = torch.cat([torch.diag(v) for v in first]) @ gain  # of the mean at t = 1
    off = A @ start + K - gain
    exact = gaussian(torch.zeros(law.shape), rest)
    P = A @ marginal_covariance(d, exact, 1.0) @ A.T + N @ N.T
    R = torch.exp(-d.log_snr(float(times[-1]), like)).expand(1, *law.shape).flatten()
    size = rest.trace().sqrt()
    mean = (off @ Co @ off.T).trace().clamp(min=0).sqrt() / size
    return mean.item(), (bures(P, rest + torch.diag(R)) / size).item()


def gaussian_study():
    "Every method, recipe, basis and schedule, on Gaussian data."
    shape = (1, 4, 4)
    C, left = smooth(4, 4), torch.arange(4).expand(4, 4) < 2
    bases = {"pixels": Pixel(shape), "Haar": Wavelet(shape, "haar", 2)}
    for basis_name, basis in bases.items():
        U = matrix(basis, shape)
        law = gaussian(torch.zeros(shape), U @ C @ U.T)
        h = Seen(Mask(left, variance=0.01), basis)
        for name, d in processes(basis):
            for method_name, method in methods_for(law).items():
                mean, covariance = gaussian_errors(d, law, h, method)
                row = dict(study="posterior", sampler="exponential_heun")
                row["case"] = f"Gaussian, {name}, {basis_name}, {method_name}"
                row |= dict(grid="even_log_snr", evaluations=2 * STEPS)
                record(row, "error of the mean", mean)
                record(row, "error of the covariance", covariance)


MEANS = torch.tensor(
    [
        [-1.2, -1.0, -1.0, 0.9],
        [0.0, 0.3, 1.3, 1.1],
        [1.0, 0.8, -0.2, -1.2],
        [-0.9, 0.9, 0.5, -0.4],
    ]
).double()
WIDTH, WEIGHTS = 0.35, torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
LEFT = torch.tensor([True, False]).expand(2, 2)


def posterior_of(o):
    "Weights of the lumps, and their means in the right column, given the left one."
    known = LEFT.flatten()
    square = (o.flatten()[known] - MEANS[:, known]).square().sum(1)
    return (WEIGHTS.log() - square / (2 * WIDTH**2)).softmax(0), MEANS[:, ~known]


def mixture_errors(found, o, g):
    "Error of the weights and of the mean, and the Wasserstein distance of each pixel."
    weights, means = posterior_of(o)
    right = found.flatten(1)[:, ~LEFT.flatten()]
    n = len(right)
    j = torch.multinomial(weights, 100 * n, True, generator=g)
    noise = torch.randn(100 * n, 2, generator=g).double()
    exact = means[j] + WIDTH * noise
    share = (right[:, None] - means).square().sum(2).argmin(1).bincount(minlength=4) / n
    true = (exact[:, None] - means).square().sum(2).argmin(1).bincount(minlength=4)
    true = true / len(exact)
    sorted_exact = exact.sort(0).values.reshape(n, 100, 2).mean(1)
    return {
        "error of the weights": (share - true).abs().sum().item() / 2,
        "error of the mean": (right.mean(0) - weights @ means).norm().item(),
        "Wasserstein": (right.sort(0).values - sorted_exact).abs().mean().item(),
    }


def mixture_study(n=2000):
    "Every method and recipe on a mixture, in pixels and in Haar components."
    shape = (1, 2, 2)
    bases = {"pixels": Pixel(shape), "Haar": Wavelet(shape, "haar", 1)}
    images = MEANS.reshape(4, *shape)
    given = images + 0.3 * torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(4, 1, 1, 1)
    for basis_name, basis in bases.items():
        law = Mixture(basis(images), WIDTH**2, WEIGHTS)
        h = Seen(Mask(LEFT), basis)
        methods = methods_for(fitted(law)) | {"exact denoiser": Exact()}
        for name, recipe in RECIPES.items():
            d = process(recipe, LinearGamma(-9.0, 12.0))
            for method_name, method in methods.items():
                for seed in range(3):
                    row = dict(study="posterior", sampler="exponential_heun", n=3 * n)
                    row["case"] = f"mixture, {name}, {basis_name}, {method_name}"
                    row |= dict(grid="even_log_snr", evaluations=2 * STEPS + 1)
                    row["sampling_seed"] = seed
                    totals = mixture_case(d, law, h, method, given[:3], seed, n)
                    for measure, value in totals.items():
                        record(row, measure, value)


def fitted(law):
    "The Gaussian law with the mean and the covariance of a mixture."
    means = law.means.flatten(1)
    mean = WEIGHTS @ means
    off = means - mean
    C = off.T @ (WEIGHTS[:, None] * off) + WIDTH**2 * torch.eye(4).double()
    return gaussian(mean.reshape(law.shape), C)


class Exact(Method):
    "The exact posterior mean of the mixture: what the other methods aim at."

    def __call__(self, g, y, log_snr):
        x, known = g.h.basis.inv(y).flatten(1), LEFT.flatten()
        weights, means = posterior_of(g.o)
        right = Mixture(means, WIDTH**2, weights)(x[:, ~known], log_snr.flatten())
        x = x.clone()
        x[:, ~known] = right
        x[:, known] = g.o.flatten()[known]
        return g.h.basis(x.reshape(-1, *g.h.basis.data_shape))


def mixture_case(d, law, h, method, given, seed, n):
    "Errors of one method, averaged over the given images."
    g, totals = torch.Generator().manual_seed(seed), {}
    times = even_log_snr(d, STEPS)
    for i, image in enumerate(given):
        o = h.measurement.kept(image[None]).double()
        source = ImageNoise(1000 * seed + i)
        like = torch.zeros(n, d.k, *law.shape).double()
        noise = source(like)
        mean = fitted(law).mean.expand(n, *law.shape)
        kernel = d.kernel(1.0, like)
        z = act(kernel.T, noise, kernel.phi * mean[:, None])
        fresh = source.branch(3)(like[:, 0])
        score = Score(d, Given(law, h, o, method, fresh))
        z = sample(exponential_heun, d, score, z, times, final=False)
        x = h.basis.inv(score.data(z, float(times[-1])))
        errors = mixture_errors(h.measurement.project(x, o.expand_as(x)), image, g)
        for measure, value in errors.items():
            totals[measure] = totals.get(measure, 0.0) + value / len(given)
    return totals


if __name__ == "__main__":
    p = parser(__doc__)
    studies = dict(gaussian=gaussian_study, mixture=mixture_study)
    p.add_argument("what", choices=studies)
    with torch.no_grad():
        studies[p.parse_args().what]()
