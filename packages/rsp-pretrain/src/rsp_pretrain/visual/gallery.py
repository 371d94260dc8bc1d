"""From frames and a checkpoint to pictures on disk and one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from rsp_pretrain.config import PropagationConfig
from rsp_pretrain.data.pairs import normalise as normalise_pairs
from rsp_pretrain.model import RSP, Encoder
from rsp_pretrain.prepare import normalise, working_size
from rsp_pretrain.probe.features import own_precision
from rsp_pretrain.segmenter import RSPSegmenter
from rsp_pretrain.train.objective import reconstructions
from rsp_pretrain.visual.maps import attention_picture, enlarged, fitted, principal_colours, tiled
from vos_core.data.folder import single_video
from vos_core.errors import UsageError
from vos_core.io.atomic import replacing
from vos_core.io.frames import EndOfFrames, FrameSource, open_frames
from vos_core.io.video import paint_overlay
from vos_core.report.sheet import Picture, Section, write_sheet
from vos_core.run.session import run_clip
from vos_core.types import Frame, FrameResult, RgbImage

Show = Literal["features", "attention", "reconstruction", "masks"]
_TILE = 240  # shorter side of one attention map in pixels
_SMALLEST = 128  # side of one reconstruction in pixels, at least
SHOWS: tuple[Show, ...] = ("features", "attention", "reconstruction", "masks")


@dataclass(frozen=True, slots=True)
class GalleryOptions:
    """What to show.

    Args:
        frames: how many frames, evenly spread.
        scale: shorter side in pixels for features and masks, see `PropagationConfig`.
        block: encoder block whose attention is shown, -1 = the last.
        gap: frames from present to future in reconstructions.
        seed: of the noise, latents and masks in reconstructions.
        propagation: how masks are propagated.
    """

    frames: int = 4
    scale: tuple[int, ...] = (480,)
    block: int = -1
    gap: int = 8
    seed: int = 0
    propagation: PropagationConfig = field(default_factory=PropagationConfig)


def make_gallery(
    source: Path,
    encoder: Encoder,
    output: Path,
    options: GalleryOptions,
    *,
    shows: Sequence[Show],
    title: str,
    note: str = "",
    mask: Path | None = None,
    on_picture: Callable[[], object] | None = None,
) -> list[Path]:
    """Write `<output>/<show>_<frame>.png` and `<output>/index.html`; return the files.

    Args:
        source: video file, folder of frames or one image.
        encoder: frozen; an `RSP` for reconstructions.
        output: folder, made if absent.
        options: see `GalleryOptions`.
        shows: what to show, of `SHOWS`.
        title: heading of the page.
        note: what a reader of the page must know first.
        mask: of the first frame, for `masks`.
        on_picture: called for each picture written.

    Raises:
        UsageError: masks without `mask`, reconstructions of an encoder alone, or a block that it has not.
        FrameError, MaskError: input that cannot be read.
        OutputError: a file cannot be written.
    """
    if "masks" in shows and mask is None:
        raise UsageError("masks are to be shown and none was given", fix="Pass --mask with that of the first frame")
    if "reconstruction" in shows and not isinstance(encoder, RSP):
        raise UsageError(
            "reconstructions need a decoder and this checkpoint has an encoder alone", fix="Leave them out of --show"
        )
    depth = len(encoder.blocks)
    if not -depth <= options.block < depth:
        raise UsageError(f"--block {options.block}", expected=f"-{depth} to {depth - 1}, the encoder's blocks")
    written: list[Path] = []

    def keep(name: str, rgb: RgbImage, text: str) -> Picture:
        path = output / f"{name}.png"
        with replacing(path) as temporary:
            Image.fromarray(rgb).save(temporary, format="PNG")
        written.append(path)
        if on_picture is not None:
            on_picture()
        return Picture(rgb, text)

    sections = []
    with closing(open_frames(source)) as frames:
        total = _length(frames)
        chosen = sorted({round(i) for i in np.linspace(0, total - 1, min(options.frames, total))})
        shown = [frames.read(index) for index in chosen]
        if "features" in shows:
            sections.append(_features(encoder, shown, options, keep))
        if "attention" in shows:
            sections.append(_attention(encoder, shown, options, keep))
        if "reconstruction" in shows:
            assert isinstance(encoder, RSP)
            gap = min(options.gap, total - 1)
            starts = sorted({round(i) for i in np.linspace(0, total - 1 - gap, min(options.frames, total - gap))})
            present, later = ([frames.read(index + step) for index in starts] for step in (0, gap))
            sections.append(_reconstructions(encoder, present, later, gap, options, keep))
    if mask is not None and "masks" in shows:
        sections.append(_masks(source, mask, encoder, frozenset(chosen), options, keep))
    page = output / "index.html"
    lead = " ".join(filter(None, (f"{source.name}, {total} frame{'s' if total > 1 else ''}.", note)))
    write_sheet(page, sections, title=title, lead=lead, producer="rsp-pretrain visualize")
    return [*written, page]


Keep = Callable[[str, RgbImage, str], Picture]


def _length(frames: FrameSource) -> int:
    """Return the number of frames that can be read: containers may say too many."""
    last = len(frames) - 1
    while last > 0:
        try:
            frames.read(last)
            break
        except EndOfFrames:
            last -= 1
    return last + 1


@torch.inference_mode()
def _features(encoder: Encoder, shown: Sequence[Frame], options: GalleryOptions, keep: Keep) -> Section:
    found = []
    for frame in shown:
        with own_precision(encoder):
            found.append(encoder.dense_features(_image(encoder, frame, options))[0])
    pictures = []
    for frame, colours in zip(shown, principal_colours(found), strict=True):
        small = fitted(frame.rgb, 2 * _TILE)
        both = tiled([small, enlarged(colours, (small.shape[0], small.shape[1]))], [frame.name, "features"], columns=2)
        pictures.append(keep(f"features_{frame.name}", both, f"Frame {frame.name} and its features"))
    text = "The three principal components of the patches' features over all these frames, as red, green and blue."
    return Section("Features", text=(text,), pictures=tuple(pictures))


@torch.inference_mode()
def _attention(encoder: Encoder, shown: Sequence[Frame], options: GalleryOptions, keep: Keep) -> Section:
    pictures = []
    for frame in shown:
        with own_precision(encoder):
            maps = encoder.attention_maps(_image(encoder, frame, options), block=options.block)[0]
        text = f"Frame {frame.name}: the mean over heads laid over it, then every head"
        pictures.append(keep(f"attention_{frame.name}", attention_picture(fitted(frame.rgb, _TILE), maps, name=frame.name), text))
    block = range(len(encoder.blocks))[options.block]
    lead = f"What the class token attends to in block {block} of {len(encoder.blocks)}, each map from its lowest to its highest."
    return Section("Attention", text=(lead,), pictures=tuple(pictures))


@torch.inference_mode()
def _reconstructions(
    network: RSP, shown: Sequence[Frame], later: Sequence[Frame], gap: int, options: GalleryOptions, keep: Keep
) -> Section:
    device = network.cls_token.device
    present, future = (
        normalise_pairs(torch.stack([_square(frame.rgb, network.image_size) for frame in frames])).to(device)
        for frames in (shown, later)
    )
    generator = torch.Generator(device).manual_seed(options.seed)
    with own_precision(network):
        out = network(present, future, network.draw(future, generator=generator))
    grid = reconstructions(network, present, future, out, rows=len(shown))
    assert out.prior is not None
    guessed = reconstructions(network, present, future, dataclasses.replace(out, post=out.prior), rows=len(shown))
    side = network.image_size
    scale = -(-_SMALLEST // side)  # pictures of small networks are enlarged, for the texts to have room
    tiles: list[RgbImage] = []
    texts: list[str] = []
    for row, (now, then) in enumerate(zip(shown, later, strict=True)):
        columns = [_grid_tile(grid, row, column, side) for column in range(5)]
        columns.insert(3, _grid_tile(guessed, row, 2, side))
        tiles += [enlarged(tile, (side * scale, side * scale)) for tile in columns]
        texts += [now.name, then.name, "by posterior", "by prior", "patches hidden", "reconstructed"]
    whole = tiled(tiles, texts, columns=6)
    text = (
        f"From left to right: present frame, the frame {gap} later, its prediction from the posterior's sample (which has "
        "seen it noised), its prediction from the prior's sample (which has not), the later frame with patches hidden, and those "
        "reconstructed."
    )
    notes = [text]
    rows = f"One row a frame: {', '.join(frame.name for frame in shown)}"
    if network.objective.norm_pix_loss:
        notes.append("This network predicts normalised patches: predictions get mean and deviation of the true patches back.")
    return Section("Reconstruction", text=tuple(notes), pictures=(keep("reconstruction", whole, rows),))


def _grid_tile(grid: RgbImage, row: int, column: int, side: int) -> RgbImage:
    return grid[row * side : (row + 1) * side, column * side : (column + 1) * side]


def _masks(source: Path, mask: Path, encoder: Encoder, chosen: frozenset[int], options: GalleryOptions, keep: Keep) -> Section:
    clip = single_video(source, mask)
    weight = encoder.patch_embed.proj.weight
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[weight.dtype]
    config = options.propagation.model_copy(update={"scale": options.scale})
    segmenter = RSPSegmenter(encoder, config, device=str(weight.device), precision=precision)  # type: ignore[arg-type]
    pictures = []

    def show(frame: Frame, result: FrameResult) -> None:
        if frame.index in chosen:
            painted = paint_overlay(frame.rgb, result.labels)
            pictures.append(keep(f"masks_{frame.name}", painted, f"Frame {frame.name}"))

    run_clip(segmenter, clip, device=str(weight.device), callback=show)
    return Section(
        "Propagated masks", text=("The first frame's mask is given, the others are propagated.",), pictures=tuple(pictures)
    )


def _image(encoder: Encoder, frame: Frame, options: GalleryOptions) -> torch.Tensor:
    size = working_size(frame.rgb.shape[0], frame.rgb.shape[1], options.scale)
    return normalise(frame.rgb, size).to(encoder.cls_token.device)


def _square(rgb: RgbImage, side: int) -> torch.Tensor:
    """Return the centre of a frame, uint8 `(3, side, side)`."""
    from torchvision import transforms

    steps = transforms.Compose(
        [transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side)]
    )
    return torch.from_numpy(np.asarray(steps(Image.fromarray(rgb))).transpose(2, 0, 1).copy())
