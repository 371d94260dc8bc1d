"""What `oneshot` is asked for, run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from object_pursuit.cli.pursue_run import device_of
from object_pursuit.data.images import ObjectFolder
from object_pursuit.data.objects import dataset_name, open_object
from object_pursuit.fit import ONE_SHOT
from object_pursuit.oneshot import OneShotResult, build_model, fit_oneshot
from object_pursuit.start import choose_config, prepare_start
from object_pursuit.weights import load_backbone, read_bases, start_encoder
from vos_core.training.checkpoint import seed_everything


def run_oneshot(
    imgs: Path, masks: Path, size: tuple[int, int], options: Mapping[str, Any], *, tell: Callable[[str], None]
) -> OneShotResult:
    """Return the result of the fit that the options of `oneshot` describe.

    Raises:
        VosError: options, data or weights that are not right.
    """
    device = device_of(options)
    ithor = dataset_name(options["dataset"]) == "iThor"
    entry = open_object(imgs, masks, label=options["label"] or "any", crop=not ithor)
    data = ObjectFolder(entry, size=size, seed=options["seed"])
    whole = ObjectFolder(entry, size=size, crop=False)
    seed_everything(options["seed"])
    model = _model(options)
    fit = ONE_SHOT.model_copy(
        update={
            "lr": options["lr"],
            "epochs": options["epochs"],
            "batch": options["batch_size"],
            "eval_every": min(options["eval_step"], options["epochs"]),
            "metric": "dice" if options["use_dice_loss"] else "jaccard_pooled",
        }
    )
    out: Path = options["out"]
    return fit_oneshot(
        model,
        data,
        whole,
        fit,
        shots=options["shots"],
        nval=options["nval"],
        shuffle_seed=options["shuffle"] if ithor else None,
        out=out,
        save_checkpoint_to=out / "ckpt_best.pth" if options["save_ckpt"] else None,
        visualise=[path.stem for path in entry.images] if options["save_viz"] else None,
        device=device,
        precision=options["precision"],
        on_epoch=lambda epoch, quality: tell(f"epoch {epoch}" + ("" if quality is None else f": quality {quality:.3f}")),
    )


def _model(options: Mapping[str, Any]) -> torch.nn.Module:
    kind = options["model"]
    if kind in ("deeplab", "unet"):
        model = build_model(kind)
        if kind == "deeplab":
            encoder = model.backbone
            assert isinstance(encoder, torch.nn.Module)
            if options["use_backbone"] and options["backbone"] is not None:
                load_backbone(encoder, options["backbone"])
                encoder.requires_grad_(False)
            elif options["use_backbone"]:
                start_encoder(encoder, init=options["backbone_init"])
        return model
    config = choose_config(
        options["preset"], use_backbone=options["use_backbone"], hypernet=options["hypernet"], z_dim=options["z_dim"]
    )
    start = prepare_start(
        config,
        hypernet=options["hypernet"],
        backbone=options["backbone"],
        backbone_init=options["backbone_init"],
        seed=options["seed"],
    )
    loaded = [name for name in ("hypernet", "backbone") if options[name] is not None]
    bases = None if options["bases"] is None else read_bases(options["bases"])
    return build_model(kind, hypernet=start.hypernet, backbone=start.encoder, bases=bases, loaded=loaded)
