"""The method's options on the command line, in the words of the original, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from rmem_deaot.config import check_variant
from vos_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
_CONFIG = ("lt_gap", "st_skip", "max_resolution", "former_mem_len", "latter_mem_len", "memory_gap_cap", "restrict_memory")
_REFUSED = {
    "--fix_random": "every clip is segmented with fixed seeds and deterministic convolutions anyway; --seed chooses the seed",
    "--debug_fix_random": "the original names it without saying what it fixes; seeds are fixed anyway, --seed chooses the seed",
}


def refused_option(name: str) -> Callable[[F], F]:
    """Return a decorator that knows an option of the original which has no meaning here, and says why it is refused."""

    def refuse(_context: click.Context, _parameter: click.Parameter, given: bool) -> None:
        if given:
            raise click.UsageError(f"{name} is not taken: {_REFUSED[name]}.")

    spellings = (name, name.replace("_", "-"))
    return click.option(*spellings, is_flag=True, expose_value=False, hidden=True, callback=refuse)


def rmem_options(function: F) -> F:
    """Add the options of model, memory and augmentation; both spellings of the longer names are known."""
    options = (
        click.option("--model", metavar="NAME", help="The same as --variant."),
        click.option("--ckpt_path", "--ckpt-path", metavar="FILE", help="The same as --weights."),
        click.option(
            "--lt_gap",
            "--lt-gap",
            type=click.IntRange(1),
            metavar="N",
            help="Least frames between long-term frames [default: 5].",
        ),
        click.option(
            "--memory-gap-cap",
            type=click.IntRange(0),
            metavar="N",
            help="The gap grows to clip length / N; 0 = never [default: 30].",
        ),
        click.option(
            "--st_skip", "--st-skip", type=click.IntRange(1), metavar="N", help="Age of the short-term memory [default: 1]."
        ),
        click.option(
            "--restrict-memory/--no-restrict-memory", default=None, help="Restricted bank, or not [default: as the weights]."
        ),
        click.option(
            "--former_mem_len",
            "--former-mem-len",
            type=click.IntRange(1),
            metavar="N",
            help="Frames at the bank's front [default: 1].",
        ),
        click.option(
            "--latter_mem_len",
            "--latter-mem-len",
            type=click.IntRange(1),
            metavar="N",
            help="Further frames of a restricted bank [default: 7; VOST 8].",
        ),
        click.option(
            "--tpe",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="Temporal positions; auto = if the weights have them.",
        ),
        click.option(
            "--max_resolution",
            "--max-resolution",
            type=click.FloatRange(32),
            metavar="PX",
            help="Bounds the input: longer side 5/3 of it [default: 624].",
        ),
        click.option("--ms", type=float, multiple=True, metavar="SCALE", help="Average over this scale; repeatable."),
        click.option(
            "--use_prev_prob", "--use-prev-prob", is_flag=True, help="Remember probabilities of the own masks, not label maps."
        ),
        click.option("--amp", is_flag=True, help="Half precision: fp16 on CUDA, bf16 on CPU. The same as --precision otherwise."),
        click.option("--gpu_id", "--gpu-id", type=click.IntRange(0), metavar="N", help="The same as --device cuda:N."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def take_rmem_options(options: dict[str, Any], *, preset: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the keyword arguments of `vos_core.cli.run.execute`: the method's own options become assignments.

    Flips and scales are the method's: each copy keeps its own memory, as published.

    Args:
        options: of the command.
        preset: options of `SegmenterConfig` that those of the command come on top of.

    Raises:
        UsageError: an option that contradicts another.
    """
    shared = dict(options)
    for own, other, default in (("model", "variant", None), ("ckpt_path", "weights", "auto")):
        value = shared.pop(own)
        if value is None:
            continue
        if shared[other] not in (default, value):
            raise UsageError(f"--{own} {value} and --{other} {shared[other]} differ", fix="Give one of them")
        shared[other] = value
    if shared["variant"] is not None:
        check_variant(shared["variant"], beside=("auto",))
    gpu = shared.pop("gpu_id")
    if gpu is not None:
        if shared["device"] not in ("auto", f"cuda:{gpu}"):
            raise UsageError(f"--gpu_id {gpu} and --device {shared['device']} differ", fix="Give one of them")
        shared["device"] = f"cuda:{gpu}"
    if shared.pop("amp"):
        shared["precision"] = "fp16" if _is_cuda(shared["device"]) else "bf16"
    values: dict[str, Any] = dict(preset or {})
    values |= {name: value for name in _CONFIG if (value := shared.pop(name)) is not None}
    tpe = shared.pop("tpe")
    if tpe != "auto":
        values["tpe"] = tpe == "on"
    scales = _scales(shared.pop("ms"), shared.pop("scales"))
    if scales:
        values["ms"] = f"[{', '.join(map(str, scales))}]"
    for name in ("flip", "use_prev_prob"):
        if shared.pop(name):
            values[name] = True
    shared["scales"], shared["flip"] = None, False
    assignments = [f"{name}={_plain(value)}" for name, value in values.items()]
    shared["assignments"] = (*assignments, *shared["assignments"])  # --set has the last word
    return shared


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _scales(repeated: tuple[float, ...], listed: str | None) -> tuple[float, ...]:
    if listed is None:
        return repeated
    if repeated:
        raise UsageError("--ms and --scales were given", fix="Give one of them")
    try:
        return tuple(float(part) for part in listed.split(","))
    except ValueError:
        raise UsageError(f"--scales {listed} is not a list of numbers", expected="for example 1.0,1.3") from None


def _is_cuda(device: str) -> bool:
    from vos_core.run.device import choose_device

    return choose_device(device).startswith("cuda")
