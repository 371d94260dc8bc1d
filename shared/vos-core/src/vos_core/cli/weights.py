"""`vos weights`: list, download, check and convert checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vos_core import weights
from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.errors import UsageError, VosError, WeightsError

if TYPE_CHECKING:
    import torch


@click.group("weights")
def command() -> None:
    """List, download, check and convert checkpoints.

    Downloads lie in the folder VOS_CACHE names (default: vos in the user's cache folder).

    Example: vos weights list
    """


@command.command("list")
@click.option("--method", metavar="NAME", help="Only this method's weights.")
@json_option
def list_command(method: str | None, as_json: bool) -> None:
    """Print the registered weights and whether they are here.

    Example: vos weights list --method stcn-ttt
    """
    rows = [_row(entry) for entry in weights.entries(method)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"No weights are registered{f' for method {method}' if method else ''}.", err=True)
    for row in rows:
        size = f"{row['size'] / 1e6:.0f} MB" if row["size"] else "size unknown"
        click.echo(f"{row['name']}  ({row['method']}; {size}; licence: {row['licence'] or 'not stated'})")
        for text in (
            row["notes"],
            row["source"] or row["url"],
            f"here: {row['path']}" if row["downloaded"] else "not downloaded",
        ):
            if text:
                click.echo(f"    {text}")


@command.command("download")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Fetch again and accept that the file changed since its first download.")
@json_option
def download_command(names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Download weights into the cache folder, check them and print where they are.

    Example: vos weights download stcn
    """
    chosen = [weights.get(name) for name in names]  # all names are right before the first long download
    results, failures = [], []
    for entry in chosen:
        try:
            found = weights.resolve_entry(entry, force=force)
        except VosError as error:
            failures.append({"name": entry.name, "error": str(error)})
            click.echo(f"Error: {entry.name}: {error}", err=True)
            continue
        results.append({"name": entry.name, "path": str(found.path), "sha256": found.sha256})
        if not as_json:
            click.echo(f"{found.path}  sha256 {found.sha256}")
    if as_json:
        print_json({"downloaded": results, "failed": failures})
    if failures:
        raise SystemExit(1)


@command.command("path")
@click.argument("name")
@json_option
def path_command(name: str, as_json: bool) -> None:
    """Print the file of downloaded weights; fail if they are not here.

    Example: vos weights path stcn
    """
    found = weights.resolve(name, download=False)
    if as_json:
        print_json({"name": found.name, "path": str(found.path), "sha256": found.sha256})
    else:
        click.echo(found.path)


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Registered weights that the file should be.")
@json_option
def check_command(file: Path, name: str | None, as_json: bool) -> None:
    """Read a checkpoint safely and say what is in it and which registered weights it fits.

    Exits with 1 if the file cannot be read or differs from --name in sha256 or keys.

    Example: vos weights check stcn.pth --name stcn
    """
    entry = weights.get(name) if name else None
    state, digest = weights.load_state(file), weights.sha256_of(file)
    report: dict[str, Any] = {
        "file": str(file),
        "sha256": digest,
        "tensors": len(state),
        "parameters": sum(value.numel() for value in state.values()),
        "dtypes": sorted({dtype for _, dtype in weights.manifest_of(state).values()}),
        "metadata": weights.read_metadata(file),
        "fits": weights.fitting_entries(state),
        "problems": _problems(entry, digest, state) if entry else [],
    }
    if as_json:
        print_json(report)
    else:
        click.echo(f"{file}: {report['tensors']} tensors, {report['parameters']} numbers, {', '.join(report['dtypes'])}")
        click.echo(f"sha256 {report['sha256']}")
        for key, value in report["metadata"].items():
            click.echo(f"{key}: {value}")
        click.echo(f"keys and shapes fit: {', '.join(report['fits']) or 'no registered weights with a known manifest'}")
    for problem in report["problems"]:
        click.echo(f"Error: {problem}", err=True)
    if report["problems"]:
        raise SystemExit(1)


@command.command("convert")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--wrapper", default="", metavar="KEY", help="Outer key of a PyTorch file, for tools that want one.")
@click.option("--metadata", multiple=True, metavar="KEY=TEXT", help="Metadata of a safetensors file; repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@json_option
def convert_command(source: Path, target: Path, wrapper: str, metadata: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Write the network in SRC to DST: .safetensors, .pth or .pt by its suffix.

    Example: vos weights convert checkpoint.pth network.safetensors --metadata licence=MIT
    """
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists", fix="Choose another name or add --overwrite")
    pairs = dict(_pair(text) for text in metadata)
    count = weights.convert(source, target, wrapper=wrapper, metadata=pairs)
    digest = weights.sha256_of(target)
    if as_json:
        print_json({"path": str(target), "tensors": count, "sha256": digest})
    else:
        click.echo(f"{target}: {count} tensors, sha256 {digest}")


def _row(entry: weights.WeightsEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "method": entry.method,
        "url": entry.url,
        "size": entry.size,
        "sha256": entry.sha256,
        "licence": entry.licence,
        "source": entry.source,
        "notes": entry.notes,
        "path": str(entry.cached_path),
        "downloaded": entry.cached_path.is_file(),
    }


def _problems(entry: weights.WeightsEntry, digest: str, state: dict[str, torch.Tensor]) -> list[str]:
    """Return in which ways a file is not `entry`; [] when all that is known of the entry agrees."""
    problems = []
    if entry.sha256 not in (None, digest):
        problems.append(f"the registry has sha256 {entry.sha256} for {entry.name}")
    manifest = entry.read_manifest()
    if manifest is not None:
        try:
            weights.check_manifest(state, manifest, source=f"as {entry.name} the file")
        except WeightsError as error:
            problems.append(str(error))
    if entry.sha256 is None and manifest is None:
        problems.append(f"nothing is known of {entry.name} to check the file against")
    return problems


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"'{text}' is not metadata", expected="KEY=TEXT, for example licence=MIT")
    return key, value
