"""Embeddings of single images by a frozen encoder, as robot-learning benchmarks take them (spec 3.3; CortexBench)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from rsp_pretrain.data.pairs import MEAN, STD
from rsp_pretrain.model import RSP, Encoder
from rsp_pretrain.model.vit import NORM_EPS
from rsp_pretrain.probe.features import own_precision
from vos_core.errors import UsageError
from vos_core.types import RgbImage

Pool = Literal["class", "mean", "tokens", "class+prior-logits", "class+prior-onehot"]
POOLS: tuple[Pool, ...] = ("class", "mean", "tokens", "class+prior-logits", "class+prior-onehot")
"""`class`: the class token. `mean`: the patches' mean through a fresh norm. `tokens`: all tokens, flattened. The others add what
the prior head says of the class token: its logits, or the likeliest class of each variable as one-hot."""
RESIZE, CROP = 256, 224


class CortexTransform:
    """Pictures as CortexBench prepares them: shorter side 256 (bicubic), centre crop 224, ImageNet statistics.

    Args:
        resize: shorter side in pixels.
        crop: side of the crop in pixels.
    """

    def __init__(self, *, resize: int = RESIZE, crop: int = CROP) -> None:
        if not 0 < crop <= resize:
            raise UsageError(f"a crop of {crop} pixels from a shorter side of {resize}", expected="a crop that is not larger")
        from torchvision import transforms

        self._steps = transforms.Compose(
            [
                transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(crop),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, picture: RgbImage | Image.Image) -> Tensor:
        """Return float32 `(3, crop, crop)` of a uint8 `(H, W, 3)` RGB array or a PIL image."""
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        found: Tensor = self._steps(image.convert("RGB"))
        return found


class Embedder(nn.Module):
    """A frozen encoder as a function from images to vectors; nothing in it is trained.

    Args:
        encoder: frozen; an `RSP` for the pools that need its prior head.
        pool: what the vector is made of.
        image_size: side of the images in pixels; decides `dim` of the pool `tokens`.

    Raises:
        UsageError: a pool that this encoder has not.
    """

    def __init__(self, encoder: Encoder, *, pool: Pool = "class", image_size: int = CROP) -> None:
        super().__init__()
        if pool not in POOLS:
            raise UsageError(f"unknown pool '{pool}'", expected=f"one of {', '.join(POOLS)}")
        if pool.startswith("class+prior") and not isinstance(encoder, RSP):
            raise UsageError(
                f"the pool '{pool}' needs the prior head of a whole RSP checkpoint", fix="Give such a checkpoint, or another pool"
            )
        if pool == "class+prior-onehot" and isinstance(encoder, RSP) and not encoder.objective.discrete:
            raise UsageError("the pool 'class+prior-onehot' needs discrete latents", fix="Take class+prior-logits")
        self.encoder, self.pool = encoder, pool
        tokens = (image_size // encoder.patch) ** 2 + 1
        extra = 0
        if isinstance(encoder, RSP) and pool.startswith("class+prior"):
            extra = encoder.objective.logits_size
        self.dim = encoder.dim * tokens if pool == "tokens" else encoder.dim + extra

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return float32 `(B, dim)` of normalised images `(B, 3, H, W)`."""
        encoder = self.encoder
        with own_precision(encoder):
            if self.pool == "mean":
                tokens = encoder.embed(images)
                for block in encoder.blocks:
                    tokens = block(tokens)
                return F.layer_norm(tokens[:, 1:].float().mean(1), (encoder.dim,), eps=NORM_EPS)
            tokens = encoder.encode(images)
            if self.pool == "tokens":
                return tokens.flatten(1).float()
            first = tokens[:, 0]
            if not isinstance(encoder, RSP) or self.pool == "class":
                return first.float()
            prior = encoder.to_prior(first).float()
        if self.pool == "class+prior-onehot":
            logits = prior.unflatten(1, (encoder.objective.stoch, encoder.objective.discrete))
            prior = F.one_hot(logits.argmax(2), logits.shape[2]).float().flatten(1)
        return torch.cat((first.float(), prior), 1)


class CortexModel(NamedTuple):
    """What CortexBench's model loader returns.

    Args:
        model: images `(B, 3, 224, 224)` to vectors.
        dim: length of a vector.
        transform: picture to image.
        info: where the weights come from.
    """

    model: Embedder
    dim: int
    transform: CortexTransform
    info: dict[str, Any]


def cortex_model(weights: str = "auto", *, pool: Pool = "class", variant: str | None = None, device: str = "auto") -> CortexModel:
    """Return a frozen encoder in the form that CortexBench's `load_model` has: `(model, dim, transform, info)`.

    Args:
        weights: `auto`, a registered name, a file, or `random`.
        pool: see `POOLS`.
        variant: of the encoder; None = told by the weights.
        device: torch device string.

    Raises:
        WeightsError, UsageError: as `rsp_pretrain.probe.session.open_encoder` and `Embedder`.
    """
    from rsp_pretrain.probe.session import open_encoder

    loaded = open_encoder(weights=weights, variant=variant, device=device, whole=pool.startswith("class+prior"))
    model = Embedder(loaded.encoder, pool=pool)
    return CortexModel(model, model.dim, CortexTransform(), {**loaded.settings, "pool": pool})


def embed_frames(
    embedder: Embedder, pictures: Iterable[RgbImage], transform: CortexTransform, *, batch: int = 16
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the embedding of every picture, float32 `(dim,)`; `batch` of them are encoded at a time."""
    device = next(embedder.parameters()).device
    stream = iter(pictures)
    while block := [transform(picture) for picture in itertools.islice(stream, batch)]:
        yield from embedder(torch.stack(block).to(device)).cpu().numpy()


def fuse_history(embeddings: npt.NDArray[np.float32], history: int = 3) -> npt.NDArray[np.float32]:
    """Return what a policy sees at each time: the steps between the last embeddings, then the last one, `(T, history * dim)`.

    With three: [e2 - e1, e3 - e2, e3]. Before the first frame there are copies of it.

    >>> fuse_history(np.array([[1.0], [4.0]], np.float32), 2)
    array([[0., 1.],
           [3., 4.]], dtype=float32)

    Args:
        embeddings: `(T, dim)` of one clip or episode in time order.
        history: embeddings that count, 1 = only the present one.
    """
    if history < 1:
        raise UsageError(f"a history of {history} frames", expected="1 or more")
    times = np.arange(len(embeddings))
    past = [embeddings[np.maximum(times - back, 0)] for back in range(history - 1, -1, -1)]
    steps = [later - earlier for earlier, later in itertools.pairwise(past)]
    return np.concatenate([*steps, past[-1]], 1)
