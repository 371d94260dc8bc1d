"""Checkpoint files in the published layout: `checkpoint-{epoch}.pth` with model, optimizer, epoch, scaler and args."""

from __future__ import annotations


def saved_epochs(epochs: int, *, every: int = 50, last: int = 2) -> list[int]:
    """Return the epochs, from 0, after which the published layout saves: multiples of `every` and the `last` ones.

    >>> saved_epochs(200)
    [0, 50, 100, 150, 198, 199]
    """
    return [epoch for epoch in range(epochs) if epoch % every == 0 or epoch >= epochs - last]
