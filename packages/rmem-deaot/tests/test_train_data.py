"""Training clips: which frames, crops, two clips in one, pseudo clips of still images, batches."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmem_deaot.train.augment import random_crop, recoloured
from rmem_deaot.train.data import stage_data
from rmem_deaot.train.pixels import PixelClip, merged, object_pixels, reindexed
from rmem_deaot.train.samples import ClipBatch, MergedClips, collate
from rmem_deaot.train.stages import STAGES, plan_stage
from rmem_deaot.train.static_clips import StaticClips
from rmem_deaot.train.video_clips import Annotated, VideoClips, annotated_clips, walk
from vos_core.data.static import ImageMask, list_images
from vos_core.data.synthetic_write import ClipPlan, write_davis, write_folder, write_youtube_vos
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError
from vos_core.io.masks import write_mask
from vos_core.types import Clip

HEIGHT, WIDTH = 40, 56


def label(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, top, bottom, left, right in boxes:
        found[top:bottom, left:right] = value
    return found


def write_clip(root: Path, labels: list[np.ndarray], name: str = "a") -> Annotated:
    frames, masks = [], []
    for t, one in enumerate(labels):
        image = np.full((*one.shape, 3), 10 * t + 5, np.uint8)
        frames.append(root / name / f"{t:05d}.png")
        masks.append(root / f"{name}-masks" / f"{t:05d}.png")
        frames[-1].parent.mkdir(parents=True, exist_ok=True)
        masks[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(frames[-1])
        write_mask(masks[-1], one)
    return Annotated(name, tuple(frames), tuple(masks))


def clips_of(*videos: Annotated, **changes) -> VideoClips:
    return VideoClips(list(videos), **{"frames": 3, "reach": 2, "size": 33, **changes})


# --- frames of a clip ---


def test_a_walk_steps_within_reach_and_is_reflected_at_the_ends():
    rng = np.random.default_rng(0)
    for start in range(12):
        places = walk(start, 12, 9, 3, rng)
        assert places[0] == start
        assert all(0 <= place < 12 for place in places)
        assert max(abs(b - a) for a, b in itertools.pairwise(places)) <= 3
    long = walk(0, 4, 40, 1, rng)
    assert long[:8] == [0, 1, 2, 3, 2, 1, 0, 1]
    assert walk(0, 1, 3, 5, rng) == [0, 0, 0]


def test_the_reference_shows_objects_and_later_frames_no_others(tmp_path):
    empty, one, both = label(), label((4, 5, 25, 5, 25)), label((4, 5, 25, 5, 25), (9, 5, 25, 30, 50))
    video = write_clip(tmp_path, [empty, one, one, one, both])
    rng = np.random.default_rng(0)
    for _ in range(10):
        clip = clips_of(video).clip(0, rng)
        present = [set(np.unique(labels)) - {0} for labels in clip.labels]
        assert clip.objects in (1, 2)
        assert all(ids <= set(range(1, clip.objects + 1)) for ids in present)


def test_vost_wants_few_ignored_pixels_and_room_behind_the_reference(tmp_path):
    clear = label((1, 5, 30, 5, 30))
    hidden = label((1, 5, 30, 5, 30), (255, 0, 40, 30, 56))
    video = write_clip(tmp_path, [clear, hidden, hidden, hidden, hidden, clear])
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        place, found = clips_of(video, ignore=True, frames=3)._reference(video, range(6), rng)
        seen.add(place)
        assert 255 not in found
    assert seen == {0}, "frame 5 leaves no room for three frames"
    assert clips_of(video, ignore=True)._labels(video, 1).max() == 255
    assert clips_of(video)._labels(video, 1).max() == 1, "elsewhere 255 is background"


def test_unusable_clips_are_named(tmp_path):
    with pytest.raises(LayoutError, match="two annotated frames"):
        annotated_clips([Clip("a", frames=(tmp_path / "0.jpg",))], where="root")
    video = write_clip(tmp_path, [label((1, 5, 25, 5, 25))] * 3)
    write_mask(video.masks[1], np.ones((8, 8), np.uint8))
    with pytest.raises(MaskError, match=r"00001\.png is 8x8"):
        clips_of(video)._labels(video, 1)
    write_mask(video.masks[1], np.full((HEIGHT, WIDTH), 300, np.uint16))
    with pytest.raises(MaskError, match="16-bit"):
        clips_of(video)._labels(video, 1)
    whole = write_clip(tmp_path / "b", [label((1, 5, 25, 5, 25))] * 3)
    for path in whole.frames:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FrameError, match=r"0000\d\.png"):
        clips_of(whole).clip(0, np.random.default_rng(1))


# --- pixels ---


def test_a_crop_has_the_size_and_dense_ids_and_moves_frames_alike():
    rng = np.random.default_rng(0)
    labels = [label((7, 5, 30, 5, 25), (3, 10, 35, 30, 50), (255, 0, 4, 0, 56))] * 3
    images = [np.repeat(one[..., None], 3, 2) * 9 for one in labels]
    seen = set()
    for _ in range(20):
        clip = random_crop(images, labels, rng, size=33)
        assert {image.shape for image in clip.images} == {(33, 33, 3)}
        assert {one.shape for one in clip.labels} == {(33, 33)}
        assert np.array_equal(clip.labels[0], clip.labels[2])
        assert np.array_equal(clip.images[0], clip.images[2])
        ids = set(np.unique(clip.labels[0])) - {0, 255}
        assert ids == set(range(1, clip.objects + 1))
        seen.add(clip.objects)
    assert 2 in seen


def test_small_frames_are_padded_with_the_mean_colour_and_background():
    tall = np.ones((10, 200), np.uint8)  # scaled to at least 0.7 of the crop's height only
    clip = None
    rng = np.random.default_rng(0)
    for _ in range(20):
        clip = random_crop([np.zeros((10, 200, 3), np.uint8)], [tall], rng, size=65)
        outside = clip.labels[0] == 0
        if outside.any():
            break
    assert clip.images[0].shape == (65, 65, 3)
    assert (clip.images[0][outside] == (124, 116, 104)).all()
    assert not clip.images[0][~outside].any()


def test_merging_pastes_objects_keeps_visible_ones_and_ignored_pixels():
    rng = np.random.default_rng(0)

    def clip(value, *boxes):
        labels = label(*boxes)
        return PixelClip([np.full((HEIGHT, WIDTH, 3), value, np.uint8)], [labels], len(boxes))

    first = clip(1, (1, 0, 20, 0, 20), (2, 30, 40, 40, 56))
    second = clip(2, (1, 0, 20, 1, 30), (255, 35, 40, 0, 56))
    both = merged(first, second, rng)
    # The first's object 1 has 20 pixels left, too few; its object 2 and the second's object remain.
    assert both.objects == 2
    assert np.array_equal(both.labels[0] == 2, second.labels[0] == 1)
    assert np.array_equal(both.labels[0] == 1, first.labels[0] == 2)
    assert (both.labels[0][35:, :40] == 255).all()
    assert np.array_equal(both.images[0][..., 0] == 2, second.labels[0] == 1)
    many = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) // 220
    full = PixelClip([np.zeros((HEIGHT, WIDTH, 3), np.uint8)], [np.minimum(many, 10).astype(np.uint8)], 10)
    other = PixelClip(full.images, [np.roll(full.labels[0], 20, 0) * (np.arange(WIDTH) < 28)], 10)
    assert merged(full, other, rng).objects == 10, "at most ten"


def test_reindexing_drops_what_is_not_kept():
    clip = reindexed([], [np.array([[0, 3, 7, 255]], np.uint8)], [7])
    assert clip.labels[0].tolist() == [[0, 0, 1, 255]]
    assert object_pixels(np.array([[0, 3, 3, 255]])) == {3: 2}


def test_colours_change_only_as_drawn():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    rng = np.random.default_rng(0)
    results = [np.asarray(recoloured(image, rng)) for _ in range(200)]
    same = sum(np.array_equal(one, image) for one in results)
    grey = sum((one[..., 0] == one[..., 1]).all() and (one[..., 0] == one[..., 2]).all() for one in results)
    assert 8 <= same <= 40, "0.2 * 0.8 * 0.7 of them stay"
    assert 25 <= grey <= 60


# --- still images ---


@pytest.fixture
def stills(tmp_path):
    for name, value in (("a", 3), ("b", 9)):
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / folder / "COCO").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(value)
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / "COCO" / f"{name}.jpg")
        mask = label((value, 5, 30, 5, 25), (value + 1, 10, 30, 30, 50))
        write_mask(tmp_path / "Annotations" / "COCO" / f"{name}.png", mask)
    return tmp_path


@pytest.mark.parametrize("augmentation", ["v1", "v2"])
def test_a_still_image_becomes_a_moving_clip(stills, augmentation):
    clips = StaticClips(list_images(stills), frames=4, size=33, augmentation=augmentation)
    orders = set()
    for seed in range(8):
        clip = clips.clip(0, np.random.default_rng(seed))
        assert [image.shape for image in clip.images] == [(33, 33, 3)] * 4
        assert clip.objects == 2
        assert not np.array_equal(clip.labels[0], clip.labels[1])
        columns = [np.argwhere(clip.labels[0] == i)[:, 1].mean() for i in (1, 2)]
        orders.add(columns[0] < columns[1])
    assert orders == {True, False}, "ids are shuffled"


def test_binary_masks_and_wrong_ones(tmp_path, stills):
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "i.jpg")
    soft = np.zeros((HEIGHT, WIDTH), np.uint8)
    soft[5:30, 5:30] = 255
    soft[4, 5:30] = 90
    Image.fromarray(soft).save(tmp_path / "m.png")
    item = ImageMask("i", tmp_path / "i.jpg", tmp_path / "m.png", "x", 3, "binary")
    clips = StaticClips([item], frames=2, size=33)
    assert len(clips) == 3
    assert clips.clip(0, np.random.default_rng(0)).objects == 1
    Image.fromarray(soft[:9]).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"m\.png is 56x9"):
        clips.clip(0, np.random.default_rng(0))
    with pytest.raises(LayoutError, match="empty"):
        StaticClips([], frames=2, size=33)


# --- samples and stages ---


class Fixed:
    """Clips of one object each, as bright as their index."""

    def __init__(self, objects=(1, 1)):
        self.objects = objects

    def __len__(self):
        return len(self.objects)

    def clip(self, index, rng):
        labels = np.zeros((20, 20), np.uint8)
        for i in range(self.objects[index]):
            labels[index * 10 :, 5 * i : 5 * i + 5] = i + 1
        return PixelClip([np.full((20, 20, 3), index + 1, np.uint8)] * 2, [labels] * 2, self.objects[index])


def test_samples_are_merged_by_chance_and_always_when_empty():
    rng = np.random.default_rng(0)
    never = [MergedClips(Fixed(), merge=0.0).draw(1, epoch=0, rng=rng) for _ in range(10)]
    assert {one.objects for one in never} == {(1,)}
    assert all((one.images == 2).all() for one in never)
    empty = [MergedClips(Fixed((0, 4)), merge=0.0).draw(0, epoch=0, rng=rng).objects for _ in range(10)]
    assert {(0,), (0,)} <= set(empty) or len(set(empty)) == 1
    shares = [MergedClips(Fixed((4, 4)), merge=0.3).draw(0, epoch=0, rng=rng).images.eq(2).any().item() for _ in range(300)]
    assert 20 <= sum(shares) <= 75, "half of 0.3: the second clip may be the same"
    few = MergedClips(Fixed((4, 4)), merge=0.0, objects=2).draw(0, epoch=0, rng=rng)
    assert few.objects == (2,)
    assert set(few.labels.unique().tolist()) == {0, 1, 2}


def test_batches_put_frames_first_and_pixels_are_normalised():
    rng = np.random.default_rng(0)
    clips = MergedClips(Fixed(), merge=0.0)
    batch = collate([clips.draw(index, epoch=0, rng=rng) for index in (0, 1, 0)])
    assert batch.images.shape == (2, 3, 3, 20, 20)
    assert batch.labels.shape == (2, 3, 20, 20)
    assert batch.objects == (1, 1, 1)
    assert batch.images[:, 1].eq(2).all()
    assert batch.channels.shape == (3, 11)
    assert batch.channels[:, 0].eq(0).all()
    assert all(sorted(row.tolist()) == list(range(11)) for row in batch.channels)
    expected = (1 / 255 - 0.485) / 0.229
    assert batch.normalised[0, 0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-5)
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, ClipBatch)
    assert moved.objects == batch.objects


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    plan = ClipPlan(clips=2, frames=11, height=48, width=64, objects=2)
    names = write_davis(root / "DAVIS", plan)
    write_youtube_vos(root / "YouTube", plan)
    write_folder(root / "folder", plan)
    vost = root / "VOST"
    (vost / "ImageSets").mkdir(parents=True)
    (vost / "ImageSets" / "train.txt").write_text("\n".join(names))
    for part in ("JPEGImages", "Annotations"):
        (vost / part).symlink_to(root / "folder" / part)
    return {"davis2017": root / "DAVIS", "youtubevos": root / "YouTube", "visor": root / "folder", "vost": vost}


def test_a_stage_mixes_its_sets(roots):
    plan = plan_stage("pre_ytb_dav", "deaott")
    both = stage_data(plan, roots, size=33)
    assert len(both) == 5 * 2 + 2
    youtube, davis = both.rows[0][0], both.rows[-1][0]
    assert (youtube.source.reach, davis.source.reach) == (3, 12)
    assert youtube.merge == 0.3
    assert davis.source.augmentation == "v2"
    only = stage_data(plan, {"davis2017": roots["davis2017"]}, size=33)
    assert len(only) == 10
    vost = stage_data(plan_stage("pre_vost_2", "r50_aotl"), roots, size=33)
    assert vost.rows[0][0].source.ignore
    assert vost.rows[0][0].source.frames == 17
    other = stage_data(plan, roots, sources=("visor",), size=33)
    assert other.rows[0][0].source.reach == 1
    sample = other.draw(0, epoch=0, rng=np.random.default_rng(0))
    assert sample.images.shape == (5, 1, 3, 33, 33)


def test_missing_roots_are_named(roots):
    with pytest.raises(UsageError, match="--static_root"):
        stage_data(plan_stage("pre", "aott"), roots, size=33)
    with pytest.raises(UsageError, match="--lvos_root"):
        stage_data(plan_stage("pre_dav", "aott"), roots, sources=("lvos",), size=33)
    with pytest.raises(LayoutError, match="nowhere"):
        stage_data(plan_stage("pre_dav", "aott"), {"davis2017": Path("nowhere")}, size=33)


def test_published_values_depend_on_the_form():
    assert set(STAGES) == {
        "PRE", "PRE_YTB_DAV", "PRE_YTB", "YTB", "PRE_DAV", "PRE_LVOS", "PRE_VOST", "PRE_VOST_2", "PRE_VOST_25Q",
    }  # fmt: skip
    plain, positions = (plan_stage("pre-ytb-dav", "r50_deaotl", temporal_position=flag) for flag in (False, True))
    assert (plain.variant, plain.stage.frames, plain.stage.batch) == ("r50_deaotl", 5, 16)
    assert (positions.variant, positions.stage.frames, positions.stage.batch) == ("r50_deaotl_rmem", 9, 8)
    assert (plain.augmentation, plan_stage("PRE", "r50_aotl").augmentation) == ("v2", "v1")
    vost = plan_stage("pre_vost_25q", "r50_deaotl_rmem")
    assert (vost.variant, vost.stage.frames, vost.stage.gap, vost.augmentation) == ("r50_deaotl_rmem_vost", 25, 4, "v1")
    small = plan_stage("pre_ytb_dav", "deaots")
    assert (small.stage.min_lr, small.stage.gap, plan_stage("pre_ytb_dav", "deaotl").stage.gap) == (2e-5, 9999, 2)
    lvos = plan_stage("pre_lvos", "r50_deaotl_rmem").stage
    assert (lvos.steps, lvos.frames, lvos.gap, lvos.start) == (1000, 15, 4, "PRE_YTB_DAV")
    still = plan_stage("pre", "r50_deaotl").stage
    assert (still.lr, still.weight_decay, still.merge, still.aux_ratio, still.own_masks) == (4e-4, 0.03, 1.0, 0.1, False)


@pytest.mark.parametrize(
    ("stage", "model", "words"),
    [
        ("pre_x", "aott", "PRE_YTB_DAV"),
        ("pre", "x", "r50_deaotl"),
        ("pre_vost", "aott", "no form for VOST"),
        ("pre", "r50_aotl_vost", "a form for VOST"),
        ("pre", "r50_aotl_rmem_vost", "a form for VOST"),
    ],
)
def test_forms_that_there_are_not_are_refused(stage, model, words):
    with pytest.raises(UsageError, match=words):
        plan_stage(stage, model)


def test_a_form_with_positions_must_exist():
    with pytest.raises(UsageError, match="no form with temporal positions"):
        plan_stage("pre", "swinb_aotl", temporal_position=True)
