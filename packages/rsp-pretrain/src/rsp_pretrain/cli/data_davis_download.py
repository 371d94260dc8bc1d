"""`rsp-pretrain data davis-download`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json

_SOURCE = "https://data.vision.ee.ethz.ch/jpont/davis/DAVIS-2017-trainval-480p.zip"


@click.command("davis-download")
@click.option("--data_root", "--data-root", "root", type=click.Path(path_type=Path), default=Path("/data"), show_default=True,
              help="Gets the archive and the folder DAVIS.")  # fmt: skip
@click.option("--source", default=_SOURCE, show_default=True, metavar="URL", help="Address of the archive.")
@click.option("--dry-run", "--dry_run", is_flag=True, help="Change nothing; say what would be done.")
@json_option
def command(root: Path, source: str, dry_run: bool, as_json: bool) -> None:
    """Download DAVIS 2017 (trainval, 480p) and unpack it to DATA_ROOT/DAVIS. A torn download goes on.

    Example: rsp-pretrain data davis-download --data_root /data
    """
    from rsp_pretrain.data.davis import davis_ready, download_davis

    done: dict[str, Any]
    if davis_ready(root):
        done, text = {"written": 0, "kept": True}, f"{root / 'DAVIS'} is there"
    elif dry_run:
        done, text = {"planned": [f"{source} -> {root / 'DAVIS'}"]}, f"{source} -> {root / 'DAVIS'}"
    else:
        count = download_davis(root, source=source)
        done, text = {"written": count}, f"{root / 'DAVIS'}: {count} files"
    if as_json:
        print_json({"root": str(root / "DAVIS"), **done})
    else:
        click.echo(text)
