"""`scalebench completion`: the script that makes a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL, for example: eval "$(scalebench completion bash)"."""
    script = get_completion_class(shell)
    assert script is not None, "click knows these three"
    click.echo(script(ctx.find_root().command, {}, "scalebench", "_SCALEBENCH_COMPLETE").source())
