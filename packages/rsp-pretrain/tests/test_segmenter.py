"""The streaming contract: late objects, sparse ids, removal, reset, bounded memory, half precision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rsp_pretrain import METHOD
from rsp_pretrain.config import PropagationConfig
from rsp_pretrain.memory import Context
from rsp_pretrain.model import Encoder
from rsp_pretrain.prepare import normalise, stretched, working_size
from rsp_pretrain.segmenter import RSPSegmenter
from rsp_pretrain.weights import load_encoder
from vos_core.config import build_config
from vos_core.contract import BuildRequest, Segmenter
from vos_core.errors import ClipWarning, ConfigError, FrameError, MaskError, UsageError
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 64, 96


def frame(index, *, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(index)
    return Frame(index, f"{index:05d}", rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def box(left, *, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[8:50, left : left + 32] = True
    return mask


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    model = Encoder(patch=8, dim=64, depth=2, heads=1, image_size=64)
    from rsp_pretrain.model.vit import initialise

    initialise(model)
    return model


def make(encoder, **config):
    precision = config.pop("precision", "fp32")
    settings = PropagationConfig(**{"scale": (64, 96), "size_mask_neighborhood": 3, "n_last_frames": 4, **config})
    return RSPSegmenter(copy.deepcopy(encoder), settings, probabilities=True, precision=precision)


def test_is_a_segmenter_and_keeps_original_ids(encoder):
    segmenter = make(encoder)
    assert isinstance(segmenter, Segmenter)
    first = segmenter.step(frame(0), [Prompt(7, mask=box(0)), Prompt(300, mask=box(60))])
    assert first.ids == (7, 300)
    assert first.labels.dtype == np.uint16
    np.testing.assert_array_equal(first.labels == 7, box(0))
    np.testing.assert_array_equal(first.labels == 300, box(60))
    later = segmenter.step(frame(0))
    assert later.labels.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(later.probs.sum(0), 1, atol=1e-5)
    assert set(np.unique(later.labels)) == {0, 7, 300}
    np.testing.assert_array_equal(np.asarray((0, 7, 300))[later.probs.argmax(0)], later.labels)


def test_a_still_picture_keeps_its_masks(encoder):
    segmenter = make(encoder, topk=1, size_mask_neighborhood=0)
    segmenter.step(frame(0), [Prompt(1, mask=box(16))])
    for _ in range(5):
        labels = segmenter.step(frame(0)).labels
    # Nothing moves, so only the edge of the mask is rounded to tokens.
    overlap = ((labels == 1) & box(16)).sum() / ((labels == 1) | box(16)).sum()
    assert overlap > 0.8


def test_a_late_object_owns_its_mask_and_old_frames_do_not_know_it(encoder):
    segmenter = make(encoder)
    segmenter.step(frame(0), [Prompt(4, mask=box(0))])
    segmenter.step(frame(1))
    result = segmenter.step(frame(2), [Prompt(2, mask=box(60))])
    assert result.ids == (4, 2)
    np.testing.assert_array_equal(result.labels == 2, box(60))
    context = segmenter.tracker.context
    assert context.labels.shape[2] == 3
    assert (context.labels[:2, :, 2] == 0).all()
    torch.testing.assert_close(context.labels.sum(2), torch.ones(context.labels.shape[:2]))
    again = segmenter.step(frame(2))
    assert {0, 2} <= set(np.unique(again.labels))


def test_a_correction_replaces_an_object(encoder):
    segmenter = make(encoder)
    segmenter.step(frame(0), [Prompt(1, mask=box(0)), Prompt(2, mask=box(60))])
    result = segmenter.step(frame(1), [Prompt(1, mask=box(30))])
    np.testing.assert_array_equal(result.labels == 1, box(30))
    assert result.ids == (1, 2)
    soft = segmenter.tracker.soft
    np.testing.assert_array_equal((soft[1] == 1).numpy(), box(30)[4::8, 4::8])
    assert float(soft[1][soft[1] < 1].max()) == 0


def test_removal_and_reset(encoder):
    segmenter = make(encoder)
    segmenter.step(frame(0), [Prompt(1, mask=box(0)), Prompt(2, mask=box(60))])
    with pytest.raises(UsageError, match="9"):
        segmenter.remove([1, 9])
    assert segmenter.ids == (1, 2)
    segmenter.remove([1])
    result = segmenter.step(frame(0))
    assert result.ids == (2,)
    assert set(np.unique(result.labels)) == {0, 2}
    torch.testing.assert_close(segmenter.tracker.soft.sum(0), torch.ones(8, 12))
    segmenter.reset()
    assert (segmenter.ids, segmenter.state_bytes()) == ((), 0)
    with pytest.raises(UsageError, match="before any mask"):
        segmenter.step(frame(0))


def test_memory_does_not_grow(encoder):
    segmenter = make(encoder)
    segmenter.step(frame(0), [Prompt(1, mask=box(0))])
    sizes = [segmenter.step(frame(t % 7)) and segmenter.state_bytes() for t in range(1, 60)]
    assert len(set(sizes[5:])) == 1
    assert segmenter.tracker.context.frames == 5


def test_the_context_keeps_the_first_the_given_and_the_last():
    context = Context(recent=2, pinned=2)
    for number, given in enumerate([True, False, False, False, True, False, True]):
        context.add(torch.full((3, 2), float(number)), torch.eye(3), given=given)
    # Given: 0, 4, 6 with room for two; the first never leaves. Others: 1, 2, 3, 5 with room for two.
    assert sorted(context.keys[:, 0, 0].tolist()) == [0, 3, 5, 6]
    context.add_channels(1)
    assert context.labels.shape == (4, 3, 4)
    context.keep_channels([0, 2])
    assert context.labels[0].tolist() == [[1, 0], [1, 0], [0, 1]]
    alone = Context(recent=0, pinned=1)
    alone.add(torch.ones(3, 2), torch.eye(3), given=True)
    alone.add(torch.zeros(3, 2), torch.eye(3), given=False)
    assert alone.frames == 1


def test_half_precision_is_near(encoder):
    exact, half = make(encoder), make(encoder, precision="bf16")
    for t in range(4):
        prompts = [Prompt(1, mask=box(16))] if t == 0 else []
        a, b = exact.step(frame(0), prompts), half.step(frame(0), prompts)
    assert half.tracker.context.keys.dtype == torch.bfloat16
    assert np.abs(a.probs - b.probs).mean() < 0.02
    assert np.mean(a.labels == b.labels) > 0.97


def test_a_segmenter_computes_with_the_loaded_weights_themselves(encoder, tmp_path):
    path = tmp_path / "encoder.pth"
    torch.save({"model": encoder.state_dict()}, path)
    loaded, _ = load_encoder(path)
    exact = RSPSegmenter(loaded)
    assert exact.tracker.encoder is loaded
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict())
    half = RSPSegmenter(loaded, precision="bf16").tracker.encoder
    assert {half.blocks[0].mlp.fc1.weight.dtype, half.norm.weight.dtype} == {torch.bfloat16, torch.float32}


def test_an_object_too_small_for_a_token_is_named(encoder):
    speck = np.zeros((HEIGHT, WIDTH), bool)
    speck[0, 0] = True
    segmenter = make(encoder)
    with pytest.warns(UserWarning, match=r"frame 00000: object 5 covers none of 8x12 tokens"):
        result = segmenter.step(frame(0), [Prompt(5, mask=speck), Prompt(6, mask=box(30))])
    np.testing.assert_array_equal(result.labels == 5, speck)
    assert 5 not in segmenter.step(frame(1)).labels
    with pytest.warns(ClipWarning, match=r"frame 00002: objects 5, 7 cover none"):
        segmenter.step(frame(2), [Prompt(5, mask=speck), Prompt(7, mask=speck)])


def test_what_cannot_be_followed_is_refused(encoder):
    segmenter = make(encoder)
    for prompts, error, named in (
        ([Prompt(1)], UsageError, "no mask"),
        ([Prompt(0, mask=box(0))], UsageError, "id 0"),
        ([Prompt(1, mask=box(0)), Prompt(1, mask=box(0))], UsageError, "twice"),
        ([Prompt(1, mask=box(0)[:10])], MaskError, "96x10"),
    ):
        with pytest.raises(error, match=named):
            segmenter.step(frame(0), prompts)
    segmenter.reset()
    segmenter.step(frame(0), [Prompt(1, mask=box(0))])
    with pytest.raises(FrameError, match="32x64"):
        segmenter.step(frame(1, width=32))
    with pytest.raises(UsageError, match="fp16"):
        RSPSegmenter(encoder, precision="fp16")
    with pytest.raises(UsageError, match="unknown device"):
        RSPSegmenter(encoder, device="toaster")


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((480, 854), [480], (480, 832)),
        ((480, 880), [480], (480, 832)),
        ((854, 480), [480], (832, 480)),
        ((100, 100), [128], (128, 128)),
        ((480, 854), [100, 120], (100, 120)),
    ],
)
def test_sizes(size, scale, expected):
    assert working_size(*size, scale) == expected


def test_preparation_against_plain_arithmetic():
    rgb = frame(3, height=32, width=64).rgb
    image = normalise(rgb, (32, 64))[0].numpy()
    expected = (rgb / 255 - np.asarray((0.485, 0.456, 0.406))) / np.asarray((0.228, 0.224, 0.225))
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-6)


def test_stretching_leaves_absent_objects_at_zero():
    soft = torch.zeros(3, 2, 2)
    soft[0], soft[1, 0] = 0.5, 0.25
    out = stretched(soft, 4)
    assert out.shape == (3, 8, 8)
    assert float(out[1].min()) == 0
    assert float(out[1].max()) == 1
    assert (out[2] == 0).all()
    assert torch.isfinite(out).all()


def test_options_are_checked():
    assert build_config(PropagationConfig, {"scale": 240}).scale == (240,)
    assert build_config(PropagationConfig, {"scale": "320x192"}).scale == (320, 192)
    for options, named in (({"topk": 0}, "topk"), ({"scale": [1, 2, 3]}, "scale"), ({"nlast": 3}, "n_last_frames")):
        with pytest.raises(ConfigError, match=named):
            build_config(PropagationConfig, options)


def test_the_method_is_built_as_asked():
    options = {"scale": [64, 96], "n_last_frames": 2}
    segmenter = METHOD.build(BuildRequest(variant="rsp_vit_small_patch8", options=options, seed=3))
    assert (segmenter.tracker.encoder.patch, segmenter.config.n_last_frames) == (8, 2)
    other = METHOD.build(BuildRequest(variant="rsp_vit_small_patch8", options=options, seed=3))
    left, right = (item.tracker.encoder.patch_embed.proj.weight for item in (segmenter, other))
    assert torch.equal(left, right)
    assert set(METHOD.options) == set(PropagationConfig.model_fields)
