"""`object-pursuit remove-redundancy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import (
    PATH,
    hypernet_option,
    init_option,
    network_options,
    required,
    resize_option,
    say,
    words,
    write_run_file,
)
from vos_core.cli.options import device_options, json_option


@click.command("remove-redundancy")
@click.option(*words("bases"), "bases", type=PATH, help="Base codes: a folder of code files or a joint checkpoint.")
@click.option("--records", type=PATH, help="pretrain_info.json of pretrain, or base_info.json of pursue.")
@click.option(*words("data"), "data", type=PATH, help="Folder of the objects, where records name them and not their folders.")
@click.option(*words("dataset"), "dataset", default="iThor", show_default=True, help="Layout of --data.")
@click.option(*words("out"), "out", type=PATH, default=Path("Bases_simplified"), show_default=True, help="Output folder.")
@click.option(*words("thres"), "thres", type=click.FloatRange(0, 1), default=0.7, show_default=True, help="Threshold tau.")
@click.option(*words("batch_size"), "batch_size", type=click.IntRange(1), default=64, show_default=True)
@click.option(*words("epochs"), "epochs", type=click.IntRange(1), default=200, show_default=True, help="Of a fit at most.")
@click.option(*words("lr"), "lr", type=float, default=4e-4, show_default=True)
@click.option("--file-names", type=click.Choice(["pth", "reference"]), default="pth", help="reference: base_0000.json.")
@click.option("--label", type=click.IntRange(1), help="Object id in palette masks [default: any object].")
@network_options
@hypernet_option
@init_option
@resize_option
@device_options
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Try to express every base by the others, worst first, and keep those that cannot be expressed.

    OUT gets the surviving codes in order of ascending quality, and base_info.json with a verdict on every base. Qualities that
    the records do not tell are measured first.

    Example: object-pursuit remove-redundancy --bases j.pth --hypernet j.pth --backbone j.pth --records pretrain_info.json
    """
    from object_pursuit.cli.pursue_run import device_of, open_source
    from object_pursuit.redundancy import FIT, kept, read_records, remove_redundant
    from object_pursuit.start import choose_config, prepare_start
    from object_pursuit.weights import read_bases
    from vos_core.cli.printing import print_json

    bases = read_bases(required(options["bases"], "--bases", "a folder of code files or a joint checkpoint"))
    records = read_records(required(options["records"], "--records", "pretrain_info.json or base_info.json"), len(bases))
    hypernet = required(options["hypernet"], "--hypernet", "the file of the bases' hypernetwork")
    device = device_of(options)
    source, _ = open_source(options, default="iThor")
    config = choose_config(options["preset"], use_backbone=options["use_backbone"], hypernet=hypernet, z_dim=options["z_dim"])
    start = prepare_start(
        config,
        hypernet=hypernet,
        backbone=options["backbone"],
        backbone_init=options["backbone_init"],
        seed=options["seed"],
    )
    verdicts = remove_redundant(
        bases,
        records,
        source.open,
        start.hypernet,
        start.encoder,
        out=options["out"],
        tau=options["thres"],
        options=FIT.model_copy(update={"batch": options["batch_size"], "epochs": options["epochs"], "lr": options["lr"]}),
        seed=options["seed"],
        suffix=".pth" if options["file_names"] == "pth" else ".json",
        device=device,
        precision=options["precision"],
        tell=say,
    )
    write_run_file(options["out"], "remove-redundancy", dict(options))
    if as_json:
        print_json({"bases": [verdict.to_json() for verdict in verdicts], "out": str(options["out"])})
    else:
        click.echo(f"{kept(verdicts)} of {len(verdicts)} bases kept in {options['out']}")
