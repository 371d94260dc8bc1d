"""What every page of ours starts from: the templates, the stylesheet and the script that draws charts."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vos_core.__about__ import __version__

if TYPE_CHECKING:
    from jinja2 import Environment


def templates() -> Environment:
    """Return the environment that renders the page templates; values are escaped, a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(str(files("vos_core.report") / "assets")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page_frame(title: str, created: datetime | None) -> dict[str, Any]:
    """Return what `base.html.j2` needs beside its blocks and `script`; `created` is now if None."""
    assets = files("vos_core.report") / "assets"
    return {
        "title": title,
        "created": (created or datetime.now(timezone.utc)).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "style": (assets / "style.css").read_text(encoding="utf-8"),
        "chart_script": (assets / "charts.js").read_text(encoding="utf-8"),
    }
