"""The command itself, mostly as real processes: exit codes, one-sentence errors, and starting without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from scalebench import __version__
from scalebench.cli import main
from scalebench.cli.run import run as run_command
from tests.processes import ROOT, printed, scalebench

LIST = [sys.executable, "-m", "scalebench", "list"]


def test_the_version() -> None:
    assert scalebench("--version").stdout == f"scalebench {__version__}\n"


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = scalebench("--help")
    assert done.returncode == 0
    for name in main.COMMANDS:
        assert name in done.stdout
    assert "3 a cell not ok" in done.stdout


def test_no_command_shows_the_help_and_is_wrong_usage() -> None:
    done = scalebench()
    assert done.returncode == 2
    assert "Usage: scalebench" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rnu",), "Did you mean 'run'?"),
        (("--nonsense",), "No such option '--nonsense'. Try: scalebench --help"),
        (("list", "strategie"), "Try: scalebench list --help"),
        (("completion",), "Try: scalebench completion --help"),
        (("run", "--strategy", "fsdpp"), "Did you mean 'fsdp'?"),
        (("run", "--strategy", "ddp", "--gpus", "0"), "--gpus: expected a whole number of at least 1, or all"),
        (("run", "--strategy", "ddp", "--results", "/dev/null/x"), "/dev/null/x"),
    ],
)
def test_wrong_usage_is_one_sentence_and_two(arguments: tuple[str, ...], said: str) -> None:
    done = scalebench(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("scalebench: error: ")
    assert said in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("list",), ("list", "workloads"), ("list", "precisions"), ("run",)]
)
def test_torch_is_not_imported_before_a_run_starts(arguments: tuple[str, ...]) -> None:
    code = "import sys; from scalebench.cli import main; main.exit_code(sys.argv[1:]); print('torch' in sys.modules)"
    assert printed("-c", code, *arguments).splitlines()[-1] == "False"


def test_the_runner_can_start_the_fork_server_before_torch_is_imported() -> None:
    code = "import sys; from scalebench.harness import runner; print('torch' in sys.modules)"
    assert printed("-c", code).strip() == "False"


def test_an_unexpected_error_is_called_a_bug_and_its_traceback_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("over\nhere")

    monkeypatch.setattr("scalebench.cli.run.run", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main.exit_code(["run"]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: over" in line
    found = re.search(r"this is a bug; details in (\S+)$", line)
    assert found
    assert "Traceback" in Path(found[1]).read_text()


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(LIST, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(LIST, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (2, b"scalebench: error: No space left on device\n")


def test_control_characters_of_the_input_do_not_reach_the_terminal() -> None:
    done = scalebench("run", "--strategy", "\x1b[31mddp")
    assert "\x1b" not in done.stderr
    assert r"\x1b[31mddp" in done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish", "bash"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    done = scalebench("completion", shell)
    assert done.returncode == 0
    assert f"_SCALEBENCH_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("scalebench ru", {"run"}),
        ("scalebench run --strategy ddp,deepspeed_stage_3", {"ddp,deepspeed_stage_3", "ddp,deepspeed_stage_3_offload"}),
        ("scalebench run --profile m", {"matched"}),
        ("scalebench run --micro", {"--micro-batch"}),
        ("scalebench run --size 1", {"124m", "1.3b", "13b", "1b"}),
        ("scalebench list p", {"precisions"}),
    ],
)
def test_a_shell_completes_commands_flags_and_names(words: str, expected: set[str]) -> None:
    count = str(len(words.split()) - 1)
    done = scalebench(_SCALEBENCH_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected


def test_every_flag_of_run_has_help() -> None:
    assert all(option.help or option.hidden for option in run_command.params if isinstance(option, click.Option))
