"""JHMDB: propagate the first frame's joints through each clip, and score them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from rsp_pretrain.model import Encoder
from rsp_pretrain.probe.context import ContextConfig, ContextPropagation
from rsp_pretrain.probe.features import ClipFeatures, check_size
from rsp_pretrain.probe.pose import CELLS, SIGMA, THRESHOLDS, Points, PoseScore, joint_labels, joint_points, to_grid, to_pixels
from rsp_pretrain.probe.session import ClipResult, LoadedEncoder, run_clips
from vos_core.data.jhmdb import PoseClip, check_joint_file, list_clips, read_joints
from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, files, read_lines
from vos_core.errors import LayoutError, UsageError
from vos_core.io.atomic import replacing
from vos_core.run.device import synchronize
from vos_core.types import Clip, RunRecord

_JOINTS = "joints"


class PoseConfig(ContextConfig):
    """Options of pose propagation; the defaults are those of the ViT port of the protocol."""

    size: tuple[int, ...] = Field(default=(320, 320), description="Longer side, or height and width, in pixels.")
    sigma: float = Field(default=SIGMA, gt=0, description="Of the joints' stamps, in tokens.")
    cells: int = Field(default=CELLS, ge=1, description="Strongest tokens that place a joint; videowalk takes 3.")
    batch: int = Field(default=4, ge=1, description="Frames encoded at a time.")


def read_file_list(path: Path, root: Path) -> tuple[PoseClip, ...]:
    """Return the clips of a list with one line a clip: the folder of its frames and its joint file.

    Paths are absolute, relative to `root`, or end in a path that is: lists carry folders of those who wrote them.

    Raises:
        LayoutError: a line of another form, or a path that is not found.
    """
    clips = []
    for line in read_lines(path):
        parts = line.split()
        if len(parts) != 2:
            raise LayoutError(f"list {path} has the line '{line}'", expected="the folder of the frames and the joint file")
        folder, joints = (_found(Path(part), root, path) for part in parts)
        frames = files(folder, order="number")
        if not frames:
            raise LayoutError(f"folder {folder}, which {path} names, has no image", fix="Copy the clip's frames again")
        clips.append(PoseClip(f"{folder.parent.name}/{folder.name}", tuple(frames), joints))
    return tuple(clips)


def select_clips(
    root: Path, *, split: str = "test", fold: int = 1, filelist: Path | None = None, only: Sequence[str] | None = None
) -> tuple[tuple[PoseClip, ...], Findings]:
    """Return the clips of a split, or of a list file, and what is missing of them; `only` names those to take.

    Raises:
        UsageError: `only` names a clip that is not there.
        LayoutError: as `list_clips` and `read_file_list`.
    """
    findings = Findings()
    clips = read_file_list(filelist, root) if filelist else list_clips(root, split, fold=fold, findings=findings)
    unknown = set(only or ()) - {clip.name for clip in clips}
    if unknown:
        raise UsageError(f"there is no clip {', '.join(sorted(unknown))}", expected="names <class>/<clip>")
    return tuple(clip for clip in clips if only is None or clip.name in only), findings


def as_video_set(clips: Sequence[PoseClip], root: Path, *, split: str, findings: Findings) -> VideoSet:
    """Return pose clips as a data set without masks, with what was found of it so far."""
    frames = tuple(Clip(clip.name, frames=clip.frames) for clip in clips)
    return VideoSet(f"jhmdb-{split}", "jhmdb", root, split, frames, score_rule="all", problems=tuple(findings.problems))


def check_joints(clips: Sequence[PoseClip]) -> Callable[[Clip, Path, Findings], None]:
    """Return the check of a clip's joint file, wherever that lies: a list file may name it."""
    files_of = {clip.name: clip.joints for clip in clips}
    return lambda clip, root, findings: check_joint_file(files_of[clip.name], clip, findings)


def propagate_pose(
    encoder: Encoder,
    frames: Sequence[Path],
    joints: Points,
    config: PoseConfig,
    *,
    dtype: torch.dtype = torch.float32,
    on_frame: Callable[[float], object] | None = None,
) -> tuple[Points, tuple[int, int]]:
    """Return where the joints of the first frame go, `(2, K, T)` pixels from 0 with NaN for none, and the frames' size.

    Args:
        encoder: frozen.
        frames: image files in time order.
        joints: `(2, K, T)` or `(2, K, 1)`, pixels from 1; only the first frame's are used.
        config: options.
        dtype: of the stored features.
        on_frame: called with the seconds of every frame.

    Raises:
        FrameError: a frame that cannot be read.
        UsageError: a size that is no multiple of the patch.
    """
    features = ClipFeatures(encoder, frames, size=config.size, batch=config.batch)
    device = next(encoder.parameters()).device
    points = to_grid(joints[:, :, :1], frame_size=features.frame_size, size=features.size, patch=encoder.patch)
    first = joint_labels(points[..., 0], features.grid, sigma=config.sigma)
    found = [joint_points(first, cells=config.cells)]
    context: ContextPropagation | None = None
    tick = time.perf_counter()
    for one in features:
        if context is None:
            context = ContextPropagation(config, one, torch.from_numpy(first).to(device), dtype=dtype)
        else:
            found.append(joint_points(context.step(one).cpu().numpy(), cells=config.cells))
        synchronize(str(device))
        if on_frame is not None:
            on_frame(time.perf_counter() - tick)
        tick = time.perf_counter()
    pixels = to_pixels(np.stack(found, 2), frame_size=features.frame_size, grid=features.grid)
    return pixels, features.frame_size


@dataclass(frozen=True, slots=True)
class PoseTask:
    """Propagates the joints of a clip, whose joint file is its annotation `joints`, and writes where they went.

    Args:
        output: positions go to `<output>/<clip>.npz`.
        config: options.
    """

    output: Path
    config: PoseConfig

    def __call__(self, loaded: LoadedEncoder, clip: Clip) -> ClipResult:
        """Return what was propagated; no mask is written."""
        truth = _joints_of(clip)
        steps: list[float] = []
        positions, size = propagate_pose(
            loaded.encoder, clip.frames, truth, self.config, dtype=loaded.dtype, on_frame=steps.append
        )
        write_positions(self.output / f"{clip.name}.npz", positions, size, [path.stem for path in clip.frames])
        return ClipResult(truth.shape[1], size, steps)


def run_jhmdb(
    clips: Sequence[PoseClip],
    output: Path,
    loaded: LoadedEncoder,
    config: PoseConfig,
    *,
    resume: bool = True,
    overwrite: bool = False,
    processes: int = 1,
    on_clip: Callable[[int, int], object] | None = None,
) -> RunRecord:
    """Propagate and score clips; positions go to `<output>/<clip>.npz`.

    Args, Raises: as `rsp_pretrain.probe.session.run_clips`. The scores are `PCK@0.1` ... `PCK@0.5`, 0-100.
    """
    check_size(clips, config.size, loaded.encoder)

    def score(done: Sequence[Clip]) -> Mapping[str, Any]:
        counted = PoseScore()
        for clip in done:
            counted.add(_joints_of(clip), read_positions(output / f"{clip.name}.npz"))
        return {f"PCK@{threshold}": counted.pck(threshold) for threshold in THRESHOLDS}

    return run_clips(
        [Clip(clip.name, frames=clip.frames, annotations={_JOINTS: clip.joints}) for clip in clips],
        PoseTask(output, config),
        output=output,
        loaded=loaded,
        options={"task": "jhmdb", **config.model_dump(mode="json", exclude={"batch"})},
        present=lambda clip: (output / f"{clip.name}.npz").is_file(),
        score=score,
        resume=resume,
        overwrite=overwrite,
        processes=processes,
        on_clip=on_clip,
    )


def write_positions(path: Path, positions: Points, frame_size: tuple[int, int], names: Sequence[str]) -> None:
    """Write joint positions to an npz file: `positions` `(2, K, T)` pixels from 0, `frame_size` (height, width), `frames`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, positions=positions, frame_size=np.array(frame_size), frames=np.array(names))


def read_positions(path: Path) -> Points:
    """Return the positions in a file of `write_positions`.

    Raises:
        LayoutError: the file is absent or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return np.asarray(data["positions"], np.float64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise LayoutError(f"joint positions {path} cannot be read ({error})", fix="Delete the file and run again") from error


def _joints_of(clip: Clip) -> Points:
    path = clip.annotations[_JOINTS]
    joints = read_joints(path)
    if joints.shape[2] != len(clip.frames):
        raise LayoutError(
            f"joint file {path} has {joints.shape[2]} frames",
            expected=f"{len(clip.frames)}, as clip {clip.name} has",
            fix="Copy clip and joint file from the data set again",
        )
    return joints


def _found(path: Path, root: Path, where: Path) -> Path:
    if path.is_absolute() and path.exists():
        return path
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for start in range(len(parts)):
        candidate = root.joinpath(*parts[start:])
        if candidate.exists():
            return candidate
    raise LayoutError(f"{path}, which list {where} names, is not below {root}", fix="Check --root and --filelist")
