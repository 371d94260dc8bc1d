"""What segmenting needs, from whichever files there are: a hypernetwork, an encoder, and codes with names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from object_pursuit.config import NetworkConfig
from vos_core.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from object_pursuit.model import Hypernet

SEEDED_CODES = 8
"""Codes that untrained weights come with."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A network in parts.

    Args:
        hypernet: from codes to weights.
        encoder: shared encoder; None where it is generated.
        codes: known codes `(K, z_dim)`.
        names: of the codes, K of them.
        objects: the object that each code was learned from, by the records beside the codes; None where no record tells.
    """

    hypernet: Hypernet
    encoder: nn.Module | None
    codes: Tensor
    names: tuple[str, ...]
    objects: tuple[str | None, ...]


def seeded_parts(config: NetworkConfig, *, seed: int = 0) -> Parts:
    """Return untrained parts that depend on the seed alone."""
    import torch

    from object_pursuit.model import build_encoder, build_hypernet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codes = torch.randn(SEEDED_CODES, config.z_dim)
        names = tuple(f"code {i}" for i in range(SEEDED_CODES))
        return Parts(build_hypernet(config), build_encoder(config), codes, names, (None,) * SEEDED_CODES)


def load_parts(source: Path, *, codes: Path | None = None, backbone: Path | None = None) -> Parts:
    """Return the parts in a joint checkpoint, in a pursuit's output folder, or in a pursuit's `checkpoint/hypernet.pth`.

    Args:
        source: file or folder. A pursuit's files find each other.
        codes: take these codes instead: a folder of code files, one code file or a joint checkpoint.
        backbone: take the encoder of this file instead.

    Raises:
        UsageError: a path that does not exist.
        WeightsError: a file that cannot be read or does not fit, or a source without an encoder or codes.
    """
    from object_pursuit.model import build_encoder, build_hypernet
    from object_pursuit.weights import load_backbone, load_hypernet, network_config_of, read_state

    if not source.exists():
        raise UsageError(f"weights {source} do not exist", expected="a checkpoint file or a pursuit's output folder")
    file = source / "checkpoint" / "hypernet.pth" if source.is_dir() else source
    if not file.is_file():
        raise WeightsError(f"{source} holds no checkpoint/hypernet.pth", expected="the output folder of object-pursuit pursue")
    state = read_state(file)
    config = network_config_of(state, source=str(file))
    hypernet, encoder = build_hypernet(config), build_encoder(config)
    load_hypernet(hypernet, file)
    if encoder is not None:
        beside = file.with_name("backbone.pth")
        inside = any(key.startswith("backbone.") for key in state)
        place = backbone or (file if inside else beside)
        if not place.is_file():
            raise WeightsError(f"{file} comes without an encoder", expected=f"{beside}", fix="Name its file with --backbone")
        load_backbone(encoder, place)
    run = file.parent.parent
    place = codes or (file if "z" in state else run / "zs" if source.is_dir() else run / "Bases")
    found, names, objects = read_named_codes(place)
    if found.shape[1] != hypernet.z_dim:
        raise WeightsError(f"codes in {place} have {found.shape[1]} numbers", expected=f"{hypernet.z_dim}, as {file} takes")
    return Parts(hypernet, encoder, found, names, objects)


def read_named_codes(source: Path) -> tuple[Tensor, tuple[str, ...], tuple[str | None, ...]]:
    """Return codes `(K, z_dim)`, their names, and the objects that records beside them say they were learned from.

    Records are `pretrain_info.json` beside a joint checkpoint, `z_info.json` and `base_info.json` beside a pursuit's folders of
    codes. A code's name ends with its object's.

    Raises:
        UsageError: the path does not exist.
        WeightsError: no code is there, or one or a record cannot be read.
    """
    from object_pursuit.weights import code_files, read_bases

    codes = read_bases(source)
    own: tuple[str, ...]
    if source.is_dir():
        files = code_files(source)
        told = _recorded_objects(source.parent, (("z_info.json", "z_file"), ("base_info.json", "base_file")))
        own, objects = tuple(path.stem for path in files), tuple(told.get(path.name) for path in files)
    else:
        told = _recorded_objects(source.parent, (("pretrain_info.json", "index"),))
        own, objects = tuple(f"object {i}" for i in range(len(codes))), tuple(told.get(str(i)) for i in range(len(codes)))
        if len(told) != len(codes):  # another checkpoint's
            objects = (None,) * len(codes)
    names = tuple(name if known is None else f"{name} {known}" for name, known in zip(own, objects, strict=True))
    return codes, names, objects


def _recorded_objects(folder: Path, records: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return code file or number -> name of the object, from records (file, field that names the code)."""
    found: dict[str, str] = {}
    for name, field in records:
        path = folder / name
        if not path.is_file():
            continue
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            found |= {Path(str(entry[field])).name: Path(entry["data_dir"]).name for entry in entries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path} cannot be read ({error})", fix="Run the pursuit again, or remove the file") from error
    return found
