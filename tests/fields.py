"""Small fields with correlations, a schedule by level, a network that adds nothing."""

import torch
from torch import nn

from gud_nb.basis import Wavelet, level_order
from gud_nb.schedule import LinearGamma

side = 4
place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
cov = 2 * torch.exp(-torch.cdist(place, place) / 2)  # correlations fall with distance
haar = Wavelet((1, side, side), "haar", 2)
U = haar(torch.eye(side**2).double().reshape(-1, 1, side, side)).flatten(1).T
by_level = LinearGamma(-2.5 - 0.4 * level_order(haar), 3.0)


class Zero(nn.Module):
    "A network that leaves the law of the model as it is."

    def forward(self, x, level, labels=None):
        return torch.zeros_like(x)


def smooth(H, W, length=2.0, rough=0.02):
    "The covariance of a smooth field on a grid, and a little that is rough."
    at = torch.cartesian_prod(torch.arange(H), torch.arange(W)).double()
    near = torch.exp(-torch.cdist(at, at).square() / (2 * length**2))
    return (1 - rough) * near + rough * torch.eye(H * W).double()
