"""`vos completion`: the script that teaches a shell to complete `vos`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_INSTALL = {
    "bash": 'eval "$(vos completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(vos completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "vos completion fish > ~/.config/fish/completions/vos.fish",
}


@click.command("completion", epilog="\b\nInstall:\n" + "\n".join(f"  {line}" for line in _INSTALL.values()))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--program", default="vos", show_default=True, help="Command to complete: vos or a method's own.")
@click.pass_context
def command(context: click.Context, shell: str, program: str) -> None:
    """Print the completion script of a shell on stdout.

    Example: vos completion bash
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of the choice"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    click.echo(kind(context.find_root().command, {}, program, variable).source())
