from __future__ import annotations

import hashlib
import itertools
import json
import pickle

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vos_core.cli.data_synth import command
from vos_core.cli.main import main
from vos_core.data.layout import open_layout
from vos_core.data.synthetic import SCENARIOS, make_scene, render_clip
from vos_core.data.synthetic_texture import noise, wave
from vos_core.data.synthetic_write import (
    ClipPlan,
    write_clips,
    write_davis,
    write_folder,
    write_ithor,
    write_kinetics,
    write_youtube_vos,
)
from vos_core.errors import UsageError

SMALL = ClipPlan(clips=2, frames=12, height=64, width=96, objects=2, scenarios=("motion", "late_entry"), seed=5)


def labels_of(scenario, *, frames=24, objects=3, seed=3, height=120, width=216):
    options = {"frames": frames, "height": height, "width": width, "objects": objects, "scenario": scenario}
    return np.stack([labels for _, labels in render_clip(seed, **options)])


def read(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_draws_exactly_the_asked_objects_and_the_first_frame_shows_them(scenario):
    labels = labels_of(scenario)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    first = {1} if SCENARIOS[scenario].late else {1, 2, 3}
    assert set(np.unique(labels[0])) - {0} == first
    for object_id in first:
        assert (labels[0] == object_id).sum() >= 100


def test_the_bytes_of_a_seed_are_pinned():
    digest = hashlib.sha256()
    for rgb, labels in render_clip(11, frames=6, height=48, width=80, objects=2, scenario="mixed"):
        assert rgb.dtype == labels.dtype == np.uint8
        digest.update(rgb.tobytes() + labels.tobytes())
    assert digest.hexdigest() == "65dcbdd0c89d4dc4a5ce1d29571d0b85190f8dcedee4b70d0e11cf7fcc0d48fb"


def test_seeds_differ_and_frames_do_not_depend_on_the_order_of_drawing():
    scene, other = make_scene(1, frames=9, height=64, width=64), make_scene(2, frames=9, height=64, width=64)
    last = scene.draw(8)
    in_order = list(render_clip(1, frames=9, height=64, width=64))
    assert np.array_equal(last[0], in_order[8][0])
    assert np.array_equal(last[1], in_order[8][1])
    assert not np.array_equal(scene.draw(0)[0], other.draw(0)[0])


def test_a_long_clip_is_drawn_on_demand_with_the_events_repeated():
    scene = make_scene(0, frames=2000, height=48, width=64, objects=1, scenario="reentry")
    rgb, labels = scene.draw(1999)
    assert rgb.shape == (48, 64, 3)
    assert labels.shape == (48, 64)
    gone = [not scene.draw(start + scene.period // 2)[1].any() for start in (0, scene.period, 19 * scene.period)]
    assert gone == [True, True, True]


def test_occlusion_hides_the_first_object_wholly_and_shows_it_again():
    seen = (labels_of("occlusion") == 1).any(axis=(1, 2))
    assert seen[0]
    assert seen[-1]
    assert not seen[12]


def test_reentry_leaves_and_comes_back():
    seen = (labels_of("reentry") == 1).any(axis=(1, 2))
    assert seen[0]
    assert not seen.all()
    assert seen[-1]


def test_late_objects_enter_one_after_the_other_through_a_border():
    labels = labels_of("late_entry")
    births = [int((labels == i).any(axis=(1, 2)).argmax()) for i in (1, 2, 3)]
    assert births[0] == 0 < births[1] < births[2]
    for object_id, birth in ((2, births[1]), (3, births[2])):
        columns = np.flatnonzero((labels[birth] == object_id).any(axis=0))
        assert columns[0] == 0 or columns[-1] == labels.shape[2] - 1


def test_scale_changes_the_area_and_appearance_changes_the_colour():
    area = (labels_of("scale", objects=1) == 1).sum(axis=(1, 2))
    assert area.max() > 2 * area[0]
    assert area.min() < 0.5 * area[0]
    frames = list(render_clip(3, frames=24, height=120, width=216, objects=1, scenario="appearance"))
    colour = [rgb[labels == 1].mean(axis=0) for rgb, labels in (frames[0], frames[12])]
    assert np.abs(colour[0] - colour[1]).max() > 25


def test_motion_is_smooth_and_the_texture_moves_with_the_object():
    frames = list(render_clip(8, frames=10, height=160, width=288, objects=1, scenario="motion"))
    centres = np.array([np.argwhere(labels == 1).mean(axis=0) for _, labels in frames])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert 0.3 < steps.max() < 20
    start, end = 4, 6
    shift = np.round(centres[end] - centres[start]).astype(int)
    assert np.abs(shift).max() >= 2
    inner = np.argwhere(frames[start][1] == 1)
    moved = inner + shift
    both = (frames[end][1][moved[:, 0], moved[:, 1]] == 1) & (frames[end][1][inner[:, 0], inner[:, 1]] == 1)
    before, later = frames[start][0].astype(float), frames[end][0].astype(float)
    here, there = tuple(inner[both].T), tuple(moved[both].T)
    assert np.abs(before[here] - later[there]).mean() < 0.6 * np.abs(before[here] - later[here]).mean()


def test_lookalikes_share_the_first_objects_hue_and_are_background():
    scene = make_scene(4, frames=2, height=120, width=216, objects=2, scenario="lookalike")
    scenery = [actor for actor in scene.actors if actor.object_id == 0]
    first, second = (next(actor for actor in scene.actors if actor.object_id == i) for i in (1, 2))

    def hue(actor):
        mean = actor.tiles[0].reshape(-1, 3).mean(axis=0)
        return (mean - mean.mean()) / np.linalg.norm(mean - mean.mean())

    assert len(scenery) == 2
    for actor in scenery:
        assert hue(actor) @ hue(first) > 0.9 > hue(actor) @ hue(second)


def test_masks_are_exact_every_object_pixel_differs_from_the_scene_without_it():
    scene = make_scene(4, frames=1, height=96, width=96, objects=1, scenario="motion")
    empty = type(scene)(**{name: getattr(scene, name) for name in scene.__dataclass_fields__ if name != "actors"}, actors=())
    (rgb, labels), (bare, nothing) = scene.draw(0), empty.draw(0)
    assert not nothing.any()
    assert np.array_equal(rgb[labels == 0], bare[labels == 0])
    assert (rgb[labels == 1] != bare[labels == 1]).any(axis=1).mean() > 0.95


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenario": "rain"}, "rain"),
        ({"frames": 0}, "0 frames"),
        ({"height": 8}, "8x432"),
        ({"objects": 0}, "0 objects"),
        ({"objects": 255}, "void"),
        ({"objects": 200, "height": 32, "width": 32}, "do not fit"),
        ({"objects": 1, "scenario": "late_entry"}, "late"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        make_scene(0, **options)
    with pytest.raises(UsageError, match="seed -1"):
        make_scene(-1)
    with pytest.raises(UsageError, match="no frame 24"):
        make_scene(0, frames=24).draw(24)


def test_wave_and_noise_stay_in_their_ranges():
    values = [wave(i / 1000) for i in range(2000)]
    assert min(values) == -1.0
    assert max(values) == 1.0
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.01
    field = noise(np.random.default_rng(0), 50, 70, cell=16)
    assert field.shape == (50, 70)
    assert 0 <= field.min() < field.max() <= 1


def test_davis_layout_holds_frames_palette_masks_and_splits(tmp_path):
    names = write_davis(tmp_path, SMALL)
    assert names == ("motion-005", "late-entry-006")
    assert (tmp_path / "ImageSets/2017/val.txt").read_text().split() == list(names)
    rgb, labels = make_scene(5, frames=12, height=64, width=96, objects=2, scenario="motion").draw(3)
    with Image.open(tmp_path / "Annotations/480p/motion-005/00003.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[3:6] == [128, 0, 0]
        assert np.array_equal(np.asarray(mask), labels)
    image = read(tmp_path / "JPEGImages/480p/motion-005/00003.jpg").astype(int)
    assert np.abs(image - rgb).mean() < 6


def test_a_repeated_run_writes_only_what_is_missing(tmp_path):
    write_folder(tmp_path, SMALL)
    lost, kept = tmp_path / "Annotations/motion-005/00004.png", tmp_path / "Annotations/motion-005/00005.png"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    write_folder(tmp_path, SMALL)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp


def test_other_settings_and_foreign_folders_are_refused(tmp_path):
    write_folder(tmp_path / "clips", SMALL)
    with pytest.raises(UsageError, match="seed"):
        write_folder(tmp_path / "clips", ClipPlan(**{**{n: getattr(SMALL, n) for n in SMALL.__dataclass_fields__}, "seed": 6}))
    with pytest.raises(UsageError, match="layout"):
        write_davis(tmp_path / "clips", SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        write_folder(tmp_path / "mine", SMALL)
    (tmp_path / "clips" / "synthetic.json").write_text("{")
    with pytest.raises(UsageError, match=r"synthetic\.json"):
        write_folder(tmp_path / "clips", SMALL)
    with pytest.raises(UsageError, match="do not fit"):
        write_folder(tmp_path / "new", ClipPlan(objects=200, height=32, width=32))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="at least one"):
        write_folder(tmp_path / "new", ClipPlan(clips=0))


def test_youtube_vos_gives_first_masks_only_and_meta_from_the_entry_on(tmp_path):
    write_youtube_vos(tmp_path, SMALL)
    meta = json.loads((tmp_path / "valid/meta.json").read_text())["videos"]
    first, late = meta["late-entry-006"]["objects"]["1"]["frames"], meta["late-entry-006"]["objects"]["2"]["frames"]
    assert first == ["00000", "00005", "00010"]
    assert late[0] > "00000"
    given = sorted(path.stem for path in (tmp_path / "valid/Annotations/late-entry-006").iterdir())
    assert given == ["00000", late[0]]
    assert set(np.unique(read(tmp_path / f"valid/Annotations/late-entry-006/{late[0]}.png"))) == {0, 2}
    assert set(np.unique(read(tmp_path / f"train/Annotations/late-entry-006/{late[0]}.png"))) == {0, 1, 2}
    assert len(list((tmp_path / "valid_all_frames/JPEGImages/motion-005").iterdir())) == 12
    assert len(list((tmp_path / "valid/JPEGImages/motion-005").iterdir())) == 3
    train = json.loads((tmp_path / "train/meta.json").read_text())["videos"]
    assert "category" in train["motion-005"]["objects"]["1"]
    assert "category" not in meta["motion-005"]["objects"]["1"]


def test_ithor_has_a_folder_per_object_with_grey_masks_of_the_same_stems(tmp_path):
    folders = write_ithor(tmp_path, SMALL)
    assert "late-entry-006_002" in folders
    for folder in folders:
        stems = [sorted(path.stem for path in (tmp_path / folder / kind).iterdir()) for kind in ("imgs", "masks")]
        assert stems[0] == stems[1]
        mask = Image.open(tmp_path / folder / "masks" / f"{stems[1][0]}.png")
        assert mask.mode == "L"
        assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_kinetics_has_videos_of_all_frames_and_a_label_list(tmp_path):
    write_kinetics(tmp_path, SMALL)
    entries = pickle.loads((tmp_path / "labels/label_full_1.0.pickle").read_bytes())
    assert entries == [(1, "train2/motion/motion-005.mp4"), (0, "train2/late_entry/late-entry-006.mp4")]
    video = cv2.VideoCapture(str(tmp_path / entries[0][1]))
    frames = []
    while (answer := video.read())[0]:
        frames.append(answer[1])
    assert len(frames) == 12
    rgb, _ = make_scene(5, frames=12, height=64, width=96, objects=2, scenario="motion").draw(11)
    assert np.abs(frames[11][..., ::-1].astype(int) - rgb).mean() < 15
    with pytest.raises(UsageError, match="even sides"):
        write_kinetics(tmp_path / "odd", ClipPlan(height=65, width=96))


@pytest.mark.parametrize(
    ("layout", "split", "count"),
    [
        ("davis", "val", 2),
        ("youtube-vos", "valid", 2),
        ("youtube-vos", "train", 2),
        ("ithor", None, 4),
        ("kinetics", None, 2),
        ("folder", None, 2),
    ],
)
def test_the_layouts_are_opened_without_a_problem_by_their_readers(tmp_path, layout, split, count):
    write_clips(tmp_path, SMALL, layout=layout)
    opened = open_layout(layout, tmp_path, split, on_problem="keep")
    assert [problem for problem in opened.problems if problem.level == "error"] == []
    assert len(opened) == count


def test_write_clips_chooses_the_layout_and_tells_of_each_clip(tmp_path):
    told = []
    assert write_clips(tmp_path, SMALL, layout="folder", on_clip=told.append) == tuple(told)
    assert (tmp_path / "JPEGImages" / told[0] / "00000.jpg").is_file()
    with pytest.raises(UsageError, match="cityscapes"):
        write_clips(tmp_path, SMALL, layout="cityscapes")


def test_the_command_writes_all_scenarios_in_turn_and_names_them(tmp_path):
    words = [str(tmp_path / "out"), "--clips", "9", "--frames", "2", "--size", "48x64", "--scenario", "all", "--layout", "folder"]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.split()[:2] == ["motion-000", "occlusion-001"]
    assert len(result.stdout.split()) == 9
    again = CliRunner().invoke(command, [*words, "--json"])
    assert len(json.loads(again.stdout)["clips"]) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "240"], "--size 240"),
        (["--size", "0x9"], "0x9"),
        (["--objects", "1", "--scenario", "late_entry"], "late_entry"),
    ],
)
def test_the_command_refuses_bad_options_with_exit_2(tmp_path, words, message):
    result = CliRunner().invoke(main, ["data", "synth", str(tmp_path / "out"), *words])
    assert result.exit_code == 2
    assert message in result.output
