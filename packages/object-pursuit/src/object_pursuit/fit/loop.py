"""A whole fit: split, epochs, evaluations, early stop, and the network of the best epoch (spec section 4.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from object_pursuit.fit.features import FixedBatches
from object_pursuit.fit.fitter import Fitter
from object_pursuit.fit.options import FitOptions
from object_pursuit.model import Coeffnet, Singlenet
from object_pursuit.samples import ObjectImages, Samples
from vos_core.errors import UsageError
from vos_core.io.atomic import output_error
from vos_core.training.allocator import keep_freed_memory

_SCORING = 2**30
"""Crops of scored images are numbered from here, so that they differ from those trained on."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit came to.

    Args:
        quality: of the best epoch, 0-1; 0 if no epoch was evaluated.
        last_quality: of the last evaluated epoch.
        epochs: run.
        best_epoch: number of the best epoch, from 1; 0 if none.
        steps: taken.
        seconds: wall time.
        history: quality of each evaluated epoch.
    """

    quality: float
    last_quality: float
    epochs: int
    best_epoch: int
    steps: int
    seconds: float
    history: tuple[float, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Split:
    """Which images train and which are scored, and how they are batched."""

    train: tuple[int, ...]
    scored: tuple[int, ...]
    batch: int
    interval: int


def split_images(count: int, options: FitOptions) -> Split:
    """Return a split of `count` images, drawn from torch's global generator where images are held out.

    Raises:
        UsageError: with `partial_batches="drop"`, too few images for one batch.
    """
    used = min(count, options.max_images)
    if options.val_share < 1:
        order = torch.randperm(count).tolist()
        n_train, n_scored = int(used * (1 - options.val_share)), int(used * options.val_share)
        if options.partial_batches == "keep":
            n_scored = max(1, n_scored)
            n_train = max(1, min(n_train, used - n_scored))
        train, scored = order[:n_train], order[n_train : n_train + n_scored]
        if options.partial_batches == "keep" and not scored:
            scored = train  # a single image
    else:
        n_train, train = used, list(range(count))
        scored = train
    batch = min(options.batch, n_train) if options.partial_batches == "keep" else options.batch
    if n_train < batch or (options.partial_batches == "drop" and len(scored) < batch):
        raise UsageError(
            f"an object has {count} images, which leaves {n_train} to train on and {len(scored)} to score",
            expected=f"at least one batch of {batch} of each",
            fix="Use --partial-batches keep, or a smaller batch",
        )
    return Split(tuple(train), tuple(scored), batch, max(1, int(options.eval_every * (n_train // batch))))


def evaluation_batches(indices: tuple[int, ...], batch: int, *, partial: str) -> list[list[int]]:
    """Return consecutive batches; `keep` keeps an incomplete last one, joined to the one before if it is a single image."""
    cut = [list(indices[first : first + batch]) for first in range(0, len(indices), batch)]
    if partial == "drop":
        return [part for part in cut if len(part) == batch]
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2] += cut.pop()
    return cut


def training_batches(indices: tuple[int, ...], batch: int) -> Iterator[list[int]]:
    """Yield one epoch of full batches in an order from torch's global generator."""
    order = torch.randperm(len(indices)).tolist()
    for first in range(0, len(order) - batch + 1, batch):
        yield [indices[place] for place in order[first : first + batch]]


def fit_object(
    fitter: Fitter,
    data: ObjectImages,
    *,
    split: Split | None = None,
    scored: ObjectImages | None = None,
    folder: Path | None = None,
    on_epoch: Callable[[int, float | None], None] | None = None,
    on_best: Callable[[float], None] | None = None,
) -> FitResult:
    """Fit until the epochs end or the quality no longer grows; leave the network of the best (or last) epoch in place.

    Random numbers come from the global generators: seed them for a run that can be repeated.

    Args:
        fitter: network, optimiser and options.
        data: images to train on.
        split: of them; None draws one.
        scored: other images that `split.scored` points into; None = `data`.
        folder: gets `log.txt`, and `Best_z.pth` or `Best_coeff.pth` of a code.
        on_epoch: called with the epoch's number and its quality (None if it was not evaluated).
        on_best: called with the quality of each new best epoch, the network being that epoch's.

    Raises:
        VosError: images that cannot be read, a loss that is not finite, too few images.
    """
    options, begun = fitter.options, time.perf_counter()
    keep_freed_memory()
    split = split_images(len(data), options) if split is None else split
    fixed = FixedBatches(
        data if scored is None else scored,
        evaluation_batches(split.scored, split.batch, partial=options.partial_batches),
        fitter.model,
        device=fitter.device,
    )
    log = _Log(folder)
    best, best_epoch, waited, steps = 0.0, 0, 0, 0
    history: list[float] = []
    kept: dict[str, Tensor] | None = None
    epoch = 0
    for epoch in range(1, options.epochs + 1):
        qualities, losses = [], []
        for indices in training_batches(split.train, split.batch):
            losses.append(fitter.step(data.read(indices, draw=steps)).loss)
            steps += 1
            if steps % split.interval == 0:
                qualities.append(fixed.score(fitter, draw=_SCORING + steps))
        quality = sum(qualities) / len(qualities) if qualities else None
        log.epoch(epoch, losses, quality)
        if on_epoch is not None:
            on_epoch(epoch, quality)
        if quality is None:
            continue
        history.append(quality)
        if quality > best:
            best, best_epoch, waited = quality, epoch, 0
            log.best(fitter.model)
            if options.keep == "best":
                kept = _snapshot(fitter.model)
            if on_best is not None:
                on_best(quality)
        else:
            waited += 1
        if options.patience is not None and waited >= options.patience:
            break
        if options.target is not None and best > options.target:
            break
    if kept is not None:
        fitter.model.load_state_dict(kept, strict=False)
    return FitResult(best, history[-1] if history else 0.0, epoch, best_epoch, steps, time.perf_counter() - begun, tuple(history))


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy what training changes: parameters with gradients, and the buffers of modules that have such parameters."""
    changing = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    owners = {name.rpartition(".")[0] for name in changing}
    return {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if name in changing or (name.rpartition(".")[0] in owners and name not in dict(model.named_parameters()))
    }


class _Log:
    """`log.txt` and the best code of one fit."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "log.txt").write_text("", encoding="utf-8")
            except OSError as error:
                raise output_error(folder, error) from error

    def epoch(self, epoch: int, losses: list[float], quality: float | None) -> None:
        if self.folder is None:
            return
        mean = sum(losses) / len(losses) if losses else float("nan")
        line = f"epoch {epoch}: loss {mean:.6f}" + ("" if quality is None else f", quality {quality:.6f}")
        try:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise output_error(self.folder / "log.txt", error) from error

    def best(self, model: nn.Module) -> None:
        if self.folder is None:
            return
        from vos_core.training.checkpoint import save_checkpoint

        if isinstance(model, Singlenet):
            save_checkpoint(self.folder / "Best_z.pth", {"z": model.z.detach().cpu()})
        elif isinstance(model, Coeffnet):
            save_checkpoint(self.folder / "Best_coeff.pth", {"coeffs": model.coeffs.detach().cpu()})


__all__ = ["FitResult", "Samples", "Split", "evaluation_batches", "fit_object", "split_images", "training_batches"]
