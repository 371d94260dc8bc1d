"""What the fields of the goldens' cases mean: forms of an output and tolerances (goldens README); as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from object_pursuit.config import DECODER_TABLE, FULL_TABLE
from object_pursuit.model import Coeffnet, DeepLab, Hypernet, MultiDeepLab, Multinet, Singlenet, UNet
from object_pursuit.model.encoder import ResNet18
from vos_core.testing import seeded_module

Array = npt.NDArray[Any]


def _shaped(value: Array, output: Mapping[str, Any]) -> Array:
    """Return `value` in the `form` that an output entry stores."""
    form = output["form"]
    if form == "whole":
        return value
    if form == "stats":
        wide = value.astype(np.float64)
        return np.array([wide.mean(), wide.std(), wide.min(), wide.max()])
    if form == "strided":
        picked = value[:, output["channel"]] if "channel" in output else value
        return picked[tuple(slice(None, None, stride) for stride in output["strides"])]
    if form == "packed_bits":
        return np.packbits(value.astype(bool))
    if form == "fraction":
        return value.astype(np.float64).reshape(len(value), -1).mean(1)
    if form == "round255_u8":
        return np.round(value * 255).astype(np.uint8)
    assert form == "truncate_u8", form
    return value.astype(np.uint8)


def _assert_as_stored(actual: Array, golden: Array, output: Mapping[str, Any]) -> None:
    """Fail unless `actual`, already in its form, agrees with the golden array by the entry's tolerance."""
    name = output["array"]
    a, b = np.asarray(actual), np.asarray(golden)
    a = a.reshape(b.shape) if a.size == b.size else a
    assert a.shape == b.shape, f"{name}: shape {a.shape}, expected {b.shape}"
    if "min_agreement" in output:
        count = int(np.prod(output["shape"]))
        equal = (np.unpackbits(a)[:count] == np.unpackbits(b)[:count]).mean()
        assert equal >= output["min_agreement"], f"{name}: {equal:.6f} of the pixels agree, need {output['min_agreement']}"
        return
    a, b = a.astype(np.float64), b.astype(np.float64)
    for rows in output.get("steps", [...]):
        x, y = a[rows], b[rows]
        size = np.abs(y)
        bound = (
            output.get("atol", 0.0)
            + output.get("rtol", 0.0) * size
            + output.get("max_rel", 0.0) * size.max(initial=0.0)
            + output.get("std_rel", 0.0) * (y.std() if y.size else 0.0)
        )
        difference = np.abs(x - y)
        assert np.isfinite(x).all(), f"{name}[{rows}]: not finite"
        assert (difference <= bound).all(), (
            f"{name}[{rows}]: largest difference {difference.max():.3g}, "
            f"{np.max(difference / np.maximum(bound, 1e-30)):.2f} of what is allowed"
        )


@pytest.fixture(scope="session")
def shaped() -> Callable[..., Array]:
    """`shaped(value, output)`: the array in the `form` that an output entry stores."""
    return _shaped


@pytest.fixture(scope="session")
def assert_as_stored() -> Callable[..., None]:
    """`assert_as_stored(actual, golden, entry)`: fails unless they agree by the tolerance of an output or compare entry."""
    return _assert_as_stored


def _table(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layer table that a case names or spells out."""
    if case["tensors"] is not None:
        return {name: tuple(shape) for name, shape in case["tensors"].items()}
    return {"decoder": DECODER_TABLE, "full": FULL_TABLE}[case["table"]]


def _untrained(case: Mapping[str, Any], name: str) -> nn.Module:
    """Return the module that goldens call `name`, in the sizes of the case."""
    plain = {"unet": UNet, "deeplab": DeepLab, "multideeplab": MultiDeepLab}
    if name in plain:
        return plain[name]()
    if name == "encoder":
        return ResNet18()
    hypernet = Hypernet(case["z_dim"], _table(case))
    if name == "hypernet":
        return hypernet
    backbone = ResNet18() if case["encoder"] else None
    if name == "multinet":
        return Multinet(case["classes"], hypernet, backbone, dropout="never")
    if name == "singlenet":
        return Singlenet(hypernet, backbone, dropout="never")
    assert name == "coeffnet", name
    return Coeffnet(hypernet, backbone, bases=torch.zeros(case["bases"], case["z_dim"]), dropout="never")


def _seeded(case: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Return every module of the case's `seeded` list with its weights, strictly loaded; fresh ones at each call."""
    made: dict[str, nn.Module] = {}
    seeds = seeded_module()
    for entry in case["seeded"]:
        module = _untrained(case, entry["module"])
        prefix = "module." if entry["module"] == "encoder" else ""  # an encoder alone is seeded by the keys of its file
        state = seeds.seeded_state(nn.ModuleDict({"module": module}) if prefix else module, entry["seed"])
        for edit in entry["edits"]:
            if edit["op"] == "scale":
                state[edit["key"]].mul_(edit["factor"])
            elif edit["op"] == "fill":
                state[edit["key"]].fill_(edit["value"])
            else:
                assert edit["op"] == "seeded", edit
                array = seeds.seeded_array(edit["source"], tuple(state[edit["key"]].shape), edit.get("seed", entry["seed"]))
                state[edit["key"]] = torch.from_numpy(np.asarray(array)) * edit["scale"]
        module.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()}, strict=True)
        made[entry["module"]] = module
    return made


@pytest.fixture(scope="session")
def golden_module() -> Callable[[Mapping[str, Any], str], nn.Module]:
    """`golden_module(case, name)`: an untrained module in the sizes of a case."""
    return _untrained


@pytest.fixture(scope="session")
def golden_modules() -> Callable[[Mapping[str, Any]], dict[str, nn.Module]]:
    """`golden_modules(case)`: the modules of a case's `seeded` list by name, seeded and edited."""
    return _seeded


def _golden_samples(images: Array, masks: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images/255 `(N, 3, H, W)` and masks, each divided by 255 only where its own maximum exceeds 1."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255  # NCHW decides which kernels run
    truth = torch.stack([torch.from_numpy(mask).float() / (255 if mask.max() > 1 else 1) for mask in masks])
    return pictures, truth[:, None]


@pytest.fixture(scope="session")
def golden_samples() -> Callable[[Array, Array], tuple[torch.Tensor, torch.Tensor]]:
    """`golden_samples(images_u8, masks_u8)`: the tensors that the goldens were made with."""
    return _golden_samples


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
