"""Moments of features and the distance between them, on made-up features."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.testing import assert_close

from gud_nb.evaluate import frechet_distance
from gud_nb.fid import FeatureMoments, as_bytes, feature_moments

D = 48


@pytest.fixture
def features():
    "Two sets of features of different laws."
    g = torch.Generator().manual_seed(0)
    how = dict(generator=g, dtype=torch.float64)
    mix = torch.randn(D, D, **how) / D**0.5
    return torch.randn(3000, D, **how) @ mix + 0.1, torch.randn(2000, D, **how)


def test_moments_of_parts_are_those_of_the_whole(features):
    a, _ = features
    whole = feature_moments(a.split(256))
    first, second = (feature_moments([part]) for part in (a[:1000], a[1000:]))
    for found in (whole, first + second):
        assert_close(found.mean, a.mean(0))
        covariance = np.cov(a.numpy(), rowvar=False)
        assert_close(found.covariance, torch.as_tensor(covariance))


def test_distance_is_that_of_scipy_and_of_notebook_13(features):
    a, b = features
    Ca, Cb = (np.cov(f.numpy(), rowvar=False) for f in (a, b))
    want = np.trace(Ca + Cb - 2 * sqrtm(Ca @ Cb).real)
    want += ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    found = frechet_distance(feature_moments(a.split(256)), feature_moments([b])).value
    assert_close(found, want, rtol=1e-9, atol=0)
    assert_close(found, frechet_distance(a, b).value)


def test_distance_of_equal_and_of_constant_features(features):
    own = feature_moments([features[0]])
    assert_close(frechet_distance(own, own).value, 0.0, atol=1e-9, rtol=0)
    nothing = FeatureMoments(2, torch.zeros(D), torch.zeros(D, D))
    assert_close(float(frechet_distance(nothing, nothing)), 0.0)


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="fewer than two"):
        feature_moments([torch.zeros(1, D)])


def test_images_become_bytes_of_three_channels():
    grey = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    found = as_bytes(grey)
    assert found.shape == (1, 3, 1, 3)
    assert found[0].flatten(1).tolist() == [[0, 128, 255]] * 3
    with pytest.raises(ValueError, match="1 or 3"):
        as_bytes(torch.zeros(1, 2, 4, 4))
