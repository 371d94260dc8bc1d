"""Blocks of attention equal torch's kernel; values projected late equal values projected first."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sam2_rcms.model import attention
from sam2_rcms.model.attention import attend, mix
from sam2_rcms.model.memory_attention import MemoryAttention
from sam2_rcms.model.position import rotary_table, rotate, rotate_


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("keys", [5, 16, 61])
def test_blocks_equal_torch_in_float32(keys, batch, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(attention, "KEYS_AT_ONCE", 16)
    torch.manual_seed(0)
    query, key, value = torch.randn(batch, 20, 8) * 4, torch.randn(3, keys, 8) * 4, torch.randn(3, keys, 5)
    expected = F.scaled_dot_product_attention(query.expand(3, -1, -1), key, value, scale=1.0)
    with torch.inference_mode():
        torch.testing.assert_close(mix(query, key, value), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_stays_near(monkeypatch):
    monkeypatch.setattr(attention, "LONG", 4)
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, 50, 8) for _ in range(3)]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = attend(*(x.bfloat16() for x in exact))
    expected = F.scaled_dot_product_attention(*exact)
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() < 0.05


def test_late_values_equal_early_ones():
    torch.manual_seed(0)
    module = MemoryAttention().eval()
    current, memory = torch.randn(1, 16, 256), torch.randn(2, 56, 64)
    position, placed = torch.randn(1, 16, 256), torch.randn(1, 56, 64)
    with torch.inference_mode():
        late = module(current, position, memory, placed, pointers=8)
        module.late_values = False
        early = module(current, position, memory, placed, pointers=8)
    torch.testing.assert_close(late, early, rtol=1e-5, atol=1e-5)
    assert late.shape == (2, 16, 256), "objects share what does not depend on their memory"
    apart = [module(current, position, memory[item : item + 1], placed, pointers=8) for item in range(2)]
    torch.testing.assert_close(torch.cat(apart), early, rtol=1e-5, atol=1e-5)


def test_turning_in_place_equals_turning():
    table = rotary_table(4, 32)
    x = torch.randn(2, 50, 32)
    expected = torch.cat((rotate(x[:, :48], table), x[:, 48:]), 1)
    with torch.no_grad():
        rotate_(x[:, :48], table)
    assert torch.equal(x, expected)
    # Pair 0 of the cell at column 1, row 0 turns by one radian.
    turned = rotate(torch.eye(32)[:1].expand(16, -1).unsqueeze(0), table)[0, 1]
    torch.testing.assert_close(turned[:2], torch.tensor([torch.cos(torch.tensor(1.0)), torch.sin(torch.tensor(1.0))]))
