"""What can be set: the pre-training objective and how labels are propagated. Values are the published ones unless changed."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, field_validator

from vos_core.config import Config


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a network.

    Args:
        patch: side of a patch in pixels.
        dim: channels of the encoder.
        depth: blocks of the encoder.
        heads: heads of the encoder.
        decoder_dim, decoder_depth, decoder_heads: the same of the decoder.
        image_size: side of the square images it is pre-trained on, in pixels.
    """

    patch: int
    dim: int
    depth: int
    heads: int
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    image_size: int = 224

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch) ** 2


ARCHITECTURES = {
    "rsp_vit_small_patch16": Architecture(16, 384, 12, 6),
    "rsp_vit_base_patch16": Architecture(16, 768, 12, 12),
    "rsp_vit_small_patch8": Architecture(8, 384, 12, 6),
    "rsp_vit_large_patch16": Architecture(16, 1024, 24, 16),
}
"""The four variants; each is also known as `<name>_dec512d8b`."""
LONG_SUFFIX = "_dec512d8b"


def variant_name(name: str) -> str:
    """Return the short form of a variant's name.

    >>> variant_name("rsp_vit_small_patch16_dec512d8b")
    'rsp_vit_small_patch16'
    """
    return name.removesuffix(LONG_SUFFIX)


class Objective(Config):
    """The pre-training objective (equations in the package's README)."""

    norm_pix_loss: bool = Field(default=True, description="predict patches that are normalised each by its own mean and variance")
    mask_ratio: float = Field(default=0.75, gt=0, lt=1, description="share of the future frame's patches that are hidden, 0-1")
    noise_scale: float = Field(
        default=0.5, ge=0, description="standard deviation of the noise on the future frame, z-scored units"
    )
    kl_scale: float = Field(default=0.01, ge=0, description="weight of the KL term")
    kl_balance: float = Field(default=0.2, ge=0, le=1, description="share of the KL term that trains the posterior, 0-1")
    kl_freebit: float = Field(default=0.1, ge=0, description="nats below which the KL term is not lowered further")
    stoch: int = Field(default=32, ge=1, description="latent variables")
    discrete: int = Field(default=32, ge=0, description="classes of each latent variable; 0 = Gaussian variables")

    @field_validator("discrete")
    @classmethod
    def _classes(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (Gaussian) or at least 2: one class says nothing")
        return value

    @property
    def latent_size(self) -> int:
        """Values of a latent sample."""
        return self.stoch * (self.discrete or 1)

    @property
    def logits_size(self) -> int:
        """Values that describe a latent distribution."""
        return self.stoch * (self.discrete or 2)


class PropagationConfig(Config):
    """Label propagation; the names are those of the original evaluation."""

    n_last_frames: int = Field(default=30, ge=0, description="previous frames that labels come from, besides the first one")
    size_mask_neighborhood: int = Field(
        default=30, ge=0, description="tokens a label may move per source, rows and columns; 0 = any"
    )
    topk: int = Field(default=7, ge=1, description="source tokens that each token listens to")
    temperature: float = Field(default=0.1, gt=0, description="of the exponential over cosine similarities")
    scale: tuple[int, ...] = Field(
        default=(480,), description="shorter side in pixels (the other one is floored to 64), or [height, width] exactly"
    )
    prompt_frames: int = Field(
        default=8, ge=1, description="frames with given masks that stay sources for ever; the first one is always among them"
    )
    candidates: int = Field(
        default=32, ge=1, description="bf16 only: source tokens found in half precision, of which the topk are chosen exactly"
    )

    @field_validator("scale", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part for part in value.replace("x", ",").split(",") if part.strip()]
        return (value,) if isinstance(value, int) else value

    @field_validator("scale")
    @classmethod
    def _one_or_two(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) not in (1, 2) or any(side < 64 for side in value):
            raise ValueError("must be a shorter side, or height and width, of at least 64 pixels")
        return value
