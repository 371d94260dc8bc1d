"""Few-shot fitting: a network from the first n annotated images of a sequence, scored on all of it (spec section 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from object_pursuit.data.order import few_shot_frames, scored_subset
from object_pursuit.fit import FitOptions, FitResult, Fitter, fit_object
from object_pursuit.fit.fitter import predictor
from object_pursuit.fit.loop import Split, evaluation_batches
from object_pursuit.model import CodeNetwork, Coeffnet, DeepLab, Hypernet, Singlenet, UNet
from object_pursuit.model.network import Dropout
from object_pursuit.quality import dice, jaccard
from object_pursuit.samples import ObjectImages, Samples
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.io.atomic import replacing
from vos_core.training.checkpoint import save_checkpoint

Model = Literal["coeffnet", "singlenet", "deeplab", "unet"]
MODELS: tuple[Model, ...] = ("coeffnet", "singlenet", "deeplab", "unet")


def build_model(
    kind: Model,
    *,
    hypernet: Hypernet | None = None,
    backbone: nn.Module | None = None,
    bases: Tensor | None = None,
    loaded: Sequence[str] = (),
    dropout: Dropout = "always",
) -> nn.Module:
    """Return a network with the parts frozen that the original freezes.

    Args:
        kind: what is fitted: coefficients, a code, a DeepLab, a U-Net.
        hypernet: for the first two.
        backbone: shared encoder; of DeepLab it is taken over if it was loaded.
        bases: codes `(K, z_dim)` for coefficients.
        loaded: which of `hypernet` and `backbone` come from a file: coefficient networks train the others, DeepLab its encoder.
        dropout: of generated networks.

    Raises:
        UsageError: a part is missing.
    """
    if kind == "unet":
        return UNet()
    if kind == "deeplab":
        network = DeepLab()
        if "backbone" in loaded and backbone is not None:
            network.backbone.load_state_dict(backbone.state_dict())
            network.backbone.requires_grad_(False)
        return network
    if hypernet is None:
        raise UsageError(f"model {kind} needs a hypernetwork", fix="Pass --hypernet")
    if kind == "singlenet":
        hypernet.requires_grad_(False)
        if backbone is not None:
            backbone.requires_grad_(False)
        return Singlenet(hypernet, backbone, dropout=dropout)
    if bases is None:
        raise UsageError("model coeffnet needs base codes", fix="Pass --bases with a folder of codes or a joint checkpoint")
    hypernet.requires_grad_("hypernet" not in loaded)
    if backbone is not None:
        backbone.requires_grad_("backbone" not in loaded)
    return Coeffnet(hypernet, backbone, bases=bases, dropout=dropout)


class Repeated:
    """The images that few-shot fitting trains on: sample i shows frame `frames[i]` of `data`, in a crop of its own."""

    def __init__(self, data: ObjectImages, frames: Sequence[int]) -> None:
        self.data, self.frames = data, list(frames)

    @property
    def name(self) -> str:
        """Of the object."""
        return self.data.name

    @property
    def cropped(self) -> bool:
        """Whether samples differ from read to read."""
        return self.data.cropped

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, indices: Sequence[int], *, draw: int) -> Samples:
        """Return the samples at `indices`."""
        return self.data.read([self.frames[index] for index in indices], draw=draw)


@dataclass(frozen=True, slots=True)
class OneShotResult:
    """What a few-shot fit came to.

    Args:
        fit: epochs and the quality by the published protocol: with dropout, on crops, training frames among the scored.
        trained: indices of the images trained on.
        scored: images scored by the published protocol.
        jaccard: mean overlap of images, whole, without dropout, training images left out; None if all were trained on.
        dice: likewise.
        first: overlap of the first of these images.
        last: of the last; the difference is the decay.
    """

    fit: FitResult
    trained: tuple[int, ...]
    scored: int
    jaccard: float | None
    dice: float | None
    first: float | None
    last: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def fit_oneshot(
    model: nn.Module,
    data: ObjectImages,
    whole: ObjectImages,
    options: FitOptions,
    *,
    shots: int = 1,
    nval: int = 400,
    shuffle_seed: int | None = None,
    out: Path | None = None,
    save_checkpoint_to: Path | None = None,
    visualise: Sequence[str] | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    on_epoch: Callable[[int, float | None], None] | None = None,
) -> OneShotResult:
    """Fit `model` to the first `shots` images and score it on the sequence; the best epoch's network stays in it.

    Args:
        model: from `build_model`.
        data: the sequence as it is trained on (cropped at random or not).
        whole: the same sequence uncropped, for the clean scores and the pictures.
        options: of the fit.
        shots: images to train on; 0 = all.
        nval: images scored by the published protocol; 0 = all.
        shuffle_seed: take the images in this order (iThor: 3); None = the first ones.
        out: gets `log.txt`.
        save_checkpoint_to: file that each new best epoch's network is written to.
        visualise: names of the pictures, one per image, or None: `<out>/viz_pred/<name>.png` shows the input image with the
            predicted object in red.
        device: torch device string.
        precision: of the passes.
        on_epoch: see `fit_object`.

    Raises:
        UsageError: no mask to train on shows the object.
        VosError: images that cannot be read, a loss that is not finite, a file that cannot be written.
    """
    frames = few_shot_frames(len(data), shots, shuffle_seed=shuffle_seed)
    trained = tuple(sorted(set(frames)))
    if not any(bool(whole.read([frame], draw=0).masks.any()) for frame in trained):
        raise UsageError(
            f"none of the {len(trained)} masks to train on shows the object",
            fix="Begin where it is in sight, raise --n, or check --label",
        )
    batch = min(options.batch, len(frames))
    per_epoch = max(1, len(frames) // batch)
    scored = scored_subset(len(data), nval)
    split = Split(tuple(range(len(frames))), tuple(scored), batch, max(1, int(options.eval_every * per_epoch)))
    model.to(device)
    fitter = Fitter(model, options, device=device, precision=precision)

    def best(_: float) -> None:
        if save_checkpoint_to is not None:
            save_checkpoint(save_checkpoint_to, model.state_dict())

    result = fit_object(fitter, Repeated(data, frames), split=split, scored=data, folder=out, on_epoch=on_epoch, on_best=best)
    if save_checkpoint_to is not None and result.best_epoch == 0:
        save_checkpoint(save_checkpoint_to, model.state_dict())  # never evaluated, or never above 0: the last epoch's
    scores = clean_scores(model, whole, device=device, precision=precision, pictures=(out, visualise))
    rest = [pair for index, pair in enumerate(scores) if index not in trained]
    return OneShotResult(
        result,
        trained,
        len(scored),
        _mean([one for one, _ in rest]),
        _mean([two for _, two in rest]),
        rest[0][0] if rest else None,
        rest[-1][0] if rest else None,
    )


@torch.no_grad()
def clean_scores(
    model: nn.Module,
    data: ObjectImages,
    *,
    batch: int = 8,
    device: str = "cpu",
    precision: Precision = "fp32",
    pictures: tuple[Path | None, Sequence[str] | None] = (None, None),
) -> list[tuple[float, float]]:
    """Return (Jaccard, Dice) of every image, without dropout; comparators use their running statistics."""
    training, old = model.training, getattr(model, "dropout", None)
    if isinstance(model, CodeNetwork):
        model.dropout = "never"
    else:
        model.eval()
    predict = predictor(model, precision=precision, device=torch.device(device))
    out, names = pictures
    found: list[tuple[float, float]] = []
    for indices in evaluation_batches(tuple(range(len(data))), batch, partial="keep"):
        samples = data.read(indices, draw=0).to(device)
        mask = torch.sigmoid(predict(samples.images, None)) > 0.5
        truth = samples.masks > 0.5
        found += list(zip(jaccard(mask, truth).tolist(), dice(mask, truth).tolist(), strict=True))
        if out is not None and names is not None:
            for index, image, one in zip(indices, samples.images, mask[:, 0], strict=True):
                write_overlay(out / "viz_pred" / f"{names[index]}.png", image, one)
    if isinstance(model, CodeNetwork):
        model.dropout = old if old is not None else "always"
    model.train(training)
    return found


def write_overlay(path: Path, image: Tensor, mask: Tensor) -> None:
    """Write an image `(3, H, W)`, 0-1, with the red channel at 255 where `mask` `(H, W)` is set."""
    rgb = (image.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy().copy()
    rgb[mask.cpu().numpy(), 0] = 255
    with replacing(path) as temporary:
        Image.fromarray(rgb).save(temporary)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
