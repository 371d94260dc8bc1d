"""Embeddings of images, folders and videos in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsp_pretrain.probe.embedding import CortexTransform, Embedder, embed_frames, fuse_history
from vos_core.errors import UsageError
from vos_core.io.atomic import replacing
from vos_core.io.frames import open_frames, prefetch
from vos_core.types import RgbImage

SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors with what they are of.

    Args:
        vectors: float32 `(N, D)`.
        names: `<input>/<frame>` of each.
        clips: int64 `(N,)`, number of the input that each comes from.
    """

    vectors: npt.NDArray[np.float32]
    names: tuple[str, ...]
    clips: npt.NDArray[np.int64]


def embed_inputs(
    inputs: Sequence[Path],
    embedder: Embedder,
    *,
    transform: CortexTransform | None = None,
    history: int = 1,
    batch: int = 16,
) -> Embeddings:
    """Return the embeddings of images, folders of frames and video files.

    Args:
        inputs: each one is a clip: its frames are in time order, and history does not cross its start.
        embedder: frozen.
        transform: of the pictures; None = CortexBench's.
        history: see `fuse_history`.
        batch: pictures encoded at a time.

    Raises:
        FrameError: an input that cannot be read.
    """
    transform = CortexTransform() if transform is None else transform
    vectors, names, clips = [], [], []
    for number, path in enumerate(inputs):
        found: list[str] = []
        pictures = _pictures(path, found)
        rows = np.stack(list(embed_frames(embedder, pictures, transform, batch=batch)))
        vectors.append(fuse_history(rows, history))
        names += found
        clips.append(np.full(len(rows), number, np.int64))
    return Embeddings(np.concatenate(vectors), tuple(names), np.concatenate(clips))


def write_embeddings(path: Path, found: Embeddings, info: dict[str, Any]) -> None:
    """Write embeddings to `.npz` or `.safetensors`, atomically.

    npz: `embeddings`, `clips`, `names`, `info` (JSON). safetensors: `embeddings`, `clips`; names and info in its metadata.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    embeddings=found.vectors,
                    clips=found.clips,
                    names=np.array(found.names),
                    info=np.array(json.dumps(info)),
                )
        else:
            from safetensors.numpy import save_file

            metadata = {"names": json.dumps(found.names), "info": json.dumps(info)}
            save_file({"embeddings": found.vectors, "clips": found.clips}, temporary, metadata=metadata)


def check_suffix(path: Path) -> None:
    """Raise `UsageError` unless embeddings can be written to a file of this name."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"embeddings cannot be written to {path}", expected=f"a file that ends in {' or '.join(SUFFIXES)}")


def _pictures(path: Path, names: list[str]) -> Iterator[RgbImage]:
    with closing(open_frames(path)) as source, closing(prefetch(source)) as frames:
        for frame in frames:
            names.append(f"{path.stem if path.is_file() else path.name}/{frame.name}")
            yield frame.rgb
