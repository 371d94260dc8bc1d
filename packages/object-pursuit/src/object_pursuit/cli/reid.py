"""`object-pursuit reid`: which known code claims each object of a data set."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import compute_options, json_option
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command("reid")
@click.argument("weights", type=_PATH)
@click.option("--data", type=_PATH, required=True, help="Objects to ask about.")
@click.option("--dataset", default="iThor", show_default=True, help="iThor, DAVIS, CO3D, YouTube-VOS or custom.")
@click.option("--codes", type=_PATH, help="Codes to ask instead: a folder of code files, or a checkpoint.")
@click.option("--backbone", type=_PATH, help="The encoder, for weights that come without one.")
@click.option("--thres", type=click.FloatRange(0, 1), default=0.7, show_default=True, help="Seen if the best Dice exceeds it.")
@click.option("--nval", type=click.IntRange(1), default=400, show_default=True, help="Random images of an object at most.")
@click.option("--batch-size", "--batch_size", type=click.IntRange(1), default=64, show_default=True, help="Images in a batch.")
@click.option(
    "--partial-batches",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="Whether an incomplete last batch counts; the original dropped it.",
)
@click.option("--acc", "accuracies", type=_PATH, metavar="FILE", help="An evaluation of pretrain; ask about its objects only.")
@click.option(
    "--min-acc", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="With --acc: leave out objects not above it."
)
@click.option("--resize", nargs=2, type=click.IntRange(16), default=(256, 256), show_default=True, metavar="H W", help="Input.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice of images and of crops.")
@compute_options
@json_option
def command(
    weights: Path,
    data: Path,
    dataset: str,
    codes: Path | None,
    backbone: Path | None,
    thres: float,
    nval: int,
    batch_size: int,
    partial_batches: str,
    accuracies: Path | None,
    min_acc: float,
    resize: tuple[int, int],
    seed: int,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say for each object whether a code knows it, and which; count how many are seen, and how many by their own code.

    WEIGHTS is the output folder of pursue, its checkpoint/hypernet.pth, or a joint checkpoint. A seen object is correct if the
    code's record names its folder, false if it names another, and unknown if no record tells what the code was learned from, as
    with the bases that a pursuit began with. Records are those of pursue, and pretrain_info.json beside a joint checkpoint.

    The paper's scripts counted objects with a recorded accuracy above 0.8 alone, in full batches: --acc FILE --partial-batches
    drop.

    Example: object-pursuit reid run --data objects/heldout --resize 64 64
    """
    from object_pursuit.claimed import claim_objects, recorded_accuracy
    from object_pursuit.data.images import ObjectFolder
    from object_pursuit.data.objects import open_objects
    from object_pursuit.parts import load_parts
    from vos_core.cli.printing import print_json
    from vos_core.report.columns import aligned
    from vos_core.run.device import apply_threads, check_precision, choose_device

    parts = load_parts(weights, codes=codes, backbone=backbone)
    entries = open_objects(dataset, data)
    if accuracies is not None:
        known = recorded_accuracy(accuracies)
        entries = tuple(entry for entry in entries if known.get(Path(entry.name).name, 0.0) > min_acc)
        if not entries:
            raise UsageError(f"no object of {data} has an accuracy above {min_acc:g} in {accuracies}", fix="Lower --min-acc")
    objects = [ObjectFolder(entry, size=resize, seed=seed) for entry in entries]
    place = choose_device(device)
    check_precision(precision, place)  # type: ignore[arg-type]
    apply_threads(threads)
    found = claim_objects(
        parts,
        objects,
        tau=thres,
        images=nval,
        batch=batch_size,
        seed=seed,
        partial=partial_batches,  # type: ignore[arg-type]
        device=place,
        precision=precision,  # type: ignore[arg-type]
    )
    counts = {
        "objects": len(found),
        "seen": sum(one.seen for one in found),
        "unseen": sum(not one.seen for one in found),
        "correct": sum(one.seen and one.correct is True for one in found),
        "false": sum(one.seen and one.correct is False for one in found),
        "unknown": sum(one.seen and one.correct is None for one in found),
    }
    if as_json:
        print_json({**counts, "claims": [one.to_json() for one in found]})
        return
    words = {True: "correct", False: "false", None: "unknown"}
    rows = [(one.name, one.code, f"{one.dice:.3f}", f"seen, {words[one.correct]}" if one.seen else "-") for one in found]
    click.echo("\n".join(aligned([("object", "best code", "Dice", ""), *rows], names=2)))
    click.echo(", ".join(f"{value} {name}" for name, value in counts.items()))
