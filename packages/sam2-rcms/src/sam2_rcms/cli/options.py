"""The method's options on the command line, in the words of the original, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sam2_rcms.config import PRESETS
from vos_core.errors import UsageError

if TYPE_CHECKING:
    from vos_core.cli.clips import Selection
    from vos_core.types import PromptRule

COMMAND_LINE_WINS = ("num_prev_frames_to_promote", "low_quality_threshold")
"""Values of a YAML file that the original's command line always overrides, with its defaults if need be."""
F = TypeVar("F", bound=Callable[..., Any])
_FOLDER = click.Path(path_type=Path)


def sam2_options(function: F) -> F:
    """Add the original's options; both spellings, with dashes and with underscores, are known."""
    options = (
        _option("--sam2_cfg", metavar="PRESET|YAML", help=f"Preset ({', '.join(PRESETS)}) or the original's YAML file."),
        _option("--base_video_dir", type=_FOLDER, help="Folder of videos, each a folder of JPEG frames."),
        _option("--input_mask_dir", type=_FOLDER, help="Folder of masks of those videos, PNG files or a folder per object."),
        _option("--video_list_file", type=_FOLDER, help="Text file with one video name a line [default: all]."),
        _option("--dataset", metavar="NAME", help="Taken and not used, as in the original; see --layout."),
        _option("--image_size", type=click.IntRange(32), metavar="PX", help="Side of the network's image [default: 1024]."),
        _option("--score_thresh", type=float, metavar="X", help="Logits above this are the object [default: 0]."),
        _option("--num_prev_frames_to_promote", type=click.FloatRange(0), metavar="N", help="RCMS: frames kept [default: 4]."),
        _option("--low_quality_threshold", type=float, metavar="Q", help="MQF: least quality of a kept frame [default: 0.6]."),
        _option("--memory_dtype", type=click.Choice(["bfloat16", "float32"]), help="How memories are stored."),
        _option("--use_all_masks", is_flag=True, help="Take every mask that is there, not only an object's first."),
        _option("--per_obj_png_file", is_flag=True, help="Masks in and out are a file per object; they may overlap."),
        _option("--apply_postprocessing", is_flag=True, help="Stable single masks, binary prompt masks, small holes filled."),
        _option(
            "--track_object_appearing_later_in_video",
            is_flag=True,
            help="Follow objects whose first mask comes later, too.",
        ),
        _option("--use_vos_optimized_video_predictor", is_flag=True, help="The same as --precision bf16."),
        click.option("--batch-objects/--no-batch-objects", "batch_objects", default=None, help="Compute objects together."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _option(name: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*dict.fromkeys((name, name.replace("_", "-"))), name.lstrip("-"), **settings)


SECOND_NAMES = {"output": "output_mask_dir", "weights": "sam2_checkpoint", "processes": "num_gpus", "precision": "dtype"}
"""Shared options that the original calls otherwise."""


def add_second_names(command: click.Command) -> None:
    """Let shared options of `command` be given by their names in the original, with dashes or underscores."""
    for parameter in command.params:
        second = SECOND_NAMES.get(parameter.name or "")
        if second is not None:
            parameter.opts += [f"--{second}", f"--{second.replace('_', '-')}"] if "_" in second else [f"--{second}"]


def take_sam2_options(options: dict[str, Any], *, palette_given: bool = True) -> dict[str, Any]:
    """Return the keyword arguments of `vos_core.cli.run.execute`: the method's own options become assignments.

    Args:
        options: of the command line.
        palette_given: whether the user chose `--palette`; else folders of the original keep the palette of their masks.

    Raises:
        UsageError: an option that contradicts another, or lacks its partner.
        LayoutError: a folder of videos or masks that is not there.
    """
    shared = dict(options)
    own = {
        name: shared.pop(name)
        for name in (
            "image_size",
            "score_thresh",
            "num_prev_frames_to_promote",
            "low_quality_threshold",
            "memory_dtype",
            "batch_objects",
        )
    }
    if shared.pop("apply_postprocessing"):
        own["apply_postprocessing"] = True
    per_object = shared.pop("per_obj_png_file")
    if per_object:
        own["non_overlap_masks"] = False
        shared["object_masks"] = True
    shared.pop("dataset")
    if shared.pop("use_vos_optimized_video_predictor"):
        _same(shared, "precision", "bf16", "--use_vos_optimized_video_predictor", unset="fp32")
    original = _take_cfg(shared, shared.pop("sam2_cfg"))
    assignments = [f"{name}={value}" for name, value in {**original, **{k: v for k, v in own.items() if v is not None}}.items()]
    shared["assignments"] = (*assignments, *shared["assignments"])  # --set has the last word
    late = shared.pop("track_object_appearing_later_in_video")
    every = shared.pop("use_all_masks")
    folders = {name: shared.pop(name) for name in ("base_video_dir", "input_mask_dir", "video_list_file")}
    if folders["base_video_dir"] is not None and not palette_given:
        shared["palette"] = "first"
    selection = _selection(shared, folders, per_object=per_object, late=late)
    if every:
        selection = _every_mask(selection, late=late, named=folders["base_video_dir"] is not None)
    shared["opened"] = selection
    return shared


def _same(shared: dict[str, Any], name: str, value: Any, option: str, *, unset: Any) -> None:
    """Put the value of an option's second name in its place."""
    if value is None:
        return
    if shared[name] not in (unset, value):
        raise UsageError(f"{option} {value} and --{name} {shared[name]} differ", fix="Give one of them")
    shared[name] = value


def _take_cfg(shared: dict[str, Any], cfg: str | None) -> dict[str, Any]:
    """Return options that a YAML file of the original sets; a preset, or the file's size, becomes the variant."""
    if cfg is None:
        return {}
    if cfg in PRESETS:
        _same(shared, "variant", cfg, "--sam2_cfg", unset=None)
        return {}
    if Path(cfg).suffix not in (".yaml", ".yml"):
        raise UsageError(f"--sam2_cfg {cfg} is no preset", expected=f"one of {', '.join(PRESETS)}, or a YAML file")
    if not Path(cfg).is_file():
        raise UsageError(
            f"--sam2_cfg {cfg}: there is no such file",
            expected=f"a YAML file, or one of the presets {', '.join(PRESETS)}",
            fix="In place of a file of the original's, name the preset: of sam2.1_hiera_b+.yaml b+_rcms for weights of MOSEv2, "
            "b+ for those of SAM 2.1",
        )
    from sam2_rcms.hydra import predictor_values, read_original

    size, options = predictor_values(read_original(Path(cfg)), source=cfg)
    for name in COMMAND_LINE_WINS:
        options.pop(name, None)
    mss = options.get("sigmoid_scale_for_mem_enc", 1.0) == 7.5
    fitting = [name for name, preset in PRESETS.items() if preset.size == size]
    variant = next((name for name in fitting if name.endswith("_rcms") == mss), fitting[-1])
    _same(shared, "variant", variant, f"--sam2_cfg {cfg}: variant", unset=None)
    return options


def _selection(shared: dict[str, Any], folders: dict[str, Path | None], *, per_object: bool, late: bool) -> Selection:
    from vos_core.cli.clips import select_clips

    names = ("clips", "layout", "root", "split", "video", "mask", "only")
    videos, masks = folders["base_video_dir"], folders["input_mask_dir"]
    if videos is None:
        stray = [f"--{name}" for name in ("input_mask_dir", "video_list_file") if folders[name] is not None]
        if stray:
            raise UsageError(f"{', '.join(stray)} without --base_video_dir", fix="Give --base_video_dir and --input_mask_dir")
        found = select_clips(**{name: shared.pop(name) for name in names})
        return _with_rule(found, "first_seen") if late else found
    others = [f"--{name}" for name in names if shared.pop(name) is not None]
    if masks is None or others:
        raise UsageError(
            f"--base_video_dir together with {', '.join(others)}" if others else "--base_video_dir without --input_mask_dir",
            expected="--base_video_dir and --input_mask_dir",
        )
    from sam2_rcms.cli.folders import open_folders

    return open_folders(videos, masks, listed=folders["video_list_file"], per_object=per_object, late=late)


def _every_mask(selection: Selection, *, late: bool, named: bool) -> Selection:
    """Return the clips with every mask as a prompt; objects that enter later are refused where they are not asked for."""
    from vos_core.data.layout import first_annotation_table

    if named and not late:
        for clip in selection.clips:
            first = first_annotation_table(replace(clip, prompt_rule="first_frame"))
            table = first_annotation_table(replace(clip, prompt_rule="first_seen"))
            strangers = sorted(set(table) - set(first))
            if strangers:
                raise UsageError(
                    f"objects {strangers} of video '{clip.name}' are not in its first mask",
                    fix="Add --track_object_appearing_later_in_video",
                )
    return _with_rule(selection, "all")


def _with_rule(selection: Selection, rule: PromptRule) -> Selection:
    return replace(selection, clips=tuple(replace(clip, prompt_rule=rule) for clip in selection.clips))
