"""Blocks of attention equal torch's kernel; values projected late equal values projected first."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sam2_rcms.model import attention, hiera
from sam2_rcms.model.attention import mix
from sam2_rcms.model.memory_attention import MemoryAttention
from sam2_rcms.model.position import rotary_table, rotate, rotate_


@pytest.mark.parametrize(("spread", "bounded"), [(0.5, True), (4.0, False), (40.0, False)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("keys", [5, 16, 61])
def test_blocks_equal_torch_in_float32(keys, batch, spread, bounded, monkeypatch):
    for name, size in (("_QUERIES", 7), ("_KEYS", 16), ("_ROWS", 6)):
        monkeypatch.setattr(attention, name, size)
    summed = []
    monkeypatch.setattr(attention, "_mix_sums", lambda *args, own=attention._mix_sums: (summed.append(1), own(*args)))
    torch.manual_seed(0)
    query, key, value = torch.randn(batch, 20, 8) * spread, torch.randn(3, keys, 8) * spread, torch.randn(3, keys, 5)
    expected = F.scaled_dot_product_attention(query.expand(3, -1, -1), key, value, scale=1.0)
    with torch.inference_mode():
        torch.testing.assert_close(mix(query, key, value), expected, rtol=1e-5, atol=1e-5)
    assert bool(summed) == bounded, "large logits may not be summed up without their maximum"


def test_sums_hold_at_the_largest_safe_logit():
    """All logits at the bound, of either sign: neither overflow nor zero."""
    query, key = torch.eye(8)[:2] * attention.SAFE_LOGIT, torch.cat((torch.eye(8), -torch.eye(8))) * (1 - 1e-6)
    value = torch.randn(16, 4)
    with torch.inference_mode():
        for sign in (1, -1):
            found = mix(sign * query[None], key[None], value[None])[0]
            torch.testing.assert_close(found, (sign * query @ key.T).softmax(-1) @ value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("spread", "near"), [(1.0, 0.05), (6.0, 0.3)])  # bfloat16 counts logits around 100 in halves
def test_half_precision_stays_near(spread, near, monkeypatch):
    monkeypatch.setattr(attention, "_KEYS_HALF", 16)
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, 50, 8) * scale for scale in (spread, spread, 1.0)]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = mix(*(x.bfloat16() for x in (exact[0][0] * 8**-0.5, exact[1][0], exact[2][0])))
    expected = F.scaled_dot_product_attention(*(x.bfloat16().float() for x in exact))
    assert (mixed.float() - expected[0]).abs().max() < near


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (22, 10)], ids=["whole windows", "padded windows"])
def test_bands_of_windows_equal_all_at_once(size, pool, monkeypatch):
    torch.manual_seed(0)
    block = hiera.MultiScaleBlock(8, 16 if pool else 8, heads=2, window=4, pool=pool, drop_path=0.0).eval()
    x = torch.randn(2, *size, 8)
    with torch.inference_mode():
        whole = block(x)
        monkeypatch.setattr(hiera, "TOKENS_AT_ONCE", 1)
        computed = []
        monkeypatch.setattr(block, "_compute", lambda *args, own=block._compute, **kw: computed.append(own(*args, **kw)))
        bands = block(x)
    assert len(computed) == -(-size[0] // 4), "one row of windows at a time"
    torch.testing.assert_close(bands, whole, rtol=1e-6, atol=1e-6)


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
