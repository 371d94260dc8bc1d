"""Reading the original's hydra YAML files without hydra: interpolations are resolved, `_target_` only tells what a group is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sam2_rcms.config import TRUNKS, PredictorConfig, Size
from vos_core.config import read_yaml
from vos_core.errors import ConfigError

_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "add": lambda *numbers: sum(numbers),
    "times": lambda *numbers: math.prod(numbers),
    "subtract": lambda a, b: a - b,
    "divide": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "int": int,
    "ceil_int": math.ceil,
}
_ALWAYS_ON = (
    "directly_add_no_mem_embed",
    "fixed_no_obj_ptr",
    "no_obj_embed_spatial",
    "pred_obj_scores",
    "proj_tpos_enc_in_obj_ptrs",
    "use_mask_input_as_output_without_sam",
    "use_signed_tpos_enc_to_obj_ptrs",
)
"""Switches that every SAM 2.1 network has on; SAM 2.0 ones have some of them off."""


def is_original(values: Mapping[str, Any]) -> bool:
    """Return whether a YAML mapping is one of the original's hydra files."""
    return any(True for _ in groups(values)) or "scratch" in values


def read_original(path: Path) -> dict[str, Any]:
    """Return the mapping in an original hydra file with every `${...}` resolved.

    Known are references to other values and the operators add, times, subtract, divide, pow, int and ceil_int.

    Raises:
        ConfigError: the file cannot be read, builds on other files, or an interpolation cannot be resolved.
    """
    values = read_yaml(path)
    others = [entry for entry in values.pop("defaults", None) or () if entry != "_self_"]
    if others:
        raise ConfigError(f"{path} builds on other files ({others})", fix="Copy their values into one file")
    return {key: _resolved(value, values, path, frozenset()) for key, value in values.items()}


def groups(values: Any, *names: str) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping inside `values` that has a `_target_`, outer ones first; with `names` those classes only."""
    if isinstance(values, Mapping):
        target = values.get("_target_")
        if isinstance(target, str) and (not names or target.rsplit(".", 1)[-1] in names):
            yield values
        for value in values.values():
            yield from groups(value, *names)
    elif isinstance(values, list):
        for value in values:
            yield from groups(value, *names)


def predictor_values(values: Mapping[str, Any], *, source: str) -> tuple[Size, dict[str, Any]]:
    """Return the size and the `PredictorConfig` values of a resolved inference file.

    Args:
        values: from `read_original`.
        source: the file, for errors.

    Raises:
        ConfigError: there is no model, or it is no SAM 2.1.
    """
    model = values.get("model")
    if not isinstance(model, Mapping):
        raise ConfigError(f"{source} has no group 'model'", expected="an inference configuration of SAM 2.1")
    return size_of(model, source=source), {key: model[key] for key in PredictorConfig.model_fields if key in model}


def size_of(model: Mapping[str, Any], *, source: str) -> Size:
    """Return the size whose image encoder a model group describes.

    Raises:
        ConfigError: none, or the network is no SAM 2.1.
    """
    off = [name for name in _ALWAYS_ON if model.get(name) is False]
    if off:
        raise ConfigError(f"{source} describes a network without {', '.join(off)}", expected="a SAM 2.1 network")
    try:
        trunk = model["image_encoder"]["trunk"]
        width, stages = trunk.get("embed_dim", 96), trunk.get("stages")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source} describes no image encoder ({error})", expected="model.image_encoder.trunk") from error
    fitting = [
        size
        for size, known in TRUNKS.items()
        if known.embed_dim == width and (stages is None or list(known.stages) == list(stages))
    ]
    if len(fitting) != 1:
        raise ConfigError(
            f"{source} has an image encoder with embed_dim {width} and stages {stages}",
            expected="; ".join(f"{size}: {known.embed_dim} and {list(known.stages)}" for size, known in TRUNKS.items()),
        )
    found: Size = fitting[0]  # type: ignore[assignment]
    return found


def _resolved(value: Any, root: Mapping[str, Any], path: Path, open_names: frozenset[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolved(inner, root, path, open_names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, root, path, open_names) for inner in value]
    while isinstance(value, str) and (match := _INNERMOST.search(value)):
        found = _evaluated(match[1], root, path, open_names)
        whole = match.start() == 0 and match.end() == len(value)
        value = found if whole else value[: match.start()] + _text(found) + value[match.end() :]
    return value


def _evaluated(expression: str, root: Mapping[str, Any], path: Path, open_names: frozenset[str]) -> Any:
    operator, separator, arguments = expression.partition(":")
    if separator:
        if operator not in _OPERATORS:
            raise ConfigError(f"{path}: '${{{expression}}}' is not understood", expected=f"one of: {', '.join(_OPERATORS)}")
        try:
            return _OPERATORS[operator](*(yaml.safe_load(part) for part in arguments.split(",")))
        except (TypeError, ValueError, ZeroDivisionError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: '${{{expression}}}' cannot be computed ({error})") from error
    name = expression.strip()
    if name in open_names:
        raise ConfigError(f"{path}: '{name}' refers to itself")
    node: Any = root
    for part in name.split("."):
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ConfigError(f"{path} refers to '{name}', which it does not have", fix="Write the value in its place") from None
    return _resolved(node, root, path, open_names | {name})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
