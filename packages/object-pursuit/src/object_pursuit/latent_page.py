"""`explore`: the code space as pictures and one page: where codes lie, who is near whom, what lies between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from object_pursuit.figures import charts_of
from object_pursuit.latent import Projection, claims, code_logits, interpolate, neighbours, project
from object_pursuit.latent_pictures import draw_grid, draw_places, mask_picture, png_bytes
from object_pursuit.parts import Parts
from object_pursuit.samples import Samples
from object_pursuit.segmenter import frozen_encoder
from vos_core.errors import UsageError
from vos_core.io.atomic import write_bytes, write_json
from vos_core.report.charts import Chart
from vos_core.report.sheet import Picture, Section, Table, write_sheet

PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures of one object.

    Args:
        name: of the object.
        samples: a few of its images; norms take their statistics over them.
    """

    name: str
    samples: Samples


@dataclass(frozen=True, slots=True)
class View:
    """What is drawn.

    Args:
        projection: see `latent.project`.
        count: neighbours of each code in the table.
        steps: codes on the line between two.
        between: names or numbers of the two codes; None = the first code and its nearest.
        encoder_norm: statistics of the encoder's norms, `batch` or `running`.
    """

    projection: Projection = "pca"
    count: int = 3
    steps: int = 7
    between: tuple[str, str] | None = None
    encoder_norm: str = "batch"


def write_exploration(out: Path, parts: Parts, shown: Sequence[Shown], view: View) -> dict[str, Any]:
    """Write `projection.png`, `interpolation.png` (with pictures to segment), `explore.json` and `index.html` to `out`.

    Args:
        out: made if absent.
        parts: network and codes.
        shown: objects to segment; none = the page is about codes alone.
        view: what is drawn.

    Returns:
        What `explore.json` holds: places, neighbours, and who claims whom.

    Raises:
        UsageError: fewer than two codes, or `between` names none.
        OutputError: a file that cannot be written.
    """
    places, shares = project(parts.codes, view.projection)
    near = neighbours(parts.codes, view.count)
    ends = _ends(parts, near, view)
    plane = draw_places(places, parts.names, shares, joined=ends)
    write_bytes(out / "projection.png", png_bytes(plane))
    found: dict[str, Any] = {
        "projection": view.projection,
        "shares": [round(float(share), 4) for share in shares],
        "codes": [
            {
                "name": name,
                "place": [round(float(value), 5) for value in places[i]],
                "norm": round(float(parts.codes[i].norm()), 4),
                "nearest": [{"name": parts.names[j], "distance": round(d, 4), "cosine": round(c, 4)} for j, d, c in near[i]],
            }
            for i, name in enumerate(parts.names)
        ],
        "between": [parts.names[end] for end in ends],
    }
    sections = [_space(parts, plane, places, shares, view), _near(parts, near)]
    if shown:
        encoder = None if parts.encoder is None else frozen_encoder(parts.encoder, view.encoder_norm)
        with torch.inference_mode():
            matrix = claims(parts.hypernet, encoder, parts.codes, [one.samples for one in shown])
            line = _line(parts, encoder, shown, ends, matrix, view)
        write_bytes(out / "interpolation.png", png_bytes(line))
        found["claims"] = {one.name: [round(float(v), 4) for v in matrix[:, k]] for k, one in enumerate(shown)}
        sections += [_claimed(parts, shown, matrix), _between(parts, ends, line, view)]
    else:
        text = "No pictures were given, so no masks are shown. Give --data with --dataset, or --image, to see them."
        sections.append(Section("Masks", text=(text,)))
    write_json(out / "explore.json", found)
    write_sheet(
        out / PAGE, sections, title="A space of objects",
        lead=f"{len(parts.names)} codes of {parts.codes.shape[1]} numbers; each turns into a network that segments one object.",
    )  # fmt: skip
    return found


def find_code(names: Sequence[str], wanted: str) -> int:
    """Return the number of the code called `wanted`, by name, by a word of it, or by number.

    Raises:
        UsageError: none, or several.
    """
    hits = [i for i, name in enumerate(names) if name == wanted] or [i for i, name in enumerate(names) if wanted in name.split()]
    if not hits and wanted.isdigit() and int(wanted) < len(names):
        hits = [int(wanted)]
    if len(hits) != 1:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise UsageError(f"{len(hits) or 'no'} codes are called '{wanted}'", expected=f"one of: {shown}; or a number")
    return hits[0]


def _ends(parts: Parts, near: list[list[tuple[int, float, float]]], view: View) -> tuple[int, int]:
    if view.between is None:
        return 0, near[0][0][0]
    first, last = (find_code(parts.names, name) for name in view.between)
    return first, last


def _space(parts: Parts, plane: Any, places: Tensor, shares: Tensor, view: View) -> Section:
    words = {
        "pca": "The two directions in which codes differ most.",
        "directions": "The two directions in which codes differ most once all are scaled to one length.",
    }
    summary = f"{len(parts.names)} codes; the axes show {float(shares.sum()):.0%} of the variation."
    picture = Picture(
        plane, f"The codes in the plane. {words[view.projection]} The line joins the two codes of the last section."
    )
    return Section(
        "Where codes lie", text=(words[view.projection], summary), charts=_scatter(parts, places, summary), pictures=(picture,)
    )


def _scatter(parts: Parts, places: Tensor, summary: str) -> tuple[Chart, ...]:
    points = {"x": places[:, 0].tolist(), "y": places[:, 1].tolist(), "mode": "markers+text", "text": list(parts.names)}
    trace = ("Scatter", {**points, "textposition": "top center"})
    return charts_of("Codes in the plane", [trace], summary=summary, x="axis 1", y="axis 2")


def _near(parts: Parts, near: list[list[tuple[int, float, float]]]) -> Section:
    columns = ("code", *(f"neighbour {k + 1}" for k in range(len(near[0]))))
    rows = tuple(
        (name, *(f"{parts.names[j]} (distance {d:.2f}, cosine {c:.2f})" for j, d, c in near[i]))
        for i, name in enumerate(parts.names)
    )
    return Section("Nearest objects", tables=(Table(columns, rows, "Euclidean distance of codes, and the cosine between them."),))


def _claimed(parts: Parts, shown: Sequence[Shown], matrix: Tensor) -> Section:
    rows = []
    for k, one in enumerate(shown):
        order = matrix[:, k].argsort(descending=True)[:3].tolist()
        rows.append((one.name, *(f"{parts.names[i]} ({float(matrix[i, k]):.2f})" for i in order)))
    best = len(rows[0]) - 1
    table = Table(
        ("object", *(f"claim {k + 1}" for k in range(best))), tuple(rows), "Mean Dice of the best codes on each object."
    )
    heat = {"z": matrix.T.tolist(), "x": list(parts.names), "y": [one.name for one in shown], "zmin": 0, "zmax": 1}
    summary = "Rows are objects, columns codes; bright cells are codes that segment the object well."
    charts = charts_of("Dice of every code on every object", [("Heatmap", {**heat, "colorscale": "Viridis"})], summary=summary)
    text = "Re-identification takes an object for the code with the highest score, if that exceeds the threshold."
    return Section("Who claims whom", text=(text,), tables=(table,), charts=charts)


def _line(
    parts: Parts, encoder: torch.nn.Module | None, shown: Sequence[Shown], ends: tuple[int, int], matrix: Tensor, view: View
) -> Any:
    """Return the grid of masks: the object that each end claims best, segmented by every code on the line."""
    codes = interpolate(parts.codes[ends[0]], parts.codes[ends[1]], view.steps)
    chosen = list(dict.fromkeys(int(matrix[end].argmax()) for end in ends))
    rows, labels = [], []
    for k in chosen:
        samples = shown[k].samples
        logits = code_logits(parts.hypernet, encoder, codes, samples.images)
        for place in range(min(2, len(samples.images))):
            rows.append([mask_picture(samples.images[place], logits[place, step]) for step in range(view.steps)])
            labels.append(shown[k].name)
    return draw_grid(rows, columns=[f"{step / (view.steps - 1):.2f}" for step in range(view.steps)], labels=labels)


def _between(parts: Parts, ends: tuple[int, int], line: Any, view: View) -> Section:
    first, last = (parts.names[end] for end in ends)
    text = (
        f"Codes on the straight line from {first} (0.00) to {last} (1.00), on pictures of the objects that the ends segment best."
    )
    return Section(
        "Between two codes", text=(text,), pictures=(Picture(line, f"Masks of {view.steps} codes from {first} to {last}."),)
    )
