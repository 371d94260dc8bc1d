"""The options of label propagation on the command line, in the words of the original, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from rsp_pretrain.config import ARCHITECTURES, LONG_SUFFIX, variant_name
from rsp_pretrain.weights import ANY_VIT, RELEASED
from vos_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
_BACKBONES = ("vit_tiny", "vit_small", "vit_base", "vit_large")
_OWN = ("n_last_frames", "size_mask_neighborhood", "topk", "temperature", "scale")


def propagation_options(function: F) -> F:
    """Add the options of the propagation and of the encoder; both spellings of the longer names are known."""
    options = (
        click.option("--model", metavar="NAME", help="vit_small, vit_base, ... (with --patch_size) or a variant's name."),
        click.option("--patch_size", "--patch-size", type=click.IntRange(1), help="Of --model vit_...  [default: 16]."),
        click.option("--finetune", metavar="NAME|FILE|random", help="The same as --weights."),
        click.option(
            "--n_last_frames", "--n-last-frames", type=click.IntRange(0), help="Previous frames labels come from [default: 30]."
        ),
        click.option(
            "--size_mask_neighborhood",
            "--size-mask-neighborhood",
            type=click.IntRange(0),
            help="Tokens a label may move, 0 = any [default: 30].",
        ),
        click.option("--topk", type=click.IntRange(1), help="Source tokens that each token listens to [default: 7]."),
        click.option("--temperature", type=click.FloatRange(0, min_open=True), help="Of the similarities [default: 0.1]."),
        click.option("--scale", metavar="S|H,W", help="Shorter side in pixels, or height and width [default: 480]."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def also_called(name: str, *spellings: str) -> Callable[[click.Command], click.Command]:
    """Give the option `name` of a command further spellings: those of the original."""

    def decorate(command: click.Command) -> click.Command:
        for parameter in command.params:
            if parameter.name == name:
                parameter.opts = [*parameter.opts, *spellings]
        return command

    return decorate


def take_propagation_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `vos_core.cli.run.execute`: the method's own options become assignments.

    Raises:
        UsageError: an option that contradicts another.
    """
    shared = dict(options)
    model, patch, finetune = (shared.pop(name) for name in ("model", "patch_size", "finetune"))
    own = {name: shared.pop(name) for name in _OWN}
    assignments = [f"{name}={_value(value)}" for name, value in own.items() if value is not None]
    shared["assignments"] = (*assignments, *shared["assignments"])  # --set has the last word
    if finetune is not None:
        if shared["weights"] not in ("auto", finetune):
            raise UsageError(f"--finetune {finetune} and --weights {shared['weights']} differ", fix="Give one of them")
        shared["weights"] = finetune
    if model is None and patch is not None:
        raise UsageError(
            "--patch_size without --model vit_small or the like", fix="A checkpoint tells its patch size: leave the option out"
        )
    if model is not None:
        named = variant_of(model, patch)
        if shared["variant"] not in (None, named):
            raise UsageError(f"--model {model} and --variant {shared['variant']} differ", fix="Give one of them")
        shared["variant"] = named
    if shared["variant"] is None:
        shared["variant"] = variant_for(shared["weights"])
    elif shared["variant"] != ANY_VIT:
        shared["variant"] = variant_name(shared["variant"])
    return shared


def variant_for(weights: str) -> str | None:
    """Return the variant that goes with `--weights` where none was named: a file tells its own sizes, a name its variant."""
    if weights in RELEASED:
        return weights
    return ANY_VIT if weights not in ("auto", "random") and Path(weights).is_file() else None


def variant_of(model: str, patch: int | None) -> str:
    """Return the variant for the seed's `--model vit_small --patch_size 16`, or for a variant's short or long name.

    >>> variant_of("vit_small", 8), variant_of("rsp_vit_base_patch16_dec512d8b", None), variant_of("vit_tiny", 16)
    ('rsp_vit_small_patch8', 'rsp_vit_base_patch16', 'vit')

    Raises:
        UsageError: an unknown name.
    """
    if variant_name(model) in ARCHITECTURES and patch in (None, ARCHITECTURES[variant_name(model)].patch):
        return variant_name(model)
    if model == ANY_VIT:
        return ANY_VIT
    if model not in _BACKBONES:
        known: Sequence[str] = (*_BACKBONES, *ARCHITECTURES, ANY_VIT)
        raise UsageError(
            f"--model {model}{f' --patch_size {patch}' if patch else ''} is not known",
            expected=f"one of {', '.join(known)} (long names end in {LONG_SUFFIX})",
        )
    name = f"rsp_{model}_patch{patch or 16}"
    return name if name in ARCHITECTURES else ANY_VIT


def _value(value: Any) -> str:
    text = str(value)
    return f"[{text.replace('x', ',')}]" if isinstance(value, str) and not text.startswith("[") else text
