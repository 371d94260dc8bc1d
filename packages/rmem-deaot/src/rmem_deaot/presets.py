"""The benchmarks with the settings that their published numbers were made with (spec section 3.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vos_core.types import Clip


@dataclass(frozen=True, slots=True)
class Preset:
    """How one benchmark is run.

    Args:
        layout: of the data set, see `vos_core.data.layout`.
        summary: one line for help texts.
        layout_options: keyword arguments of the layout.
        options: of `SegmenterConfig`, below those that the user sets.
        first_masks_only: whether objects that appear after the first mask are never given.
        void_is_object: whether 255 in a first mask is followed like an object and written back.
    """

    layout: str
    summary: str
    layout_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    first_masks_only: bool = False
    void_is_object: bool = False


_DAVIS = {"output_height": 480}
PRESETS: Mapping[str, Preset] = {
    "davis2017": Preset("davis", "DAVIS 2017 val, test-dev", {"year": 2017}, _DAVIS),
    "davis2016": Preset("davis", "DAVIS 2016 val: all objects as one", {"year": 2016}, _DAVIS),
    "youtubevos2018": Preset("youtube-vos", "YouTube-VOS 2018, listed frames", {"year": 2018, "frames": "listed"}),
    "youtubevos2019": Preset("youtube-vos", "YouTube-VOS 2019, listed frames", {"year": 2019, "frames": "listed"}),
    "youtubevos2018_all_frames": Preset("youtube-vos", "YouTube-VOS 2018, all frames", {"year": 2018, "frames": "all"}),
    "youtubevos2019_all_frames": Preset("youtube-vos", "YouTube-VOS 2019, all frames", {"year": 2019, "frames": "all"}),
    "lvos": Preset("lvos", "LVOS valid, test: first masks only", first_masks_only=True),
    "long_videos": Preset("long-videos", "Long Videos", options=_DAVIS),
    "vost": Preset(
        "vost",
        "VOST val, test at 10 fps: bank of 1 + 8 frames",
        options={"default_latter": 8, "merged_memory": True},
        first_masks_only=True,
        void_is_object=True,
    ),
}
"""Name -> preset."""


def open_preset(name: str, root: Path, split: str | None, *, all_first_masks: bool = False) -> tuple[Clip, ...]:
    """Return the clips of a benchmark as its published numbers saw them.

    Args:
        name: key of `PRESETS`.
        root: the data set's folder.
        split: None for the evaluation split; `val` means `valid` where that is its name.
        all_first_masks: give every object where it first appears, whatever the preset says.

    Raises:
        UsageError: a split that the data set has not.
        LayoutError: the folder is laid out otherwise.
    """
    from vos_core.data.layout import open_layout

    preset = PRESETS[name]
    if split == "val" and preset.layout in ("lvos", "youtube-vos"):
        split = "valid"
    clips = open_layout(preset.layout, root, split, **preset.layout_options).clips
    if all_first_masks:
        clips = tuple(replace(clip, prompt_rule="first_seen") for clip in clips)
    elif preset.first_masks_only:
        clips = tuple(replace(clip, prompt_rule="first_frame") for clip in clips)
    if preset.void_is_object:
        clips = tuple(replace(clip, void=None) for clip in clips)
    return clips
