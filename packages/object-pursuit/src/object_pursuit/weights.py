"""The one public checkpoint, and the files that pursuits and joint training leave: hypernetwork, encoder, base codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from object_pursuit.config import PRESETS, NetworkConfig
from vos_core.errors import UsageError, WeightsError
from vos_core.weights.manifest import TensorSpec
from vos_core.weights.registry import WeightsEntry
from vos_core.weights.registry import register as _register_entry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from object_pursuit.model import Hypernet, Multinet

METHOD_NAME = "object-pursuit"
PUBLIC = "multinet_vos_davis"
_RECORDS = ("run.json", "z_info.json", "base_info.json")
_PREFIXES = {"hypernet": ("hypernet.", ""), "backbone": ("backbone.", "module.")}
"""What may stand before a part's keys: in a whole network's file, and in the pursuit's own file of it."""


def register() -> None:
    """Add the released checkpoint to the registry of weights."""
    _register_entry(
        WeightsEntry(
            name=PUBLIC,
            method=METHOD_NAME,
            url="gdrive:1B2-WxgIjE-7mQJkro8uOP8OYXUj0V-se",
            licence="not stated by the authors",
            source="https://drive.google.com/file/d/1B2-WxgIjE-7mQJkro8uOP8OYXUj0V-se/view",
            notes="joint pretraining on YouTube-VOS and DAVIS with a shared encoder: gives bases, encoder and hypernetwork",
        )
    )


def is_none(value: str | Path | None) -> bool:
    """Return whether an option says "none": unset, or the word None that the original's commands pass."""
    return value is None or str(value) in ("None", "none", "")


def read_state(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a file by key, prefixes kept.

    Raises:
        WeightsError: it is absent, truncated, holds code or no tensors.
    """
    from vos_core.weights.load import find_state, read_checkpoint

    content = read_checkpoint(path)
    if isinstance(content, Mapping) and isinstance(content.get("z"), _tensor_type()) and "weights" in content:
        return {"z": content["z"].detach()}
    return find_state(content, source=str(path))


def part_of(state: Mapping[str, Tensor], part: Literal["hypernet", "backbone"], *, source: str) -> dict[str, Tensor]:
    """Return the bare keys of the hypernetwork (`blocks....`) or the encoder in a file of it alone or of a whole network.

    Raises:
        WeightsError: the file has no such part.
    """
    for prefix in _PREFIXES[part]:
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if part == "hypernet":
            found = {key: value for key, value in found.items() if key.startswith("blocks.")}
        if found:
            return found
    keys = ", ".join(list(state)[:4])
    raise WeightsError(
        f"{source} holds no {'hypernetwork' if part == 'hypernet' else 'encoder'} (its first keys: {keys})",
        expected=" or ".join(f"keys that begin with {prefix or 'blocks.'}" for prefix in _PREFIXES[part]),
    )


def load_hypernet(hypernet: Hypernet, path: Path) -> None:
    """Load a hypernetwork strictly from a pursuit's `hypernet.pth` or a whole network's file.

    Raises:
        WeightsError: the file cannot be read or does not fit.
    """
    from vos_core.weights.strict import load_strict

    load_strict(hypernet, part_of(read_state(path), "hypernet", source=str(path)), source=str(path))


def load_backbone(encoder: nn.Module, path: Path) -> None:
    """Load an encoder strictly from a pursuit's `backbone.pth` or a whole network's file.

    Raises:
        WeightsError: the file cannot be read or does not fit.
    """
    from vos_core.weights.strict import load_strict

    load_strict(encoder, part_of(read_state(path), "backbone", source=str(path)), source=str(path))


def start_encoder(encoder: nn.Module, *, init: str) -> None:
    """Give an encoder its start weights.

    Args:
        encoder: as it was built, that is random.
        init: `random`; `torchvision` (ImageNet, downloaded once, `layer4.2` stays random as it has none); or a file.

    Raises:
        WeightsError: the weights cannot be had or do not fit; the message says how to go on without them.
    """
    if init == "random":
        return
    if init != "torchvision":
        path = Path(init)
        state = read_state(path)
        if "layer4.1.conv2.weight" in state and "layer4.2.conv2.weight" not in state:
            _load_imagenet(encoder, state, source=init)
        else:
            load_backbone(encoder, path)
        return
    from object_pursuit.model.encoder import ResNet18
    from vos_core.weights.imagenet import imagenet_state

    if not isinstance(encoder, ResNet18):
        return  # the small encoder has no ImageNet weights
    try:
        state = imagenet_state("resnet18")
    except WeightsError as error:
        raise WeightsError(
            f"the encoder's ImageNet weights cannot be had ({error.found})",
            fix="Pass --backbone-init FILE (resnet18-5c106cde.pth) or --backbone-init random, or --backbone with a checkpoint",
        ) from error
    _load_imagenet(encoder, state, source="torchvision")


def _load_imagenet(encoder: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    own = encoder.state_dict()
    shared = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if "conv1.weight" not in shared or len(shared) < len(own) // 2:
        raise WeightsError(f"{source} does not fit this encoder", expected="torchvision's ResNet-18")
    encoder.load_state_dict({**own, **shared}, strict=True)


def network_config_of(state: Mapping[str, Tensor], *, source: str) -> NetworkConfig:
    """Return the preset whose keys a whole network's or a hypernetwork's file has, with the size of its codes.

    Raises:
        WeightsError: none fits; use `--set` or `--preset` to say what the network is.
    """
    blocks = part_of(state, "hypernet", source=source)
    for config in PRESETS.values():
        names = {name.replace(".", "-") for name in config.table}
        if {key.split(".")[1] for key in blocks} != names:
            continue
        heads = {name: blocks.get(f"blocks.{name.replace('.', '-')}.bn_weight.net.2.weight") for name in config.table}
        if all(head is not None and head.shape[0] == config.table[name][0] for name, head in heads.items()):
            first = blocks[f"blocks.{next(iter(config.table)).replace('.', '-')}.expand_linear.weight"]
            return config.model_copy(update={"z_dim": int(first.shape[1])})
    raise WeightsError(f"{source} fits no preset", expected=f"the layers of one of: {', '.join(PRESETS)}")


def load_multinet(path: Path) -> Multinet:
    """Return the network of a joint checkpoint, strictly loaded; sizes come from the file.

    Raises:
        WeightsError: the file cannot be read or is no joint checkpoint.
    """
    from object_pursuit.model import Multinet, build_encoder, build_hypernet
    from vos_core.weights.strict import load_strict

    state = read_state(path)
    z = state.get("z")
    if z is None or z.ndim != 2:
        raise WeightsError(f"{path} holds no codes of several objects", expected="a joint checkpoint with z of shape (N, z_dim)")
    config = network_config_of(state, source=str(path))
    network = Multinet(z.shape[0], build_hypernet(config), build_encoder(config))
    load_strict(network, state, source=str(path))
    return network


def read_bases(source: Path) -> Tensor:
    """Return base codes `(K, z_dim)` of a folder of code files (sorted by name), a joint checkpoint or one code file.

    Raises:
        WeightsError: a file cannot be read, holds no code, or codes differ in size.
        UsageError: the path does not exist.
    """
    import torch

    if source.is_dir():
        files = code_files(source)
        if not files:
            raise WeightsError(f"{source} holds no code file", expected="files *.pth or *.json with a tensor z")
        codes = [read_code(file) for file in files]
        sizes = {code.shape[0] for code in codes}
        if len(sizes) > 1:
            raise WeightsError(f"codes in {source} have {sorted(sizes)} numbers", expected="one size")
        return torch.stack(codes)
    if not source.exists():
        raise UsageError(f"bases {source} do not exist", expected="a folder of code files or a joint checkpoint")
    z = read_state(source).get("z")
    if z is None:
        raise WeightsError(f"{source} holds no codes", expected="a tensor z")
    return z if z.ndim == 2 else z[None]


def code_files(folder: Path) -> list[Path]:
    """Return the code files of a folder in name order; temporary and hidden ones, and our records beside them, are left out."""
    found = (path for path in folder.iterdir() if path.suffix in (".json", ".pth") and not path.name.startswith("."))
    return sorted(path for path in found if path.name not in _RECORDS)


def read_code(path: Path) -> Tensor:
    """Return the code in a file, `(z_dim,)`; the original's `.json` files are torch files, too.

    Raises:
        WeightsError: it cannot be read or holds no single code.
    """
    z = read_state(path).get("z")
    if z is None or z.ndim != 1:
        raise WeightsError(f"{path} holds no code", expected="a tensor z of shape (z_dim,)")
    return z


def read_code_weights(path: Path) -> dict[str, Tensor] | None:
    """Return the generated weights that a code file remembers, memory-mapped; None where it holds the code alone.

    Raises:
        WeightsError: it cannot be read.
    """
    from vos_core.weights.load import read_checkpoint

    content = read_checkpoint(path)
    weights = content.get("weights") if isinstance(content, Mapping) else None
    if weights is None:
        return None
    return {str(key): value.detach() for key, value in weights.items()}


def write_code(path: Path, z: Tensor, weights: Mapping[str, Tensor] | None) -> None:
    """Write a code file: `z`, and the weights it generates now, which later bases must not change."""
    from vos_core.training.checkpoint import save_checkpoint

    content: dict[str, object] = {"z": z.detach().cpu().clone()}
    if weights is not None:
        content["weights"] = {key: value.detach().cpu().clone() for key, value in weights.items()}
    save_checkpoint(path, content)


def manifest_of_public(classes: int) -> dict[str, TensorSpec]:
    """Return the key manifest of a joint checkpoint with a shared encoder and `classes` objects."""
    import torch

    from object_pursuit.model import Multinet, build_encoder, build_hypernet
    from vos_core.weights.manifest import manifest_of

    with torch.device("meta"):
        config = PRESETS["backbone"]
        return manifest_of(Multinet(classes, build_hypernet(config), build_encoder(config)).state_dict())


def _tensor_type() -> type:
    import torch

    return torch.Tensor
