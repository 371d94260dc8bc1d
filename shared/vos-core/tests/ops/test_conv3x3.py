"""The fast convolution against torch's own in double precision: values, gradients, edges, and when it steps aside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vos_core.ops import conv3x3 as module
from vos_core.ops.backend import use_backends
from vos_core.ops.conv3x3 import PreparedConv3x3, conv3x3, onednn_fused
from vos_core.ops.fused_conv import FusedConv


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small tensors take the fast path too."""
    torch.manual_seed(0)
    monkeypatch.setattr(module, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(module, "LEAST_ELEMENTS", 1)


def arguments(batch, channels, out, height, width):
    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    return x, torch.randn(out, channels, 3, 3) / (9 * channels) ** 0.5, torch.randn(out)


def with_gradients(function, inputs, grad):
    leaves = [item.clone().requires_grad_() for item in inputs]
    y = function(*leaves)
    return (y, *torch.autograd.grad(y, leaves, grad.to(y.dtype)))


def direct(rectify):
    return lambda x, weight, bias: F.conv2d(x.relu() if rectify else x, weight, bias, padding=1)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("strip_bytes", [12 * 2**20, 4000], ids=["one strip", "strips"])
@pytest.mark.parametrize("shape", [(2, 16, 24, 20, 32), (2, 24, 8, 27, 29), (2, 16, 8, 9, 7), (3, 8, 16, 17, 6), (2, 8, 8, 4, 4)])
def test_values_and_gradients_are_those_of_the_direct_sum(shape, strip_bytes, rectify, monkeypatch):
    monkeypatch.setattr(module, "_STRIP_BYTES", strip_bytes)
    inputs = arguments(*shape)
    grad = torch.randn(shape[0], shape[2], *shape[3:])
    exact = with_gradients(direct(rectify), [item.double() for item in inputs], grad)
    plain = with_gradients(direct(rectify), inputs, grad)
    ours = with_gradients(lambda *parts: conv3x3(*parts, rectify=rectify), inputs, grad)
    for name, want, usual, got in zip(("y", "x", "weight", "bias"), exact, plain, ours, strict=True):
        assert got.shape == want.shape
        scale = float(want.detach().abs().max())
        error, usual_error = (float((item.detach() - want.detach()).abs().max()) for item in (got, usual))
        assert error <= 12 * usual_error + 2e-6 * scale, (name, error, usual_error)  # a few times the rounding of the direct sum


def test_only_the_gradients_that_are_asked_for_are_computed():
    x, weight, bias = arguments(2, 8, 8, 8, 8)
    weight.requires_grad_()
    conv3x3(x, weight, bias).sum().backward()
    assert weight.grad is not None
    exact = torch.autograd.grad(F.conv2d(x, weight, bias, padding=1).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, exact, rtol=1e-4, atol=1e-4)
    x.requires_grad_()
    (only,) = torch.autograd.grad(conv3x3(x, weight.detach(), None).sum(), x)
    torch.testing.assert_close(only, torch.autograd.grad(F.conv2d(x, weight, None, padding=1).sum(), x)[0], rtol=1e-4, atol=1e-4)


def test_the_result_may_be_changed_in_place_and_parts_of_a_weight_are_taken():
    x, weight, _ = arguments(2, 8, 8, 8, 8)
    whole = torch.cat((weight, weight), 1).requires_grad_()
    torch.relu_(conv3x3(x, whole[:, :8])).sum().backward()
    assert whole.grad is not None
    assert float(whole.grad[:, 8:].abs().max()) == 0
    exact = torch.autograd.grad(F.conv2d(x, whole[:, :8], padding=1).relu().sum(), whole)[0]
    torch.testing.assert_close(whole.grad, exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("reason", ["backend", "autocast", "dtype", "channels", "size"])
def test_elsewhere_it_is_torchs_own_convolution(reason, monkeypatch):
    def fail(*parts):
        raise AssertionError("took the fast path")

    monkeypatch.setattr(module._Winograd, "apply", fail)
    x, weight, bias = arguments(2, 8, 8, 8, 8)
    if reason == "channels":
        monkeypatch.setattr(module, "LEAST_CHANNELS", 9)
    if reason == "size":
        monkeypatch.setattr(module, "LEAST_ELEMENTS", x.numel() + 1)
    if reason == "dtype":
        x, weight, bias = x.double(), weight.double(), bias.double()
    with (
        use_backends("torch" if reason == "backend" else "auto"),
        torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"),
    ):
        y = conv3x3(x, weight, bias, rectify=True)
        torch.testing.assert_close(y, F.conv2d(x.relu(), weight, bias, padding=1), rtol=0, atol=0)
    with use_backends("auto"), pytest.raises(AssertionError, match="fast path"):
        monkeypatch.setattr(module, "LEAST_CHANNELS", 1)
        monkeypatch.setattr(module, "LEAST_ELEMENTS", 1)
        conv3x3(*arguments(2, 8, 8, 8, 8))


@pytest.mark.parametrize("relu", [False, True])
def test_a_fused_convolution_takes_it_and_adds_in_place(relu, monkeypatch):
    x, weight, bias = arguments(2, 16, 24, 20, 30)
    conv = torch.nn.Conv2d(16, 24, 3, padding=1)
    conv.weight.data, conv.bias.data = weight, bias
    fused, total = FusedConv(conv, relu=relu), torch.randn(2, 24, 20, 30).to(memory_format=torch.channels_last)
    calls = []
    original = PreparedConv3x3._product
    monkeypatch.setattr(PreparedConv3x3, "_product", lambda self, k, plane: calls.append(k) or original(self, k, plane))
    with torch.inference_mode():
        plain = F.conv2d(x, weight, bias, padding=1)
        want = [plain.relu(), (total + plain).relu()] if relu else [plain, total + plain]
        for expected, got in zip(
            want, (fused(x), fused.add_to(total.clone(memory_format=torch.preserve_format), x)), strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)
    assert len(calls) == 12
    strided = torch.nn.Conv2d(16, 24, 3, padding=1, stride=2)
    with torch.inference_mode():
        torch.testing.assert_close(FusedConv(strided)(x), strided(x), rtol=1e-4, atol=1e-5)
    assert len(calls) == 12, "other strides go the direct way"


def test_a_fused_convolution_holds_reordered_weights_once_and_serves_other_sizes():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 24, 1)
    fused = FusedConv(conv)
    small, large, unlike = torch.randn(1, 16, 9, 7), torch.randn(2, 16, 20, 30), torch.randn(2, 24, 20, 30)
    with torch.inference_mode():
        for x in (small, large, small):
            torch.testing.assert_close(fused(x), conv(x), rtol=1e-4, atol=1e-5)
        if onednn_fused(small):
            assert fused.weight.numel() == 0
        # A sum that is not channels last takes torch's own convolution, with the weights as they came.
        torch.testing.assert_close(fused.add_to(unlike.clone(), large), unlike + conv(large), rtol=1e-4, atol=1e-5)
