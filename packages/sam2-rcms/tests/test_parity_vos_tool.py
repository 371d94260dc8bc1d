"""`sam2-rcms infer` on folders of videos against the masks that the original's tool wrote."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sam2_cases import clip_rgb, golden_arrays, seeded_state

from sam2_rcms.cli import main
from vos_core.io.masks import write_mask, write_object_masks
from vos_core.testing import clip_file, golden_cases

pytestmark = pytest.mark.parity
PRESET = {"tiny": "tiny", "small": "small", "base_plus": "b+", "large": "l"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A function from a case to a checkpoint file as the authors release them."""
    folder, made = tmp_path_factory.mktemp("weights"), {}

    def make(case):
        if case["file"] not in made:
            made[case["file"]] = folder / f"{len(made)}.pt"
            torch.save({"model": seeded_state(case["variant"], case["seed"], case["weight_edit"])}, made[case["file"]])
        return made[case["file"]]

    return make


def _runs():
    for param in golden_cases("sam2-rcms", "vos_tool"):
        (case,) = param.values
        for run in case["runs"] if case else [None]:
            yield pytest.param(case, run, id=f"{param.id}-{run['array']}" if run else param.id, marks=param.marks)


@pytest.mark.parametrize(("case", "run"), list(_runs()))
def test_vos_tool(case, run, weights, tmp_path):
    gold = golden_arrays(case["file"])
    videos, masks, out = tmp_path / "videos" / "v", tmp_path / "masks" / "v", tmp_path / "out"
    videos.mkdir(parents=True)
    names = []
    for place, (clip, index) in enumerate(run["frames"]):  # named by place: two clips may have a frame of the same number
        source = clip_file(clip, "JPEGImages", index)
        names.append(f"{place:05d}")
        (videos / f"{names[-1]}{source.suffix}").symlink_to(source)
    for frame, array in run["annotations"].items():
        name, labels = names[int(frame)], gold[array]
        if run["annotation_layout"] == "per_object":
            write_object_masks(masks, name, {i: labels == i for i in run["split_ids"]}, foreground=run["split_value"])
        else:
            write_mask(masks / f"{name}.png", labels)
    arguments = ["infer", "--base_video_dir", videos.parent, "--input_mask_dir", masks.parent, "--output_mask_dir", out]
    arguments += ["--sam2_cfg", PRESET[case["variant"]], "--sam2_checkpoint", weights(case), "--image-size", case["image_size"]]
    arguments += ["--score_thresh", run["score_thresh"], "--device", "cpu"]
    arguments += ["--use_all_masks"] if run["use_all_masks"] else []
    arguments += ["--per_obj_png_file"] if run["per_obj_png_file"] else []
    arguments += ["--track_object_appearing_later_in_video"] if run["mode"] == "separate" else []
    for name, value in {**case["options"], "non_overlap_masks": run["non_overlap_masks"]}.items():
        arguments += ["--set", f"{name}={value}"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output

    if run["per_obj_png_file"]:
        folders = sorted(path for path in (out / "v").iterdir() if path.is_dir())
        found = np.stack([np.stack([np.asarray(Image.open(folder / f"{name}.png")) for name in names]) for folder in folders])
    else:
        found = np.stack([np.asarray(Image.open(out / "v" / f"{name}.png")) for name in names])
    assert found.shape == gold[run["array"]].shape
    assert len(np.unique(found)) > 1, "something must be found for the comparison to mean anything"
    assert (found == gold[run["array"]]).mean() >= case["tol"]["pixel_share"]
    if run["palette_array"] is not None:
        first = min((out / "v").rglob(f"{names[0]}.png"))
        written = np.asarray(Image.open(first).getpalette(), np.uint8).ravel()
        wanted = np.asarray(gold[run["palette_array"]], np.uint8).ravel()
        np.testing.assert_array_equal(written[: wanted.size], wanted[: written.size])
    assert clip_rgb(*run["frames"][0]).shape[:2] == found.shape[-2:]
