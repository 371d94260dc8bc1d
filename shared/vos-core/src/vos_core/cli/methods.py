"""`vos methods`: what is installed."""

from __future__ import annotations

from typing import Any

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.contract import MethodInfo


@click.command("methods")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List installed methods, or show the variants, weights and options of one.

    Example: vos methods flow
    """
    from vos_core.contract import discover, get_method

    if name is not None:
        method = get_method(name)
        if as_json:
            print_json(describe(method))
        else:
            click.echo(format_method(method))
        return
    methods = discover()
    if as_json:
        print_json([describe(method) for method in methods.values()])
        return
    width = max(map(len, methods), default=0)
    for method in methods.values():
        click.echo(f"{method.name.ljust(width)}  {method.summary}")


def describe(method: MethodInfo) -> dict[str, Any]:
    """Return what is known of a method as JSON values."""
    return {
        "name": method.name,
        "summary": method.summary,
        "variants": list(method.variants),
        "weights": {variant: list(names) for variant, names in method.weights.items()},
        "max_objects": method.max_objects,
        "prompts": sorted(method.prompts),
        "adaptive": method.adaptive,
        "options": dict(method.options),
    }


def format_method(method: MethodInfo) -> str:
    """Return the description of one method as text."""
    lines = [method.name, f"  {method.summary}", f"  prompts: {', '.join(sorted(method.prompts))}"]
    if method.max_objects is not None:
        lines.append(f"  objects: {method.max_objects} at once; more are followed in groups")
    if method.adaptive:
        lines.append("  can adapt to each clip before it starts (some variants, if it has any)")
    if method.variants:
        lines.append(f"  variants: {', '.join(method.variants)} (first = default)")
    variants: dict[tuple[str, ...], list[str]] = {}  # many variants share their weights
    for variant, names in method.weights.items():
        variants.setdefault(tuple(names), []).append(variant)
    for names, having in variants.items():
        of = f" of {', '.join(having)}" if any(having) and len(variants) > 1 else ""
        lines.append(f"  weights{of}: {', '.join(names) or 'none released'}")
    if method.options:
        lines.append("  options (--set NAME=VALUE), with the defaults that variants leave:")
        table = click.HelpFormatter(max_width=120)
        table.current_indent = 4
        table.write_dl(list(method.options.items()), col_max=40)
        lines.append(table.getvalue().rstrip())
    return "\n".join(lines)
