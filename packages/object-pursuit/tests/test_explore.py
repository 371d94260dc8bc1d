"""The space of codes: projections, neighbours, lines, and the page with its pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from object_pursuit.cli import main
from object_pursuit.config import PRESETS
from object_pursuit.data.shapes_write import ShapePlan, write_shapes
from object_pursuit.latent import claims, code_logits, cosines, interpolate, neighbours, project
from object_pursuit.latent_page import find_code
from object_pursuit.latent_pictures import draw_grid, draw_places
from object_pursuit.model import Multinet, build_encoder, build_hypernet
from object_pursuit.parts import seeded_parts
from object_pursuit.quality import dice
from object_pursuit.samples import Samples
from vos_core.errors import UsageError


def test_pca_keeps_what_varies():
    """Codes on a plane in 20 dimensions lie in the picture as they lie there, up to a rotation."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(9, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(20, 2, generator=generator, dtype=torch.float64))[0]
    codes = flat @ basis.T + 5
    places, shares = project(codes)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > shares[1]
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(flat, flat))
    assert torch.equal(project(codes)[0], places)


def test_directions_do_not_see_lengths():
    angles = torch.tensor([0.0, 0.2, 0.5, 2.0])
    unit = torch.stack((angles.cos(), angles.sin()), 1)
    places, shares = project(unit * torch.tensor([1.0, 9.0, 2.0, 0.1])[:, None], "directions")
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(unit, unit).double(), atol=1e-5, rtol=1e-5)
    assert shares.sum() == pytest.approx(1)
    torch.testing.assert_close(cosines(unit)[0], angles.cos().double(), atol=1e-6, rtol=0)


def test_degenerate_spaces():
    with pytest.raises(UsageError, match="two codes or more"):
        project(torch.zeros(1, 4))
    for how in ("pca", "directions"):
        places, shares = project(torch.ones(3, 4), how)
        assert torch.isfinite(places).all()
        assert torch.isfinite(shares).all()
    assert project(torch.randn(2, 1))[0].shape == (2, 2)
    assert draw_places(torch.zeros(3, 2), ["a", "b", "c"], torch.zeros(2)).shape == (720, 720, 3)


def test_neighbours():
    codes = torch.tensor([[1.0, 0], [1, 0.1], [-1, 0], [5, 0]])
    near = neighbours(codes, 2)
    assert [j for j, _, _ in near[0]] == [1, 2]
    assert near[0][0][1] == pytest.approx(0.1, abs=1e-6)
    assert near[3][0][0] in (0, 1)
    assert near[2][0][2] == pytest.approx(-1, abs=0.01)
    assert len(neighbours(codes, 9)[0]) == 3


def test_lines_between_codes():
    line = interpolate(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 0.0]), 5)
    torch.testing.assert_close(line[[0, 2, 4]], torch.tensor([[0.0, 2.0], [2.0, 1.0], [4.0, 0.0]]))
    with pytest.raises(UsageError, match="2 or more"):
        interpolate(torch.zeros(2), torch.ones(2), 1)


def test_claims_are_the_dice_of_each_code_alone():
    parts = seeded_parts(PRESETS["tiny"])
    torch.manual_seed(0)
    samples = Samples(torch.rand(3, 3, 32, 32), (torch.rand(3, 1, 32, 32) > 0.5).float())
    matrix = claims(parts.hypernet, parts.encoder, parts.codes, [samples])
    assert matrix.shape == (8, 1)
    for k in (0, 4, 7):
        alone = code_logits(parts.hypernet, parts.encoder, parts.codes[k : k + 1], samples.images)
        assert float(dice((alone > 0).float(), samples.masks).mean()) == pytest.approx(float(matrix[k, 0]), abs=2e-3)


def test_codes_are_found_by_name_word_or_number():
    names = ("z_0000 mug", "z_0001 cup", "z_0002 cup")
    assert [find_code(names, wanted) for wanted in ("z_0001 cup", "mug", "z_0002", "2")] == [1, 0, 2, 2]
    with pytest.raises(UsageError, match="2 codes are called 'cup'"):
        find_code(names, "cup")
    with pytest.raises(UsageError, match="no codes are called '7'"):
        find_code(names, "7")


def test_grids():
    red = np.full((32, 32, 3), (200, 0, 0), np.uint8)
    grid = draw_grid([[red, red], [red, red]], columns=["a", "b"], labels=["one", "two"])
    assert (grid == (200, 0, 0)).all(2).sum() == 4 * 96 * 96


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("explore")
    torch.manual_seed(0)
    config = PRESETS["tiny"]
    torch.save(Multinet(4, build_hypernet(config), build_encoder(config)).state_dict(), root / "joint.pth")
    write_shapes(root / "set", ShapePlan(pretrain=1, stream=2, images=3, heldout=0))
    return root


def run(*args):
    return CliRunner().invoke(main, ["explore", *map(str, args)])


def test_page_with_and_without_pictures(world, tmp_path):
    done = run(world / "joint.pth", "--out", tmp_path / "bare", "--json")
    assert done.exit_code == 0, done.output + done.stderr
    found = json.loads(done.stdout)
    assert [code["name"] for code in found["codes"]] == [f"object {i}" for i in range(4)]
    assert "claims" not in found
    assert "No pictures were given" in (tmp_path / "bare/index.html").read_text()
    options = ("--data", world / "set/stream", "--dataset", "iThor", "--resize", 64, 64, "--steps", 3)
    done = run(
        world / "joint.pth", "--out", tmp_path / "full", *options, "--between", 1, "object 3", "--projection", "directions"
    )
    assert done.exit_code == 0, done.output + done.stderr
    page = (tmp_path / "full/index.html").read_text()
    for words in (
        "Where codes lie",
        "Nearest objects",
        "Who claims whom",
        "Between two codes",
        "obj_002",
        "from object 1 (0.00)",
    ):
        assert words in page
    assert "https://" not in page.split("<script")[0]
    for name in ("projection.png", "interpolation.png"):
        with Image.open(tmp_path / "full" / name) as picture:
            assert min(picture.size) > 100
    stored = json.loads((tmp_path / "full/explore.json").read_text())
    assert set(stored["claims"]) == {"obj_001", "obj_002"}
    assert stored["between"] == ["object 1", "object 3"]


def test_wrong_use(world, tmp_path):
    assert run(world / "joint.pth", "--out", tmp_path, "--between", "x", "y").exit_code == 2
    assert "do not exist" in run(world / "nowhere.pth", "--out", tmp_path).stderr
    assert "does not exist" in run(world / "joint.pth", "--out", tmp_path, "--data", tmp_path / "none").stderr
    (tmp_path / "file").touch()
    assert "is a file" in run(world / "joint.pth", "--out", tmp_path / "file").stderr
