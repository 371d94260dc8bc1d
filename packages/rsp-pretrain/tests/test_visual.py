"""Pictures: components and colours against slow definitions, the command's files and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from rsp_pretrain.cli import main
from rsp_pretrain.model import RSP
from rsp_pretrain.visual.maps import GAP, STRIP, attention_picture, enlarged, fitted, heat, principal_colours, tiled
from vos_core.errors import UsageError
from vos_core.io.masks import write_mask

RUN = CliRunner().invoke


def test_components_are_shared_by_all_frames() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    hidden = rng.normal(size=(2 * 30, 8)) * [9, 5, 3, 0.1, 0.1, 0.1, 0.1, 0.1]
    rows = torch.from_numpy(hidden @ basis.T).float()
    frames = [part.t().reshape(8, 5, 6) for part in rows.split(30)]
    found = np.concatenate([picture.reshape(-1, 3) for picture in principal_colours(frames)]).astype(float)
    assert found.shape == (60, 3)
    for channel in range(3):
        centred = hidden[:, channel] - hidden[:, channel].mean()
        assert abs(np.corrcoef(centred, found[:, channel])[0, 1]) > 0.98
    doubled = principal_colours([frames[0], frames[0]])
    np.testing.assert_array_equal(doubled[0], doubled[1])
    with pytest.raises(UsageError):
        principal_colours([])


def test_colours_and_tiles() -> None:
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    picture = heat(ramp, (30, 40))
    assert picture.shape == (30, 40, 3)
    assert picture[0, 0].sum() < picture[-1, -1].sum()
    rgb = np.full((6, 8, 3), 50, np.uint8)
    many = tiled([rgb + np.uint8(index) for index in range(5)], list("abcde"), columns=4)
    assert many.shape == (2 * (STRIP + 6) + GAP, 4 * 8 + 3 * GAP, 3)
    for index in range(5):
        top, left = index // 4 * (STRIP + 6 + GAP), index % 4 * (8 + GAP)
        assert (many[top + STRIP : top + STRIP + 6, left : left + 8] == 50 + index).all()
        assert many[top : top + STRIP, left : left + 8].min() < 100  # its text
    assert (many[STRIP + 6 + GAP :, 8 + GAP :] == 255).all()
    assert attention_picture(rgb, torch.rand(6, 3, 4), name="0").shape == many.shape
    np.testing.assert_array_equal(enlarged(rgb[:3, :4], (6, 8)), rgb)
    assert fitted(rgb, 3).shape == (3, 4, 3)
    assert fitted(rgb, 6) is rgb


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for index in range(5):
        small = np.random.default_rng(index // 3).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((96, 64)).save(folder / f"{index:05d}.png")
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 32:64] = 3
    write_mask(tmp_path / "mask.png", mask)
    return folder


def test_command(tmp_path: Path, clip: Path, tiny: Callable[..., RSP]) -> None:
    network, out = tiny(stoch=4, discrete=8, norm_pix_loss=True), tmp_path / "out"
    torch.save({"model": network.state_dict()}, tmp_path / "whole.pth")
    base = ["visualize", str(clip), "--weights", str(tmp_path / "whole.pth"), "--size", "64,96", "--frames", "2", "--gap", "2"]
    done = RUN(main, [*base, "--mask", str(tmp_path / "mask.png"), "--output", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "attention_00000.png", "attention_00004.png", "features_00000.png", "features_00004.png", "index.html",
        "masks_00000.png", "masks_00004.png", "reconstruction.png",
    ]  # fmt: skip
    assert json.loads(done.stdout)["page"] == str(out / "index.html")
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64") == 7
    assert "posterior" in page
    assert "frame 2 later" in page
    assert "One row a frame: 00000, 00002" in page  # from the last one there is no frame 2 later
    assert "clip, 5 frames. Written" in page
    with Image.open(out / "reconstruction.png") as picture:
        assert picture.size == (6 * 128 + 5 * GAP, 2 * (STRIP + 128) + GAP)
    with Image.open(out / "features_00000.png") as picture:
        assert picture.size == (192 + GAP, STRIP + 64)


def test_an_encoder_alone_has_no_reconstructions(tmp_path: Path, clip: Path, tiny: Callable[..., RSP]) -> None:
    state = {key: value for key, value in tiny().state_dict().items() if not key.startswith(("decoder", "to_", "mask"))}
    torch.save(state, tmp_path / "encoder.pth")
    base = [
        "visualize",
        str(clip),
        "--weights",
        str(tmp_path / "encoder.pth"),
        "--size",
        "64,96",
        "--output",
        str(tmp_path / "out"),
    ]
    done = RUN(main, [*base, "--frames", "1"])
    assert done.exit_code == 0, done.output
    assert "no reconstructions" in done.stderr
    assert not (tmp_path / "out" / "reconstruction.png").exists()
    for arguments, message in (
        (["--show", "reconstruction"], "no decoder"),
        (["--show", "masks"], "--mask"),
        (["--show", "dreams"], "names of features"),
        (["--block", "7", "--show", "attention"], "encoder's blocks"),
    ):
        refused = RUN(main, [*base, *arguments])
        assert refused.exit_code in (1, 2)
        assert message in refused.output


def test_a_page_of_untrained_weights_says_so(tmp_path: Path, clip: Path) -> None:
    base = ["visualize", str(clip / "00000.png"), "--weights", "random", "--variant", "rsp_vit_small_patch16", "--size", "32,32"]
    done = RUN(main, [*base, "--show", "features", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h1>Untrained encoder on 00000.png</h1>" in page
    assert "00000.png, 1 frame. Untrained weights" in page
