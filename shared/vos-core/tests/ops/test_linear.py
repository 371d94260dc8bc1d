from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vos_core.ops.linear import linear

ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu, "gelu": F.gelu}


def arguments(dtype=torch.float32):
    torch.manual_seed(0)
    return tuple(item.to(dtype) for item in (torch.randn(3, 7, 48), torch.randn(40, 48) / 7, torch.randn(40)))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_layer_and_its_activation(activation, biased):
    x, weight, bias = arguments()
    bias = bias if biased else None
    exact = ACTIVATIONS[activation](F.linear(x.double(), weight.double(), None if bias is None else bias.double())).float()
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias, activation=activation), exact, rtol=1e-5, atol=2e-6)
        strided = linear(x.transpose(0, 1), weight, bias, activation=activation)
        torch.testing.assert_close(strided, exact.transpose(0, 1), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(linear(x, weight, bias, activation=activation), exact, rtol=1e-5, atol=2e-6)


def test_gradients_flow_where_they_are_wanted():
    x, weight, bias = arguments()
    weight.requires_grad_()
    linear(x, weight, bias, activation="gelu").sum().backward()
    (exact,) = torch.autograd.grad(F.gelu(F.linear(x, weight, bias)).sum(), weight)
    torch.testing.assert_close(weight.grad, exact)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_in_half_precision_are_within_its_rounding(activation, biased):
    x, weight, bias = (item.requires_grad_() for item in arguments())
    inputs = [x, weight, bias] if biased else [x, weight]
    exact_y = ACTIVATIONS[activation](F.linear(x, weight, bias if biased else None))
    sent = torch.randn_like(exact_y)
    exact = torch.autograd.grad(exact_y, inputs, sent)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight, bias if biased else None, activation=activation)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad(y, inputs, sent.bfloat16())
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        linear(x, weight.detach(), None).sum().backward()
    assert weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_half_precision_is_within_its_rounding(stored):
    x, weight, bias = arguments()
    exact = F.gelu(F.linear(x, weight, bias))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = linear(x, weight.to(stored), bias.to(stored), activation="gelu")
    assert found.dtype == torch.bfloat16
    assert float((found.float() - exact).abs().max()) < 0.05
    with torch.inference_mode():
        found = linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert float((found.float() - F.linear(x, weight, bias)).abs().max()) < 0.05


def test_mixed_types_are_refused_as_torch_does():
    x, weight, bias = arguments()
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"dtype|BFloat16"):
        linear(x.bfloat16(), weight, bias)
