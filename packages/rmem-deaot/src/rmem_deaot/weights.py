"""The authors' checkpoints: where they are, which variant a file is by its keys, and how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmem_deaot.config import TEMPORAL_SLOTS, VARIANTS, EncoderName, NetworkConfig
from vos_core.errors import WeightsError
from vos_core.weights.registry import WeightsEntry
from vos_core.weights.registry import register as _register_entry

if TYPE_CHECKING:
    from torch import Tensor

    from rmem_deaot.model import AOTNetwork

METHOD_NAME = "rmem-deaot"
AUTO = "auto"
"""Variant name for "what the checkpoint's keys say"; without a checkpoint the first of `VARIANTS`."""
ID_BANK = "patch_wise_id_bank.weight"
UNUSED = re.compile(r"LSTT\.mask_token|LSTT\.layers\.\d+\.linear_KMem\.(weight|bias)")
"""Tensors of the checkpoints that no output depends on: a file may lack them, and superfluous ones are left out."""


@dataclass(frozen=True, slots=True)
class _Release:
    variant: str
    drive_id: str
    source: str
    notes: str


_RMEM = "https://github.com/Restricted-Memory/RMem"
_ZOO = "https://github.com/yoxu515/aot-benchmark/blob/main/MODEL_ZOO.md"
RELEASES = {
    "R50_DeAOTL_temp_pe_10wstep_80000": _Release(
        "r50_deaotl_rmem",
        "1eVpkueDix6xOoq0C_V_Ei9BK7OXQ4uX5",
        _RMEM,
        "R50 DeAOT-L with RMem: 85.2 J&F on DAVIS 2017 val",
    ),
    "R50_DeAOTL_PRE_YTB_DAV": _Release(
        "r50_deaotl", "1QoChMkTVxdYZ_eBlZhK2acq9KMQZccPJ", _ZOO, "R50 DeAOT-L: 85.2 J&F on DAVIS 2017 val as published"
    ),
    "R50_AOTL_PRE_YTB_DAV": _Release(
        "r50_aotl", "1qJDYn3Ibpquu4ffYoQmVjg1YCbr2JQep", _ZOO, "R50 AOT-L: 85.2 J&F on DAVIS 2017 val as published"
    ),
    "aotplus_R50_DeAOTL_Temp_pe_Slot_4_ema_20000": _Release(
        "r50_deaotl_rmem_vost",
        "1jMqSOuF5t_W6U7UrKdaX6SH42GSnc78-",
        _RMEM,
        "R50 DeAOT-L with RMem trained on VOST: 40.4 J_tr, 51.8 J on VOST val as published; about 76 J on DAVIS 2017",
    ),
    "aotplus_R50_AOTL_Temp_pe_Slot_4_ema_20000": _Release(
        "r50_aotl_rmem_vost",
        "1_Wp-zXw2u9zIWRJLYCw-TGaVOKGFaVb_",
        _RMEM,
        "R50 AOT-L with RMem trained on VOST: 39.8 J_tr, 50.5 J on VOST val as published",
    ),
    "R50_DeAOTL_VOST": _Release(
        "r50_deaotl_vost",
        "1edAk8O2PWRS4jpD3m8K_H1kmj89VF-sd",
        _RMEM,
        "R50 DeAOT-L trained on VOST, unrestricted: 37.6 J_tr, 51.0 J; also linked, wrongly, as the DAVIS baseline",
    ),
    "R50_AOTL_VOST": _Release(
        "r50_aotl_vost", "1fHS5txnxRwaVCoYWSnIJfUgor8ru07NG", _RMEM, "R50 AOT-L trained on VOST, unrestricted: 37.0 J_tr, 49.2 J"
    ),
}
"""Released checkpoints by name, the default first. Of the variants without one, files from the authors' pages load by path."""


def register() -> None:
    """Add the released checkpoints to the registry of weights."""
    for name, release in RELEASES.items():
        _register_entry(
            WeightsEntry(
                name=name,
                method=METHOD_NAME,
                url=f"gdrive:{release.drive_id}",
                licence="BSD-3-Clause",
                source=release.source,
                notes=release.notes,
            )
        )


def names_for(variant: str) -> tuple[str, ...]:
    """Return the released checkpoints of a variant; all of them, the default first, for `auto`."""
    if variant == AUTO:
        return tuple(RELEASES)
    return tuple(name for name, release in RELEASES.items() if release.variant == variant)


def network_of(state: Mapping[str, Tensor], *, source: str) -> NetworkConfig:
    """Return the network that a state dict belongs to, told by its keys and shapes.

    Raises:
        WeightsError: it is none of AOT or DeAOT, or has an encoder or temporal positions that this package does not have.
    """
    _check_built(state, source=source)
    layers = {int(found[1]) for key in state if (found := re.match(r"LSTT\.layers\.(\d+)\.", key))}
    encoder = _encoder_of(state)
    bank = state.get(ID_BANK)
    if not layers or encoder is None or bank is None or bank.ndim != 4 or bank.shape[1] not in (11, 12):
        shown = ", ".join(sorted({key.split(".")[0] for key in state})[:8])
        raise WeightsError(
            f"{source} is no AOT or DeAOT checkpoint (its keys begin with: {shown})",
            expected="encoder.*, LSTT.layers.* and a patch_wise_id_bank of 11 or 12 channels",
        )
    return NetworkConfig(
        family="deaot" if "LSTT.layers.0.linear_QV.weight" in state else "aot",
        encoder=encoder,
        layers=len(layers),
        temporal_position="mem_pos_emb" in state,
        id_channels=11 if bank.shape[1] == 11 else 12,
        short_term="recurrent" if "LSTT.layers.0.norm4.weight" in state else "local",
    )


def variants_of(network: NetworkConfig) -> tuple[str, ...]:
    """Return the variants with this network; B and L of the small families share theirs and differ in their memory."""
    return tuple(name for name, variant in VARIANTS.items() if variant.network == network)


def detect_variant(state: Mapping[str, Tensor], *, source: str, wanted: str = AUTO) -> str:
    """Return the variant of a state dict: `wanted` if it fits, else by keys, and by the file's name where keys cannot tell.

    Raises:
        WeightsError: no variant, or another one than `wanted`.
    """
    network = network_of(state, source=source)
    fitting = variants_of(network)
    if not fitting:
        raise WeightsError(
            f"{source} is a network that was never released ({network.layers} layers of {network.family}, {network.encoder})",
            expected=f"one of {', '.join(VARIANTS)}",
        )
    if wanted != AUTO:
        if wanted not in fitting:
            raise WeightsError(
                f"{source} holds variant {' or '.join(fitting)}, not {wanted}",
                fix=f"Give --variant {fitting[0]}, or leave it out: the keys tell the variant",
            )
        return wanted
    stem = re.sub(r"[^a-z0-9]", "", Path(source).stem.lower())
    named = [name for name in fitting if name.replace("_", "") in stem]
    return named[0] if named else fitting[-1]


def load_network(path: Path | None, *, variant: str = AUTO, seed: int = 0) -> tuple[AOTNetwork, str]:
    """Return a network with the weights of a checkpoint file, or seeded untrained ones, and its variant.

    Args:
        path: a checkpoint of any of the authors' forms, or safetensors; None = untrained.
        variant: which one it must be; `auto` = what its keys say.
        seed: for untrained weights.

    Raises:
        WeightsError: the file cannot be read, fits no variant or another one.
    """
    import torch

    from rmem_deaot.model import AOTNetwork
    from vos_core.weights.load import load_state

    state = None if path is None else load_state(path)
    if state is not None:
        variant = detect_variant(state, source=str(path), wanted=variant)
    elif variant == AUTO:
        variant = next(iter(VARIANTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AOTNetwork(VARIANTS[variant].network)
    if state is not None:
        load_into(network, state, source=str(path))
    return network.eval(), variant


def load_into(network: AOTNetwork, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict strictly; only tensors that no output depends on (`UNUSED`) may be absent or superfluous.

    Raises:
        WeightsError: anything else is missing, unexpected or of another shape.
    """
    from vos_core.weights.strict import load_strict

    own = network.state_dict()
    fitted = {key: value for key, value in state.items() if key in own or not UNUSED.fullmatch(key)}
    fitted |= {key: value for key, value in own.items() if key not in fitted and UNUSED.fullmatch(key)}
    load_strict(network, fitted, source=source)


def widen_id_bank(state: Mapping[str, Tensor], network: AOTNetwork) -> dict[str, Tensor]:
    """Return `state` with an identity bank of 11 channels widened to the 12 of `network`, whose own 12th channel stays.

    This is how training on VOST starts from weights without an ignore channel.
    """
    import torch

    found, own = state.get(ID_BANK), network.patch_wise_id_bank.weight.detach()
    if found is None or found.ndim != 4 or found.shape[1] >= own.shape[1]:
        return dict(state)
    return {**state, ID_BANK: torch.cat((found, own[:, found.shape[1] :].to(found)), 1)}


def _check_built(state: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse forms that the original's configuration has beside the published ones (spec sections 2.1 and 2.7)."""
    slots = state.get("mem_pos_emb")
    if slots is not None and len(slots) != TEMPORAL_SLOTS:
        raise WeightsError(
            f"{source} has {len(slots)} temporal positions (mem_pos_emb), a form that no published weights have",
            expected=f"{TEMPORAL_SLOTS}, or none",
        )
    resnet = "encoder.layer1.0.conv1.weight" in state
    mobilenet = "encoder.features.0.0.weight" in state
    if (resnet and "encoder.layer1.0.conv2.weight" not in state) or (mobilenet and "encoder.features.18.0.weight" not in state):
        raise WeightsError(
            f"{source} has a {'ResNeSt' if resnet else 'MobileNetV3'} or other encoder that this package does not have",
            expected="ResNet-50, ResNet-101, MobileNetV2 or Swin-B",
        )


def _encoder_of(state: Mapping[str, Tensor]) -> EncoderName | None:
    if "encoder.patch_embed.proj.weight" in state:
        return "swin_base"
    if "encoder.features.0.0.weight" in state:
        return "mobilenetv2"
    if "encoder.layer1.0.conv1.weight" in state:
        return "resnet101" if "encoder.layer3.22.conv1.weight" in state else "resnet50"
    return None
