"""Pose and part propagation: pieces against slow definitions, commands on small data sets."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from rsp_pretrain.cli import main
from rsp_pretrain.model import RSP
from rsp_pretrain.probe.context import ContextConfig, ContextPropagation
from rsp_pretrain.probe.jhmdb import read_file_list
from rsp_pretrain.probe.parts import at_truth_size, part_labels, parts_of
from rsp_pretrain.probe.pose import PoseScore, joint_labels, joint_points, to_grid, to_pixels
from rsp_pretrain.probe.prepare import processed_size
from vos_core.errors import LayoutError, ScoreError, UsageError

RUN = CliRunner().invoke


def dense_step(config: ContextConfig, features: list[np.ndarray], labels: list[np.ndarray], t: int) -> np.ndarray:
    """Return the labels of frame t by the protocol's words, one token at a time."""
    channels, height, width = labels[0].shape
    context = [0, *(max(0, t - config.video_len + i) for i in range(config.video_len))]
    out = np.zeros((channels, height, width))
    unit = [f / np.linalg.norm(f, axis=0) for f in features]
    for r in range(height):
        for c in range(width):
            rows = []
            for slot, frame in enumerate(context):
                for y in range(height):
                    for x in range(width):
                        if slot and config.radius and np.hypot(r - y, c - x) >= config.radius:
                            continue
                        rows.append((unit[t][:, r, c] @ unit[frame][:, y, x] / config.temperature, labels[frame][:, y, x]))
            best = sorted(rows, key=lambda row: -row[0])[: config.topk]
            weights = np.exp([score for score, _ in best])
            out[:, r, c] = sum(w * label for w, (_, label) in zip(weights / weights.sum(), best, strict=True))
    return out


@pytest.mark.parametrize(("radius", "topk", "video_len"), [(2, 3, 2), (0, 5, 3), (1, 4, 4)])
def test_context_propagation_is_what_the_protocol_says(radius: int, topk: int, video_len: int) -> None:
    rng = np.random.default_rng(radius)
    config = ContextConfig(radius=radius, topk=topk, video_len=video_len, temperature=0.3)
    features = [rng.normal(size=(6, 3, 4)) for _ in range(6)]
    labels = [rng.random((2, 3, 4))]
    tensors = [torch.from_numpy(one).float() for one in features]
    context = ContextPropagation(config, tensors[0], torch.from_numpy(labels[0]).float(), tile_bytes=1)
    size = context.state_bytes()
    for t in range(1, 6):
        labels.append(context.step(tensors[t]).double().numpy())
        np.testing.assert_allclose(labels[t], dense_step(config, features, labels, t), atol=1e-5)
    assert context.state_bytes() == size


def test_half_precision_keys_change_labels_little() -> None:
    torch.manual_seed(0)
    features = [torch.randn(32, 5, 6) for _ in range(4)]
    first = torch.rand(3, 5, 6)
    first /= first.sum(0)
    exact, half = (
        ContextPropagation(ContextConfig(radius=3), features[0], first, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    for one in features[1:]:
        a, b = exact.step(one), half.step(one)
        assert (a - b).abs().mean() < 5e-3
        assert (a.argmax(0) == b.argmax(0)).float().mean() > 0.95


def test_context_refuses_other_grids() -> None:
    with pytest.raises(UsageError, match="one grid"):
        ContextPropagation(ContextConfig(), torch.ones(4, 3, 3), torch.ones(2, 3, 4))
    context = ContextPropagation(ContextConfig(), torch.ones(4, 3, 3), torch.ones(2, 3, 3))
    with pytest.raises(UsageError, match="grid of the first frame"):
        context.step(torch.ones(4, 3, 4))


def test_sizes() -> None:
    assert processed_size(240, 428, [480]) == (256, 480)
    assert processed_size(428, 240, [480]) == (480, 256)
    assert processed_size(300, 300, [330], patch=2) == (330, 320)
    assert processed_size(100, 200, [320, 320]) == (320, 320)
    for size, message in (([481], "patch size 16"), ([1, 2, 3], "3 numbers"), ([60, 60], "patch size 16")):
        with pytest.raises(UsageError, match=message):
            processed_size(100, 200, size)


def test_stamps_are_cut_at_borders() -> None:
    points = np.array([[5.3, -0.4, 20.0, 9.6, np.nan], [4.7, 3.0, 4.0, -0.6, 2.0]])
    labels = joint_labels(points, (8, 10))
    slow = np.zeros((6, 8, 10))
    for joint, (x, y) in enumerate(points.T):
        if np.isnan(x):
            continue
        for v in range(4):
            for u in range(4):
                column, row = int(x - 1.5) + u, int(y - 1.5) + v
                inside = column < int(x + 2.5) and row < int(y + 2.5)
                if inside and 0 <= column < 10 and 0 <= row < 8:
                    slow[joint + 1, row, column] = np.exp(-((u - 2) ** 2 + (v - 2) ** 2) / 0.5)
    slow[0] = slow[1:].sum(0) == 0
    np.testing.assert_allclose(labels, slow, atol=1e-7)
    assert labels[1].max() == 1
    assert labels[3].max() == labels[5].max() == 0


def test_a_joint_comes_back_to_its_cell_and_a_lost_one_is_marked() -> None:
    soft = np.zeros((3, 6, 7), np.float32)
    soft[1, 2, 3], soft[1, 2, 4] = 0.75, 0.25
    points = joint_points(soft)
    np.testing.assert_allclose(points, [[3.25, -1], [2, -1]])
    pixels = to_pixels(points[:, :, None], frame_size=(60, 140), grid=(6, 7))
    np.testing.assert_allclose(pixels[:, 0, 0], [65, 20])
    assert np.isnan(pixels[:, 1]).all()
    np.testing.assert_allclose(to_grid(np.array([[[66.0]], [[21.0]]]), frame_size=(60, 140), size=(96, 112)), [[[3.25]], [[2.0]]])


def test_pck_of_two_clips_is_pooled_by_joint() -> None:
    truth = np.ones((2, 3, 3))
    truth[:, 1], truth[:, 2] = [[31], [41]], [[61], [81]]  # a box with a diagonal of 100 pixels
    guess = truth - 1
    guess[0, 0, 1], guess[0, 0, 2] = 5, 7  # threshold at 0.1 is 6 pixels
    guess[:, 1, 2] = np.nan
    score = PoseScore()
    score.add(truth, guess)
    assert score.per_joint(0.1) == {0: 50, 1: 100, 2: 100}
    score.add(truth[:, :, :2], guess[:, :, :2])
    assert score.per_joint(0.1)[0] == pytest.approx(200 / 3)
    assert score.pck(0.1) == pytest.approx((200 / 3 + 200) / 3)
    with pytest.raises(ScoreError, match="shapes"):
        score.add(truth, guess[:, :2])
    with pytest.raises(ScoreError, match="no joint"):
        PoseScore().pck(0.1)


def test_parts_keep_their_ids() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 13
    mask[30:, 50:] = 5
    found = part_labels(mask, size=(64, 96), grid=(16, 24))
    assert found.ids == (0, 5, 13)
    np.testing.assert_allclose(found.soft.sum(0), 1)
    parts = at_truth_size(parts_of(found.soft, found.ids, (64, 96)), (40, 60))
    assert (parts == mask).mean() > 0.97
    tie = parts_of(np.full((2, 2, 2), 0.5, np.float32), (3, 7), (4, 4))
    assert (tie == 3).all()


@pytest.fixture
def weights(tmp_path: Path, tiny: Callable[..., RSP]) -> str:
    path = tmp_path / "tiny.pth"
    torch.save({"model": tiny().state_dict()}, path)
    return str(path)


def picture(seed: int, size: tuple[int, int] = (64, 96)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def write_jhmdb(root: Path) -> None:
    """Two clips that stand still, so that every joint stays where it is."""
    for clip in ("a/one", "b/two"):
        folder = root / "Rename_Images" / clip
        folder.mkdir(parents=True)
        for frame in range(1, 12):  # 11 comes after 2
            picture(len(clip)).save(folder / f"{frame:05d}.png")
        joints = np.stack([np.tile([33.0, 49, 65, 81, 49], 3), np.repeat([33.0, 49, 33], 5)])  # whole tokens, counted from 1
        place = root / "joint_positions" / clip
        place.mkdir(parents=True)
        savemat(place / "joint_positions.mat", {"pos_img": np.repeat(joints[:, :, None], 11, 2)})
        (root / "splits").mkdir(exist_ok=True)
        (root / "splits" / f"{clip[0]}_test_split1.txt").write_text(f"{clip[2:]}.avi 2\n")


def test_jhmdb_command(tmp_path: Path, weights: str) -> None:
    root, out = tmp_path / "JHMDB", tmp_path / "out"
    write_jhmdb(root)
    base = ["jhmdb", "--root", str(root), "--output", str(out), "--weights", weights, "--size", "64,96", "--topk", "2"]
    done = RUN(main, base)
    assert done.exit_code == 0, done.output
    record = json.loads((out / "run.json").read_text())
    assert [clip["status"] for clip in record["clips"]] == ["done", "done"]
    assert record["scores"]["PCK@0.2"] == 100  # nothing moves
    assert record["options"]["topk"] == 2
    settings = record["settings"]
    assert (settings["options"], settings["precision"], settings["seed"]) == (record["options"], "fp32", 0)
    assert all(len(clip["input_sha256"]) == 64 for clip in record["clips"])
    with np.load(out / "a" / "one.npz") as found:
        assert found["positions"].shape == (2, 15, 11)
        assert found["frames"].tolist()[-1] == "00011"
    first = (out / "a" / "one.npz").stat().st_mtime_ns
    (out / "b" / "two.npz").unlink()
    again = RUN(main, [*base, "--json"])
    assert json.loads(again.stdout)["scores"] == record["scores"]
    assert (out / "a" / "one.npz").stat().st_mtime_ns == first
    assert (out / "b" / "two.npz").is_file()
    other = RUN(main, [*base, "--radius", "3"])
    assert other.exit_code == 2
    assert "radius was 20" in other.output
    only = RUN(main, [*base, "--only", "a/none"])
    assert "no clip a/none" in only.output


def test_a_jhmdb_clip_that_fails_is_named_and_the_other_scored(tmp_path: Path, weights: str) -> None:
    root, out = tmp_path / "JHMDB", tmp_path / "out"
    write_jhmdb(root)
    (root / "Rename_Images" / "a" / "one" / "00003.png").write_bytes(b"torn")
    base = ["jhmdb", "--root", str(root), "--weights", weights, "--size", "64,96"]
    assert RUN(main, [*base, "--check"]).exit_code == 1
    done = RUN(main, [*base, "--output", str(out)])
    assert done.exit_code == 1
    assert "00003.png is damaged" in done.stderr
    assert json.loads((out / "run.json").read_text())["scores"]["PCK@0.2"] > 0
    (root / "joint_positions" / "a" / "one" / "joint_positions.mat").unlink()
    short = RUN(main, [*base, "--output", str(tmp_path / "short")])
    assert short.exit_code == 1  # the one clip that is left is not the split
    assert "1 of 1 clips" in short.stdout
    assert "1 faults of the data are named above" in short.stderr
    missing = RUN(main, base)
    assert missing.exit_code == 2
    assert "--output" in missing.output


def test_processes_change_nothing_and_one_clip_of_theirs_may_fail(tmp_path: Path, weights: str) -> None:
    root = tmp_path / "VIP"
    write_vip(root)
    (root / "Images" / "videos2" / "9.jpg").write_bytes(b"torn")
    base = ["vip", "--root", str(root), "--weights", weights, "--size", "64,96", "--threads", "1"]
    for processes in ("1", "2"):
        done = RUN(main, [*base, "--output", str(tmp_path / processes), "--processes", processes])
        assert done.exit_code == 1
        assert "9.jpg is damaged" in done.stderr
    alone, two = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("1", "2"))
    assert [clip["status"] for clip in two["clips"]] == ["done", "failed"]
    assert two["scores"] == alone["scores"]
    for name in ("8.png", "9.png", "10.png"):
        assert (tmp_path / "1" / "videos1" / name).read_bytes() == (tmp_path / "2" / "videos1" / name).read_bytes()


def test_what_jhmdb_sends_to_a_process_makes_a_worker(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import rsp_pretrain.probe.session as session
    from vos_core.run.pool import run_here

    root = tmp_path / "JHMDB"
    write_jhmdb(root)
    asked = []

    def run_processes(start: Any, clips: Any, *, processes: int, **named: Any) -> None:
        asked.append(processes)
        run_here(pickle.loads(pickle.dumps(start))(1), clips, **named)

    monkeypatch.setattr(session, "run_processes", run_processes)
    words = ["jhmdb", "--root", str(root), "--weights", weights, "--size", "64,96", "--topk", "2", "-n", "3"]
    done = RUN(main, [*words, "--output", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert asked == [3]
    assert json.loads(done.stdout)["scores"]["PCK@0.2"] == 100
    assert RUN(main, [*words, "--output", str(tmp_path / "out")]).exit_code == 0
    assert asked == [3]  # all was done, so no process was started


def test_a_list_with_foreign_folders(tmp_path: Path, weights: str) -> None:
    root = tmp_path / "JHMDB"
    write_jhmdb(root)
    path = tmp_path / "list.txt"
    path.write_text("/home/them/Rename_Images/b/two /home/them/joint_positions/b/two/joint_positions.mat\n")
    (clip,) = read_file_list(path, root)
    assert (clip.name, len(clip.frames), clip.joints.is_file()) == ("b/two", 11, True)
    done = RUN(
        main,
        ["jhmdb", "--root", str(root), "--filelist", str(path), "--output", str(tmp_path / "out"), "--weights", weights,
         "--size", "64,96"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    check = ["jhmdb", "--root", str(root), "--filelist", str(path), "--check"]
    assert RUN(main, check).exit_code == 0
    moved = root / "elsewhere.mat"  # the check reads the file that the list names
    moved.write_bytes(clip.joints.read_bytes()[:300])
    path.write_text(
        "/home/them/Rename_Images/b/two elsewhere.mat\nRename_Images/a/one joint_positions/a/one/joint_positions.mat\n"
    )
    faulty = RUN(main, check)
    assert (faulty.exit_code, "elsewhere.mat cannot be read" in faulty.output) == (1, True)
    assert RUN(main, [*check, "--only", " a/one"]).exit_code == 0
    for text, message in (("one", "the folder of the frames and"), ("x/y z.mat", "not below")):
        path.write_text(text)
        assert message in RUN(main, check).output
        with pytest.raises(LayoutError, match=message):
            read_file_list(path, root)


def write_vip(root: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 32:64], mask[48:, :16] = 5, 19
    for clip in ("videos1", "videos2"):
        images, masks = root / "Images" / clip, root / "Annotations" / "Category_ids" / clip
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for frame in range(8, 11):
            picture(1 + len(clip)).save(images / f"{frame}.jpg", quality=95)
            Image.fromarray(mask).save(masks / f"{frame}.png")
    (root / "lists").mkdir()
    (root / "lists" / "val_videos.txt").write_text("videos1\nvideos2\n")


def test_vip_command(tmp_path: Path, weights: str) -> None:
    root, out = tmp_path / "VIP", tmp_path / "out"
    write_vip(root)
    base = ["vip", "--root", str(root), "--output", str(out), "--weights", weights, "--size", "64,96"]
    done = RUN(main, [*base, "--topk", "1", "--precision", "bf16"])
    assert done.exit_code == 0, done.output
    record = json.loads((out / "run.json").read_text())
    assert set(record["scores"]["IoU"]) == {"background", "dress", "left-shoe"}
    assert record["scores"]["mIoU"] > 75  # nothing moves; borders are blurred by the token grid
    assert sorted(path.name for path in (out / "videos1").iterdir()) == ["10.png", "8.png", "9.png"]
    assert set(np.unique(np.asarray(Image.open(out / "videos2" / "10.png")))) == {0, 5, 19}
    before = (out / "videos1" / "10.png").stat().st_mtime_ns
    (out / "videos2" / "10.png").unlink()
    again = RUN(main, [*base, "--topk", "1", "--precision", "bf16", "--json"])
    assert json.loads(again.stdout)["scores"] == record["scores"]
    assert (out / "videos1" / "10.png").stat().st_mtime_ns == before
    assert RUN(main, ["vip", "--root", str(root), "--check"]).exit_code == 0


def test_a_vip_mask_that_cannot_be_scored_fails_its_clip_alone(tmp_path: Path, weights: str) -> None:
    root = tmp_path / "VIP"
    write_vip(root)
    last = root / "Annotations" / "Category_ids" / "videos1" / "10.png"
    base = ["vip", "--root", str(root), "--weights", weights, "--size", "64,96", "--output", str(tmp_path / "out")]
    clean = RUN(main, [*base, "--check"])
    assert "are not 1 to" not in clean.output  # class ids have gaps
    for mask, message in ((np.zeros((8, 9), np.uint8), "9x8"), (np.full((64, 96), 20, np.uint8), "shows the class 20")):
        Image.fromarray(mask).save(last)
        done = RUN(main, base)
        assert done.exit_code == 1
        assert message in done.stderr
        assert "1 of 2 clips" in done.stdout
        assert "mIoU" in done.stdout
        checked = RUN(main, [*base, "--check"])
        assert (checked.exit_code, message in checked.output) == (1, True)
        assert RUN(main, [*base, "--check", "--only", "videos2, "]).exit_code == 0


def test_a_video_that_stands_still_keeps_its_parts(tmp_path: Path, weights: str) -> None:
    root = tmp_path / "VIP"
    write_vip(root)
    halves = np.full((64, 96), 4, np.uint8)
    halves[:, 48:] = 13  # along the tokens' borders: no label is lost by resizing
    for path in root.glob("Annotations/*/*/*.png"):
        Image.fromarray(halves).save(path)
    done = RUN(
        main, ["vip", "--root", str(root), "--weights", weights, "--size", "64,96", "--output", str(tmp_path / "out"), "--json"]
    )
    assert json.loads(done.stdout)["scores"] == {"mIoU": 100, "IoU": {"upper-clothes": 100, "face": 100}}


def test_vip_refusals(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import rsp_pretrain.probe.vip as vip

    root, out = tmp_path / "VIP", tmp_path / "out"
    write_vip(root)
    base = ["vip", "--root", str(root), "--output", str(out), "--weights", weights]
    for arguments, message in (
        (["--size", "99"], "multiples of the patch size"),
        (["--size", "a,b"], "one number"),
        (["--only", "videos7"], "no clip 'videos7'"),
        (["--weights", str(tmp_path / "absent.pth")], "absent.pth"),
    ):
        refused = RUN(main, [*base, *arguments])
        assert refused.exit_code in (1, 2), arguments
        assert message in refused.output
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / "Annotations" / "Category_ids" / "videos1" / "8.png")
    done = RUN(main, [*base, "--size", "64,96"])
    assert done.exit_code == 1
    assert "4x4" in done.stderr

    def interrupt(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(vip, "propagate_parts", interrupt)
    stopped = RUN(main, [*base, "--size", "64,96", "--no-resume"])
    assert stopped.exit_code == 130
    assert "go on" in stopped.output
