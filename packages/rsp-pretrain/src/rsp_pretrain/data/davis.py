"""Fetching DAVIS 2017 at 480p, from which label propagation starts."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from vos_core.errors import LayoutError
from vos_core.io.atomic import output_error
from vos_core.weights.cache import exclusive
from vos_core.weights.download import fetch

ARCHIVE = "DAVIS-2017-trainval-480p.zip"
SOURCE = f"https://data.vision.ee.ethz.ch/jpont/davis/{ARCHIVE}"
_TOP = "DAVIS"


def davis_ready(root: Path) -> bool:
    """Return whether `<root>/DAVIS` is there, whole: it appears only when all of it is unpacked."""
    return (root / _TOP / "ImageSets").is_dir()


def download_davis(root: Path, *, source: str = SOURCE, progress: bool = True) -> int:
    """Fetch the archive and unpack it to `<root>/DAVIS`; return the number of files. A torn download goes on.

    Args:
        root: folder for both.
        source: address of the archive.
        progress: show a bar on stderr.

    Raises:
        WeightsError: it cannot be fetched.
        LayoutError: it is damaged, holds paths outside of its folder, or is not DAVIS.
        OutputError: the disk is full or read-only.
    """
    archive = root / ARCHIVE
    with exclusive(archive):
        if not archive.is_file():
            fetch(source, archive, page=source, room="Free space, or choose another --data_root", progress=progress)
        unfinished = root / f".{_TOP}.part"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
            with zipfile.ZipFile(archive) as packed:
                members = [item for item in packed.infolist() if not item.is_dir()]
                for item in members:
                    parts = PurePosixPath(item.filename).parts
                    if parts[:1] != (_TOP,) or ".." in parts:
                        raise LayoutError(f"archive {archive} holds {item.filename}", expected=f"files below {_TOP}/")
                    packed.extract(item, unfinished)
            if not (unfinished / _TOP / "ImageSets").is_dir():
                raise LayoutError(f"archive {archive} is not DAVIS", expected="ImageSets, JPEGImages and Annotations")
            (unfinished / _TOP).rename(root / _TOP)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise LayoutError(f"archive {archive} is damaged ({error})", fix="Delete it and run the command again") from error
        except OSError as error:
            raise output_error(root / _TOP, error) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return len(members)
