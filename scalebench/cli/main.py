"""The command `scalebench`: imports subcommands when they are used, turns every error into a sentence and an exit code.

Exit codes: 0 all ok, 1 a regression, 2 wrong usage or input, 3 a cell did not end `ok` or doctor found a problem,
70 a bug of scalebench, 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from scalebench import __version__
from scalebench.errors import EXIT_BROKEN_PIPE, EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UserError, did_you_mean

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("scalebench.cli.run:run", "Measure strategies on this machine and record every run."),
    "probe": ("scalebench.cli.probe:probe", "Measure what this machine can do: compute, memory, collectives."),
    "train": ("scalebench.cli.train:train", "Train a model to a result under a strategy."),
    "parity": ("scalebench.cli.run:parity", "Check that strategies train the same model as plain PyTorch."),
    "data": ("scalebench.cli.data:data", "Split images for training, or make some for trials."),
    "list": ("scalebench.cli.list:list_", "List strategies, workloads or precisions."),
    "report": ("scalebench.cli.report:report", "Make tables and plots from recorded runs."),
    "compare": ("scalebench.cli.compare:compare", "Say whether a new side got worse than a baseline, and fail if so."),
    "explain": ("scalebench.cli.explain:explain", "Say what limits a cell, and the flag to try."),
    "doctor": ("scalebench.cli.doctor:doctor", "Check this machine for what makes runs fail or mislead."),
    "completion": ("scalebench.cli.completion:completion", "Print the completion script of a shell."),
}
"""Subcommand to (where it is, what it does): help is shown without importing any of them."""


NUL = "embedded null"
"""What Python says of a path that holds a NUL: `embedded null byte`, or `character`."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are used, so that each starts with what it needs alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"unknown command '{args[0]}'.{near} Allowed: {', '.join(COMMANDS)}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all ok, 1 regression, 2 wrong usage, 3 a cell not ok.",
)
@click.version_option(__version__, prog_name="scalebench", message="%(prog)s %(version)s")
@click.option("--local-rank", "--local_rank", hidden=True, help="Appended by torch.distributed.launch; not needed.")
def scalebench(local_rank: str | None) -> None:
    """Measure DDP, FSDP and DeepSpeed with one model, one loop and one clock."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (default: the process's own) and exit."""
    code = exit_code(arguments)
    if code == EXIT_INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C would only break off the last clearing up
    sys.exit(code)


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; every error is told on standard error, none escapes."""
    try:
        code = scalebench.main(arguments, prog_name="scalebench", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        return _tell(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        return _tell(_usage_message(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _tell("interrupted; what was measured is recorded.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _broken_pipe()
    except SystemExit as error:  # click's own answer to a broken pipe is exit code 1, ours for a regression
        if isinstance(error.__context__, BrokenPipeError):
            return _broken_pipe()
        raise
    except ValueError as error:
        if NUL not in str(error):
            return _bug(error)
        return _tell("a path holds a NUL character, which no file's name can. Give it without.", EXIT_USAGE)
    except OSError as error:
        return _tell(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", EXIT_USAGE)
    except Exception as error:
        return _bug(error)
    return code if isinstance(code, int) else EXIT_OK


def _tell(message: str, code: int) -> int:
    """Print `message` on standard error, from one rank only when a foreign launcher started several; returns `code`."""
    if code == EXIT_BUG or os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            click.echo(f"scalebench: error: {_printable(message)}", err=True)
    return code


def _bug(error: Exception) -> int:
    return _tell(f"{_first_line(error)}; this is a bug{_details()}", EXIT_BUG)


def _printable(text: str) -> str:
    """`text` on one line, with control characters and broken encodings of what was given escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _broken_pipe() -> int:
    # What is still buffered has no reader; without this the interpreter would complain when it exits.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def _usage_message(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    message += "" if message.endswith("?") else "."
    context = getattr(error, "ctx", None)
    return f"{message} Try: {context.command_path} --help" if context else message


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _details() -> str:
    """Where the traceback is, unless no file can be made."""
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="scalebench-", suffix=".txt", delete=False, encoding="utf-8") as file,
    ):
        file.write(traceback.format_exc())
        return f"; details in {file.name}"
    return ""
