"""`rmem-deaot vost-metric`: the scores of `vos eval vost` under the name that users of the original look for."""

from __future__ import annotations

import click

from vos_core.cli.eval import vost

command = click.Command(
    "vost-metric",
    params=list(vost.params),
    callback=vost.callback,
    help="""Score VOST results: J over all annotated frames but the first and last, and J_tr over the last quarter of them.

    Ignored pixels count as background, ids beyond those of the first mask are cut off; the same as vos eval vost.

    Example: rmem-deaot vost-metric --dataset_path VOST --results_path out
    """,
)
