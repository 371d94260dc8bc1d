"""Triton kernels against their twins. Run by `test_kernels.py` in a process of its own, interpreted or on a GPU.

The interpreter must be chosen before Triton is first imported, so these tests cannot share a process with others.
"""

from __future__ import annotations

import os

import pytest
import torch

from vos_core.ops import affinity, window_torch
from vos_core.ops.backend import use_backends
from vos_core.ops.components import connected_components
from vos_core.ops.window import local_attention

DEVICE = os.environ["VOS_KERNEL_DEVICE"]


def spiral(size):
    mask, row, column, direction = torch.zeros(size, size), 0, 0, 0
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    length = size - 1
    mask[0, 0] = 1
    turns = 0
    while length > 0:
        for _ in range(length):
            row, column = row + steps[direction][0], column + steps[direction][1]
            mask[row, column] = 1
        direction, turns = (direction + 1) % 4, turns + 1
        if turns >= 3 and turns % 2 == 1:
            length -= 2
    return mask


def comb(size, *, joined_at):
    mask = torch.zeros(size, size)
    mask[:, ::2] = 1
    mask[joined_at] = 1
    return mask


MASKS = {
    "random": torch.rand(12, 12, generator=torch.Generator().manual_seed(0)) < 0.45,
    "sparse": torch.rand(12, 12, generator=torch.Generator().manual_seed(1)) < 0.2,
    "spiral": spiral(12),
    "comb_open_below": comb(12, joined_at=0),
    "comb_open_above": comb(12, joined_at=11),
    "checkerboard": torch.eye(2).repeat(6, 6),
    "empty": torch.zeros(12, 12),
    "full": torch.ones(12, 12),
}


def test_components():
    masks = torch.stack(list(MASKS.values()))[:, None]
    with use_backends("components=opencv"):
        expected = connected_components(masks)
    with use_backends("components=triton"):
        found = connected_components(masks.to(DEVICE))
    for index, name in enumerate(MASKS):
        assert torch.equal(found.labels[index].cpu(), expected.labels[index]), name
        assert torch.equal(found.areas[index].cpu(), expected.areas[index]), name
    assert expected.labels[2].unique().numel() == 2


def test_components_of_odd_sizes_and_several_blocks():
    masks = torch.rand(2, 1, 13, 15, generator=torch.Generator().manual_seed(2)) < 0.5
    with use_backends("components=triton"):
        found = connected_components(masks.to(DEVICE))
    with use_backends("components=opencv"):
        expected = connected_components(masks)
    assert torch.equal(found.labels.cpu(), expected.labels)
    assert torch.equal(found.areas.cpu(), expected.areas)


@pytest.mark.parametrize(("shrink", "select"), [(False, False), (True, True)])
def test_topk_readout(shrink, select):
    g = torch.Generator().manual_seed(3)
    key, query, values = (torch.randn(2, *shape, generator=g) for shape in ((12, 70), (12, 19), (3, 13, 70)))
    options = {
        "shrinkage": torch.rand(2, 1, 70, generator=g) + 1 if shrink else None,
        "selection": torch.rand(2, 12, 19, generator=g) if select else None,
    }
    with use_backends("torch"):
        expected = affinity.topk_affinity_since(key, query, 5, starts=(0, 33), **options)
        read = affinity.sparse_readout(expected[0], affinity.value_rows(values))
    moved = {name: None if x is None else x.to(DEVICE) for name, x in options.items()}
    with use_backends("triton"):
        found = affinity.topk_affinity_since(key.to(DEVICE), query.to(DEVICE), 5, starts=(0, 33), **moved)
        again = affinity.sparse_readout(found[0], affinity.value_rows(values.to(DEVICE)))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(affinity.densify(got, 70).cpu(), affinity.densify(want, 70), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.cpu(), read, atol=1e-5, rtol=1e-5)


def test_topk_keeps_all_nodes_of_a_short_memory():
    key, query = torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    with use_backends("triton"):
        found = affinity.topk_affinity(key.to(DEVICE), query.to(DEVICE), 20)
    torch.testing.assert_close(affinity.densify(found, 3).cpu(), affinity.dense_affinity(key, query), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dilation", "biased"), [(1, True), (2, False)])
def test_local_attention(dilation, biased):
    g = torch.Generator().manual_seed(4)
    heads, size = 2, (2, 17)
    inputs = [torch.randn(1, channels, *size, generator=g) for channels in (6, 6, 10)]
    if biased:
        inputs += [torch.randn(1, heads, 9, *size, generator=g), torch.randn(heads, 5, 9, generator=g)]
    grad = torch.randn(1, 10, *size, generator=g)
    window = window_torch.Window(heads, 1, dilation, 0.4)
    given = inputs if biased else [*inputs, None, None]
    expected = window_torch.forward(window, *given)
    expected_grads = window_torch.backward(window, grad, expected, *given)
    moved = [x.to(DEVICE).requires_grad_() for x in inputs]
    biases = {"bias": moved[3], "value_bias": moved[4]} if biased else {}
    with use_backends("local_attention=triton"):
        out = local_attention(*moved[:3], heads=heads, max_dis=1, dilation=dilation, scale=0.4, **biases)
    torch.testing.assert_close(out.cpu(), expected, atol=1e-5, rtol=1e-5)
    for got, want in zip(torch.autograd.grad(out, moved, grad.to(DEVICE)), expected_grads, strict=False):
        torch.testing.assert_close(got.cpu(), want, atol=1e-5, rtol=1e-4)
