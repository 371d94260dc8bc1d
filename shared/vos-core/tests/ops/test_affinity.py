from __future__ import annotations

import math

import pytest
import torch

from vos_core.ops import affinity as ops


def slow_similarity(key, query, shrinkage=None, selection=None):
    key, query = key.double().flatten(2), query.double().flatten(2)
    weight = torch.ones_like(query) if selection is None else selection.double().flatten(2)
    gap = (key.unsqueeze(3) - query.unsqueeze(2)).square()
    sim = -(gap * weight.unsqueeze(2)).sum(1) / math.sqrt(key.shape[1])
    if selection is None:
        sim = sim + query.square().sum(1).unsqueeze(1) / math.sqrt(key.shape[1])
    return sim if shrinkage is None else sim * shrinkage.double().flatten(2).transpose(1, 2)


def slow_topk(sim, k):
    kept = torch.full_like(sim, -torch.inf)
    best = sim.topk(k, 1)
    return torch.softmax(kept.scatter(1, best.indices, best.values), 1)


@pytest.fixture
def match():
    g = torch.Generator().manual_seed(0)
    key, query = torch.randn(2, 9, 3, 4, 5, generator=g), torch.randn(2, 9, 4, 5, generator=g)
    return key, query, torch.rand(2, 1, 3, 4, 5, generator=g) + 1, torch.rand(2, 9, 4, 5, generator=g)


@pytest.mark.parametrize(("shrink", "select"), [(False, False), (True, False), (False, True), (True, True)])
def test_similarity_is_the_weighted_squared_distance(match, shrink, select):
    key, query, shrinkage, selection = match
    options = {"shrinkage": shrinkage if shrink else None, "selection": selection if select else None}
    expected = slow_similarity(key, query, *options.values())
    torch.testing.assert_close(ops.similarity(key, query, **options).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tile_bytes", [1, 2000, 2**20])
@pytest.mark.parametrize("select", [False, True])
def test_tiles_do_not_change_the_best_nodes(match, tile_bytes, select):
    key, query, shrinkage, selection = match
    options = {"shrinkage": shrinkage, "selection": selection} if select else {}
    found = ops.topk_affinity(key, query, 7, tile_bytes=tile_bytes, **options)
    expected = slow_topk(slow_similarity(key, query, *options.values()), 7)
    torch.testing.assert_close(ops.densify(found, 60).double(), expected, atol=1e-5, rtol=1e-4)


def test_long_memories_give_the_same_nodes_as_a_plain_topk():
    rows = torch.randn(1, 6, 5003)
    scores, indices = ops._largest(rows, 20)
    assert torch.equal(scores.sort(2, descending=True).values, rows.topk(20, 2).values)
    assert torch.equal(rows.gather(2, indices), scores)


def test_more_kept_nodes_than_there_are(match):
    key, query, *_ = match
    torch.testing.assert_close(ops.densify(ops.topk_affinity(key, query, 500), 60), ops.dense_affinity(key, query))


def test_large_similarities_do_not_overflow():
    found = ops.topk_affinity(torch.full((1, 4, 30), 90.0), torch.full((1, 4, 5), 90.0), 3)
    assert torch.isfinite(found.weights).all()


def test_autocast_does_not_lower_the_precision(match):
    key, query, *_ = match
    expected = ops.similarity(key, query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.similarity(key, query), expected)


def test_suffixes_come_from_one_similarity(match):
    key, query, *_ = match
    found = ops.topk_affinity_since(key, query, 5, starts=(0, 20, 40), tile_bytes=1000)
    for start, one in zip((0, 20, 40), found, strict=True):
        alone = ops.topk_affinity(key.flatten(2)[:, :, start:], query, 5)
        assert one.indices.min() >= start
        torch.testing.assert_close(ops.densify(one, 60)[:, start:], ops.densify(alone, 60 - start))


@pytest.mark.parametrize("tile_bytes", [1, 2**20])
def test_kernelised_memory(match, tile_bytes):
    key, query, *_ = match
    sim = slow_similarity(key, query) - query.double().flatten(2).square().sum(1).unsqueeze(1) / 3
    best = sim.argmax(2)
    cell = torch.arange(20)
    away = (best[:, :, None] // 5 - cell // 5).square() + (best[:, :, None] % 5 - cell % 5).square()
    product = torch.exp(sim - sim.amax(1, keepdim=True)) * torch.exp(-away / (2 * 1.5**2))
    kept = product.topk(6, 1)
    expected = torch.zeros_like(product).scatter(1, kept.indices, kept.values / kept.values.sum(1, keepdim=True))
    found = ops.kernel_topk_affinity(key, query, 6, grid=(4, 5), sigma=1.5, tile_bytes=tile_bytes)
    torch.testing.assert_close(ops.densify(found, 60).double(), expected, atol=1e-5, rtol=1e-4)


def test_readouts_agree_with_the_dense_product(match):
    key, query, *_ = match
    values = torch.randn(2, 3, 8, 60)
    found = ops.topk_affinity(key, query, 5)
    expected = torch.einsum("bodn,bnq->bodq", values, ops.densify(found, 60))
    torch.testing.assert_close(ops.topk_readout(key, query, values, 5), expected)
    torch.testing.assert_close(ops.dense_readout(ops.densify(found, 60), values), expected)
    torch.testing.assert_close(ops.usage(found, 60), ops.densify(found, 60).sum(2))
    buffer = torch.cat((ops.value_rows(values), torch.full((2, 9, 24), torch.nan)), 1)
    torch.testing.assert_close(ops.sparse_readout(found, buffer[:, :60]), expected.flatten(1, 2).transpose(1, 2))


def test_training_readout_has_gradients(match):
    key, query, *_ = match
    inputs = [x.double().flatten(2).requires_grad_() for x in (key[:1], query[:1], torch.randn(1, 2, 60))]

    def read(key, query, values):
        sim = slow_similarity(key, query)
        return values @ torch.softmax(sim, 1)

    expected = torch.autograd.grad(read(*inputs).square().sum(), inputs)
    out = ops.dense_readout(ops.dense_affinity(*inputs[:2]).double(), inputs[2])
    for got, want in zip(torch.autograd.grad(out.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_gradients_pass_through_the_kept_nodes(match):
    key, query, *_ = match
    values = torch.randn(2, 3, 8, 60, requires_grad=True)
    ops.topk_readout(key, query.requires_grad_(), values, 5).square().sum().backward()
    assert values.grad is not None
    assert (values.grad.abs().sum((1, 2)) > 0).sum() < 120
    assert query.grad is not None
    assert query.grad.abs().sum() > 0


def test_memory_is_bounded_by_the_tile(largest_tensor):
    key, query, tile = torch.randn(1, 8, 4000), torch.randn(1, 8, 900), 64 * 1024
    with largest_tensor as largest:
        ops.topk_affinity(key, query, 4, tile_bytes=tile)
    assert largest.bytes <= max(tile, 4 * key.numel())
    assert largest.bytes < 4 * 4000 * 900 / 50
