"""Builds small data sets of any layout, with Pillow alone, so that nothing under test makes its own test data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIZE = (24, 16)  # width, height


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __truediv__(self, path: str) -> Path:
        return self.root / path

    def frames(self, folder: str, names: Iterable[str], *, size: tuple[int, int] = SIZE, suffix: str = ".jpg") -> Tree:
        for i, name in enumerate(names):
            ramp = (np.add.outer(np.arange(size[1]), np.arange(size[0])) * 3 + 5 * i).astype(np.uint8)
            path = self.root / folder / (name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([ramp, ramp[::-1], ramp], -1)).save(path)
        return self

    def masks(self, folder: str, masks: Mapping[str, Iterable[int]], *, size: tuple[int, int] = SIZE, mode: str = "P") -> Tree:
        for name, ids in masks.items():
            image = Image.fromarray(stripes(ids, size=size))
            if mode == "P":
                image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
            elif mode == "RGB":
                image = image.convert("RGB")
            path = self.root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        return self

    def text(self, path: str, *lines: str) -> Tree:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("\n".join(lines) + "\n")
        return self

    def json(self, path: str, value: Any) -> Tree:
        return self.text(path, json.dumps(value))


def stripes(ids: Iterable[int], *, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label map with one column for each id, background elsewhere."""
    labels = np.zeros(size[::-1], np.uint8)
    for column, object_id in enumerate(ids):
        labels[2:, 2 * column + 1] = object_id
    return labels


def numbered(count: int, *, step: int = 1, start: int = 0, digits: int = 5) -> list[str]:
    return [f"{start + step * i:0{digits}d}" for i in range(count)]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "set")


@pytest.fixture
def davis(tree: Tree) -> Tree:
    for name, ids in (("dog", (1,)), ("judo", (1, 2))):
        tree.frames(f"JPEGImages/480p/{name}", numbered(4))
        tree.masks(f"Annotations/480p/{name}", dict.fromkeys(numbered(4), ids))
    return tree.text("ImageSets/2017/val.txt", "judo", "dog").text("ImageSets/2017/train.txt", "dog")


@pytest.fixture
def youtube(tree: Tree) -> Tree:
    """One video from frame 5 on, ids 2 and 7, the second entering at frame 15; all frames lie beside."""
    tree.frames("valid/JPEGImages/aa", numbered(4, step=5, start=5))
    tree.masks("valid/Annotations/aa", {"00005": (2,), "00015": (7,)})
    tree.frames("valid_all_frames/JPEGImages/aa", numbered(30))
    objects = {"2": {"frames": numbered(4, step=5, start=5)}, "7": {"frames": ["00015", "00020"]}}
    return tree.json("valid/meta.json", {"videos": {"aa": {"objects": objects}}})
