"""What a loader must give, for tests of every source."""

import torch
from torch.testing import assert_close

from gud_nb.data import Images


def same(steps, source, index):
    "Whether a loader gave what the index names, in its order."
    whole = source if isinstance(source, Images) else source[:]
    steps = list(steps)
    assert len(steps) == len(index)
    for (x, labels), i in zip(steps, index):
        assert x.dtype == torch.float32 and labels.dtype == torch.int64
        assert_close(x, whole.x[i.cpu()], rtol=0, atol=0)
        assert_close(labels, whole.labels[i.cpu()])


def orders(n, steps=5, batch=6):
    "Indices of some steps."
    g = torch.Generator().manual_seed(7)
    return [torch.randint(n, (batch,), generator=g) for _ in range(steps)]
