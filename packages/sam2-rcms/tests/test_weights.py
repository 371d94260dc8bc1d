"""Checkpoints in every form they come in, and what is said about those that do not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from sam2_cases import SMALL_TRUNK

from sam2_rcms.model import SAM2
from sam2_rcms.weights import OLD_KEYS, load_into, load_network, manifest, register
from vos_core.errors import WeightsError
from vos_core.weights import registry
from vos_core.weights.load import load_state


@pytest.fixture(scope="module")
def state(small_network):
    return small_network.state_dict()


def fresh():
    torch.manual_seed(1)
    return SAM2("tiny", trunk=SMALL_TRUNK).eval()


@pytest.mark.parametrize("form", ["released", "bare", "training", "safetensors", "ddp"])
def test_every_form_loads_strictly(form, state, tmp_path):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file({key: value.clone() for key, value in state.items()}, path)
    else:
        content = {
            "released": {"model": state},
            "bare": state,
            "training": {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "steps": {"train": 7}},
            "ddp": {"model": {f"module.{key}": value for key, value in state.items()}},
        }[form]
        torch.save(content, path)
    network = fresh()
    load_into(network, load_state(path), source=str(path))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_sam_2_0_another_size_and_a_missing_key_are_told_apart(state):
    old = {key: value for key, value in state.items() if key not in OLD_KEYS}
    with pytest.raises(WeightsError, match=r"SAM 2\.0"):
        load_into(fresh(), old, source="old.pt")
    missing = {key: value for key, value in state.items() if key != "no_obj_ptr"}
    with pytest.raises(WeightsError, match="no_obj_ptr"):
        load_into(fresh(), missing, source="part.pt")
    small = {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest("small").items()}
    with pytest.raises(WeightsError, match="fit variant small"):
        load_into(fresh(), small, source="small.pt")


def test_truncated_file(state, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"w\.pt.*(truncated|cannot be read)"):
        load_network(path, "tiny")


def test_names_are_registered_and_seeds_give_the_same_network():
    register()
    register()
    assert registry.get("sam2.1_hiera_l_MOSEv2_mss_lvt16").url.endswith(".pt")
    assert len(registry.entries("sam2-rcms")) == 6
    a, b = (load_network(None, "tiny", seed=3).no_obj_ptr for _ in range(2))
    assert torch.equal(a, b)
