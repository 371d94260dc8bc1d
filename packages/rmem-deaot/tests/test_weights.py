"""Which variant a file is, strict loading, what may be absent, widening for VOST, the registry."""

from __future__ import annotations

import pytest
import torch

from rmem_deaot import METHOD, build
from rmem_deaot.config import VARIANTS
from rmem_deaot.model import AOTNetwork
from rmem_deaot.weights import RELEASES, detect_variant, load_network, names_for, network_of, widen_id_bank
from vos_core.contract import BuildRequest, get_method
from vos_core.errors import ConfigError, WeightsError
from vos_core.weights import entries, get


@pytest.fixture(scope="module")
def small_state():
    torch.manual_seed(3)
    return AOTNetwork(VARIANTS["aott"].network).state_dict()


def save(path, content):
    torch.save(content, path)
    return path


def test_wrapped_and_prefixed_checkpoints_load_and_tell_their_variant(small_state, tmp_path):
    wrapped = {"state_dict": {f"module.{key}": value for key, value in small_state.items()}, "optimizer": {"state": {}}}
    network, variant = load_network(save(tmp_path / "x.pth", wrapped))
    assert variant == "aott"
    assert all(torch.equal(value, small_state[key]) for key, value in network.state_dict().items())


def test_the_file_name_tells_b_from_l():
    state = AOTNetwork(VARIANTS["deaotb"].network).state_dict()
    assert detect_variant(state, source="DeAOTB_PRE_YTB_DAV.pth") == "deaotb"
    assert detect_variant(state, source="DeAOTL_PRE_YTB_DAV.pth") == "deaotl"
    assert detect_variant(state, source="weights.pth") == "deaotl"
    assert detect_variant(state, source="weights.pth", wanted="deaotb") == "deaotb"


def test_tensors_without_effect_may_be_absent_or_left_over(small_state, tmp_path):
    lean = {key: value for key, value in small_state.items() if key != "LSTT.mask_token"}
    assert load_network(save(tmp_path / "lean.pth", lean))[1] == "aott"
    more = {**small_state, "LSTT.layers.0.linear_KMem.weight": torch.zeros(256, 256)}
    assert load_network(save(tmp_path / "more.pth", more))[1] == "aott"


def test_everything_else_must_fit(small_state, tmp_path):
    short = {key: value for key, value in small_state.items() if key != "decoder.conv_out.bias"}
    with pytest.raises(WeightsError, match=r"decoder\.conv_out\.bias"):
        load_network(save(tmp_path / "short.pth", short))
    with pytest.raises(WeightsError, match="stranger"):
        load_network(save(tmp_path / "more.pth", {**small_state, "stranger.weight": torch.zeros(3)}))
    with pytest.raises(WeightsError, match="holds variant aott, not r50_aotl"):
        load_network(save(tmp_path / "other.pth", small_state), variant="r50_aotl")
    with pytest.raises(WeightsError, match="no AOT or DeAOT checkpoint"):
        load_network(save(tmp_path / "none.pth", {"fc.weight": torch.zeros(2, 2)}))
    path = save(tmp_path / "cut.pth", small_state)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        load_network(path)
    with pytest.raises(WeightsError, match="does not exist"):
        load_network(tmp_path / "absent.pth")
    four = dict(small_state)
    for layer in (1, 2, 3):
        four |= {key.replace("LSTT.layers.0.", f"LSTT.layers.{layer}."): value for key, value in small_state.items()}
    with pytest.raises(WeightsError, match="never released"):
        load_network(save(tmp_path / "four.pth", four))


def test_vost_training_starts_from_a_bank_without_an_ignore_channel():
    plain = AOTNetwork(VARIANTS["r50_deaotl"].network).state_dict()
    target = AOTNetwork(VARIANTS["r50_deaotl_vost"].network)
    wide = widen_id_bank(plain, target)["patch_wise_id_bank.weight"]
    assert torch.equal(wide[:, :11], plain["patch_wise_id_bank.weight"])
    assert torch.equal(wide[:, 11:], target.patch_wise_id_bank.weight[:, 11:])
    assert widen_id_bank(target.state_dict(), target)["patch_wise_id_bank.weight"].shape[1] == 12


def test_registry_and_method():
    assert get_method("rmem-deaot") is METHOD
    assert METHOD.variants[0] == "auto"
    assert METHOD.weights["auto"][0] == "R50_DeAOTL_temp_pe_10wstep_80000"
    assert names_for("r50_aotl_rmem_vost") == ("aotplus_R50_AOTL_Temp_pe_Slot_4_ema_20000",)
    assert {entry.name for entry in entries("rmem-deaot")} == set(RELEASES)
    assert get("R50_DeAOTL_PRE_YTB_DAV").url.startswith("gdrive:")
    assert {release.variant for release in RELEASES.values()} <= VARIANTS.keys()


def test_build_takes_options_and_refuses_unknown_ones():
    segmenter = build(BuildRequest(variant="deaott", options={"lt_gap": 3, "ms": "1.0,1.3"}, seed=4))
    assert segmenter.config.lt_gap == 3
    assert segmenter.config.ms == (1.0, 1.3)
    with pytest.raises(ConfigError, match="lt_gap"):
        build(BuildRequest(variant="deaott", options={"gap": 3}))


def test_forms_that_the_package_does_not_have_are_named(small_state):
    plain = {key: value for key, value in small_state.items() if not key.startswith("encoder.")}
    slots = {**small_state, "mem_pos_emb": torch.zeros(2, 128)}
    with pytest.raises(WeightsError, match="2 temporal positions"):
        network_of(slots, source="a.pth")
    for key, name in (("encoder.layer1.0.conv1.weight", "ResNeSt"), ("encoder.features.0.0.weight", "MobileNetV3")):
        with pytest.raises(WeightsError, match=name):
            network_of({**plain, key: torch.zeros(1)}, source="a.pth")
