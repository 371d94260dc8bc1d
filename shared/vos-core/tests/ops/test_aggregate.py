from __future__ import annotations

import pytest
import torch

from vos_core.ops.aggregate import aggregate, aggregate_logits, merge_groups


def test_extreme_logits_are_those_of_the_published_clamp():
    logits = aggregate_logits(torch.tensor([0.0, 1.0]).view(2, 1, 1))
    assert logits.flatten().tolist() == pytest.approx([-16.118095, -16.118095, 15.942385], abs=1e-6)


def test_equals_the_odds_of_each_channel_over_their_sum():
    prob = torch.rand(2, 3, 4, 5).double() * 0.8 + 0.1
    both = torch.cat((torch.prod(1 - prob, 1, keepdim=True), prob), 1)
    odds = both / (1 - both)
    expected = odds / odds.sum(1, keepdim=True)
    torch.testing.assert_close(aggregate(prob.float()), expected.float(), atol=1e-6, rtol=1e-5)


def test_dimension_and_background_are_choices():
    prob = torch.rand(2, 3, 4, 5)
    whole = aggregate(prob)
    assert whole.shape == (2, 4, 4, 5)
    torch.testing.assert_close(aggregate(prob.movedim(1, 0), dim=0).movedim(0, 1), whole)
    assert torch.equal(aggregate(prob, keep_background=False), whole[:, 1:])


def test_half_precision_is_computed_in_float32():
    assert aggregate(torch.rand(2, 4, 4, dtype=torch.float16)).dtype == torch.float32


def test_groups_share_one_background():
    first, second = torch.softmax(torch.rand(3, 4, 5), 0), torch.softmax(torch.rand(2, 4, 5), 0)
    merged = merge_groups([first, second])
    assert merged.shape == (4, 4, 5)
    torch.testing.assert_close(torch.sigmoid(merged[0]), first[0] * second[0])
    torch.testing.assert_close(torch.sigmoid(merged[1:]), torch.cat((first[1:], second[1:])))
    assert merge_groups([torch.ones(2, 1, 1)]).max().item() == pytest.approx(11.51, abs=0.02)


def test_gradients_reach_the_probabilities():
    prob = torch.rand(2, 4, 4, requires_grad=True)
    aggregate(prob)[1].sum().backward()
    assert prob.grad is not None
    assert prob.grad.abs().sum() > 0
