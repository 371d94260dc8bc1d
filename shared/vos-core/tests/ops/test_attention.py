"""Attention is torch's, or near it in half precision, whichever way it goes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vos_core.ops import attention
from vos_core.ops.attention import attend


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("length", [5, 900, 1100])
def test_attention_in_half_precision_is_near(length, units, monkeypatch):
    monkeypatch.setattr(attention, "has_bf16_matrix_units", lambda: units)
    g = torch.Generator().manual_seed(0)
    exact_parts = [torch.randn(2, 3, length, 16, generator=g).requires_grad_() for _ in range(3)]
    exact = F.scaled_dot_product_attention(*exact_parts)
    exact.square().mean().backward()
    half_parts = [part.detach().bfloat16().requires_grad_() for part in exact_parts]
    with torch.inference_mode():
        half = attend(*half_parts)
    assert half.shape == exact.shape
    assert (half.float() - exact).abs().max() < 0.03
    attend(*half_parts).square().mean().backward()  # five keys keep their weights, the others do not
    for part, same in zip(half_parts, exact_parts, strict=True):
        assert (part.grad.float() - same.grad).abs().max() < 0.03 * same.grad.abs().max()
    query, key, value = (part.detach() for part in exact_parts)
    assert torch.equal(attend(query, key, value), exact)


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize(("spread", "near"), [(1.0, 0.05), (6.0, 0.3)])  # bfloat16 counts logits around 100 in halves
def test_large_logits_in_half_precision_are_near(units, spread, near, monkeypatch):
    monkeypatch.setattr(attention, "LONG", 4)
    monkeypatch.setattr(attention, "has_bf16_matrix_units", lambda: units)
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, 50, 8) * scale for scale in (spread, spread, 1.0)]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = attend(*(x.bfloat16() for x in exact))
    expected = F.scaled_dot_product_attention(*(x.bfloat16().float() for x in exact))
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() < near


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("keys", [attention.SHORT, attention.SHORT + 1, attention.LONG - 1, attention.LONG])
def test_torchs_kernel_is_used_but_for_two_cases(keys, units, training, monkeypatch):
    monkeypatch.setattr(attention, "has_bf16_matrix_units", lambda: units)
    used = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", lambda *args, **kw: (used.append(1), kernel(*args, **kw))[1])
    query, key = torch.randn(1, 1, 2, 8, dtype=torch.bfloat16), torch.randn(1, 1, keys, 8, dtype=torch.bfloat16)
    with torch.set_grad_enabled(training):
        attend(query, key, key)
        own = keys <= attention.SHORT if training else keys >= attention.LONG and not units
        assert len(used) == (not own)
        attend(query, key, key, dropout=0.5)
        attend(query.float(), key.float(), key.float())
    assert len(used) == 2 + (not own), "dropout and float32 are always torch's"
