"""A small field with correlations, and a schedule by level of a Haar basis."""

import torch

from gud_nb.basis import Wavelet, level_order
from gud_nb.schedule import LinearGamma

side = 4
place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
cov = 2 * torch.exp(-torch.cdist(place, place) / 2)  # correlations fall with distance
haar = Wavelet((1, side, side), "haar", 2)
U = haar(torch.eye(side**2).double().reshape(-1, 1, side, side)).flatten(1).T
by_level = LinearGamma(-2.5 - 0.4 * level_order(haar), 3.0)
