"""The method's options on the command line, in the words of the original, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from stcn_ttt.config import SegmenterConfig
from vos_core.config import parse_assignments
from vos_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def stcn_options(function: F) -> F:
    """Add the options of the memory and the input size; both spellings of the longer names are known."""
    options = (
        click.option("--model", metavar="NAME|FILE|random", help="The same as --weights."),
        click.option("--top", type=click.IntRange(1), metavar="N", help="Memory nodes per query in the soft-max [default: 20]."),
        click.option(
            "--mem-every", "--mem_every", type=click.IntRange(1), metavar="N", help="Frames between memory frames [default: 5]."
        ),
        click.option("--include-last", "--include_last", is_flag=True, help="Also match against the previous frame."),
        click.option("--res", type=int, metavar="PX", help="Shorter side for the network, -1 = as it is [default: 480]."),
        click.option("--antialias", is_flag=True, help="Antialias that resize; the published numbers were made without."),
        click.option(
            "--memory",
            type=click.Choice(["fifo", "restricted", "unbounded"]),
            help="Fate of old memory frames: oldest, least relevant (RMem) or none leaves [default: fifo].",
        ),
        click.option(
            "--memory-frames", type=click.IntRange(2), metavar="N", help="Frames that fifo or restricted keep [default: 40]."
        ),
        click.option("--amp", is_flag=True, help="Half precision: fp16 on CUDA, bf16 on CPU. The same as --precision otherwise."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def take_stcn_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `vos_core.cli.run.execute`: the method's own options become assignments.

    `--scales` names shorter sides (480,600) or factors of `--res` (1.0,1.25); STCN brings every frame to its own size, so
    both become `scales` of its configuration. With `--res -1` factors stay what they are for other methods.

    Raises:
        UsageError: an option that contradicts another.
    """
    shared = dict(options)
    model, amp = shared.pop("model"), shared.pop("amp")
    own = {name: shared.pop(name) for name in ("top", "mem_every", "res", "memory", "memory_frames")}
    own |= {name: True for name in ("include_last", "antialias") if shared.pop(name)}
    assignments = [f"{name}={value}" for name, value in own.items() if value is not None]
    if model is not None:
        if shared["weights"] not in ("auto", model):
            raise UsageError(f"--model {model} and --weights {shared['weights']} differ", fix="Give one of them")
        shared["weights"] = model
    if amp:
        shared["precision"] = "fp16" if _is_cuda(shared["device"]) else "bf16"
    if shared["scales"] is not None:
        given = parse_assignments((*assignments, *shared["assignments"]))
        res = int(given.get("res", SegmenterConfig().res))
        sides = _sides(shared["scales"], res)
        if sides is not None:
            assignments.append(f"scales=[{', '.join(map(str, sides))}]")
            shared["scales"] = None
    shared["assignments"] = (*assignments, *shared["assignments"])  # --set has the last word
    return shared


def _sides(text: str, res: int) -> list[int] | None:
    """Return shorter sides; None where factors are to be applied to frames of any size."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--scales {text} is not a list of numbers", expected="for example 480,600 or 1.0,1.25") from None
    if all(number >= 16 for number in numbers):
        return [int(number) for number in numbers]
    if not all(0.1 <= number <= 4 for number in numbers):
        raise UsageError(f"--scales {text}", expected="sides from 16 pixels (480,600) or factors from 0.1 to 4 (1.0,1.25)")
    return None if res == -1 else [round(number * res) for number in numbers]


def _is_cuda(device: str) -> bool:
    from vos_core.run.device import choose_device

    return choose_device(device).startswith("cuda")
