"""Training clips: samplers, augmentation, reading of folders; what is drawn again and what is refused."""

from __future__ import annotations

import json
import random

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sam2_rcms.train.config import (
    AffineStep,
    ColourStep,
    CropStep,
    DataConfig,
    FlipStep,
    GreyStep,
    NormaliseStep,
    ResizeStep,
    SamplerConfig,
    TrainConfig,
)
from sam2_rcms.train.dataset import VideoClips, build_sampler, collate, seen_objects, training_clips, training_set
from sam2_rcms.train.sampler import GapSampler, SampleError, UniformSampler, back_and_forth
from sam2_rcms.train.transform import ClipFrames, Draws, apply_transforms
from vos_core.data.synthetic_write import ClipPlan, write_davis, write_folder, write_youtube_vos
from vos_core.errors import ConfigError, FrameError, LayoutError, MaskError, UsageError
from vos_core.io.masks import write_mask
from vos_core.io.rle import encode
from vos_core.types import Clip

SMALL = (ResizeStep(sizes=(64,)), NormaliseStep())


# --- samplers ---


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(0, 999), st.booleans())
def test_drawn_clips_keep_the_rules(length, count, most, seed, gaps):
    sampler = build_sampler(SamplerConfig(kind="gap" if gaps else "uniform", num_frames=count, max_num_objects=most))
    seen = {t: [1, 5, 9][: 1 + t % 3] for t in range(length)}
    try:
        clip = sampler.draw(length, seen.__getitem__, random.Random(seed))
    except SampleError:
        assert length < 1.5 * count + 3
        return
    steps = set(np.diff(clip.frames).tolist())
    assert steps <= ({1, 2, 3} if gaps else {1})
    assert len(clip.frames) == count
    assert 0 <= min(clip.frames) <= max(clip.frames) < length
    assert set(clip.objects) <= set(seen[clip.frames[0]])
    assert len(set(clip.objects)) == len(clip.objects) == min(most, len(seen[clip.frames[0]]))


def test_time_can_run_backwards():
    for sampler in (UniformSampler(4, 1, reverse_time_prob=1.0), GapSampler(4, 1, reverse_time_prob=1.0)):
        frames = sampler.draw(30, lambda t: [1], random.Random(0)).frames
        assert list(frames) == sorted(frames, reverse=True)


def test_short_videos_run_back_and_forth_or_are_refused():
    assert UniformSampler(5, 1, allow_repeat=True).draw(3, lambda t: [1], random.Random(0)).frames == (0, 1, 2, 1, 0)
    assert back_and_forth(1, 3) == [0, 0, 0]
    for sampler in (UniformSampler(5, 1), GapSampler(5, 1)):
        with pytest.raises(SampleError, match="3 frames"):
            sampler.draw(3, lambda t: [1], random.Random(0))


def test_an_object_must_be_seen_first():
    with pytest.raises(SampleError, match="no object"):
        UniformSampler(2, 1).draw(9, lambda t: [], random.Random(0))
    with pytest.raises(SampleError, match="no walk"):
        GapSampler(2, 1).draw(9, lambda t: [], random.Random(0))
    assert GapSampler(2, 1, ensure_first_frame_visible=False).draw(9, lambda t: [], random.Random(0)).objects == ()


def test_starving_videos_may_be_drawn_without_gaps():
    with pytest.raises(SampleError, match="consecutive_if_starved"):
        GapSampler(16, 1).draw(17, lambda t: [1], random.Random(0))
    frames = GapSampler(16, 1, consecutive_if_starved=True).draw(17, lambda t: [1], random.Random(0)).frames
    assert set(np.diff(frames)) == {1}


# --- augmentation ---


def clip_of(frames=3, height=40, width=60, seed=0):
    rng = np.random.default_rng(seed)
    images = [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for _ in range(frames)]
    masks = [torch.zeros(2, height, width, dtype=torch.uint8) for _ in range(frames)]
    for t, mask in enumerate(masks):
        mask[0, 10:20, 5 + t : 25 + t] = 1
        mask[1, 25:35, 30:50] = 1
    return ClipFrames(images, masks)


def test_the_end_makes_tensors():
    images, masks = apply_transforms(clip_of(), SMALL, Draws.of(0))
    assert (images.shape, images.dtype, masks.shape, masks.dtype) == ((3, 3, 64, 64), torch.float32, (3, 2, 64, 64), torch.bool)
    plain = NormaliseStep(mean=(0, 0, 0), std=(1, 1, 1))
    raw, _ = apply_transforms(clip_of(), (plain,), Draws.of(0))
    assert torch.equal((raw[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(clip_of().images[0])))


def test_flips_mirror_images_and_masks():
    plain, masks = apply_transforms(clip_of(), SMALL, Draws.of(0))
    flipped, flipped_masks = apply_transforms(clip_of(), (FlipStep(p=1.0), *SMALL), Draws.of(0))
    torch.testing.assert_close(flipped, plain.flip(-1), atol=0.03, rtol=0)
    assert torch.equal(flipped_masks, masks.flip(-1))
    mixed, _ = apply_transforms(clip_of(frames=16), (FlipStep(consistent=False), *SMALL), Draws.of(1))
    still, _ = apply_transforms(clip_of(frames=16), SMALL, Draws.of(1))
    same = [(a - b).abs().max() < 0.1 for a, b in zip(mixed, still, strict=True)]
    assert any(same)
    assert not all(same)


def test_an_affine_warp_moves_images_and_masks_together():
    clip = clip_of(height=64, width=64)
    clip.images = [Image.fromarray(np.repeat(mask[0].numpy()[..., None] * np.uint8(255), 3, 2)) for mask in clip.masks]
    images, masks = apply_transforms(clip, (AffineStep(), NormaliseStep(mean=(0, 0, 0), std=(1, 1, 1))), Draws.of(3))
    inside = images[:, 0] > 0.75
    assert (inside & ~masks[:, 0]).sum() < 0.1 * masks[:, 0].sum(), "white is where the mask is"
    assert not torch.equal(masks[0, 0], clip_of(height=64, width=64).masks[0][0].bool())


def test_a_warp_that_loses_an_object_is_left_out():
    clip = clip_of(height=64, width=64)
    for mask in clip.masks:
        mask[1] = 0
        mask[1, 0, 0] = 1  # any rotation drives the corner pixel out
    before = [np.asarray(image).copy() for image in clip.images]
    lost = [draw for draw in range(20) if _same(_warped(clip, before, draw), before)]
    assert lost, "no draw loses the corner"
    kept = [draw for draw in lost if not _same(_warped(clip, before, draw, attempts=50), before)]
    assert kept, "further attempts find a warp that keeps it"


def _warped(clip, before, seed, attempts=1):
    copy = ClipFrames([Image.fromarray(one) for one in before], [mask.clone() for mask in clip.masks])
    step = AffineStep(degrees=1.0, shear=0.0, attempts=attempts)
    images, _ = apply_transforms(copy, (step, NormaliseStep(mean=(0, 0, 0), std=(1, 1, 1))), Draws.of(seed))
    return [(one * 255).round().byte().permute(1, 2, 0).numpy() for one in images]


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_crops_cut_the_same_window_and_pad_with_zeros():
    step = CropStep(p=1.0, sizes=((50, 30),))
    images, masks = apply_transforms(clip_of(), (step, NormaliseStep(mean=(0, 0, 0), std=(1, 1, 1))), Draws.of(0))
    assert images.shape[-2:] == masks.shape[-2:] == (50, 30)
    assert (images[..., 40:, :] == 0).all()
    assert not masks[..., 40:, :].any()
    left = random.Random(0)
    left.random(), left.choice(step.sizes)
    shift = left.randint(0, 30)  # no draw for the top: there is no slack
    torch.testing.assert_close(masks[:, :, :40], torch.stack(clip_of().masks)[..., shift : shift + 30].bool())


def test_a_crop_may_be_told_to_keep_objects():
    clip = clip_of()
    step = CropStep(p=1.0, sizes=((12, 12),), keep_visible=True)
    for seed in range(8):
        images, _ = apply_transforms(clip_of(), (step, NormaliseStep()), Draws.of(seed))
        assert images.shape[-2:] == (40, 60), "no window of 12 pixels shows both objects"
    images, _ = apply_transforms(clip, (CropStep(p=1.0, sizes=((12, 12),)), NormaliseStep()), Draws.of(0))
    assert images.shape[-2:] == (12, 12)


def test_resize_by_the_shorter_side_keeps_the_aspect():
    images, masks = apply_transforms(clip_of(), (ResizeStep(sizes=(20,), square=False), NormaliseStep()), Draws.of(0))
    assert images.shape[-2:] == masks.shape[-2:] == (20, 30)


def test_colours_change_for_the_clip_or_for_each_frame():
    still = ClipFrames([Image.new("RGB", (8, 8), (90, 140, 60))] * 4, [torch.ones(1, 8, 8, dtype=torch.uint8)] * 4)
    kinds = {}
    for consistent in (True, False):
        step = ColourStep(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, consistent=consistent)
        copy = ClipFrames(list(still.images), list(still.masks))
        kinds[consistent], _ = apply_transforms(copy, (step, NormaliseStep()), Draws.of(0))
    assert all(torch.equal(kinds[True][0], frame) for frame in kinds[True])
    assert not torch.equal(kinds[False][0], kinds[False][1])
    copy = ClipFrames(list(still.images), list(still.masks))
    grey, _ = apply_transforms(copy, (GreyStep(p=1.0), NormaliseStep(mean=(0, 0, 0), std=(1, 1, 1))), Draws.of(0))
    assert torch.equal(grey[:, 0], grey[:, 1])


def test_the_last_step_must_normalise():
    with pytest.raises(ConfigError, match="normalise"):
        apply_transforms(clip_of(), (FlipStep(),), Draws.of(0))


# --- data sets ---


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    write_davis(root, ClipPlan(clips=3, frames=6, height=48, width=64, objects=2))
    return root


def config_of(**values):
    rest = {"sampler": SamplerConfig(num_frames=3, max_num_objects=2), "transforms": SMALL, "image_size": 64, **values}
    return TrainConfig(**rest)


def test_samples_depend_on_their_number_alone(davis):
    data = training_set(config_of(data=(DataConfig(root=davis, layout="davis"),)))
    assert len(data) == 3
    a, b = (data.draw(1, epoch=4, rng=np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.masks, b.masks)
    other = data.draw(1, epoch=4, rng=np.random.default_rng(8))
    assert a.images.shape == (1, 3, 3, 64, 64)
    assert not torch.equal(a.images, other.images) or not torch.equal(a.masks, other.masks)
    assert a.masks[0].flatten(1).any(1).all(), "the first frame shows every object"
    both = collate([a, other])
    assert both.images.shape[0] == 2
    assert both.video.tolist() == [0] * a.masks.shape[1] + [1] * other.masks.shape[1]


@pytest.mark.parametrize(("layout", "write"), [("folder", write_folder), ("youtube-vos", write_youtube_vos)])
def test_other_layouts_train_too(layout, write, tmp_path):
    write(tmp_path, ClipPlan(clips=2, frames=16, height=48, width=64, objects=2))
    for named in (layout, "auto"):
        data = training_set(config_of(data=(DataConfig(root=tmp_path, layout=named),)))
        assert data.draw(0, epoch=0, rng=np.random.default_rng(0)).images.shape == (1, 3, 3, 64, 64)


def test_frames_and_masks_may_lie_in_two_folders(davis, tmp_path):
    frames, masks = davis / "JPEGImages" / "480p", davis / "Annotations" / "480p"
    clips = training_clips(DataConfig(img_folder=frames, gt_folder=masks))
    assert [clip.name for clip in clips] == sorted(path.name for path in frames.iterdir())
    names = tmp_path / "names.txt"
    names.write_text(f"{clips[1].name}\n")
    for data in (
        DataConfig(img_folder=frames, gt_folder=masks, file_list_txt=names),
        DataConfig(root=davis, file_list_txt=names),
    ):
        assert [clip.name for clip in training_clips(data)] == [clips[1].name]
    names.write_text("nobody\n")
    with pytest.raises((UsageError, LayoutError), match="nobody"):
        training_clips(DataConfig(img_folder=frames, gt_folder=masks, file_list_txt=names))
    with pytest.raises(LayoutError, match="nowhere"):
        training_clips(DataConfig(img_folder=tmp_path / "nowhere", gt_folder=masks))
    with pytest.raises(UsageError, match="--data"):
        training_clips(DataConfig())


def test_a_multiplier_repeats_videos_and_draws_the_rest(davis):
    clips = training_clips(DataConfig(root=davis, layout="davis"))
    data = VideoClips(clips, sampler=UniformSampler(2, 1), transforms=SMALL, multiplier=2.34, where="here")
    assert len(data) == 7
    for epoch in range(3):
        counts = np.bincount([data._video(index, epoch) for index in range(7)])
        assert sorted(counts) == [2, 2, 3]
    assert len({data._video(6, epoch) for epoch in range(20)}) > 1, "another video gets the third turn in other epochs"


def test_a_video_without_a_clip_is_replaced(davis):
    clips = training_clips(DataConfig(root=davis, layout="davis"))

    class Picky:
        def draw(self, length, visible, rng):
            visible(0)
            self.tries += 1
            if self.tries < 3:
                raise SampleError("not this one")
            return UniformSampler(2, 1).draw(length, visible, rng)

    picky = Picky()
    picky.tries = 0
    data = VideoClips(clips, sampler=picky, transforms=SMALL, where="here")
    assert data.draw(0, epoch=0, rng=np.random.default_rng(0)).images.shape[1] == 2
    starved = VideoClips(clips, sampler=UniformSampler(99, 1), transforms=SMALL, where="here")
    with pytest.raises(LayoutError, match=r"here.*6 frames with masks, a clip 99.*--set sampler\.num_frames=6"):
        starved.draw(0, epoch=0, rng=np.random.default_rng(0))


def test_objects_come_in_the_order_of_their_first_pixel(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    labels[2, 1], labels[0, 5], labels[3, 0] = 3, 9, 1
    write_mask(tmp_path / "0.png", labels)
    assert list(seen_objects(Clip("a", annotations={"0": tmp_path / "0.png"}), "0")) == [9, 3, 1]


@pytest.fixture
def masklets(tmp_path):
    """An SA-V training video of 40 frames, each as bright as its number; two overlapping objects on every 4th frame."""
    folder = tmp_path / "sav_train" / "sav_000"
    folder.mkdir(parents=True)
    writer = cv2.VideoWriter(str(folder / "sav_000001.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, (64, 48))
    for index in range(40):
        writer.write(np.full((48, 64, 3), 6 * index, np.uint8))
    writer.release()
    rows = []
    for index in range(0, 40, 4):
        first, second = np.zeros((2, 48, 64), np.uint8)
        first[10:30, index : index + 20] = 1
        second[20:40, index : index + 20] = 1
        rows.append([encode(first), encode(second)])
    found = {"video_id": "sav_000001", "video_frame_count": 40.0, "video_height": 48.0, "video_width": 64.0}
    (folder / "sav_000001_manual.json").write_text(json.dumps({**found, "masklet": rows, "masklet_id": [0, 1]}))
    return tmp_path


def test_sav_training_videos_are_read_at_six_frames_a_second(masklets):
    plain = NormaliseStep(mean=(0, 0, 0), std=(1, 1, 1))
    for layout, root in (("sav", masklets), ("auto", masklets), ("auto", masklets / "sav_train")):
        config = config_of(data=(DataConfig(root=root, layout=layout),), transforms=(ResizeStep(sizes=(64,)), plain))
        batch = training_set(config).draw(0, epoch=0, rng=np.random.default_rng(3))
        frames = (batch.images[0].mean((1, 2, 3)) * 255 / 6).tolist()
        start = round(frames[0])
        assert start % 4 == 0
        assert np.allclose(frames, [start, start + 4, start + 8], atol=0.6), "every fourth frame of the video"
        assert batch.masks.shape == (3, 2, 64, 64)
        columns = [mask.any(0).any(0).nonzero()[0].item() for mask in batch.masks]
        assert columns == [start, start + 4, start + 8], "masks belong to their frames"
        assert (batch.masks[0, 0] & batch.masks[0, 1]).sum() > 100, "overlaps are kept"


def test_damaged_sav_training_videos_are_named(masklets):
    folder = masklets / "sav_train" / "sav_000"
    video, masks = folder / "sav_000001.mp4", folder / "sav_000001_manual.json"
    data = training_set(config_of(data=(DataConfig(root=masklets),)))
    whole = json.loads(masks.read_text())

    def drawn(match, kind, **changes):
        masks.write_text(json.dumps({**whole, **changes}))
        with pytest.raises(kind, match=match):
            for seed in range(9):
                data.draw(0, epoch=0, rng=np.random.default_rng(seed))

    drawn(r"sav_000001_manual.json.*runs", MaskError, masklet=[[{"size": [48, 64], "counts": "5"}] * 2] * 10)
    small = encode(np.ones((24, 32)))
    drawn("32x24.*64x48", MaskError, masklet=[[small, small]] * 10)
    late = [f"{index * 4 + 400:05d}" for index in range(10)]
    drawn("sav_000001.mp4", FrameError, frames=late)
    masks.write_text(json.dumps(whole)[:300])
    with pytest.raises(MaskError, match=r"sav_000001_manual.json is not valid JSON"):
        data.draw(0, epoch=0, rng=np.random.default_rng(0))
    masks.write_text(json.dumps(whole))
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(FrameError, match=r"sav_000001.mp4 is not a video"):
        data.draw(0, epoch=0, rng=np.random.default_rng(0))
    video.unlink()
    with pytest.raises(LayoutError, match=r"its video sav_000001.mp4 is missing"):
        training_clips(DataConfig(root=masklets))
    with pytest.raises(LayoutError, match=r"_auto\.json"):
        training_clips(DataConfig(root=masklets, split="train_auto"))


def test_a_mask_of_another_size_is_named(davis, tmp_path):
    write_davis(tmp_path, ClipPlan(clips=1, frames=3, height=48, width=64, objects=2))
    (clip,) = training_clips(DataConfig(root=tmp_path, layout="davis"))
    name = clip.frames[1].stem
    write_mask(clip.annotations[name], np.ones((24, 32), np.uint8))
    data = VideoClips([clip], sampler=UniformSampler(3, 1), transforms=SMALL, where="here")
    with pytest.raises(MaskError, match=f"{name}.*32x24"):
        data.draw(0, epoch=0, rng=np.random.default_rng(0))
    with pytest.raises(LayoutError, match="no clip with masks"):
        VideoClips([], sampler=UniformSampler(3, 1), transforms=SMALL, where="here")
