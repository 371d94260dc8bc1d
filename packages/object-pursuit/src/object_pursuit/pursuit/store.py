"""A pursuit's folder: codes, bases, networks and the state that says which of them count (spec section 4.2, "Resume").

Files are written whole under new names; `state.json` names those that count and is renamed into place last. So a killed run
leaves either the round before or the round after, and the next run deletes what no state names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from object_pursuit.weights import code_files, read_code, write_code
from vos_core.config import Config
from vos_core.errors import OutputError, UsageError
from vos_core.io.atomic import replacing, write_json
from vos_core.training.checkpoint import load_checkpoint, save_checkpoint

FileNames = Literal["pth", "reference"]


class PursuitState(Config):
    """What a pursuit goes on from."""

    version: int = 1
    round: int = Field(description="rounds done")
    initial: int = Field(description="codes that the run began with")
    objects: int = Field(description="codes now")
    bases: int = Field(description="bases now")
    stream: tuple[str, ...] = Field(description="names of the objects in the order they are met")
    options: dict[str, Any] = Field(description="everything that changes results")
    z_info: tuple[dict[str, Any], ...] = ()
    base_info: tuple[dict[str, Any], ...] = ()
    encoder_trainable: bool
    hypernet_file: str
    backbone_file: str | None
    buffers_file: str | None
    log_bytes: int = 0


class PursuitStore:
    """Reads and writes a pursuit's folder.

    Args:
        out: the folder.
        names: `pth` for `z_0000.pth`; `reference` for the original's `z_0000.json`, which are torch files all the same.
    """

    def __init__(self, out: Path, *, names: FileNames = "pth") -> None:
        self.out, self.suffix = out, ".pth" if names == "pth" else ".json"
        self.zs, self.bases, self.checkpoint = out / "zs", out / "Bases", out / "checkpoint"
        self.state_file = out / "state.json"
        self._codes: dict[Path, Tensor] = {}

    def begin(self) -> None:
        """Make the folders.

        Raises:
            UsageError: the folder holds something else.
            OutputError: it cannot be written.
        """
        known = {"zs", "Bases", "checkpoint", "explored_objects", "rounds.jsonl", "pursuit_log.txt", "run.json"}
        if self.out.exists():
            strange = sorted(p.name for p in self.out.iterdir() if p.name not in known and not p.name.startswith("."))
            if strange:
                raise UsageError(
                    f"{self.out} is not empty ({', '.join(strange[:3])}) and holds no pursuit", fix="Choose another --out"
                )
        for folder in (self.zs, self.bases, self.checkpoint, self.out / "explored_objects"):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise OutputError(f"cannot make {folder}: {error.strerror}", fix="Choose another --out") from error
        for name in ("rounds.jsonl", "pursuit_log.txt"):
            (self.out / name).unlink(missing_ok=True)

    def state(self) -> PursuitState | None:
        """Return the state of a run that was begun here; None if none was.

        Raises:
            OutputError: it cannot be read.
        """
        if not self.state_file.is_file():
            return None
        try:
            return PursuitState.model_validate(json.loads(self.state_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise OutputError(
                f"{self.state_file} cannot be read ({str(error).splitlines()[0]})", fix="Choose another --out, or --no-resume"
            ) from error

    def code_path(self, index: int) -> Path:
        """Return the file of object `index`."""
        return self.zs / f"z_{index:04d}{self.suffix}"

    def base_path(self, index: int) -> Path:
        """Return the file of base `index`."""
        return self.bases / f"base_{index:04d}{self.suffix}"

    def write_object(self, index: int, z: Tensor, weights: Mapping[str, Tensor]) -> Path:
        """Write the code of object `index`."""
        return self._write(self.code_path(index), z, weights)

    def write_base(self, index: int, z: Tensor, weights: Mapping[str, Tensor]) -> Path:
        """Write base `index`."""
        return self._write(self.base_path(index), z, weights)

    def read_bases(self) -> Tensor | None:
        """Return base codes `(K, z_dim)`, or None."""
        files = code_files(self.bases)
        return torch.stack([self.read_code(path) for path in files]) if files else None

    def read_code(self, path: Path) -> Tensor:
        """Return the code `(z_dim,)` in a file of this pursuit; every round asks for all of them, so each is read once."""
        if path not in self._codes:
            self._codes[path] = read_code(path)
        return self._codes[path]

    def _write(self, path: Path, z: Tensor, weights: Mapping[str, Tensor]) -> Path:
        write_code(path, z, weights)
        self._codes.pop(path, None)
        return path

    def write_hypernet(self, hypernet: nn.Module, round_number: int) -> str:
        """Write `blocks....`; return the file's name."""
        name = f"hypernet_{round_number:05d}.pth"
        save_checkpoint(self.checkpoint / name, {key: value.cpu() for key, value in hypernet.state_dict().items()})
        return name

    def write_backbone(self, encoder: nn.Module, round_number: int) -> str:
        """Write `module....`; return the file's name."""
        name = f"backbone_{round_number:05d}.pth"
        save_checkpoint(self.checkpoint / name, {f"module.{key}": value.cpu() for key, value in encoder.state_dict().items()})
        return name

    def write_buffers(self, encoder: nn.Module, round_number: int) -> str:
        """Write the encoder's running statistics, which move without being saved with a network; return the file's name."""
        name = f"buffers_{round_number:05d}.pth"
        save_checkpoint(self.checkpoint / name, {key: value.cpu().clone() for key, value in encoder.named_buffers()})
        return name

    def read_buffers(self, encoder: nn.Module, name: str) -> None:
        """Set the encoder's running statistics."""
        own = dict(encoder.named_buffers())
        for key, value in load_checkpoint(self.checkpoint / name).items():
            own[key].copy_(value)

    def commit(self, state: PursuitState) -> None:
        """Make `state` the one that counts, then write the files that others read."""
        write_json(self.state_file, state.model_dump(mode="json"))
        self.publish(state)

    def publish(self, state: PursuitState) -> None:
        """Bring everything that follows from the state in line with it; what a killed run left over is deleted."""
        write_json(self.out / "z_info.json", list(state.z_info))
        write_json(self.out / "base_info.json", list(state.base_info))
        _copy(self.checkpoint / state.hypernet_file, self.checkpoint / "hypernet.pth")
        if state.backbone_file is not None:
            _copy(self.checkpoint / state.backbone_file, self.checkpoint / "backbone.pth")
        kept = {state.hypernet_file, state.backbone_file, state.buffers_file, "hypernet.pth", "backbone.pth"}
        for path in self.checkpoint.iterdir():
            if path.is_file() and path.name not in kept:
                path.unlink(missing_ok=True)
        for folder, count in ((self.zs, state.objects), (self.bases, state.bases)):
            for place, path in enumerate(code_files(folder)):
                if place >= count:
                    path.unlink(missing_ok=True)
            for path in folder.glob(".*"):
                path.unlink(missing_ok=True)
        for path in (self.out / "explored_objects").glob("obj_*"):
            if not path.name[4:].isdigit() or int(path.name[4:]) >= state.objects:
                shutil.rmtree(path, ignore_errors=True)

    def snapshot(self, round_number: int, hypernet: nn.Module, encoder: nn.Module | None) -> None:
        """Keep the state before a round: networks, and all codes without their weights."""
        target = self.checkpoint / f"checkpoint_round_{round_number}"
        save_checkpoint(target / "hypernet.pth", hypernet.state_dict())
        if encoder is not None:
            save_checkpoint(target / "backbone.pth", {f"module.{key}": value for key, value in encoder.state_dict().items()})
        for folder in (self.zs, self.bases):
            (target / folder.name).mkdir(parents=True, exist_ok=True)
            for path in code_files(folder):
                write_code(target / folder.name / path.name, read_code(path), None)
        for name in ("z_info.json", "base_info.json"):
            if (self.out / name).is_file():
                _copy(self.out / name, target / name)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
