from __future__ import annotations

import pytest
import torch

from vos_core.errors import UsageError
from vos_core.ops.propagation import Window, propagate_labels, propagate_tokens


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


def dense(query, keys, labels, *, grid, k, temperature, window, free):
    """Plain top-k soft-max over all sources, the k-th score decided by sorting."""
    places = [(place // grid[1], place % grid[1]) for place in range(query.shape[0])]
    out = torch.zeros(len(query), labels.shape[2], dtype=torch.float64)
    for q, (row, column) in enumerate(places):
        rows = []
        for t in range(len(keys)):
            for n, (other_row, other_column) in enumerate(places):
                d = (row - other_row, column - other_column)
                if window is not None and t >= free:
                    inside = (
                        max(map(abs, d)) <= window.reach if window.shape == "square" else d[0] ** 2 + d[1] ** 2 < window.reach**2
                    )
                    if not inside:
                        continue
                rows.append((float(query[q].double() @ keys[t, n].double()), t, n))
        best = sorted(rows, reverse=True)[:k]
        weights = torch.softmax(torch.tensor([score for score, _, _ in best], dtype=torch.float64) / temperature, 0)
        for weight, (_, t, n) in zip(weights, best, strict=True):
            out[q] += weight * labels[t, n].double()
    return out


def tokens(seed, *shape):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("window", [None, Window(1), Window(2.5, "disc"), Window(1, "disc")])
@pytest.mark.parametrize("free", [0, 1, 4])
@pytest.mark.parametrize("ties", ["keep", "drop"])
@pytest.mark.parametrize("tile_bytes", [1, 2**23])
def test_tokens_equal_plain_loops(window, free, ties, tile_bytes):
    query, keys, labels = tokens(1, 20, 8), tokens(2, 4, 20, 8), torch.rand(4, 20, 3, generator=torch.Generator().manual_seed(3))
    options = {"grid": (4, 5), "k": 3, "temperature": 0.2, "window": window}
    found = propagate_tokens(query, keys, labels, free_frames=free, ties=ties, tile_bytes=tile_bytes, **options)
    torch.testing.assert_close(found.double(), dense(query, keys, labels, free=free, **options), atol=1e-5, rtol=1e-4)


def test_equal_sources_keep_or_drop():
    query, keys = tokens(1, 6, 4), tokens(2, 1, 6, 4).expand(3, -1, -1).contiguous()
    labels = torch.eye(3).repeat_interleave(6, 0).view(3, 6, 3)  # each frame has a label of its own
    options = {"grid": (2, 3), "k": 2, "temperature": 0.1}
    torch.testing.assert_close(propagate_tokens(query, keys, labels, **options), torch.full((6, 3), 1 / 3))
    dropped = propagate_tokens(query, keys, labels, ties="drop", **options)
    assert (dropped == 0).any(1).all()
    torch.testing.assert_close(dropped.sum(1), torch.ones(6))


def test_half_precision_keys_choose_nearly_the_same():
    query, keys, labels = tokens(1, 120, 64), tokens(2, 5, 120, 64), torch.rand(5, 120, 2)
    options = {"grid": (10, 12), "k": 5, "temperature": 0.1, "window": Window(4)}
    exact = propagate_tokens(query, keys, labels, **options)
    rounded = propagate_tokens(query, keys.bfloat16(), labels, **options)
    assert (exact - rounded).abs().max() < 0.02
    assert (exact - rounded).abs().mean() < 2e-3


def test_candidates_of_half_precision_are_bounded_by_the_tile(largest_tensor):
    query, keys, labels = tokens(1, 24 * 10, 64), tokens(2, 1, 24 * 10, 64).bfloat16(), torch.rand(1, 24 * 10, 2)
    row = 10 * 32 * 64 * (2 + 4)  # one row of tokens, its candidates in both precisions
    with largest_tensor as largest:
        few = propagate_tokens(query, keys, labels, grid=(24, 10), k=5, temperature=0.1, tile_bytes=2 * row)
    assert largest.bytes <= 2 * row
    torch.testing.assert_close(few, propagate_tokens(query, keys, labels, grid=(24, 10), k=5, temperature=0.1))


def test_shapes_of_tokens_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match="grid"):
        propagate_tokens(torch.rand(6, 2), torch.rand(1, 6, 2), torch.rand(1, 6, 2), grid=(2, 2), k=1, temperature=1.0)
