"""`vos completion`: the script that teaches a shell to complete `vos`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--program", default="vos", show_default=True, help="Command to complete: vos or a method's own.")
@click.pass_context
def command(context: click.Context, shell: str, program: str) -> None:
    """Print the completion script of a shell on stdout.

    \b
    Install it with one of
      eval "$(vos completion bash)"  # in ~/.bashrc
      eval "$(vos completion zsh)"  # in ~/.zshrc, after compinit
      vos completion fish > ~/.config/fish/completions/vos.fish

    Example: vos completion bash
    """  # noqa: D301 (click reads the escape: keep these lines)
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of the choice"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    click.echo(kind(context.find_root().command, {}, program, variable).source())
