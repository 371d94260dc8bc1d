from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vos_core.errors import WeightsError
from vos_core.weights import find_state, load_state, read_checkpoint, read_metadata
from vos_core.weights.load import WRAPPERS

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "conv.bias": torch.ones(2), "steps": torch.tensor(3)}


def assert_state(found, expected=STATE):
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


class Runs:
    """Would create a file if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class TestFormats:
    def test_zip(self, tmp_path):
        assert_state(load_state(saved(tmp_path / "a.pth", STATE)))

    def test_format_before_torch_1_6(self, tmp_path):
        assert_state(load_state(saved(tmp_path / "a.pth", STATE, _use_new_zipfile_serialization=False)))

    def test_safetensors_whatever_it_is_called(self, tmp_path):
        save_file(STATE, tmp_path / "a.pth")
        found = load_state(tmp_path / "a.pth")
        assert_state({key: found[key] for key in STATE})

    def test_parameters_lose_their_gradients(self, tmp_path):
        path = saved(tmp_path / "a.pth", {"a": torch.nn.Parameter(torch.ones(2))})
        assert not load_state(path)["a"].requires_grad

    def test_metadata(self, tmp_path):
        save_file(STATE, tmp_path / "a.safetensors", metadata={"licence": "MIT"})
        save_file(STATE, tmp_path / "b.safetensors")
        assert read_metadata(tmp_path / "a.safetensors") == {"licence": "MIT"}
        assert read_metadata(tmp_path / "b.safetensors") == {}
        assert read_metadata(saved(tmp_path / "a.pth", STATE)) == {}


class TestWrappers:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_known_ones_are_opened(self, tmp_path, wrapper):
        content = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, wrapper: OrderedDict(STATE)}
        assert_state(load_state(saved(tmp_path / "a.pth", content)))

    def test_one_in_another(self, tmp_path):
        assert_state(load_state(saved(tmp_path / "a.pth", {"model": {"state_dict": STATE}})))

    def test_wrapper_beside_a_tensor(self, tmp_path):
        assert_state(load_state(saved(tmp_path / "a.pth", {"state_dict": STATE, "step": torch.tensor(1)})))

    def test_plain_values_beside_the_tensors_are_left_out(self, tmp_path):
        assert_state(load_state(saved(tmp_path / "a.pth", {**STATE, "epoch": 3, "name": "net", "nothing": None})))

    def test_training_file_with_arguments_and_numpy_numbers(self, tmp_path):
        content = {
            "model": STATE,
            "args": argparse.Namespace(lr=0.1, data="x"),
            "best": np.float64(0.5),
            "seen": np.int64(7),
        }
        path = saved(tmp_path / "a.pth", content)
        assert_state(load_state(path))
        assert read_checkpoint(path)["args"].lr == 0.1

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ({"epoch": 1, "weird": STATE}, r"no plain state dict \(its outer keys: epoch, weird\)"),
            ({"z": torch.ones(2), "weights": STATE}, r"its outer keys: z, weights"),
            ({}, "its outer keys: nothing"),
            ([torch.ones(2)], "holds a list. Expected a mapping of names to tensors"),
        ],
    )
    def test_no_state_dict(self, tmp_path, content, found):
        path = saved(tmp_path / "a.pth", content)
        with pytest.raises(WeightsError, match=found) as caught:
            load_state(path)
        assert str(path) in str(caught.value)


class TestPrefixes:
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."])
    def test_shared_ones_are_stripped(self, tmp_path, prefix):
        path = saved(tmp_path / "a.pth", {prefix + key: value for key, value in STATE.items()})
        assert_state(load_state(path))

    def test_one_key_without_keeps_all(self, tmp_path):
        content = {"module.a": torch.ones(1), "b": torch.ones(1)}
        assert_state(load_state(saved(tmp_path / "a.pth", content)), content)

    def test_find_state_keeps_them(self):
        content = {"model": {"module.a": torch.ones(1)}}
        assert_state(find_state(content, source="x"), content["model"])


class TestBadFiles:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, tmp_path, zipped):
        content = {"state_dict": STATE, "extra": Runs(tmp_path / "mark")}
        path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r"holds code or objects \(\w+\.mkdir\).*state dict or safetensors") as caught:
            load_state(path)
        assert str(path) in str(caught.value)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_bare_pickle_is_refused_and_not_run(self, tmp_path, protocol):
        path = tmp_path / "a.pth"
        path.write_bytes(pickle.dumps(Runs(tmp_path / "mark"), protocol=protocol))
        with pytest.raises(WeightsError, match=f"weights file {path} "):
            load_state(path)
        assert not (tmp_path / "mark").exists()

    def test_whole_module_is_refused(self, tmp_path):
        path = saved(tmp_path / "a.pth", torch.nn.Linear(2, 2))
        with pytest.raises(WeightsError, match=r"code or objects \(torch.nn.modules.linear.Linear\)"):
            load_state(path)

    @pytest.mark.filterwarnings("ignore:.*TorchScript archive")
    def test_compiled_program_is_refused(self, tmp_path):
        path = saved(tmp_path / "a.pt", STATE)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a/constants.pkl", b"")  # what tells a TorchScript archive from a checkpoint
        with pytest.raises(WeightsError, match=r"a compiled TorchScript program.*Save its state_dict"):
            load_state(path)

    @pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
    @pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
    def test_truncated(self, tmp_path, form, share):
        path, state = tmp_path / "a.pth", {"a": torch.ones(5000), "b": torch.ones(5000)}
        if form == "safetensors":
            save_file(state, path)
        else:
            saved(path, state, _use_new_zipfile_serialization=form == "zip")
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(WeightsError, match=f"{path} cannot be read .*truncated or not a checkpoint: download it again"):
            load_state(path)

    @pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 and nothing", b"\x00" * 600, b"{}"])
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_other_files(self, tmp_path, data):
        path = tmp_path / "a.pth"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=f"{path} cannot be read") as refused:
            load_state(path)
        assert "Re-running" not in str(refused.value), "torch's advice to run what the file holds is not passed on"

    def test_web_page(self, tmp_path):
        path = tmp_path / "a.pth"
        path.write_bytes(b"<!DOCTYPE html><html></html>")
        with pytest.raises(WeightsError, match=f"{path} is a web page. Expected a checkpoint. Download the file itself"):
            load_state(path)

    def test_absent_or_folder(self, tmp_path):
        with pytest.raises(WeightsError, match=r"a.pth does not exist. Check the path"):
            load_state(tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"are a folder. Expected a checkpoint file"):
            load_state(tmp_path)

    def test_damaged_metadata(self, tmp_path):
        path = tmp_path / "a.safetensors"
        path.write_bytes((100).to_bytes(8, "little") + b"{" + b"x" * 30)
        with pytest.raises(WeightsError, match=f"{path} cannot be read"):
            read_metadata(path)
