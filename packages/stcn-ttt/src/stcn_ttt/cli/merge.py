"""`stcn-ttt merge`: test-time augmentation over runs that were made apart."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.errors import LayoutError, MaskError, UsageError

_FOLDER = click.Path(path_type=Path)


@click.command("merge")
@click.argument("folders", type=_FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", type=_FOLDER, required=True, help="Folder for <clip>/<frame>.png.")
def command(folders: tuple[Path, ...], output: Path) -> None:
    """Average the soft masks in two or more FOLDERS (as --soft writes them) and write the likeliest labels.

    All folders must hold the same clips and frames. Objects are matched by their ids.

    Example: stcn-ttt merge soft480 soft600 --output merged
    """
    if len(folders) < 2:
        raise UsageError("one folder of soft masks was given", expected="two or more to average")
    names = [_files(folder) for folder in folders]
    for folder, found in zip(folders[1:], names[1:], strict=True):
        if found != names[0]:
            odd = min(found ^ names[0])
            raise LayoutError(
                f"{folder} and {folders[0]} hold different frames, for example {odd}",
                fix="Run both over the same clips, to the end",
            )
    for name in sorted(names[0]):
        _merge([folder / name for folder in folders], (output / name).with_suffix(".png"))
    click.echo(f"{len(names[0])} frames merged into {output}")


def _files(folder: Path) -> set[Path]:
    found = {path.relative_to(folder) for path in folder.glob("**/*.npz")} if folder.is_dir() else set()
    if not found:
        raise LayoutError(f"{folder} holds no soft masks", expected="<clip>/<frame>.npz", fix="Write them with --soft")
    return found


def _merge(paths: list[Path], target: Path) -> None:
    from vos_core.io.masks import write_mask
    from vos_core.run.objects import labels_of
    from vos_core.run.sinks import read_soft

    total, ids = read_soft(paths[0])
    for path in paths[1:]:
        probs, other = read_soft(path)
        if set(other) != set(ids) or probs.shape != total.shape:
            raise MaskError(
                f"soft masks {path} hold objects {list(other)} at {probs.shape[2]}x{probs.shape[1]}",
                expected=f"objects {list(ids)} at {total.shape[2]}x{total.shape[1]} as in {paths[0]}",
            )
        total = total + probs[[0, *(1 + other.index(object_id) for object_id in ids)]]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_mask(target, labels_of(total, ids))
