"""The streaming contract: late objects, groups, sparse ids, removal, reset, bounded memory, augmentation, half precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmem_deaot.config import VARIANTS, SegmenterConfig
from rmem_deaot.model import AOTNetwork
from rmem_deaot.segmenter import RMemSegmenter
from rmem_deaot.tracker import Tracker, TrackerOptions
from vos_core.config import build_config
from vos_core.contract import LengthAware, Segmenter
from vos_core.errors import ConfigError, FrameError, MaskError, UsageError
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 49, 65
SMALL = VARIANTS["deaott"]


def frame(index, *, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(index)
    return Frame(index, f"{index:05d}", rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def box(left, *, height=HEIGHT, width=WIDTH, size=15):
    mask = np.zeros((height, width), bool)
    mask[10:30, left : left + size] = True
    return mask


def make(network, *, probabilities=True, variant=SMALL, **config):
    return RMemSegmenter(network, variant, SegmenterConfig(**config), probabilities=probabilities)


def test_is_a_segmenter_and_keeps_original_ids(small_network):
    segmenter = make(small_network)
    assert isinstance(segmenter, Segmenter)
    assert isinstance(segmenter, LengthAware)
    first = segmenter.step(frame(0), [Prompt(300, mask=box(40)), Prompt(7, mask=box(5))])
    assert first.ids == (7, 300), "ascending, whatever the order of prompts"
    assert first.labels.dtype == np.uint16
    np.testing.assert_array_equal(first.labels == 7, box(5))
    np.testing.assert_array_equal(first.labels == 300, box(40))
    later = segmenter.step(frame(1))
    assert later.labels.shape == (HEIGHT, WIDTH)
    assert later.probs.shape == (3, HEIGHT, WIDTH)
    np.testing.assert_allclose(later.probs.sum(0), 1, atol=1e-5)
    assert set(np.unique(later.labels)) <= {0, 7, 300}


def test_label_maps_do_not_depend_on_whether_probabilities_are_wanted(small_network):
    def run(*, probabilities):
        segmenter = make(small_network, probabilities=probabilities, lt_gap=1)
        segmenter.step(frame(0), [Prompt(i + 1, mask=box(5 * i, size=5)) for i in range(12)])
        return [segmenter.step(frame(t)) for t in (1, 2)]

    for with_probs, without in zip(run(probabilities=True), run(probabilities=False), strict=True):
        np.testing.assert_array_equal(with_probs.labels, without.labels)
        assert without.probs is None


def test_a_late_object_owns_its_mask_and_opens_its_group(small_network):
    segmenter = make(small_network, lt_gap=2)
    segmenter.step(frame(0), [Prompt(i + 1, mask=box(4 * i, size=4)) for i in range(10)])
    segmenter.step(frame(1))
    result = segmenter.step(frame(2), [Prompt(40, mask=box(45))])
    assert result.ids == (*range(1, 11), 40)
    np.testing.assert_array_equal(result.labels == 40, box(45))
    np.testing.assert_array_equal(result.probs[11] == 1, box(45))
    tracker = segmenter._trackers[0]
    assert [bank.frames for bank in tracker.banks.values()] == [(0, 2), (2,)], "the new group begins with its reference frame"
    later = segmenter.step(frame(3))
    assert later.probs.shape[0] == 12
    np.testing.assert_allclose(later.probs.sum(0), 1, atol=1e-5)
    assert segmenter.step(frame(4)).ids == result.ids
    assert [bank.frames for bank in tracker.banks.values()] == [(0, 2, 4), (2, 4)]


def test_a_correction_puts_an_object_where_it_was_given(small_network):
    segmenter = make(small_network)
    segmenter.step(frame(0), [Prompt(1, mask=box(0)), Prompt(2, mask=box(45))])
    result = segmenter.step(frame(1), [Prompt(1, mask=box(20))])
    assert result.ids == (1, 2)
    np.testing.assert_array_equal(result.labels == 1, box(20))
    assert segmenter.step(frame(2)).probs.shape[0] == 3


def test_groups_computed_together_equal_groups_alone(small_network):
    masks = [box(3 * i, size=3) for i in range(20)]
    both = make(small_network, lt_gap=1)
    both.step(frame(0), [Prompt(i + 1, mask=mask) for i, mask in enumerate(masks)])
    tracker = both._trackers[0]
    both_logits = tracker.predict(both._views[0].image(frame(1).rgb))
    for group in range(2):
        alone = make(small_network, lt_gap=1)
        alone.step(frame(0), [Prompt(i + 1, mask=mask) for i, mask in enumerate(masks[10 * group : 10 * group + 10])])
        logits = alone._trackers[0].predict(alone._views[0].image(frame(1).rgb))
        torch.testing.assert_close(both_logits[group : group + 1], logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("restrict", [True, False])
def test_memory_stays_bounded_over_a_long_clip(small_network, restrict):
    limits = {"latter_mem_len": 3} if restrict else {"unrestricted_frames": 5}
    segmenter = make(small_network, probabilities=False, lt_gap=1, restrict_memory=restrict, **limits)
    seen = []
    for t in range(40):
        small = frame(t, height=33, width=33)
        segmenter.step(small, [Prompt(1, mask=box(3, height=33, width=33))] if t == 0 else ())
        seen.append(segmenter.state_bytes())
    assert max(seen) == seen[-1] == seen[12]
    assert len(segmenter.bank_frames) == (4 if restrict else 5)
    assert make(small_network, restrict_memory=True, default_latter=8)._options().latter == 8
    assert make(small_network, restrict_memory=True, default_latter=8, latter_mem_len=2)._options().latter == 2
    assert segmenter.bank_frames[0] == 0
    assert segmenter.bank_frames[-1] == 39


def test_the_gap_follows_the_length_of_the_clip(small_network):
    segmenter = make(small_network, variant=VARIANTS["deaotl"])
    assert segmenter.gap == 5
    for frames, gap in ((25, 5), (164, 5), (165, 6), (255, 8), (345, 12), (405, 14), (1000, 33)):
        segmenter.expect(frames)
        assert segmenter.gap == gap
    assert make(small_network, memory_gap_cap=0, lt_gap=4).gap == 4
    segmenter.reset()
    assert segmenter.gap == 5


def test_remove_and_reset(small_network):
    segmenter = make(small_network, lt_gap=1)
    given = [Prompt(i + 1, mask=box(5 * i, size=5)) for i in range(12)]
    segmenter.step(frame(0), given)
    before = segmenter.step(frame(1)).labels
    segmenter.remove([2])
    result = segmenter.step(frame(2))
    assert 2 not in result.labels
    assert result.probs.shape[0] == 12
    with pytest.raises(UsageError, match="2"):
        segmenter.remove([2])
    segmenter.remove([11, 12])
    assert segmenter._trackers[0].groups == (0,), "an empty group leaves the memory"
    assert segmenter.step(frame(3)).ids == (1, *range(3, 11))
    back = segmenter.step(frame(4), [Prompt(2, mask=box(20))])
    assert back.ids == (1, *range(3, 11), 2), "who comes back gets a new place"
    np.testing.assert_array_equal(back.labels == 2, box(20))
    segmenter.step(frame(5))
    segmenter.remove(back.ids)
    assert segmenter.step(frame(6)).ids == ()
    assert segmenter.step(frame(7), [Prompt(5, mask=box(10))]).ids == (5,)
    segmenter.reset()
    assert segmenter.state_bytes() == 0
    segmenter.step(frame(0), given)
    np.testing.assert_array_equal(segmenter.step(frame(1)).labels, before)


def test_flips_and_scales_average_copies_with_their_own_memory(small_network):
    def run(**config):
        segmenter = make(small_network, **config)
        segmenter.step(frame(0), [Prompt(1, mask=box(20))])
        return segmenter.step(frame(1)).probs

    both = run(ms=(1.0, 1.5))
    alone = [run(), run(ms=(1.5,))]
    np.testing.assert_allclose(both, sum(alone) / 2, atol=1e-5)
    assert np.abs(run(flip=True) - alone[0]).max() > 1e-6
    merged = make(small_network, flip=True, merged_memory=True)
    merged.step(frame(0), [Prompt(1, mask=box(20))])
    assert len(merged._trackers) == 2
    assert merged.step(frame(1)).probs.shape[0] == 2


def test_sure_soft_masks_are_what_label_maps_are(small_network):
    """A memory of probabilities 0 and 1 is that of the label map, group by group."""
    image = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
    for number in range(1, 13):
        labels[10:30, 5 * number : 5 * number + 4] = number
    sure = torch.stack([labels == number for number in range(13)]).float()
    logits = []
    for soft in (False, True):
        tracker = Tracker(small_network, TrackerOptions(gap=1))
        tracker.start(image, labels.flip(1), 12)
        tracker.predict(image)
        tracker.remember_soft(sure) if soft else tracker.remember(labels)
        assert [bank.frames for bank in tracker.banks.values()] == [(0, 1)] * 2
        logits.append(tracker.predict(image.flip(3)))
    torch.testing.assert_close(*logits)


def test_probabilities_can_be_remembered(small_network, monkeypatch):
    given = []
    monkeypatch.setattr(Tracker, "remember_soft", lambda _self, probs: given.append(probs))
    seen = []
    for config in ({}, {"flip": True}, {"flip": True, "merged_memory": True}):
        given.clear()
        segmenter = make(small_network, use_prev_prob=True, probabilities=False, **config)
        segmenter.step(frame(0), [Prompt(1, mask=box(20))])
        segmenter.step(frame(1))
        seen.append(list(given))
    (alone,), (plain, mirrored), (merged, turned) = seen
    assert alone.shape == (2, HEIGHT, WIDTH)
    torch.testing.assert_close(alone.sum(0), torch.ones(HEIGHT, WIDTH))
    assert 0.01 < alone[1].max() < 1, "no label map"
    torch.testing.assert_close(plain, alone)
    torch.testing.assert_close(merged, (plain + mirrored.flip(-1)) / 2)
    torch.testing.assert_close(turned, merged.flip(-1))
    monkeypatch.undo()
    segmenter = make(small_network, use_prev_prob=True)
    segmenter.step(frame(0), [Prompt(1, mask=box(20))])
    segmenter.step(frame(1))
    corrected = segmenter.step(frame(2), [Prompt(2, mask=box(45))])
    np.testing.assert_array_equal(corrected.labels == 2, box(45))
    assert segmenter.step(frame(3)).ids == (1, 2)


def test_output_height_sets_where_label_maps_are_made(small_network):
    segmenter = make(small_network, output_height=24)
    segmenter.step(frame(0), [Prompt(1, mask=box(20))])
    result = segmenter.step(frame(1))
    assert result.labels.shape == (HEIGHT, WIDTH)
    assert segmenter._output_size == (24, 32)
    assert result.probs.shape == (2, HEIGHT, WIDTH)


def test_unused_identities_of_vost_become_background():
    torch.manual_seed(1)
    network = AOTNetwork(VARIANTS["r50_aotl_vost"].network).eval()
    with torch.no_grad():
        network.decoder.conv_out.bias[7] = 50.0
    segmenter = RMemSegmenter(network, VARIANTS["r50_aotl_vost"], probabilities=True)
    segmenter.step(frame(0), [Prompt(3, mask=box(20))])
    result = segmenter.step(frame(1))
    assert set(np.unique(result.labels)) == {0}
    np.testing.assert_allclose(result.probs[0], 1, atol=1e-4)
    masked = RMemSegmenter(network, VARIANTS["r50_aotl_vost"], SegmenterConfig(all_channels=False), probabilities=True)
    masked.step(frame(0), [Prompt(3, mask=box(20))])
    assert masked.step(frame(1)).probs[1].max() > 1e-3


def test_one_frame_is_a_clip_and_an_object_may_be_lost(small_network):
    segmenter = make(small_network)
    result = segmenter.step(frame(0), [Prompt(1, mask=box(20))])
    np.testing.assert_array_equal(result.labels == 1, box(20))
    tiny = np.zeros((HEIGHT, WIDTH), bool)
    tiny[3, 3] = True
    segmenter.reset()
    assert segmenter.step(frame(0), [Prompt(1, mask=tiny)]).labels.sum() == 1
    assert np.isfinite(segmenter.step(frame(1)).probs).all()


def test_half_precision_is_close(small_network):
    def run(precision):
        segmenter = RMemSegmenter(small_network, SMALL, precision=precision, probabilities=True)
        segmenter.step(frame(0), [Prompt(1, mask=box(20))])
        return segmenter.step(frame(1)).probs

    assert np.abs(run("bf16") - run("fp32")).mean() < 0.02


def test_wrong_use_is_explained(small_network):
    segmenter = make(small_network)
    with pytest.raises(UsageError, match="before any mask"):
        segmenter.step(frame(0))
    with pytest.raises(MaskError, match="10x8"):
        segmenter.step(frame(0), [Prompt(1, mask=np.ones((8, 10), bool))])
    with pytest.raises(UsageError, match="no mask"):
        segmenter.step(frame(0), [Prompt(1, box=(0, 0, 4, 4))])
    with pytest.raises(UsageError, match="twice"):
        segmenter.step(frame(0), [Prompt(1, mask=box(0)), Prompt(1, mask=box(0))])
    with pytest.raises(UsageError, match="65535"):
        segmenter.step(frame(0), [Prompt(70000, mask=box(0))])
    segmenter.step(frame(0), [Prompt(1, mask=box(0))])
    with pytest.raises(FrameError, match="65x50"):
        segmenter.step(frame(1, height=50))
    with pytest.raises(UsageError, match="fp16"):
        RMemSegmenter(small_network, SMALL, precision="fp16")
    with pytest.raises(UsageError, match="temporal"):
        RMemSegmenter(small_network, SMALL, SegmenterConfig(tpe=True))
    for lengths in ({"latter_mem_len": 3}, {"former_mem_len": 2}):
        with pytest.raises(UsageError, match="not restricted"):
            RMemSegmenter(small_network, SMALL, SegmenterConfig(**lengths))
        RMemSegmenter(small_network, SMALL, SegmenterConfig(restrict_memory=True, **lengths))
    RMemSegmenter(small_network, SMALL, SegmenterConfig(default_latter=3))
    with pytest.raises(ConfigError, match="latter_mem_len"):
        build_config(SegmenterConfig, {"later_mem_len": 3})
    for bad in ({"lt_gap": 0}, {"ms": [1.0, 1.0]}, {"ms": [9]}, {"former_mem_len": 0}, {"max_resolution": 4}):
        with pytest.raises(ConfigError):
            build_config(SegmenterConfig, bad)
