"""Configuration: frozen pydantic models, a YAML file and `--set a.b=c` on top, unknown keys refused by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from vos_core.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is absent, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read ({error.strerror})", fix="Check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"configuration file {path} holds a {type(data).__name__}", expected="a mapping of option: value")
    return data


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return nested values from `key=value` or `a.b=value` strings; values are read as YAML scalars or lists.

    >>> parse_assignments(["memory.every=3", "top=20"])
    {'memory': {'every': 3}, 'top': 20}
    """
    result: dict[str, Any] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"'{text}' is not an assignment", expected="key=value, for example mem_every=3")
        node = result
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"'{key}' is set as a value and as a group of values")
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value in '{text}' cannot be read: {error}") from error
    return result


def build_config(kind: type[C], *layers: Mapping[str, Any], base: C | None = None) -> C:
    """Return a `kind` from `base` (or defaults) with `layers` merged over it, the last one winning.

    Raises:
        ConfigError: an unknown key (with the closest known names) or a value that its field refuses.
    """
    values: dict[str, Any] = base.model_dump() if base is not None else {}
    for layer in layers:
        values = merge(values, layer)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(kind, item) for item in error.errors())) from error


def option_help(*kinds: type[Config]) -> dict[str, str]:
    """Return field name -> its description and default, for `MethodInfo.options`.

    >>> from pydantic import Field
    >>> class Memory(Config):
    ...     every: int = Field(default=5, description="frames between two memories")
    >>> option_help(Memory)
    {'every': 'frames between two memories [default: 5]'}

    Args:
        kinds: configurations; of a field that several have, the last one counts.
    """
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
    return {name: f"{field.description or ''}{_default_of(field)}".strip() for name, field in fields.items()}


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return " [required]"
    value = field.get_default(call_default_factory=True)
    if value is None:  # most descriptions say what then happens
        return "" if "unset" in (field.description or "") else " [default: unset]"
    # As one would write it after `--set name=`.
    return f" [default: {value if isinstance(value, str) else json.dumps(value)}]"


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with `over` on top; groups of values are merged, not replaced."""
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(kind: type[BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path)
    if item["type"] != "extra_forbidden":
        about = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error" and isinstance(
            item["input"], (Mapping, BaseModel)
        ):  # values that do not go together, too many to show
            return f"options of '{name}': {about}" if name else about
        return f"option '{name}': {about} (found {item['input']!r})"
    fields = _fields_at(kind, path[:-1])
    close = difflib.get_close_matches(path[-1], fields, n=3, cutoff=0.4) or fields
    return f"unknown option '{name}'; did you mean {', '.join(close)}?"


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
