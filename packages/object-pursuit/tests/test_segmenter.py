"""One-shot segmentation of clips: fits, batches of frames, several objects, late ones, bounded memory, the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from object_pursuit import METHOD, build
from object_pursuit.annotated import AnnotatedFrames
from object_pursuit.config import PRESETS, SegmenterConfig
from object_pursuit.latent import code_logits
from object_pursuit.model.primary import run_stages
from object_pursuit.parts import seeded_parts
from object_pursuit.segmenter import frozen_encoder
from object_pursuit.windows import join_windows, window_boxes, window_images
from vos_core.contract import AdaptiveSegmenter, BuildRequest
from vos_core.errors import ConfigError, FrameError, MaskError, UsageError
from vos_core.run.work import work_shown
from vos_core.types import Frame, Prompt

SIZE = (48, 80)
SMALL = {"resize": [32, 32], "steps": 2, "batch_size": 2}


def made(**options):
    request = {k: options.pop(k) for k in ("probabilities", "precision", "seed") if k in options}
    return build(BuildRequest(variant="tiny", options={**SMALL, **options}, **request))


class Clip:
    """A square that moves over noise."""

    def __init__(self, frames=6, size=SIZE):
        self.names = [f"{t:05d}" for t in range(frames)]
        self.size, self.reads = size, []

    def __len__(self):
        return len(self.names)

    def mask(self, index, place=0):
        mask = np.zeros(self.size, bool)
        mask[8 + 20 * place : 24 + 20 * place, 5 + 4 * index : 25 + 4 * index] = True
        return mask

    def frame(self, index):
        rgb = np.random.default_rng(index).integers(0, 90, (*self.size, 3), dtype=np.uint8)
        rgb[self.mask(index)] = (250, 40, 40)
        return Frame(index, self.names[index], rgb)

    def read(self, index):
        self.reads.append(index)
        return self.frame(index)


def run(segmenter, clip, prompts, *, adapt=True):
    if adapt:
        segmenter.adapt(clip, prompts)
    return [segmenter.step(clip.frame(t), prompts.get(t, ())) for t in range(len(clip))]


def test_it_is_an_adaptive_segmenter_and_first_masks_are_kept():
    clip, segmenter = Clip(), made(probabilities=True)
    assert isinstance(segmenter, AdaptiveSegmenter)
    prompts = {0: [Prompt(7, clip.mask(0)), Prompt(300, clip.mask(0, 1))]}
    results = run(segmenter, clip, prompts)
    assert all(r.ids == (7, 300) for r in results)
    assert all(r.labels.dtype == np.uint16 and r.labels.shape == SIZE for r in results)
    assert (results[0].labels == np.where(clip.mask(0), 7, np.where(clip.mask(0, 1), 300, results[0].labels))).all()
    for r in results:
        assert r.probs.shape == (3, *SIZE)
        np.testing.assert_allclose(r.probs.sum(0), 1, atol=1e-5)
        assert (np.array([0, 7, 300])[r.probs.argmax(0)] == r.labels).mean() > 0.999
    segmenter.reset()
    assert segmenter.ids == ()
    assert segmenter.state_bytes() == 0


def test_frames_are_segmented_in_batches_that_share_statistics():
    clip, segmenter = Clip(7), made(frames_at_once=3, probabilities=True)
    prompts = {0: [Prompt(1, clip.mask(0))]}
    results = run(segmenter, clip, prompts)
    assert clip.reads == [0, 1, 2, 4, 5], "the frame itself is given, its successors are read"
    segmenter.adapt(clip, prompts)
    segmenter.step(clip.frame(0), prompts[0])
    code = segmenter._objects[1].weights
    images = torch.cat([window_images(clip.frame(t).rgb, window_boxes(*SIZE, "frame"), (32, 32)) for t in range(7)])
    for first, last in ((0, 3), (3, 6), (6, 7)):
        with torch.inference_mode():
            logits = run_stages(images[first:last], code, segmenter.encoder, dropout=False).logits
        for t in range(max(1, first), last):  # the first frame has its given mask
            at_size = join_windows(logits[t - first : t - first + 1], [(0, 0, 80, 48)], SIZE)
            np.testing.assert_allclose(results[t].probs[1], at_size[0].sigmoid().numpy(), atol=1e-5)


def test_without_a_look_at_the_clip_each_frame_is_its_own_batch():
    clip = Clip()
    prompts = {0: [Prompt(1, clip.mask(0))]}
    streamed = run(made(epochs=1, steps=2), clip, prompts, adapt=False)
    alone = run(made(frames_at_once=1), clip, prompts)
    assert all((a.labels == b.labels).all() for a, b in zip(streamed, alone, strict=True))


def test_objects_together_equal_objects_alone():
    clip = Clip()
    both = {0: [Prompt(1, clip.mask(0)), Prompt(2, clip.mask(0, 1))]}
    for at_once in (1, 4):
        together = made(objects_at_once=at_once, probabilities=True)
        results = run(together, clip, both)
        alone = made(probabilities=True)
        alone.adapt(clip, {0: both[0][:1]})
        single = [alone.step(clip.frame(t), both[0][:1] if t == 0 else ()) for t in range(len(clip))]
        for a, b in zip(results[1:], single[1:], strict=True):
            odds = a.probs[1] / a.probs[0].clip(1e-20)
            np.testing.assert_allclose(odds, b.probs[1] / b.probs[0].clip(1e-20), rtol=2e-3)


def test_late_objects_and_further_masks():
    clip = Clip(8)
    prompts = {0: [Prompt(1, clip.mask(0))], 3: [Prompt(2, clip.mask(3, 1))], 5: [Prompt(1, clip.mask(5))]}
    segmenter = made()
    results = run(segmenter, clip, prompts)
    assert [r.ids for r in results] == [(1,)] * 3 + [(1, 2)] * 5
    other = run(made(), clip, {**prompts, 3: [Prompt(2, clip.mask(0))], 5: [Prompt(1, clip.mask(7))]})
    assert all((a.labels == b.labels).all() for a, b in zip(results[:3], other[:3], strict=True)), "masks do not act backwards"
    assert (results[3].labels[clip.mask(3, 1)] == 2).all()
    assert (results[5].labels[clip.mask(5)] == 1).all()
    assert len(segmenter._objects[1].frames) == 2
    segmenter.remove([1])
    assert segmenter.ids == (2,)
    with pytest.raises(UsageError, match="not followed"):
        segmenter.remove([1, 2])
    segmenter.remove([2])
    assert not segmenter.step(clip.frame(7)).labels.any()


def test_the_same_seed_gives_the_same_masks():
    clip = Clip()
    prompts = {0: [Prompt(1, clip.mask(0))]}
    for model in ("coeffnet", "singlenet"):
        a, b = (run(made(model=model, seed=3), clip, prompts) for _ in range(2))
        assert all((x.labels == y.labels).all() for x, y in zip(a, b, strict=True))


def test_fitting_lowers_the_loss():
    clip, losses = Clip(6), []
    segmenter = made(model="singlenet", steps=60, lr=5e-3, batch_size=4)
    segmenter.fit.on_step = lambda done, steps, loss: losses.append(loss)
    told = []
    with work_shown(lambda *work: told.append(work)):
        segmenter.adapt(clip, {0: [Prompt(1, clip.mask(0))]})
    assert told == [("fitting object 1", step, 60) for step in range(1, 61)]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])


def test_how_long_a_fit_is():
    assert made(steps=7).fit.steps(80) == 7
    assert made(steps=None, epochs=20, batch_size=8).fit.steps(80) == 200
    assert made(steps=None, epochs=3, batch_size=8).fit.steps(5) == 3


def test_memory_does_not_grow():
    clip = Clip(4)
    segmenter = made(steps=0)
    segmenter.adapt(LongClip(clip, 500), {0: [Prompt(1, clip.mask(0))]})
    held = []
    for t in range(500):
        frame = clip.frame(t % 4)
        segmenter.step(Frame(t, f"{t:05d}", frame.rgb), [Prompt(1, clip.mask(0))] if t == 0 else ())
        held.append(segmenter.state_bytes())
    assert max(held) == max(held[:8])
    for t in range(500, 510):
        segmenter.step(Frame(t, f"{t}", clip.frame(0).rgb), [Prompt(1, clip.mask(0))])
    assert len(segmenter._objects[1].frames) == SegmenterConfig().shots


class LongClip:
    def __init__(self, clip, count):
        self.clip, self.names = clip, [f"{t:05d}" for t in range(count)]

    def __len__(self):
        return len(self.names)

    def read(self, index):
        return Frame(index, self.names[index], self.clip.frame(index % 4).rgb)


def test_stored_statistics_of_the_encoder_stay():
    parts = seeded_parts(PRESETS["tiny"])
    images = torch.rand(3, 3, 32, 32)
    found = {}
    for norm in ("batch", "running"):
        encoder = frozen_encoder(parts.encoder, norm)
        before = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k}
        assert before
        found[norm] = encoder(images)[0]
        assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in before.items())
    assert torch.equal(found["running"], parts.encoder.eval()(images)[0])
    assert not torch.equal(found["running"], found["batch"])


def test_one_image_equals_two_copies_of_it():
    parts = seeded_parts(PRESETS["tiny"])
    encoder = frozen_encoder(parts.encoder, "batch")
    image = torch.rand(1, 3, 32, 32)
    once = code_logits(parts.hypernet, encoder, parts.codes[:1], image)
    twice = code_logits(parts.hypernet, encoder, parts.codes[:1], image.repeat(2, 1, 1, 1))
    torch.testing.assert_close(once[0], twice[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (30, 100), (64, 64), (33, 34)])
def test_squares_cover_the_frame(size):
    boxes = window_boxes(*size, "square")
    side = min(size)
    covered = np.zeros(size, int)
    for left, upper, right, lower in boxes:
        assert right - left == lower - upper == side
        covered[upper:lower, left:right] += 1
    assert covered.min() >= 1
    assert len(boxes) == -(-max(size) // side)
    ones = torch.ones(len(boxes), 2, 8, 8)
    torch.testing.assert_close(join_windows(ones, boxes, size), torch.ones(2, *size))


def test_windows_see_their_part():
    rgb = np.zeros((32, 64, 3), np.uint8)
    rgb[:, 32:] = 255
    views = window_images(rgb, window_boxes(32, 64, "square"), (16, 16))
    assert views[0].max() == 0
    assert views[1].min() == 1
    clip = Clip()
    labels = run(made(window="square"), clip, {0: [Prompt(1, clip.mask(0))]})[2].labels
    assert labels.shape == SIZE


def test_bf16_stays_near_fp32():
    clip = Clip(4)
    prompts = {0: [Prompt(1, clip.mask(0))]}
    exact = run(made(steps=0, probabilities=True), clip, prompts)
    fast = run(made(steps=0, probabilities=True, precision="bf16"), clip, prompts)
    difference = np.abs(np.stack([a.probs - b.probs for a, b in zip(exact[1:], fast[1:], strict=True)]))
    assert difference.mean() < 0.01
    assert difference.max() < 0.15


def test_annotated_frames_are_squares_of_the_frame():
    clip = Clip()
    frames = AnnotatedFrames("o", [(clip.frame(0).rgb, clip.mask(0)), (clip.frame(1).rgb, clip.mask(1))], size=(24, 24), length=9)
    assert len(frames) == 9
    a = frames.read([0, 2, 4], draw=1)
    assert a.images.shape == (3, 3, 24, 24)
    assert torch.equal(a.masks, frames.read([0, 2, 4], draw=1).masks)
    assert not torch.equal(a.masks, frames.read([0, 2, 4], draw=2).masks)
    whole = AnnotatedFrames("o", frames.frames, size=(48, 80), length=1, crop=False)
    assert len(whole) == 2
    assert torch.equal(whole.read([1], draw=0).masks[0, 0], torch.from_numpy(clip.mask(1)).float())


def test_refusals():
    clip = Clip()
    segmenter = made()
    with pytest.raises(UsageError, match="comes before any mask"):
        segmenter.step(clip.frame(0))
    with pytest.raises(UsageError, match="has no mask"):
        segmenter.step(clip.frame(0), [Prompt(1, box=(0, 0, 5, 5))])
    with pytest.raises(UsageError, match="twice"):
        segmenter.step(clip.frame(0), [Prompt(1, clip.mask(0))] * 2)
    with pytest.raises(UsageError, match="1 to 65535"):
        segmenter.step(clip.frame(0), [Prompt(0, clip.mask(0))])
    with pytest.raises(MaskError, match="80x40"):
        segmenter.step(clip.frame(0), [Prompt(1, np.ones((40, 80), bool))])
    with pytest.raises(UsageError, match="cannot be adapted"):
        segmenter.adapt(clip, {})
    segmenter.step(clip.frame(0), [Prompt(1, clip.mask(0))])
    with pytest.raises(FrameError, match="like the frames before"):
        segmenter.step(Frame(1, "x", np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(UsageError, match="no variant 'large'"):
        build(BuildRequest(variant="large"))
    with pytest.raises(ConfigError, match="did you mean epochs"):
        build(BuildRequest(variant="tiny", options={"epoch": 3}))
    with pytest.raises(ConfigError, match="16 pixels"):
        made(resize=[8, 32])
    with pytest.raises(UsageError, match="fp16 on a CPU"):
        made(precision="fp16")


def test_method_is_found():
    from vos_core.contract import get_method

    assert get_method("object-pursuit") == METHOD
    assert METHOD.adaptive
    assert set(METHOD.options) == set(SegmenterConfig.model_fields)
