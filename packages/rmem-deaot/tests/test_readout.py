"""Label maps and probabilities of groups."""

from __future__ import annotations

import pytest
import torch

from rmem_deaot.readout import first_best, label_map, probabilities


@pytest.mark.parametrize("groups", [(0,), (0, 1), (1,), (0, 2)])
def test_label_maps_are_the_arg_max_of_probabilities(groups):
    torch.manual_seed(0)
    logits = 4 * torch.randn(len(groups), 11, 4, 5)
    channels = 1 + 10 * groups[-1] + 7
    logits[-1, 8:] = -1e10
    options = {"channels": channels, "align_corners": True}
    probs = probabilities(logits, groups, (13, 17), **options)
    assert probs.shape == (channels, 13, 17)
    labels = label_map(logits, groups, (13, 17), **options)
    assert torch.equal(labels.long(), probs.argmax(0))
    torch.testing.assert_close(probs.sum(0), torch.ones(13, 17), atol=1e-4, rtol=0)


def test_the_first_of_equals_wins():
    assert first_best(torch.zeros(3, 1, 2)).tolist() == [[0, 0]]
    assert first_best(torch.tensor([[[0.0, 2.0]], [[1.0, 2.0]], [[1.0, 3.0]]])).tolist() == [[1, 2]]


def test_groups_share_the_background_softly():
    sure = torch.full((2, 11, 1, 1), -20.0)
    sure[0, 3], sure[1, 0] = 20.0, 20.0
    probs = probabilities(sure, (0, 1), (2, 2), channels=21, align_corners=True)
    assert (probs.argmax(0) == 3).all()
    torch.testing.assert_close(probs.sum(0), torch.ones(2, 2))
