"""What `pretrain` is asked for: its objects and its start network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from object_pursuit.config import NetworkConfig
from object_pursuit.data.images import ObjectFolder
from object_pursuit.data.objects import DAVIS_VAL, dataset_name, open_objects
from object_pursuit.data.shapes import held_object
from object_pursuit.joint import JointOptions, build_joint
from object_pursuit.samples import ObjectImages
from object_pursuit.weights import load_backbone, read_state, start_encoder
from vos_core.errors import UsageError
from vos_core.weights.strict import load_strict

DRAWN = 8
DRAWN_IMAGES = 32
"""Objects of the built-in set, and images of each (spec section 9)."""


def joint_objects(
    data: Sequence[Path],
    datasets: Sequence[str],
    *,
    size: tuple[int, int],
    seed: int,
    trainset_only: bool,
    tiny: bool,
) -> list[ObjectImages]:
    """Return all objects of all data sets in order; those with a single image are left out.

    Raises:
        UsageError: no data, or not one data set name per folder.
        LayoutError: data that is not laid out as its format says.
    """
    if not data:
        if not tiny:
            raise UsageError("--data is missing", expected="a folder of objects", fix="Or try --preset tiny, which draws its own")
        return [held_object(i, DRAWN_IMAGES, seed=seed, size=size[0]) for i in range(DRAWN)]
    names = list(datasets) or ["iThor" if tiny else "DAVIS"]
    if len(names) == 1:
        names = names * len(data)
    if len(names) != len(data):
        raise UsageError(f"{len(data)} --data and {len(names)} --dataset", expected="one --dataset per --data, or one for all")
    found: list[ObjectImages] = []
    for root, name in zip(data, names, strict=True):
        kind = dataset_name(name)
        for entry in open_objects(kind, root):
            if len(entry) < 2 or (kind == "DAVIS" and trainset_only and entry.name in DAVIS_VAL):
                continue
            # Every data set is cropped in joint training (spec 4.1, "Random crop"), except the whole pictures of iThor.
            found.append(ObjectFolder(entry, size=size, seed=seed))
    if not found:
        raise UsageError(f"{', '.join(map(str, data))}: no object has two images", fix="Add data")
    return found


def start_network(
    config: NetworkConfig, options: JointOptions, classes: int, *, start: Path | None, backbone: Path | None, init: str
) -> nn.Module:
    """Return the network that training starts from; what no file gives comes from torch's global generator.

    Raises:
        WeightsError: a file that cannot be read or does not fit.
    """
    network = build_joint(config, options, classes)
    if start is not None:
        load_strict(network, read_state(start), source=str(start))
        return network
    encoder = (
        network.get_submodule("main_net.backbone") if options.model == "MultiDeeplab" else getattr(network, "backbone", None)
    )
    if isinstance(encoder, nn.Module):
        if backbone is not None:
            load_backbone(encoder, backbone)
        else:
            start_encoder(encoder, init=init)
    return network
