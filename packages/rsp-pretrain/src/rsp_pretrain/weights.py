"""Checkpoints: the released ones, what keys they have, and the encoder in any vision transformer's file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsp_pretrain.config import ARCHITECTURES, Architecture, Objective, variant_name
from vos_core.errors import WeightsError
from vos_core.weights.manifest import TensorSpec
from vos_core.weights.registry import WeightsEntry
from vos_core.weights.registry import register as _register_entry

if TYPE_CHECKING:
    from torch import Tensor

    from rsp_pretrain.model import RSP, Encoder

METHOD_NAME = "rsp-pretrain"
RELEASED = {
    "rsp_vit_small_patch16": "gdrive:1OZW7UWOLhBxjXukn8CAuCSA9mCV_d9R2",
    "rsp_vit_base_patch16": "gdrive:1GsA9h1w4RZ4unpJ2td1GaI_yfZ3vB2Rm",
}
"""Released checkpoints: 400 epochs of Kinetics-400; each is named after its variant."""
ANY_VIT = "vit"
"""The variant whose sizes are those of the checkpoint: encoders of other methods, for comparison."""

_STRIPPED = ("module.", "backbone.", "base_encoder.")
"""Taken out wherever they stand in a key, as DINO's evaluation does."""
_OTHER_NETWORKS = (
    "mask_token",
    "decoder",
    "to_posterior",
    "to_prior",
    "head",
    "fc_norm",
    "fc.",
    "projector",
    "predictor",
    "momentum",
)
"""Parts of training that an encoder does not need: keys that begin so are left out and reported."""


def manifest(variant: str, objective: Objective | None = None) -> dict[str, TensorSpec]:
    """Return key -> (shape, dtype) of a variant's whole network, in the order of its checkpoints."""
    size, goal = ARCHITECTURES[variant_name(variant)], objective or Objective()
    dim, inner, pixels = size.dim, size.decoder_dim, 3 * size.patch**2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, size.patches + 1, dim),
        "mask_token": (1, 1, inner),
        "decoder_pos_embed": (1, size.patches + 1, inner),
        "patch_embed.proj.weight": (dim, 3, size.patch, size.patch),
        "patch_embed.proj.bias": (dim,),
    }

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    for i in range(size.depth):
        norm(f"blocks.{i}.norm1", dim)
        linear(f"blocks.{i}.attn.qkv", 3 * dim, dim)
        linear(f"blocks.{i}.attn.proj", dim, dim)
        norm(f"blocks.{i}.norm2", dim)
        linear(f"blocks.{i}.mlp.fc1", 4 * dim, dim)
        linear(f"blocks.{i}.mlp.fc2", dim, 4 * dim)
    norm("norm", dim)
    for name, into in (("to_posterior", 2 * dim), ("to_prior", dim)):
        linear(f"{name}.0", 2 * dim, into)
        linear(f"{name}.2", goal.logits_size, 2 * dim)
    linear("decoder_embed_mae", inner, dim)
    linear("decoder_embed_deter", inner, dim)
    linear("decoder_embed_stoch", inner, goal.latent_size)
    for i in range(size.decoder_depth):
        block = f"decoder_blocks.{i}"
        norm(f"{block}.norm1", inner)
        norm(f"{block}.norm_kv1", inner)
        linear(f"{block}.cattn.kv", 2 * inner, inner)
        linear(f"{block}.cattn.q", inner, inner)
        linear(f"{block}.cattn.proj", inner, inner)
        norm(f"{block}.norm3", inner)
        linear(f"{block}.attn.qkv", 3 * inner, inner)
        linear(f"{block}.attn.proj", inner, inner)
        norm(f"{block}.norm4", inner)
        linear(f"{block}.mlp2.fc1", 4 * inner, inner)
        linear(f"{block}.mlp2.fc2", inner, 4 * inner)
    norm("decoder_norm", inner)
    linear("decoder_pred", pixels, inner)
    return {key: (shape, "float32") for key, shape in shapes.items()}


def register() -> None:
    """Add the released checkpoints to the registry of weights."""
    for name, url in RELEASED.items():
        _register_entry(
            WeightsEntry(
                name=name,
                method=METHOD_NAME,
                url=url,
                manifest=manifest(name),
                notes="Kinetics-400, 400 epochs: "
                + ("60.1 J&F on DAVIS 2017 val as published" if "small" in name else "the larger released encoder"),
            )
        )


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a checkpoint's tensors.

    Args:
        source: the file.
        description: sizes of the encoder.
        loaded: tensors taken.
        ignored: part of the checkpoint -> tensors left out.
        resized: (patches before, patches now) where the position table was resampled.
    """

    source: str
    description: str
    loaded: int
    ignored: Mapping[str, int]
    resized: tuple[int, int] | None = None

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.description}, {self.loaded} tensors loaded, none missing"]
        if self.ignored:
            parts = ", ".join(f"{name} {count}" for name, count in self.ignored.items())
            lines.append(f"  ignored {sum(self.ignored.values())}: {parts}")
        if self.resized:
            lines.append(f"  positions resampled from {self.resized[0]} to {self.resized[1]} patches")
        return "\n".join(lines)


def load_encoder(
    path: Path | None, *, variant: str | None = None, seed: int = 0, image_size: int | None = None
) -> tuple[Encoder, LoadReport | None]:
    """Return the frozen-evaluation encoder of a checkpoint, and what was ignored in it.

    RSP checkpoints, encoder-only exports and ViT checkpoints of DINO, MAE, MoCo v3, SiamMAE and timm whose keys allow it load.

    Args:
        path: the checkpoint; None = untrained.
        variant: what it must be, one of `ARCHITECTURES`; None or `vit` = whatever it is.
        seed: of untrained weights.
        image_size: side of the images that the position table is brought to; None = what it was made for (untrained: 224).

    Raises:
        WeightsError: unreadable, no vision transformer, one with parts that this encoder lacks, or of another size.
    """
    import torch

    from rsp_pretrain.model.vit import Encoder, initialise

    wanted = None if variant in (None, ANY_VIT) else ARCHITECTURES[variant_name(str(variant))]
    if path is None:
        size = wanted or ARCHITECTURES["rsp_vit_small_patch16"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            side = image_size or size.image_size
            encoder = Encoder(patch=size.patch, dim=size.dim, depth=size.depth, heads=size.heads, image_size=side)
            initialise(encoder)
        return encoder.eval(), None
    state, stored, left = _read(path)
    size = _sizes(state, stored, source=str(path))
    if wanted is not None and (wanted.dim, wanted.depth, wanted.patch) != (size.dim, size.depth, size.patch):
        raise WeightsError(
            f"{path} holds a {_describe(size)}",
            expected=f"variant {variant}: {_describe(wanted)}",
            fix=f"Pass --variant {_variant_of(size) or ANY_VIT}",
        )
    side = image_size or size.image_size
    with torch.device("meta"):  # weights exist once: the encoder takes the checkpoint's own tensors
        encoder = Encoder(patch=size.patch, dim=size.dim, depth=size.depth, heads=size.heads, image_size=side)
    report = fill_encoder(encoder, state, source=str(path), description=_describe(size))
    return encoder.eval(), replace(report, ignored={**report.ignored, **left})


def fill_encoder(encoder: Encoder, state: Mapping[str, Tensor], *, source: str, description: str = "encoder") -> LoadReport:
    """Copy an encoder's tensors out of `state` (keys already stripped); a missing or unknown key is an error.

    Raises:
        WeightsError: as `load_encoder`.
    """
    from rsp_pretrain.model.position import resize_table
    from vos_core.weights.strict import load_strict

    expected = encoder.state_dict()
    ignored = [key for key in state if key not in expected and key.startswith(_OTHER_NETWORKS)]
    kept = {key: value for key, value in state.items() if key not in set(ignored)}
    resized = None
    table = kept.get("pos_embed")
    if table is not None and table.shape[1:2] != expected["pos_embed"].shape[1:2]:
        resized = (table.shape[1] - 1, encoder.patches)
        kept["pos_embed"] = resize_table(table, encoder.image_size // encoder.patch)
    load_strict(encoder, kept, source=source)
    parts = Counter(re.split(r"[.\d]", key, maxsplit=1)[0] for key in ignored)
    return LoadReport(source, description, len(kept), dict(parts), resized)


def encoder_state(path: Path) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under bare names: outer keys opened (`model`, `teacher`, ...), wrappers stripped.

    Raises:
        WeightsError: unreadable, or no tensors.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, int]]:
    """Return `encoder_state`, the options that the file keeps beside it, and how many tensors of which other network it has."""
    from vos_core.weights.load import find_state, read_checkpoint

    content: Any = read_checkpoint(path)
    stored = _stored_args(content)
    left = {}
    if isinstance(content, Mapping) and isinstance(content.get("teacher"), Mapping):
        if isinstance(content.get("student"), Mapping):
            left["student"] = len(content["student"])
        content = content["teacher"]  # DINO keeps two networks; the teacher is the one that is evaluated
    found = {}
    for key, value in find_state(content, source=str(path)).items():
        name = key
        for part in _STRIPPED:
            name = name.replace(part, "")
        found[name] = value
    return found, stored, left


def is_whole(state: Mapping[str, Tensor]) -> bool:
    """Return whether tensors are those of a whole RSP network. MAE has a decoder, too, but no latents."""
    return {"decoder_pred.weight", "decoder_embed_stoch.weight", "to_prior.2.bias"} <= state.keys()


def load_rsp(path: Path, *, variant: str | None = None, **options: Any) -> RSP:
    """Return the whole pre-training network of a checkpoint, loaded strictly.

    Args:
        path: a checkpoint of this package or of the reference.
        variant: None = told by the shapes.
        options: fields of `Objective` that shapes do not tell (`norm_pix_loss`, ...); those in the file's `args` are taken first.

    Raises:
        WeightsError: unreadable, an encoder alone, or of no known variant.
    """
    from rsp_pretrain.model import RSP
    from vos_core.config import build_config
    from vos_core.weights.strict import load_strict

    state, stored, _ = _read(path)
    if not is_whole(state):
        raise WeightsError(
            f"{path} holds no decoder of RSP", expected="a whole pre-training checkpoint of RSP, not an encoder alone"
        )
    size = _sizes(state, stored, source=str(path))
    inner = state["decoder_pred.weight"].shape[1]
    depth = len({key.split(".")[1] for key in state if key.startswith("decoder_blocks.")})
    known = ARCHITECTURES[variant_name(variant)] if variant else None
    heads = known.decoder_heads if known else stored.get("decoder_heads", 16 if inner == 512 else max(1, inner // 32))
    size = replace(size, decoder_dim=inner, decoder_depth=depth, decoder_heads=int(heads))
    logits, latent = state["to_prior.2.bias"].shape[0], state["decoder_embed_stoch.weight"].shape[1]
    if logits != latent:
        shapes = {"stoch": latent, "discrete": 0}
    else:
        stoch = int(stored.get("stoch", options.get("stoch", min(32, latent // 2))))
        shapes = {"stoch": stoch, "discrete": latent // stoch}
    fields = {name: stored[name] for name in Objective.model_fields if name in stored and name not in shapes}
    network = RSP(size, build_config(Objective, fields, options, shapes))
    load_strict(network, state, source=str(path))
    return network.eval()


def _stored_args(content: Any) -> dict[str, Any]:
    args = content.get("args") if isinstance(content, Mapping) else None
    return dict(args) if isinstance(args, Mapping) else dict(vars(args)) if args is not None else {}


def _sizes(state: Mapping[str, Tensor], stored: Mapping[str, Any], *, source: str) -> Architecture:
    token, patches, table = (state.get(key) for key in ("cls_token", "patch_embed.proj.weight", "pos_embed"))
    numbers = [int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))]
    if token is None or token.ndim != 3 or patches is None or patches.ndim != 4 or not numbers:
        shown = ", ".join(list(state)[:4])
        raise WeightsError(
            f"{source} holds no vision transformer (its first keys: {shown})",
            expected="keys cls_token, pos_embed, patch_embed.proj and blocks.<i> as in DINO, MAE or timm",
        )
    dim = token.shape[2]
    heads = int(stored.get("heads", max(1, dim // 64)))  # 64 channels a head, as in every published ViT
    side = round((table.shape[1] - 1) ** 0.5) if table is not None and table.ndim == 3 else 224 // patches.shape[2]
    return Architecture(patches.shape[2], dim, max(numbers) + 1, heads, image_size=side * patches.shape[2])


def _variant_of(size: Architecture) -> str | None:
    shape = (size.dim, size.depth, size.patch)
    return next((name for name, item in ARCHITECTURES.items() if (item.dim, item.depth, item.patch) == shape), None)


def _describe(size: Architecture) -> str:
    return f"vision transformer with {size.depth} blocks of {size.dim} channels, patch {size.patch}"
