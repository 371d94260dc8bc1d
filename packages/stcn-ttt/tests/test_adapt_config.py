"""Configurations of test-time training: the nine released ones, YAML files, options, what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from stcn_ttt import METHOD
from stcn_ttt.adapt.config import CONFIG_NAMES, SECTIONS, TttConfig, load_config, save_config
from stcn_ttt.cli.ttt_options import FIELDS
from vos_core.errors import ConfigError

# Table of the spec, section 3: loss -> (frozen, sequence length, jump steps, iterations).
BY_LOSS = {"mcc": ((), (3,), 10, 10), "ent": (("net", "ubn"), (3,), 10, 10), "ae": ((), (1,), 1, 20)}
RATE = {"stcn": 1e-6, "stcn_s01": 1e-5, "stcn_s0": 1e-5}


@pytest.mark.parametrize(("weights", "loss"), list(itertools.product(RATE, BY_LOSS)))
def test_released_configurations(weights, loss):
    config = load_config(f"{weights}_{loss}")
    frozen, length, jumps, iterations = BY_LOSS[loss]
    expected = TttConfig(
        config_name=f"{weights}_{loss}",
        model_filename=f"saves/{weights}.pth",
        ttt_loss=f"tt-{loss}",
        ttt_lr=RATE[weights],
        ttt_frozen_layers=frozen,
        ttt_sequence_length=length,
        ttt_number_jump_steps=jumps,
        ttt_number_iterations_per_jump_step=iterations,
    )
    assert config == expected
    assert (config.ttt_resolution, config.ttt_batch_size, config.top, config.mem_every) == (480, 1, 20, 5)
    assert (config.include_last, config.amp, config.overwrite, config.compat_labels) == (False, False, True, False)
    assert (config.ttt_augmentations, config.ttt_scale, config.ttt_ratio, config.ttt_max_jump_step) == ((), (1, 1), (1, 1), (10,))
    assert not config.crops
    assert METHOD.weights[f"{weights}_{loss}"][0] == weights


def test_names_fields_and_sections_agree():
    assert set(CONFIG_NAMES) == {f"{weights}_{loss}" for weights in RATE for loss in BY_LOSS}
    assert list(FIELDS) == list(TttConfig.model_fields), "every field is an option, in the same order"
    sectioned = [key for keys in SECTIONS.values() for key in keys]
    assert sorted(sectioned) == sorted(TttConfig.model_fields)


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_a_saved_configuration_reads_back(tmp_path, name):
    changed = (
        {"ttt_augmentations": "colour,geometric", "ttt_max_jump_step": "5,10", "ttt_scale": [0.5, 1]} if "ent" in name else {}
    )
    config = load_config(name, options=changed)
    save_config(config, tmp_path / "x.yaml")
    assert load_config(None, (tmp_path / "x.yaml",)) == config
    shown = yaml.safe_load((tmp_path / "x.yaml").read_text())
    assert list(shown) == list(SECTIONS)
    assert shown["TEST_TIME_LOSS"]["TTT_FROZEN_LAYERS"] == ("net,ubn" if "ent" in name else None)


def test_option_over_file_over_configuration(tmp_path):
    for file, rate, top in (("a", 1e-3, 7), ("b", 1e-4, None)):
        sections = {"TEST_TIME_TRAIN": {"TTT_LR": rate}} | ({"STCN_MODEL": {"TOP": top}} if top else {})
        (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(sections))
    files = (tmp_path / "a.yaml", tmp_path / "b.yaml")
    config = load_config("stcn_ent", files)
    assert (config.ttt_lr, config.top, config.ttt_loss) == (1e-4, 7, "tt-ent")
    assert load_config("stcn_ent", files, {"ttt_lr": 0.5, "top": 3}).model_dump(include={"ttt_lr", "top"}) == {
        "ttt_lr": 0.5,
        "top": 3,
    }


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        ("TEST_TIME_TRIAN: {TTT_LR: 1}", "TEST_TIME_TRIAN"),
        ("TEST_TIME_TRAIN: {TTT_LRR: 1}", "TTT_LRR"),
        ("TEST_TIME_TRAIN: {TOP: 1}", "TOP"),
        ("TEST_TIME_TRAIN: {TTT_LR: fast}", "ttt_lr"),
        ("TEST_TIME_TRAIN: 3", "TEST_TIME_TRAIN"),
        ("- 1", "x.yaml"),
        ("a: [", "x.yaml"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, blamed):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=blamed):
        load_config(None, (tmp_path / "x.yaml",))


@pytest.mark.parametrize(
    "options",
    [
        {"ttt_frozen_layers": "net,unb"},
        {"ttt_sequence_length": "3,4", "ttt_max_jump_step": "1,2,3"},
        {"ttt_sequence_length": ""},
        {"ttt_sequence_length": "1"},
        {"ttt_loss": "tt-ent", "ttt_sequence_length": 1},
        {"ttt_max_jump_step": 0},
        {"ttt_augmentations": "blur"},
        {"ttt_scale": "0.5"},
        {"ttt_scale": "1,0.5"},
        {"ttt_ratio": "0,1"},
        {"ttt_lr": 0},
        {"ttt_loss": "mcc"},
        {"jump": 1},
    ],
    ids=str,
)
def test_bad_values_are_refused(options):
    with pytest.raises(ConfigError):
        load_config(None, options=options)
    with pytest.raises(ConfigError, match="stcn_mcc"):
        load_config("stcn")
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(None, (Path("none.yaml"),))


def test_a_single_value_serves_all_rounds():
    assert load_config(None, options={"ttt_sequence_length": "3,5", "ttt_max_jump_step": 4}).rounds == [(3, 4), (5, 4)]
    assert load_config(None, options={"ttt_max_jump_step": "1,2"}).rounds == [(3, 1), (3, 2)]
    assert load_config(None, options={"ttt_ratio": "0.75,1.33"}).crops
