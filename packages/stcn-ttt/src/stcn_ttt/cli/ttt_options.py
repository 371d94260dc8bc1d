"""Every key of a test-time training configuration as a command-line option, named as in the YAML files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vos_core.cli.options import given

F = TypeVar("F", bound=Callable[..., Any])

# Field -> (click type, help); lists are given with commas. Kept beside `TttConfig` by a test, so that help needs no torch.
FIELDS: dict[str, tuple[Any, str]] = {
    "config_name": (str, "Name of the configuration; names its output."),
    "model_filename": (str, "Offline weights: a file or a registered name."),
    "top": (int, "Memory nodes per query when segmenting."),
    "mem_every": (int, "Frames between two memory frames when segmenting."),
    "include_last": (bool, "Also match against the previous frame."),
    "amp": (bool, "Half precision: fp16 on CUDA, bf16 on a CPU."),
    "ttt_lr": (float, "Adam's learning rate."),
    "ttt_batch_size": (int, "Sequences per step."),
    "ttt_loss": (click.Choice(["tt-mcc", "tt-ae", "tt-ent"]), "Objective."),
    "ttt_frozen_layers": (str, "Tokens, applied in order, or none."),
    "ttt_number_jump_steps": (int, "Refreshes of the pseudo-masks."),
    "ttt_number_iterations_per_jump_step": (int, "Optimiser steps between two refreshes."),
    "ttt_encode_first": (bool, "Also decode the first frame of each pass from its own value."),
    "ttt_resolution": (int, "Shorter side of training frames in pixels."),
    "ttt_sequence_length": (str, "Frames per sequence; several with commas."),
    "ttt_max_jump_step": (str, "Largest gap between two frames; several with commas."),
    "compat_labels": (bool, "YouTube-VOS parity: compare class numbers with raw ids."),
    "ttt_augmentations": (str, "colour, geometric, both with a comma, or none."),
    "ttt_scale": (str, "Share of the area of a random crop, for example 0.5,1."),
    "ttt_ratio": (str, "Aspect of a random crop, for example 0.75,1.33."),
    "overwrite": (bool, "Replace results there that other settings made [default: on]."),
}


def ttt_options(function: F) -> F:
    """Add one option per field; both spellings (`--ttt_lr`, `--ttt-lr`) are known."""
    for name, (kind, text) in reversed(FIELDS.items()):
        dashed = name.replace("_", "-")
        if kind is bool:
            spellings = [f"--{dashed}/--no-{dashed}"] + ([f"--{name}/--no_{name}"] if "_" in name else [])
            function = click.option(name, *spellings, default=None, help=text)(function)
        else:
            spellings = [f"--{dashed}"] + ([f"--{name}"] if "_" in name else [])
            function = click.option(name, *spellings, type=kind, default=None, help=text)(function)
    return function


def given_ttt_options(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the user set, removed from `options`."""
    fields = {name: options.pop(name) for name in FIELDS}
    return {name: value for name, value in fields.items() if given(context, name)}
