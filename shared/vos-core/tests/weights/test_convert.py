from __future__ import annotations

import pytest
import torch

from vos_core.__about__ import __version__
from vos_core.errors import UsageError, WeightsError
from vos_core.weights import convert, load_state, read_checkpoint, read_metadata, save_state, sha256_of

STATE = {"b.weight": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3), "half": torch.ones(2).bfloat16()}


def assert_same(found, expected=STATE):
    assert set(found) == set(expected)
    assert all(found[key].dtype == value.dtype and torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture
def training_file(tmp_path):
    path = tmp_path / "train.pth"
    torch.save({"model": {f"module.{key}": value for key, value in STATE.items()}, "epoch": 3, "optimizer": {}}, path)
    return path


def test_there_and_back(tmp_path, training_file):
    middle, back = tmp_path / "deep" / "net.safetensors", tmp_path / "net.pth"
    assert convert(training_file, middle, metadata={"licence": "MIT"}) == 3
    assert_same(load_state(middle))
    assert read_metadata(middle) == {
        "licence": "MIT",
        "source": "train.pth",
        "source_sha256": sha256_of(training_file),
        "writer": f"vos-core {__version__}",
    }
    assert convert(middle, back) == 3
    assert_same(read_checkpoint(back))


def test_metadata_of_a_safetensors_source_is_kept(tmp_path, training_file):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    convert(training_file, first, metadata={"licence": "MIT"})
    convert(first, second)
    assert read_metadata(second)["licence"] == "MIT"
    assert read_metadata(second)["source"] == "1.safetensors"


def test_wrapper(tmp_path, training_file):
    convert(training_file, tmp_path / "net.pt", wrapper="model")
    content = read_checkpoint(tmp_path / "net.pt")
    assert list(content) == ["model"]
    assert_same(content["model"])


def test_onto_itself(training_file):
    convert(training_file, training_file)
    assert_same(read_checkpoint(training_file))


def test_views_and_shared_tensors(tmp_path):
    whole = torch.arange(100_000.0)
    state = {"part": whole[:4], "same": whole[:4], "turned": torch.ones(2, 3).T}
    for name in ("net.safetensors", "net.pth"):
        save_state(tmp_path / name, state)
        assert_same(load_state(tmp_path / name), state)
        assert (tmp_path / name).stat().st_size < 10_000


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("net.bin", {}, "ends in .safetensors, .pth or .pt"),
        ("net.safetensors", {"wrapper": "model"}, "cannot have the outer key 'model'"),
        ("net.pth", {"metadata": {"a": "b"}}, "cannot have metadata"),
    ],
)
def test_wrong_use(tmp_path, training_file, name, options, found):
    with pytest.raises(UsageError, match=found):
        convert(training_file, tmp_path / name, **options)
    assert not (tmp_path / name).exists()


def test_tensors_that_safetensors_cannot_hold(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot hold these tensors .*Write a .pth file"):
        save_state(tmp_path / "net.safetensors", {"a": torch.ones(2, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())
