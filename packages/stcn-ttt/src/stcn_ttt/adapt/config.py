"""Settings of test-time training: the nine released configurations, their YAML layout, and what is ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from vos_core.config import Config, build_config, read_yaml
from vos_core.errors import ConfigError
from vos_core.io.atomic import write_text

Loss = Literal["tt-mcc", "tt-ae", "tt-ent"]
Augmentation = Literal["none", "colour", "geometric"]
CONFIG_NAMES = (
    "stcn_mcc",
    "stcn_ent",
    "stcn_ae",
    "stcn_s01_mcc",
    "stcn_s01_ent",
    "stcn_s01_ae",
    "stcn_s0_mcc",
    "stcn_s0_ent",
    "stcn_s0_ae",
)
FROZEN_TOKENS = ("net", "enc", "dec", "all_keys", "key_enc", "val_enc", "key_proj", "key_comp", "bn", "ubn")
"""What `ttt_frozen_layers` may list; `bn` freezes and `ubn` frees the affine weights of norms."""
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "STCN_MODEL": ("model_filename", "top", "mem_every", "include_last", "amp"),
    "TEST_TIME_TRAIN": ("ttt_lr", "ttt_batch_size"),
    "TEST_TIME_LOSS": (
        "ttt_loss",
        "ttt_frozen_layers",
        "ttt_number_jump_steps",
        "ttt_number_iterations_per_jump_step",
        "ttt_encode_first",
    ),
    "SEQUENCE_SAMPLING": ("ttt_resolution", "ttt_sequence_length", "ttt_max_jump_step", "compat_labels"),
    "AUGMENTATIONS": ("ttt_augmentations", "ttt_scale", "ttt_ratio"),
    "GLOBAL": ("config_name", "overwrite"),
}
"""Sections of a YAML file and their keys, upper case there."""


class TttConfig(Config):
    """One adaptation: what is trained, by which loss, how long, on which sequences."""

    config_name: str = Field("stcn_s01_mcc", description="name of the configuration; names its output")
    model_filename: str = Field("saves/stcn_s01.pth", description="offline weights: a file or a registered name")
    top: int = Field(20, ge=1, description="memory nodes per query when segmenting")
    mem_every: int = Field(5, ge=1, description="frames between two memory frames when segmenting")
    include_last: bool = Field(False, description="also match against the previous frame")
    amp: bool = Field(False, description="half precision while adapting and segmenting: fp16 on CUDA, bf16 on a CPU")
    ttt_lr: float = Field(1e-5, gt=0, description="Adam's learning rate")
    ttt_batch_size: int = Field(1, ge=1, description="sequences per step")
    ttt_loss: Loss = Field("tt-mcc", description="mask cycle consistency, auto-encoding or entropy")
    ttt_frozen_layers: tuple[str, ...] = Field((), description=f"applied in order: {', '.join(FROZEN_TOKENS)}")
    ttt_number_jump_steps: int = Field(10, ge=0, description="times that pseudo-masks are refreshed and Adam begins anew")
    ttt_number_iterations_per_jump_step: int = Field(10, ge=0, description="optimiser steps between two refreshes")
    ttt_encode_first: bool = Field(False, description="also decode the first frame of each pass from its own value")
    ttt_resolution: int = Field(480, ge=16, description="shorter side of training frames in pixels")
    ttt_sequence_length: tuple[int, ...] = Field((3,), description="frames per sequence; several values are gone through in turn")
    ttt_max_jump_step: tuple[int, ...] = Field((10,), description="largest gap between two frames of a sequence")
    compat_labels: bool = Field(
        False,
        description="YouTube-VOS parity: compare contiguous classes with raw ids; objects of non-dense ids lose their mask",
    )
    ttt_augmentations: tuple[Augmentation, ...] = Field((), description="colour, geometric, both or none")
    ttt_scale: tuple[float, float] = Field((1.0, 1.0), description="share of the area of a random crop; 1,1 = whole frame")
    ttt_ratio: tuple[float, float] = Field(
        (1.0, 1.0), description="aspect of a random crop; counts when scale or ratio is not 1,1"
    )
    overwrite: bool = Field(True, description="replace results that other settings made in the same place; False refuses")

    @field_validator(
        "ttt_frozen_layers",
        "ttt_augmentations",
        "ttt_sequence_length",
        "ttt_max_jump_step",
        "ttt_scale",
        "ttt_ratio",
        mode="before",
    )
    @classmethod
    def _listed(cls, value: object) -> object:
        if value is None or value == "none":
            return ()
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, int | float):
            return (value,)
        return tuple(item for item in value if item != "none") if isinstance(value, list | tuple) else value

    @field_validator("ttt_frozen_layers")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [token for token in value if token not in FROZEN_TOKENS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not one of {', '.join(FROZEN_TOKENS)}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> TttConfig:
        lengths, jumps = len(self.ttt_sequence_length), len(self.ttt_max_jump_step)
        if not lengths or not jumps or min(self.ttt_sequence_length) < 1 or min(self.ttt_max_jump_step) < 1:
            raise ValueError("ttt_sequence_length and ttt_max_jump_step need values of 1 and more")
        if lengths != jumps and 1 not in (lengths, jumps):
            raise ValueError(f"{lengths} sequence lengths and {jumps} jump steps: give as many of each, or one")
        shortest = {"tt-mcc": 2, "tt-ent": 2, "tt-ae": 1}[self.ttt_loss]
        if min(self.ttt_sequence_length) < shortest:
            raise ValueError(f"{self.ttt_loss} needs sequences of {shortest} frames or more")
        if not 0 < self.ttt_scale[0] <= self.ttt_scale[1] <= 1:
            raise ValueError("ttt_scale needs two shares of the area, the smaller one first, above 0 and up to 1")
        if not 0 < self.ttt_ratio[0] <= self.ttt_ratio[1]:
            raise ValueError("ttt_ratio needs two aspects above 0, the smaller one first")
        return self

    @property
    def rounds(self) -> list[tuple[int, int]]:
        """(sequence length, largest jump) of each round within a jump step; a single value serves all."""
        lengths, jumps = self.ttt_sequence_length, self.ttt_max_jump_step
        count = max(len(lengths), len(jumps))
        return [(lengths[i % len(lengths)], jumps[i % len(jumps)]) for i in range(count)]

    @property
    def crops(self) -> bool:
        """Whether a random crop takes the place of the resize."""
        return self.ttt_scale != (1.0, 1.0) or self.ttt_ratio != (1.0, 1.0)


def load_config(name: str | None = None, paths: tuple[Path, ...] = (), options: Mapping[str, Any] | None = None) -> TttConfig:
    """Return the configuration `name` with YAML files and then options on top.

    Args:
        name: one of `CONFIG_NAMES`, or None for the defaults.
        paths: YAML files in the sectioned layout, each over the one before.
        options: field name -> value.

    Raises:
        ConfigError: an unknown name, section, key or value.
    """
    layers = []
    if name is not None:
        if name not in CONFIG_NAMES:
            raise ConfigError(f"unknown configuration '{name}'", expected=f"one of: {', '.join(CONFIG_NAMES)}")
        text = files("stcn_ttt.adapt").joinpath("configs", f"{name}.yaml").read_text(encoding="utf-8")
        layers.append(flatten(yaml.safe_load(text), where=f"{name}.yaml"))
    layers += [flatten(read_yaml(path), where=str(path)) for path in paths]
    return build_config(TttConfig, *layers, dict(options or {}))


def flatten(sections: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the keys of a sectioned mapping in lower case.

    Raises:
        ConfigError: a section or key that does not exist.
    """
    values: dict[str, Any] = {}
    for section, keys in sections.items():
        if section not in SECTIONS:
            raise ConfigError(f"{where}: unknown section '{section}'", expected=f"one of: {', '.join(SECTIONS)}")
        if not isinstance(keys, Mapping | None):
            raise ConfigError(f"{where}: section {section} holds a {type(keys).__name__}", expected="a mapping of keys to values")
        for key, value in (keys or {}).items():
            if key.lower() not in SECTIONS[section]:
                known = ", ".join(name.upper() for name in SECTIONS[section])
                raise ConfigError(f"{where}: unknown key '{key}' in section {section}", expected=f"one of: {known}")
            values[key.lower()] = value
    return values


def save_config(config: TttConfig, path: Path) -> None:
    """Write a configuration in the sectioned YAML layout."""
    values = config.model_dump(mode="json")
    for key in ("ttt_frozen_layers", "ttt_augmentations"):
        empty = None if key == "ttt_frozen_layers" else "none"
        values[key] = ",".join(values[key]) or empty
    sections = {section: {key.upper(): values[key] for key in keys} for section, keys in SECTIONS.items()}
    write_text(path, yaml.safe_dump(sections, sort_keys=False))
