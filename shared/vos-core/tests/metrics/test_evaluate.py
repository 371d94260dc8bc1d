from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos_core.errors import MaskError, ScoreError, UsageError
from vos_core.metrics import evaluate_clips, evaluate_videos, write_results
from vos_core.metrics.davis import DavisSemi, DavisUnsupervised
from vos_core.metrics.evaluate import RESULTS
from vos_core.metrics.folder import FolderProtocol, SavProtocol, pair_folders
from vos_core.metrics.lvos import LvosProtocol, lvos_jobs
from vos_core.metrics.mosev2 import MoseV2Protocol, mosev2_jobs
from vos_core.metrics.source import VideoJob
from vos_core.metrics.trackeval import TrackEvalProtocol
from vos_core.metrics.transform import VostProtocol
from vos_core.metrics.youtube import YoutubeProtocol, youtube_jobs
from vos_core.testing import needs_shared
from vos_core.types import Clip

Write = Callable[..., None]
T, H, W = 6, 40, 70


def labels(*, objects: int = 2, late: int = 0) -> Any:
    """Return boxes that move right by a pixel a frame; object 2 comes in at frame `late`."""
    x = np.zeros((T, H, W), np.uint8)
    for t in range(T):
        x[t, 5:20, 5 + t : 25 + t] = 1
        if objects > 1 and t >= late:
            x[t, 25:35, 30 + t : 50 + t] = 2
    return x


@pytest.fixture
def roots(tmp_path: Path, write_masks: Write) -> tuple[Path, Path]:
    for side in ("truth", "prediction"):
        for video in ("a", "b"):
            write_masks(tmp_path / side / video, labels())
    return tmp_path / "truth", tmp_path / "prediction"


def jobs_of(roots: tuple[Path, Path], *names: str) -> list[VideoJob]:
    return [VideoJob(name, roots[0] / name, roots[1] / name) for name in names or ("a", "b")]


@pytest.mark.parametrize("protocol", [DavisSemi(), DavisUnsupervised(), FolderProtocol(), VostProtocol(), TrackEvalProtocol()])
def test_a_missing_prediction_is_an_error_or_an_empty_mask(protocol: Any, roots: tuple[Path, Path]) -> None:
    (roots[1] / "b" / "00002.png").unlink()
    with pytest.raises(ScoreError, match=r"video b, frame 00002: no predicted mask .*b/00002\.png.*--missing empty"):
        evaluate_videos(protocol, jobs_of(roots), processes=1)
    found = evaluate_videos(type(protocol)(missing="empty"), jobs_of(roots), processes=1)
    assert "video b: 1 predicted masks are absent and scored as empty" in found.warnings
    values = {(item.video, item.frames[t]): value for item, _ in found.rows() for t, value in enumerate(item.values["J"])}
    assert values["b", "00002"] == 0.0
    assert values["a", "00002"] == values["b", "00003"] == 1.0


def test_a_missing_folder_names_the_first_mask_it_should_hold(roots: tuple[Path, Path]) -> None:
    job = VideoJob("b", roots[0] / "b", roots[1] / "c")
    with pytest.raises(ScoreError, match=r"video b: no predicted PNG in .*c/00000\.png"):
        evaluate_videos(FolderProtocol(), [job], processes=1)
    found = evaluate_videos(FolderProtocol(missing="empty"), [job], processes=1)
    assert found.scores["J"] == 0.0
    with pytest.raises(ScoreError, match="video b: no ground truth"):
        evaluate_videos(FolderProtocol(), [VideoJob("b", roots[0] / "c", roots[1] / "b")], processes=1)
    with pytest.raises(UsageError, match="no video"):
        evaluate_videos(FolderProtocol(), [], processes=1)


def test_faulty_masks_name_video_frame_and_file(roots: tuple[Path, Path], write_masks: Write) -> None:
    write_masks(roots[1] / "a", labels()[:, :, :60])
    with pytest.raises(ScoreError, match=r"video a, frame 00001: .*a/00001\.png is 60x40 pixels. Expected 70x40"):
        evaluate_videos(FolderProtocol(), jobs_of(roots), processes=1)
    (roots[1] / "b" / "00003.png").write_bytes((roots[1] / "b" / "00003.png").read_bytes()[:60])
    with pytest.raises(MaskError, match=r"video b, frame 00003: mask .*b/00003\.png is damaged"):
        evaluate_videos(FolderProtocol(), jobs_of(roots, "b"), processes=1)


def test_errors_come_out_of_worker_processes_whole(roots: tuple[Path, Path]) -> None:
    (roots[1] / "b" / "00002.png").unlink()
    with pytest.raises(ScoreError, match="video b, frame 00002") as caught:
        evaluate_videos(FolderProtocol(), jobs_of(roots), processes=2)
    assert caught.value.fix


def test_processes_do_not_change_anything(roots: tuple[Path, Path], write_masks: Write) -> None:
    write_masks(roots[1] / "a", np.roll(labels(), 3, axis=1))
    seen: list[str] = []
    one = evaluate_videos(FolderProtocol(), jobs_of(roots), processes=1)
    two = evaluate_videos(FolderProtocol(), jobs_of(roots), processes=2, progress=lambda video: seen.append(video.video))
    assert one == two
    assert sorted(seen) == ["a", "b"]
    assert 0 < one.scores["J"] < 1


def test_results_are_reused_only_while_nothing_changed(roots: tuple[Path, Path], tmp_path: Path, write_masks: Write) -> None:
    out = tmp_path / "out"
    first = evaluate_videos(DavisSemi(), jobs_of(roots), processes=1)
    write_results(first, out)
    seen: list[str] = []

    def note(video: Any) -> None:
        seen.append(video.video)

    def again(protocol: Any) -> Any:
        seen.clear()
        return evaluate_videos(
            protocol, jobs_of(roots), processes=1, reuse=out / RESULTS, progress=lambda v: seen.append(v.video)
        )

    assert again(DavisSemi()) == first
    assert seen == []
    again(DavisSemi(legacy_decay=True))
    assert seen == ["a", "b"]
    again(FolderProtocol())
    assert seen == ["a", "b"]
    write_masks(roots[1] / "a", np.roll(labels(), 1, axis=1))
    assert again(DavisSemi()).scores["J-Mean"] < first.scores["J-Mean"]
    assert seen == ["a", "b"]
    (out / RESULTS).write_text("{}")
    again(DavisSemi())
    assert seen == ["a", "b"]


def test_results_json_holds_protocol_version_hashes_and_full_precision(roots: tuple[Path, Path], tmp_path: Path) -> None:
    from vos_core import __version__

    evaluation = evaluate_videos(FolderProtocol(), jobs_of(roots), processes=1)
    paths = write_results(evaluation, tmp_path / "out")
    assert [path.name for path in paths] == ["results.csv", RESULTS]
    stored = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert stored["protocol"] == "vos-benchmark"
    assert stored["tool"] == {"name": "vos-core", "version": __version__}
    assert stored["inputs"]["truth"]["files"] == stored["inputs"]["prediction"]["files"] == 2 * T
    assert len(stored["inputs"]["truth"]["sha256"]) == 64
    assert stored["objects"][0]["values"]["J"] == list(evaluation.videos[0].objects[0].values["J"])
    assert stored["scores"] == evaluation.scores


def test_gaps_in_ids_are_scored_as_in_the_official_tool_with_a_warning(roots: tuple[Path, Path], write_masks: Write) -> None:
    for root in roots:
        write_masks(root / "a", np.array([0, 1, 4], np.uint8)[labels()])
    found = evaluate_videos(DavisSemi(), jobs_of(roots, "a"), processes=1)
    assert len(found.object_scores) == 4
    assert "video a: ids 2, 3 are absent" in found.warnings[0]


def test_a_video_without_scored_frames_is_left_out_of_means(roots: tuple[Path, Path], write_masks: Write, tmp_path: Path) -> None:
    for root in roots:
        write_masks(root / "short", labels()[:2])
    write_masks(roots[1] / "a", np.roll(labels(), 3, axis=1))
    alone = evaluate_videos(DavisSemi(), jobs_of(roots, "a"), processes=1)
    both = evaluate_videos(DavisSemi(), jobs_of(roots, "a", "short"), processes=1)
    assert both.scores == alone.scores
    assert "video short, object 1: no frames to score" in both.warnings[0]
    lines = both.tables["per-sequence_results-val.csv"].splitlines()
    assert lines[-1] == "short_2,,"
    stored = json.loads(write_results(both, tmp_path / "out")[-1].read_text())
    assert stored["objects"][-1]["scores"]["J-Mean"] is None


def test_folder_pairs_are_the_common_videos_or_strictly_all(roots: tuple[Path, Path], write_masks: Write, tmp_path: Path) -> None:
    write_masks(roots[1] / "c", labels())
    jobs, differing = pair_folders(*roots)
    assert ([job.video for job in jobs], differing) == (["a", "b"], ["c"])
    with pytest.raises(ScoreError, match="differ in 1 videos: c"):
        pair_folders(*roots, strict=True)
    with pytest.raises(ScoreError, match="no video in common"):
        pair_folders(roots[0], tmp_path / "nothing")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "Annotations").symlink_to(roots[0])
    assert pair_folders(tmp_path / "set", roots[1])[0][0].truth == tmp_path / "set" / "Annotations" / "a"


def test_object_folders_may_overlap_and_later_predictions_are_ignored(tmp_path: Path, write_masks: Write) -> None:
    boxes = labels()
    for side, extra in (("truth", 1), ("prediction", 0)):
        for k in (1, 2):
            mask = (boxes > 0) if k == 2 else (boxes == 1)
            write_masks(tmp_path / side / "v" / f"{k - 1:03d}", mask, every=1 + extra)
    job = VideoJob("v", tmp_path / "truth" / "v", tmp_path / "prediction" / "v")
    found = evaluate_videos(SavProtocol(), [job], processes=1)
    assert found.scores == {"J&F": 1.0, "J": 1.0, "F": 1.0}
    assert [item.frames for item, _ in found.rows()] == [("00002",)] * 2
    (tmp_path / "prediction" / "v" / "001" / "00002.png").unlink()
    with pytest.raises(ScoreError, match=r"video v, object 001, frame 00002: no predicted mask .*001/00002\.png"):
        evaluate_videos(SavProtocol(), [job], processes=1)
    assert evaluate_videos(SavProtocol(missing="empty"), [job], processes=1).scores["J"] == 0.5


def test_sav_takes_label_maps_too(roots: tuple[Path, Path]) -> None:
    assert (
        evaluate_videos(SavProtocol(), jobs_of(roots), processes=1).videos
        == evaluate_videos(FolderProtocol(), jobs_of(roots), processes=1).videos
    )


def lvos_meta(count: int) -> Any:
    ranges = {"start": "1", "end": str(1 + 5 * (count - 1)), "frame_nums": str(count)}
    return {"videos": {name: {"objects": {k: {"frame_range": ranges} for k in "12"}} for name in ("a", "b")}}


@pytest.mark.parametrize("task", ["unsup_single", "unsup_multiple"])
def test_lvos_range_fault_only_on_request(task: Any, tmp_path: Path, write_masks: Write) -> None:
    for side in ("truth", "prediction"):
        for name in ("a", "b"):
            x = labels() if task == "unsup_multiple" else np.where(labels() == 1, 255 if side == "prediction" else 1, 0)
            write_masks(tmp_path / side / name, x, first=1, step=5, digits=8)
    jobs = lvos_jobs(lvos_meta(T), tmp_path / "truth", tmp_path / "prediction")
    right = evaluate_videos(LvosProtocol(task, unseen=frozenset("b")), jobs, processes=1)
    legacy = evaluate_videos(LvosProtocol(task, unseen=frozenset("b"), legacy_range=True), jobs, processes=1)
    assert right.object_scores[0]["J"] == 1.0
    assert legacy.object_scores[0]["J"] == (T - 1) / T


def test_lvos_with_one_group_and_bad_values(tmp_path: Path, write_masks: Write) -> None:
    for side in ("truth", "prediction"):
        for name in ("a", "b"):
            write_masks(tmp_path / side / name, labels(), first=1, step=5, digits=8)
    jobs = lvos_jobs(lvos_meta(T), tmp_path / "truth", tmp_path / "prediction")
    found = evaluate_videos(LvosProtocol(), jobs, processes=1)
    assert found.scores["J&F-Mean"] == found.scores["J-seen-Mean"] == 1.0
    assert math.isnan(found.scores["J-unseen-Mean"])
    assert any("no unseen video" in warning for warning in found.warnings)
    write_masks(tmp_path / "prediction" / "a", labels(objects=1) * 7, first=1, step=5, digits=8)
    with pytest.raises(ScoreError, match=r"video a, frame 00000001: .*00000001\.png has the values \[0, 7\]"):
        evaluate_videos(LvosProtocol("unsup_single"), jobs, processes=1)
    with pytest.raises(ScoreError, match="frame 00000031: no ground truth mask"):
        evaluate_videos(LvosProtocol(), lvos_jobs(lvos_meta(T + 2), tmp_path / "truth", tmp_path / "prediction"), processes=1)
    with pytest.raises(ScoreError, match="not LVOS's"):
        lvos_jobs({"videos": {"a": {"objects": {"1": {}}}}}, tmp_path, tmp_path)


def mosev2_meta(length: int = T) -> Any:
    return {"videos": {name: {"length": length, "height": H, "width": W, "objects": {"1": {}, "2": {}}} for name in ("a", "b")}}


def test_mosev2_missing_videos_and_frames(roots: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "results").symlink_to(roots[1])
    entered = evaluate_videos(MoseV2Protocol(), mosev2_jobs(mosev2_meta(), roots[0], tmp_path / "outer"), processes=1)
    assert entered.scores["J"] == 1.0
    assert math.isnan(entered.scores["disappear_J&F_new"])
    assert json.loads(entered.tables["metrics.json"])["a_1"]["disappear_J&F_new"] is None
    jobs = mosev2_jobs(mosev2_meta(), *roots)
    (roots[1] / "a" / "00003.png").unlink()
    with pytest.raises(ScoreError, match=r"video a: .* holds 5 masks, frame 00003 is missing"):
        evaluate_videos(MoseV2Protocol(), jobs, processes=1)
    assert evaluate_videos(MoseV2Protocol(missing="empty"), jobs, processes=1).scores["J"] < 1
    for path in (roots[1] / "a").iterdir():
        path.unlink()
    with pytest.raises(ScoreError, match="video a: no predicted PNG"):
        evaluate_videos(MoseV2Protocol(), jobs, processes=1)
    halved = evaluate_videos(MoseV2Protocol(missing="empty"), jobs, processes=1)
    assert halved.scores["J"] == 0.5
    assert any("scored 0" in warning for warning in halved.warnings)
    with pytest.raises(ScoreError, match="video a of the meta file lacks length and objects"):
        mosev2_jobs({"videos": {"a": {}}}, *roots)
    with pytest.raises(ScoreError, match='no table "videos"'):
        mosev2_jobs({"videos": 3}, *roots)


def test_mosev2_surplus_masks_and_objects_that_no_mask_shows(roots: tuple[Path, Path]) -> None:
    meta = mosev2_meta()
    meta["videos"]["b"]["objects"]["7"] = {}
    scored = evaluate_videos(MoseV2Protocol(), mosev2_jobs(meta, *roots), processes=1)
    assert scored.scores["J"] == 1.0, "as in the official tool"
    (warning,) = scored.warnings
    assert "video b" in warning
    assert "the ids 7 of the meta file" in warning
    assert warning.endswith("(ids of its first mask: 1, 2)")
    (roots[1] / "b" / "00099.png").write_bytes((roots[1] / "b" / "00003.png").read_bytes())
    with pytest.raises(ScoreError, match=r"video b: .* 00099 is no frame.*Take the others away"):
        evaluate_videos(MoseV2Protocol(), mosev2_jobs(meta, *roots), processes=1)


def test_youtube_groups_by_object_and_by_category(roots: tuple[Path, Path], write_masks: Write) -> None:
    write_masks(roots[0] / "a", labels(late=2))
    write_masks(roots[1] / "a", np.where(labels(late=2) == 2, 0, labels()))
    groups = {"a": {"1": "seen", "2": "unseen"}}
    found = evaluate_videos(YoutubeProtocol(), youtube_jobs(*roots, groups=groups), processes=1)
    assert found.scores == {"G": 0.5, "J-seen": 1.0, "J-unseen": 0.0, "F-seen": 1.0, "F-unseen": 0.0}
    assert [len(item.frames) for item, _ in found.rows()] == [T - 1, T - 3]
    meta = {
        "videos": {
            "a": {"objects": {"1": {"category": "dog", "frames": ["00001"]}, "2": {"category": "ape", "frames": ["00003"]}}}
        }
    }
    by_category = evaluate_videos(YoutubeProtocol(), youtube_jobs(*roots, groups={"unseen": ["ape"]}, meta=meta), processes=1)
    assert by_category.scores == found.scores
    assert [item.frames[0] for item, _ in by_category.rows()] == ["00002", "00004"]


def test_youtube_groups_that_do_not_fit(roots: tuple[Path, Path]) -> None:
    alone = evaluate_videos(YoutubeProtocol(), youtube_jobs(*roots, groups={"a": {"1": "seen"}}), processes=1)
    assert alone.scores["G"] == 1.0
    assert any("no unseen object" in warning for warning in alone.warnings)
    for groups, meta, message in (
        ({"a": {"1": "new"}}, None, "video a, object 1: its group is 'new'"),
        ({"unseen": ["ape"]}, None, "--meta"),
        ({"unseen": ["ape"]}, {"videos": {"a": {"objects": {"1": {}}}}}, "no category"),
        ({"seen": [], "unseen": []}, {"videos": {"a": {"objects": {"1": {"category": "ape"}}}}}, "neither group"),
        ({"unseen": ["ape"]}, {"videos": 3}, "not YouTube-VOS's"),
    ):
        with pytest.raises(ScoreError, match=message):
            youtube_jobs(*roots, groups=groups, meta=meta)
    with pytest.raises(ScoreError, match="object 9 is in no ground truth mask"):
        evaluate_videos(YoutubeProtocol(), youtube_jobs(*roots, groups={"a": {"9": "seen"}}), processes=1)


def clip_of(folder: Path, **options: Any) -> Clip:
    files = {path.stem: path for path in sorted(folder.glob("*.png"))}
    frames = tuple(folder / f"{t:05d}.jpg" for t in range(T))
    return Clip(folder.name, frames=frames, annotations=files, **options)


def test_clips_are_scored_after_each_objects_prompt(roots: tuple[Path, Path], write_masks: Write) -> None:
    write_masks(roots[0] / "a", labels(late=2))
    write_masks(roots[1] / "a", np.where(labels(late=2) == 2, 0, labels()))
    found = evaluate_clips([clip_of(roots[0] / "a")], roots[1])
    rows = {row["object"]: row for row in found["per_object"]}
    assert rows["1"]["frames"] == [f"{t:05d}" for t in range(1, T - 1)]
    assert rows["2"]["frames"] == [f"{t:05d}" for t in range(3, T - 1)]
    assert (found["J&F"], rows["2"]["J"], rows["1"]["F_frames"], found["objects"]) == (0.5, 0.0, [1.0] * (T - 2), 2)
    only_first = evaluate_clips([clip_of(roots[0] / "a", prompt_rule="first_frame")], roots[1])
    assert [row["object"] for row in only_first["per_object"]] == ["1"]
    part = evaluate_clips([clip_of(roots[0] / "a", outputs=frozenset({"00003", "00005"}))], roots[1])
    assert [row["frames"] for row in part["per_object"]] == [["00003"], ["00003"]]


@pytest.mark.parametrize("binary", [False, True])
def test_clips_with_every_frame_annotated_score_as_davis_does(binary: bool, roots: tuple[Path, Path], write_masks: Write) -> None:
    for seed, name in enumerate("ab"):
        moved = np.roll(labels(), seed + 2, axis=2)
        moved[3, :, ::3] = 0
        write_masks(roots[1] / name, moved)
        if binary:
            write_masks(roots[0] / name, (labels() > 0) * np.uint8(255))
    official = evaluate_videos(DavisSemi(binary=binary), jobs_of(roots), processes=1)
    kind: dict[str, Any] = {"mask_kind": "binary", "void": None} if binary else {}
    found = evaluate_clips([clip_of(roots[0] / name, **kind) for name in "ab"], roots[1])
    assert (found["J"], found["F"]) == (official.scores["J-Mean"], official.scores["F-Mean"])
    assert 0.3 < found["J"] < 1.0
    for row, (item, _) in zip(found["per_object"], official.rows(), strict=True):
        assert (row["clip"], row["frames"]) == (item.video, list(item.frames))
        assert (row["J_frames"], row["F_frames"]) == (item.values["J"], item.values["F"])


def test_sparse_truth_keeps_its_last_mask_and_prompts_are_no_truth(
    roots: tuple[Path, Path], write_masks: Write, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts" / "a"
    for t, k in ((0, 1), (3, 2)):
        write_masks(prompts, [np.where(labels()[t] == k, k, 0)], first=t)
    every = clip_of(roots[0] / "b")
    sparse = Clip("b", frames=every.frames, annotations={k: every.annotations[k] for k in ("00000", "00005")})
    found = evaluate_clips([clip_of(prompts), sparse], roots[1], processes=2)
    assert found["unscored"] == {"a": "no ground truth beyond the prompts"}
    assert [row["frames"] for row in found["per_object"]] == [["00005"]] * 2
    assert evaluate_clips([clip_of(prompts)], roots[1])["J&F"] is None
    late = Clip("b", frames=every.frames, annotations={k: every.annotations[k] for k in ("00004", "00005")})
    assert "no frame to score" in evaluate_clips([late], roots[1])["unscored"]["b"]
    assert evaluate_clips([Clip("b", frames=every.frames)], roots[1])["unscored"] == {"b": "no ground truth beyond the prompt"}
    folders = Clip("b", frames=every.frames, annotations=every.annotations, mask_kind="objects")
    assert "vos eval sav" in evaluate_clips([folders], roots[1])["unscored"]["b"]


@pytest.mark.parametrize(("cut", "fits"), [(1, True), (2, False)])
def test_truth_one_pixel_off_the_frame_is_scored(cut: int, fits: bool, roots: tuple[Path, Path], write_masks: Write) -> None:
    write_masks(roots[0] / "a", labels()[:, :, :-cut])
    found = evaluate_clips([clip_of(roots[0] / "a")], roots[1], on_error="list")
    assert found["J"] == (1.0 if fits else None)
    assert bool(found["unscored"]) != fits
    with pytest.raises(ScoreError, match="70x40 pixels"):
        evaluate_videos(DavisSemi(), jobs_of(roots, "a"), processes=1)


def test_clips_that_cannot_be_scored_stop_all_or_are_named(roots: tuple[Path, Path]) -> None:
    clips = [clip_of(roots[0] / name) for name in "ab"]
    (roots[1] / "b" / "00004.png").unlink()
    with pytest.raises(ScoreError, match="video b, frame 00004"):
        evaluate_clips(clips, roots[1])
    listed = evaluate_clips(clips, roots[1], on_error="list", processes=2)
    assert {row["clip"] for row in listed["per_object"]} == {"a"}
    assert "video b, frame 00004" in listed["unscored"]["b"]
    assert listed["J"] == 1.0
    assert evaluate_clips(clips[1:], roots[1], missing="empty")["J"] == 0.75


@pytest.mark.parity
def test_real_clips_score_as_davis_2016_does() -> None:
    truth, results = needs_shared("davis2016-val-gt", "Annotations", "480p"), needs_shared("davis2017-val-osvos")
    names = [path.name for path in sorted(truth.iterdir()) if (results / path.name).is_dir()][:2]
    official = evaluate_videos(DavisSemi(binary=True), [VideoJob(n, truth / n, results / n) for n in names], processes=1)
    clips = []
    for name in names:
        files = {path.stem: path for path in sorted((truth / name).glob("*.png"))}
        clips.append(Clip(name, frames=tuple(files.values()), annotations=files, mask_kind="binary", void=None))
    found = evaluate_clips(clips, results)
    assert len(names) == 2
    assert (found["J"], found["F"]) == (official.scores["J-Mean"], official.scores["F-Mean"])
