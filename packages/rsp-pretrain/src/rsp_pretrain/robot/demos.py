"""Demonstrations: what was seen and what was done, in our npz form or in CortexBench's pickles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vos_core.errors import LayoutError, UsageError
from vos_core.io.atomic import replacing

_PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


@dataclass(frozen=True, slots=True)
class Episode:
    """One demonstration.

    Args:
        images: uint8 `(T, H, W, 3)` RGB, what the camera saw before each action.
        actions: float32 `(T, A)`.
        proprio: float32 `(T, P)` of the robot's own state; P may be 0.
    """

    images: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.float32]
    proprio: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.actions), len(self.proprio)}
        if len(lengths) != 1 or 0 in lengths or self.images.ndim != 4 or self.actions.ndim != 2 or self.proprio.ndim != 2:
            raise LayoutError(
                f"a demonstration with images {self.images.shape}, actions {self.actions.shape}, state {self.proprio.shape}",
                expected="(T, H, W, 3), (T, A) and (T, P)",
            )


class _ArrayUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, numbers and NumPy arrays; a file that asks for anything else is refused: no code can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it needs {module}.{name}")


def write_demos(path: Path, episodes: Sequence[Episode], info: Mapping[str, Any] | None = None) -> None:
    """Write demonstrations to one npz file, atomically: arrays of all steps in a row, `starts` of the episodes, `info` as JSON.

    Raises:
        UsageError: no episode, or another suffix.
        OutputError: the file cannot be written.
    """
    if path.suffix != ".npz" or not episodes:
        raise UsageError(f"{len(episodes)} demonstrations for {path}", expected="at least one, and a file that ends in .npz")
    starts = np.cumsum([0, *(len(one.actions) for one in episodes[:-1])])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=np.concatenate([one.images for one in episodes]),
            actions=np.concatenate([one.actions for one in episodes]),
            proprio=np.concatenate([one.proprio for one in episodes]),
            starts=starts,
            info=np.array(json.dumps(dict(info or {}))),
        )


def read_demos(path: Path, *, proprio: int | str = 0) -> tuple[Episode, ...]:
    """Return the demonstrations in a file.

    Args:
        path: npz of `write_demos`, or a CortexBench pickle: a list of paths with `images`, `actions` and what else there is.
        proprio: the robot's own state: how many leading numbers of it to take (of `observations` in a pickle), or the name of the
            entry of a pickle's path or of its `env_infos`.

    Raises:
        LayoutError: the file is absent, damaged or of another form.
    """
    try:
        found = _read_npz(path, proprio) if path.suffix == ".npz" else _read_pickle(path, proprio)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())  # some of these go over several lines
        raise LayoutError(
            f"demonstrations {path} cannot be read ({type(error).__name__}: {why})",
            expected="an npz of rsp-pretrain probe collect, or a CortexBench pickle of paths with images and actions",
        ) from error
    if not found:
        raise LayoutError(f"{path} holds no demonstration")
    if len({(one.actions.shape[1], one.proprio.shape[1]) for one in found}) > 1:
        raise LayoutError(f"the demonstrations in {path} differ in the size of their actions or states", expected="one size")
    return found


def _read_npz(path: Path, proprio: int | str) -> tuple[Episode, ...]:
    with np.load(path, allow_pickle=False) as data:
        images, actions, states, starts = (data[name] for name in ("images", "actions", "proprio", "starts"))
    if not isinstance(proprio, int) or proprio > states.shape[1]:
        raise ValueError(f"it stores {states.shape[1]} numbers of state, not '{proprio}'")
    spans = zip(starts, [*starts[1:], len(actions)], strict=True)
    return tuple(Episode(images[a:b], actions[a:b], states[a:b, :proprio]) for a, b in spans)


def _read_pickle(path: Path, proprio: int | str) -> tuple[Episode, ...]:
    with path.open("rb") as file:
        paths = _ArrayUnpickler(file).load()
    episodes = []
    for one in paths:
        actions = np.asarray(one["actions"], np.float32)
        if proprio == 0:
            state = np.zeros((len(actions), 0), np.float32)
        elif isinstance(proprio, int):
            state = np.asarray(one["observations"], np.float32)[:, :proprio]
        else:
            state = np.asarray(one[proprio] if proprio in one else one["env_infos"][proprio], np.float32)
            state = state.reshape(len(state), -1)
        episodes.append(Episode(np.asarray(one["images"], np.uint8), actions, state))
    return tuple(episodes)
