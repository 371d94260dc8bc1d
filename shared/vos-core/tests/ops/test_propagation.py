from __future__ import annotations

import pytest
import torch

from vos_core.errors import UsageError
from vos_core.ops.propagation import propagate_labels


def slow(target, sources, labels, *, k, temperature, neighbourhood):
    frames, _, height, width = sources.shape
    target, sources = (torch.nn.functional.normalize(x.double(), dim=x.ndim - 3) for x in (target, sources))
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    near = (row[:, None] - row).abs().le(neighbourhood) & (column[:, None] - column).abs().le(neighbourhood)
    parts = []
    for frame in range(frames):
        weight = torch.exp(sources[frame].flatten(1).t() @ target.flatten(1) / temperature)
        parts.append(weight * near if neighbourhood else weight)
    weight = torch.cat(parts)
    kth = weight.topk(min(k, len(weight)), 0).values[-1]
    weight = torch.where(weight < kth, 0, weight)
    return (labels.double().transpose(0, 1).flatten(1) @ (weight / weight.sum(0))).view(-1, height, width)


@pytest.mark.parametrize("tile_bytes", [1, 2**23])
@pytest.mark.parametrize("neighbourhood", [0, 1, 3, 50])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_equals_the_full_matrix(neighbourhood, k, tile_bytes):
    g = torch.Generator().manual_seed(1)
    target, sources = torch.randn(6, 5, 7, generator=g), torch.randn(3, 6, 5, 7, generator=g)
    labels = torch.rand(3, 4, 5, 7, generator=g)
    options = {"k": k, "temperature": 0.1, "neighbourhood": neighbourhood}
    out = propagate_labels(target, sources, labels, tile_bytes=tile_bytes, **options)
    torch.testing.assert_close(out.double(), slow(target, sources, labels, **options), atol=1e-5, rtol=1e-4)


def test_ties_at_the_last_place_are_kept():
    target = torch.ones(2, 1, 4)
    labels = torch.eye(4).view(1, 4, 1, 4)
    out = propagate_labels(target, torch.ones(1, 2, 1, 4), labels, k=1)
    torch.testing.assert_close(out, torch.full((4, 1, 4), 0.25))


def test_small_temperatures_do_not_overflow():
    target = torch.randn(4, 3, 3)
    assert torch.isfinite(propagate_labels(target, target[None], torch.rand(1, 2, 3, 3), k=3, temperature=1e-3)).all()


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match=r"\(2, 3, 4\)"):
        propagate_labels(torch.rand(2, 3, 4), torch.rand(1, 2, 3, 5), torch.rand(1, 2, 3, 5), k=3)


def test_autocast_does_not_lower_the_precision():
    target, labels = torch.randn(4, 3, 3), torch.rand(1, 2, 3, 3)
    expected = propagate_labels(target, target[None], labels, k=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(propagate_labels(target, target[None], labels, k=3), expected)
