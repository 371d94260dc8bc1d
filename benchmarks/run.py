"""The main job: methods x clip sets of a suite, one printed table, one JSON record and one HTML page per set.

Example: python benchmarks/run.py --suite smoke --methods copy,flow
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field, model_validator

from vos_core.cli.clips import Selection, select_clips
from vos_core.cli.compare import grouped, pairs
from vos_core.cli.compare_run import compare, parse_methods
from vos_core.cli.printing import counted, print_outcomes
from vos_core.config import Config, build_config, read_yaml
from vos_core.contract import discover
from vos_core.data.synthetic import GENERATOR_VERSION
from vos_core.data.synthetic_write import ClipPlan, write_clips
from vos_core.errors import ConfigError, UsageError, VosError
from vos_core.report.compare import comparison_rows, text_table
from vos_core.run.shards import fingerprint
from vos_core.types import Clip

HERE = Path(__file__).resolve().parent
SUITES, CACHE, OUT = HERE / "suites", HERE / "cache", HERE / "out"


class Synthetic(Config):
    """Generated clips; fields as in `ClipPlan`."""

    clips: int = Field(default=5, ge=1, description="number of clips")
    frames: int = Field(
        default=16, ge=3, description="frames of each clip; the first and last of fully annotated clips are not scored"
    )
    height: int = Field(default=240, description="pixels")
    width: int = Field(default=432, description="pixels")
    objects: int = Field(default=2, description="objects of each clip")
    scenarios: tuple[str, ...] = ("mixed",)
    seed: int = 0


class ClipSet(Config):
    """One group of clips: generated ones, or a data set on disk."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder name of its results")
    synthetic: Synthetic | None = None
    layout: str | None = Field(default=None, description="data set layout, as for vos run --layout")
    root: str | None = Field(default=None, description="its folder; $NAME is an environment variable")
    split: str | None = None
    only: str | None = Field(default=None, description="clip names, separated by commas; all if absent")

    @model_validator(mode="after")
    def _one_source(self) -> ClipSet:
        if (self.synthetic is None) == (self.layout is None) or (self.layout is not None) != (self.root is not None):
            raise ValueError("a set is either synthetic, or a layout with its root")
        return self


class Suite(Config):
    """What a suite file says."""

    title: str = "Benchmark"
    sets: tuple[ClipSet, ...] = Field(min_length=1)
    methods: str | None = Field(default=None, description="NAME or NAME:VARIANT, separated by commas; all installed if absent")
    options: tuple[str, ...] = Field(
        default=(), description="METHOD.KEY=VALUE: options of single methods; those of methods that are not run are left out"
    )
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int | None = Field(default=None, ge=1, description="CPU threads for computing")
    seed: int = Field(default=0, ge=0, description="seeds random weights and everything random in a method")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--suite", default="smoke", show_default=True, metavar="NAME|FILE", help="A file of benchmarks/suites, or any YAML."
)
@click.option("--clips", type=click.Path(path_type=Path), help="Run over this folder of clips instead of the suite's sets.")
@click.option("-m", "--methods", metavar="A,B", help="Methods, NAME or NAME:VARIANT [default: the suite's, or all installed].")
@click.option("--weights", multiple=True, metavar="METHOD=NAME", help="Weights of one method: name, file or random.")
@click.option("--set", "assignments", multiple=True, metavar="METHOD.KEY=VALUE", help="Set one option of one method.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of results [default: benchmarks/out/SUITE].")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:<index> [default: the suite's].")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Precision [default: the suite's].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads for computing [default: the suite's].")
@click.option("--resume", is_flag=True, help="Keep clips that an interrupted job with the same settings finished.")
def command(
    suite: str,
    clips: Path | None,
    methods: str | None,
    weights: tuple[str, ...],
    assignments: tuple[str, ...],
    output: Path | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
    resume: bool,
) -> None:
    """Run every installed method over the clips of a suite; print a table, write record.json and page.html.

    Nothing is downloaded: a method without weights on this machine runs with random ones and is marked untrained.

    Example: python benchmarks/run.py --suite smoke --methods copy,flow
    """
    overrides = {key: value for key, value in (("device", device), ("precision", precision), ("threads", threads)) if value}
    plan = read_suite(suite, overrides)
    specs = parse_methods(
        methods or plan.methods,
        weights=pairs(weights, option="--weights"),
        options=grouped((*options_of(plan, methods), *assignments)),
    )
    target = output or OUT / Path(suite).stem
    failed = ran = 0
    for name, selection in clip_sets(plan, clips):
        chosen = selection.clips
        click.echo(f"{plan.title}: {name}, {counted(len(chosen), 'clip')}, {counted(len(specs), 'method')}", err=True)
        records = compare(
            specs,
            chosen,
            output=target / name,
            title=f"{plan.title}: {name}",
            missing_weights="random",
            device=plan.device,
            precision=plan.precision,
            threads=plan.threads,
            seed=plan.seed,
            resume=resume,
            overwrite=True,
            without_mask=selection.without_mask,
            extra={"suite": plan.model_dump(mode="json"), "set": name, "machine": machine(), "source": git_state(HERE)},
            on_method=lambda folder: click.echo(f"  {folder}", err=True),
        )
        rows = comparison_rows(records)
        click.echo(f"{name}\n{text_table(rows)}\n")
        click.echo(f"Record: {target / name / 'record.json'}\nPage:   {target / name / 'page.html'}", err=True)
        print_outcomes(records)
        failed += sum(row.clips_failed for row in rows)
        ran += 1
    if not ran:
        raise UsageError(
            f"no set of suite {suite} has its data here", fix="Set the variables that its roots name, or give --clips"
        )
    if failed:
        click.echo(f"{counted(failed, 'clip')} failed; the page says why", err=True)
    click.get_current_context().exit(1 if failed else 0)


def read_suite(name: str, overrides: dict[str, Any]) -> Suite:
    """Return the suite of a name in `benchmarks/suites` or of a YAML file, with the options that were given on top.

    Raises:
        ConfigError: there is no such suite, or it says what no field accepts.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in SUITES.glob("*.yaml")))
        raise ConfigError(f"no suite '{name}'", expected=f"one of {known}, or a YAML file")
    return build_config(Suite, read_yaml(path), overrides)


def options_of(suite: Suite, methods: str | None) -> tuple[str, ...]:
    """Return the suite's options of the methods that run: `methods`, else the suite's, else all installed."""
    named = methods or suite.methods
    running = {part.strip().partition(":")[0] for part in named.split(",")} if named else set(discover())
    return tuple(text for text in suite.options if text.partition(".")[0] in running)


def clip_sets(suite: Suite, folder: Path | None) -> list[tuple[str, Selection]]:
    """Return set name -> clips: those in `folder` if given, else the suite's; sets whose root variable is not set are skipped."""
    if folder is not None:
        selection = select_clips(clips=folder)
        if selection.faults:
            raise UsageError("; ".join(selection.faults), fix="Mend or remove these clips: a benchmark must not run on a part")
        return [(folder.resolve().name, selection)]
    found: list[tuple[str, Selection]] = []
    for item in suite.sets:
        if item.synthetic is not None:
            found.append((item.name, Selection(synthetic_clips(item.synthetic))))
            continue
        root = os.path.expandvars(item.root or "")
        if "$" in root:
            click.echo(f"Skipped: set {item.name}, since {root} is not set", err=True)
            continue
        found.append(
            (item.name, select_clips(layout=item.layout, root=Path(root).expanduser(), split=item.split, only=item.only))
        )
    return found


def synthetic_clips(settings: Synthetic) -> tuple[Clip, ...]:
    """Return generated clips, written once to a cache folder of their own settings."""
    plan = ClipPlan(**settings.model_dump())
    root = CACHE / f"synthetic-{fingerprint([GENERATOR_VERSION, settings.model_dump()])}"
    write_clips(root, plan, layout="folder")
    return select_clips(clips=root).clips


def machine() -> dict[str, Any]:
    """Return what speed depends on beside the versions in each run's environment."""
    found: dict[str, Any] = {"system": platform.platform(terse=True), "cores": os.cpu_count(), "methods": list(discover())}
    found["generator"] = GENERATOR_VERSION  # of the same settings another version may draw other clips
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """Return commit and whether files differ from it; None for both outside a checkout or without git."""
    if shutil.which("git") is None:
        return {"commit": None, "modified": None}
    commit, status = (
        subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    if commit.returncode or status.returncode:
        return {"commit": None, "modified": None}
    return {"commit": commit.stdout.strip(), "modified": bool(status.stdout.strip())}


def main() -> None:
    """Run the command; print a `VosError` as one message and leave with its exit code."""
    try:
        command(standalone_mode=True)
    except VosError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
