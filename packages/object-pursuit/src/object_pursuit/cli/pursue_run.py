"""What `pursue` and `evaluate` are asked for, as objects: stream, images, networks, options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from object_pursuit.cli.options import image_size
from object_pursuit.data.images import Label, ObjectEntry, ObjectFolder
from object_pursuit.data.objects import CO3D_LIMIT, dataset_name, open_objects
from object_pursuit.data.order import object_stream
from object_pursuit.data.shapes import held_object, object_name
from object_pursuit.evaluate import evaluate_codes
from object_pursuit.pursuit import Pursuit, PursuitOptions, StartPoint, published_options
from object_pursuit.pursuit.options import TINY
from object_pursuit.samples import ObjectImages
from object_pursuit.start import choose_config, prepare_start
from vos_core.config import build_config, parse_assignments, read_yaml
from vos_core.errors import UsageError
from vos_core.run.device import apply_threads, check_precision, choose_device

DRAWN = range(8, 17)
DRAWN_IMAGES = 32
"""Objects of the built-in stream, and images of each (spec section 9)."""


@dataclass(frozen=True)
class ObjectSource:
    """Objects by name, and by what records call them.

    Args:
        entries: on disk; empty for drawn objects.
        size: (height, width).
        seed: of crops and of drawn objects.
    """

    entries: tuple[ObjectEntry, ...]
    size: tuple[int, int]
    seed: int

    @cached_property
    def names(self) -> list[str]:
        """In sorted order."""
        return [entry.name for entry in self.entries] if self.entries else [object_name(i) for i in DRAWN]

    def open(self, name: str, *, whole: bool = False) -> ObjectImages:
        """Return an object's images.

        Raises:
            UsageError: there is no such object.
        """
        if not self.entries:
            drawn = {object_name(i): i for i in range(DRAWN.stop)}
            if name not in drawn:
                raise UsageError(
                    f"there is no drawn object '{name}'", fix="Pass --data with the folder that the run was made from"
                )
            return held_object(drawn[name], DRAWN_IMAGES, seed=self.seed, size=self.size[0])
        for entry in self.entries:
            if name in (entry.name, entry.data_dir):
                return ObjectFolder(entry, size=self.size, seed=self.seed, crop=False if whole else None)
        raise UsageError(f"object '{name}' is not in the data", expected=", ".join(self.names[:5]), fix="Pass the run's --data")


def open_source(options: Mapping[str, Any], *, default: str = "CO3D") -> tuple[ObjectSource, str]:
    """Return the objects and the data set's name.

    Raises:
        UsageError: no data.
        LayoutError: data that is not laid out as its format says.
    """
    tiny = options["preset"] == "tiny"
    dataset = dataset_name(options["dataset"] or ("iThor" if tiny else default))
    size = image_size(options["resize"], options["preset"])
    if options["data"] is None:
        if not tiny:
            raise UsageError("--data is missing", expected="a folder of objects", fix="Or try --preset tiny, which draws its own")
        return ObjectSource((), (size[0], size[0]), options["seed"]), dataset
    label: Label = options.get("label") or "any"
    return ObjectSource(open_objects(dataset, options["data"], label=label), size, options["seed"]), dataset


def device_of(options: Mapping[str, Any]) -> str:
    """Return the device that the options name, after setting threads and checking the precision."""
    apply_threads(options["threads"])
    device = choose_device(options["device"])
    check_precision(options["precision"], device)
    return device


@dataclass
class PursuitPlan:
    """Everything that a pursuit needs."""

    out: Path
    source: ObjectSource
    stream: tuple[str, ...]
    options: PursuitOptions
    asked: Mapping[str, Any]
    device: str
    tell: Callable[[str], None]

    def start(self) -> StartPoint:
        """Return networks and codes."""
        config = choose_config(
            self.asked["preset"],
            use_backbone=self.asked["use_backbone"],
            hypernet=self.asked["hypernet"],
            z_dim=self.asked["z_dim"],
        )
        return prepare_start(
            config,
            hypernet=self.asked["hypernet"],
            backbone=self.asked["backbone"],
            backbone_init=self.asked["backbone_init"],
            bases=self.asked["bases"],
            objects=self.asked["zs"],
            seed=self.asked["seed"],
        )

    def build(self) -> Pursuit:
        """Return the pursuit, begun or resumed."""
        self._pursuit = Pursuit(
            self.start(),
            self.stream,
            self.source.open,
            options=self.options,
            out=self.out,
            names=self.asked["file_names"],
            save_interval=self.asked["save_interval"],
            on_error=self.asked["on_error"],
            resume=self.asked["resume"],
            device=self.device,
            precision=self.asked["precision"],
            tell=self.tell,
        )
        return self._pursuit

    def evaluate(self) -> dict[str, Any]:
        """Score all codes with the networks that the pursuit ended with."""
        pursuit = self._pursuit
        start = StartPoint(self.start_config, pursuit.hypernet, pursuit.encoder)
        return evaluate_codes(
            self.out,
            start,
            self.source.open,
            lambda name: self.source.open(name, whole=True),
            seed=self.asked["seed"],
            device=self.device,
            precision=self.asked["precision"],
            tell=self.tell,
        )

    @property
    def start_config(self) -> Any:
        """What the networks are."""
        return choose_config(
            self.asked["preset"],
            use_backbone=self.asked["use_backbone"],
            hypernet=self.asked["hypernet"],
            z_dim=self.asked["z_dim"],
        )


def plan_pursuit(out: Path, options: Mapping[str, Any], *, tell: Callable[[str], None]) -> PursuitPlan:
    """Return what the options of `pursue` describe.

    Raises:
        VosError: options or data that are not right.
    """
    device = device_of(options)
    source, dataset = open_source(options)
    base = TINY if options["preset"] == "tiny" else published_options(dataset)
    named = {
        "tau": options["thres"],
        "keep": options["keep"],
        "partial_batches": options["partial_batches"],
        "dropout": options["dropout"],
        "clip_value": options["clip_value"],
        "seed": options["seed"],
    }
    given = {name: value for name, value in named.items() if value is not None}
    told = read_yaml(options["config_file"]) if options["config_file"] is not None else {}
    settings = build_config(PursuitOptions, told, given, parse_assignments(options["assignments"]), base=base)
    stream = object_stream(
        source.names,
        strategy=options["order"],
        seed=1 if options["order"] == "sequence" else options["seed"],
        insert_seen=not options["no_repeats"],
        limit=CO3D_LIMIT if dataset == "CO3D" else None,
    )
    return PursuitPlan(out, source, tuple(stream), settings, options, device, tell)
