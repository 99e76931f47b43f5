"""What is sampled: laws with known denoisers, a trained model, and their processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gud_nb.basis import moments
from gud_nb.denoiser import Independent, Law, Mixture
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.files import cifar10
from gud_nb.recipe import psld, vp
from gud_nb.saved import from_pretrained
from gud_nb.schedule import LinearBeta

# each on the schedule of its paper
PROCESSES = {
    "VP": LinearDiffusion(vp(), LinearBeta()),
    "PSLD": LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld())),
}


@dataclass(frozen=True)
class Problem:
    "Data, a process, and the one function that every solver is given."

    name: str  # of the law or model
    process: str  # VP or PSLD
    diffusion: LinearDiffusion  # the process
    denoiser: Callable  # (y, log_snr) -> posterior mean, of y = data + noise
    law: Law  # of the data, as far as the first states go; exact where it is known
    dtype: torch.dtype = torch.float64  # of the states

    @property
    def shape(self) -> tuple:
        "Axes of the components, (*comp)."
        return tuple(self.law.shape)

    @property
    def like(self) -> Tensor:
        "An empty state, (0, k, *comp)."
        return torch.zeros(0, self.diffusion.k, *self.shape, dtype=self.dtype)

    def sigma(
        self,
        t: float,  # in (0, 1]
    ) -> float:  # σ/α
        "The noise in an observation at a time of the process."
        one = torch.zeros(1, self.diffusion.k, *[1] * len(self.shape))
        return math.exp(-self.diffusion.log_snr(t, one).mean().item() / 2)


def cifar_spectrum(
    n: int = 20_000,  # images
) -> Tensor:  # (3072,) falling
    "Variances of the principal components of CIFAR-10."
    covariance = moments(cifar10(train=True).x[:n])[1]
    return torch.linalg.eigvalsh(covariance).flip(0).clamp(min=1e-6)


def power_law(
    n: int = 32,  # pixels of a side
) -> Tensor:  # (n²,) falling
    "Variances of an image that fall with the square of the frequency."
    f = torch.arange(1, n + 1, dtype=torch.float64)
    return (30 / (f[:, None] ** 2 + f**2)).flatten().sort(descending=True).values


def ring(
    members: int = 8,  # normal laws
    radius: float = 1.4,  # of the circle that their means are on
    scale: float = 0.1,  # standard deviation of each
) -> Mixture:
    "A mixture of normal laws in the plane, evenly on a circle: total variance near 1."
    angle = torch.arange(members, dtype=torch.float64) * 2 * math.pi / members
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return Mixture(means, scale**2)


SPECTRA = {"CIFAR-10": cifar_spectrum, "power law": power_law}


def gaussian(
    name: str,  # what the variances are called
    process: str,  # VP or PSLD
    variances: Tensor,  # (m,) as SPECTRA give
) -> Problem:
    "Normal data of mean 0, in a basis in which they are uncorrelated."
    law = Independent(torch.zeros_like(variances), variances)
    return Problem(name, process, PROCESSES[process], law, law)


def mixture(
    process: str,  # VP or PSLD
) -> Problem:
    "Eight normal laws on a circle."
    law = ring()
    return Problem("8 Gaussians", process, PROCESSES[process], law, law)


def trained(
    name: str,  # of a model that ships with the package
) -> tuple[Problem, object]:  # and the model, for its basis
    "A trained model as a denoiser of components, in float32; states begin as its own."
    model = from_pretrained(name).eval()
    process = "VP" if model.diffusion.k == 1 else "PSLD"
    return Problem(
        name,
        process,
        model.diffusion,
        model.denoiser,
        model.law,
        torch.float32,
    ), model
