"""`scalebench run` around a scripted executor: what is printed where, the exit codes, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalebench import workloads
from scalebench.cli import main
from scalebench.cli import run as run_module
from scalebench.cli.wording import varying
from scalebench.errors import UserError
from scalebench.harness import resume
from scalebench.machine import Machine
from scalebench.matrix import Request
from scalebench.records.record import Record
from scalebench.records.store import write_record
from scalebench.reporting.text import size
from scalebench.spec import PlannedRun, RunSpec
from tests.unit.factory import ENVIRONMENT, make_parity, make_record, make_spec

CPU = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=False)
Script = Callable[[int, PlannedRun], dict[str, Any]]


class Executor:
    """Ends each run at once, as `script` says, and keeps what it was asked to run."""

    def __init__(self) -> None:
        self.runs: list[PlannedRun] = []
        self.request = Request()
        self.script: Script = lambda index, run: {}
        self.session = ""

    def __call__(self, runs: Sequence[PlannedRun], request: Request, progress: Any, unfit: Sequence[RunSpec]) -> None:
        self.runs, self.request = list(runs), request
        progress.session_started(runs)
        for index, run in enumerate(runs):
            progress.run_started(index, run)
            progress.phase(index, "measuring")
            facts = self.script(index, run)
            record = self.record(run, facts | ({"session": self.session} if self.session else {}))
            path = Path("results/session") / record.file_name
            progress.run_ended(index, record, write_record(record, Path("r") / self.session) if self.session else path)
            if record.status == "interrupted":
                return

    def record(self, run: PlannedRun, facts: dict[str, Any]) -> Record:
        if run.kind == "parity":
            return make_parity(run.spec, **facts)
        return make_record(run.spec, 0.01 * (1 + run.repeat / 100), **{"repeat": run.repeat} | facts)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Executor:
    found = Executor()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume, "collect", lambda: ENVIRONMENT)
    monkeypatch.setattr(run_module, "execute", found)
    monkeypatch.setattr(run_module, "detect", lambda device: CPU)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "NCCL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return found


def call(*arguments: str) -> int:
    return main.exit_code(["run", *arguments])


def test_a_good_session_ends_with_the_answer_and_zero(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--strategy", "ddp,fsdp", "--gpus", "1,2", "--precision", "fp32", "--repeats", "2") == 0
    assert len(executor.runs) == 2 * 5
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split()[:3] == ["strategy", "ranks", "precision"]
    assert sum(line.startswith(("single", "ddp", "fsdp")) and "2 ok" in line for line in out.splitlines()) == 5
    assert "2 processes, fp32" in out, "the answer"
    assert "Records: results/session" in out
    assert "[1/10]" in err
    assert "[1/10]" not in out


def test_all_resolved_values_are_printed_before_anything_runs(
    executor: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(index: int, run: PlannedRun) -> dict[str, Any]:
        raise UserError("stop here")

    executor.script = stop
    assert call("--strategy", "fsdp", "--gpus", "2", "--precision", "32", "--global-batch", "16") == 2
    err = capsys.readouterr().err
    for field in executor.runs[0].spec.model_fields_set:
        assert field in err, field
    assert "no GPU is used, ranks are CPU processes over gloo" in err
    rows = [line.split() for line in err.splitlines()]
    assert ["single", "1", "fp32", "16", "1", "16", "last"] in rows
    assert ["fsdp", "2", "fp32", "8", "1", "16", "every_micro_batch"] in rows


def test_json_prints_one_record_per_line_and_nothing_else(
    executor: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--strategy", "ddp", "--gpus", "2", "--repeats", "2", "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(executor.runs) == 4
    assert [Record.model_validate_json(line).spec for line in lines] == [run.spec for run in executor.runs]


@pytest.mark.parametrize("status", ["oom", "unsupported", "timeout", "failed"])
def test_a_cell_that_is_not_ok_makes_three_and_is_told_once_with_a_remedy(
    executor: Executor, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    executor.script = lambda index, run: {"status": status, "reason": "it broke"} if run.spec.strategy == "ddp" else {}
    assert call("--strategy", "ddp", "--gpus", "2", "--repeats", "3") == 3
    out, err = capsys.readouterr()
    assert err.count("it broke") == 1
    assert f"ddp on 2 ranks in fp32: {status}: it broke." in err
    assert f"3 {status}" in out


def test_an_interrupted_session_shows_what_was_measured(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    executor.script = lambda index, run: {"status": "interrupted"} if index == 3 else {}
    assert call("--strategy", "ddp", "--gpus", "2", "--repeats", "5") == 130
    assert "Records: results/session" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (UserError("disk full"), 2), (OSError(28, "No space left"), 2)]
)
def test_what_was_measured_is_shown_whatever_stops_the_rest(
    executor: Executor, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def script(index: int, run: PlannedRun) -> dict[str, Any]:
        if index == 2:
            raise error
        return {}

    executor.script = script
    assert call("--strategy", "ddp", "--gpus", "2", "--json") == code
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "Traceback" not in err


def test_failed_parity_is_not_ok(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    executor.script = lambda index, run: {"passed": False} if run.kind == "parity" else {}
    assert call("--strategy", "ddp", "--gpus", "2", "--parity") == 3
    assert "ddp on 2 ranks in fp32: parity failed" in capsys.readouterr().err


def test_debug_sets_the_variables_and_marks_the_spec(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PATH": "", "NCCL_DEBUG": "TRACE"}
    monkeypatch.setattr("os.environ", environment)
    assert call("--strategy", "ddp", "--gpus", "2", "--debug") == 0
    assert environment["CUDA_LAUNCH_BLOCKING"] == "1"
    assert environment["TORCH_DISTRIBUTED_DEBUG"] == "INFO"
    assert environment["NCCL_DEBUG"] == "TRACE", "more than INFO was asked for already"
    assert all(run.spec.debug for run in executor.runs)


def test_more_ranks_than_cores_is_said(executor: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--strategy", "ddp", "--gpus", "4") == 0
    assert "oversubscribed: 4 ranks on 2 cores" in capsys.readouterr().err


def test_flags_override_the_file_and_options_of_both_are_kept(executor: Executor, tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(
        """
        [run]
        strategy = ["fsdp", "ddp"]
        gpus = [1, 2]
        steps = 7
        compile = true
        results = "elsewhere"

        [run.set]
        workload.num_layers = 3
        workload.dropout = 0.1
        """
    )
    flags = ("--gpus", "2", "--set", "workload.num_layers=4", "--no-compile", "--strategy", "ddp", "--no-baseline")
    assert call("--config", str(file), *flags) == 0
    (spec,) = {run.spec for run in executor.runs}
    assert (spec.strategy, spec.world_size, spec.steps, spec.compile) == ("ddp", 2, 7, False)
    assert (spec.workload_options["num_layers"], spec.workload_options["dropout"]) == (4, 0.1)
    assert executor.request.results == "elsewhere"


def test_a_deepspeed_json_reaches_the_spec(executor: Executor, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 1}}')
    assert call("--strategy", "deepspeed", "--gpus", "2", "--no-baseline", "--deepspeed-config", str(file)) == 0
    assert executor.runs[0].spec.strategy_options == {"config": {"zero_optimization": {"stage": 1}}}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{\n  "a": 1,\n  b\n}', "line 3, column 3"),
        ("", "line 1, column 1"),
        ("[1]", "expected a JSON object"),
        ('{"bf16": {"enabled": true, "enabled": false}}', "'enabled' stands there twice"),
        ('{"train_batch_size": 3}', "3 in the DeepSpeed JSON but 8 in this run"),
        ('{"zero_optimisation": {"stage": 3}}', "write 'zero_optimization'"),
    ],
)
def test_a_broken_deepspeed_json_is_told_with_its_place(
    executor: Executor, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, place: str
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(content)
    assert call("--strategy", "deepspeed", "--deepspeed-config", str(file)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line or "--deepspeed-config" in line
    assert place in line


class TestResuming:
    @pytest.fixture
    def matrix(self, executor: Executor, tmp_path: Path) -> str:
        """Two cells of three repeats, whose records are kept, in a session per call."""
        file = tmp_path / "matrix.toml"
        file.write_text("[run]\nstrategy = 'ddp'\ngpus = 2\nrepeats = 3\nresults = 'r'\n")
        executor.session = "first"
        return str(file)

    def interrupted_after(self, executor: Executor, runs: int) -> None:
        executor.script = lambda index, run: {"status": "interrupted"} if index == runs else {}

    def test_a_matrix_goes_on_where_it_was_stopped(
        self, executor: Executor, matrix: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.interrupted_after(executor, 4)
        assert call("--config", matrix) == 130
        planned = executor.runs
        capsys.readouterr()
        executor.script, executor.session = lambda index, run: {}, "second"
        assert call("--config", matrix) == 0
        assert executor.runs == planned[4:]
        out, err = capsys.readouterr()
        assert "resuming: 4 of 6 runs are recorded already" in err
        assert out.count("3 ok") == 2, "the table tells of the whole plan"
        assert "Records: r/second, r/first" in out

    def test_nothing_is_measured_twice_and_how_to_do_so_is_said(
        self, executor: Executor, matrix: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call("--config", matrix) == 0
        executor.runs = []
        capsys.readouterr()
        assert call("--config", matrix) == 0
        out, err = capsys.readouterr()
        assert executor.runs == []
        assert "nothing is left to measure; --no-resume" in err
        assert out.count("3 ok") == 2
        executor.session = "anew"
        assert call("--config", matrix, "--no-resume") == 0
        assert len(executor.runs) == 6

    def test_flags_alone_measure_anew_unless_asked(self, executor: Executor, matrix: str) -> None:
        flags = ["--strategy", "ddp", "--gpus", "2", "--results", "r"]
        for session, more, runs in (("a", [], 6), ("b", [], 6), ("c", ["--resume", "--repeats", "7"], 2)):
            executor.session, executor.runs = session, []
            assert call(*flags, *more) == 0
            assert len(executor.runs) == runs

    def test_failed_runs_are_made_again_when_asked(
        self, executor: Executor, matrix: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        executor.script = lambda index, run: {"status": "failed", "reason": "no luck"} if index in (1, 2) else {}
        assert call("--config", matrix) == 3
        executor.script, executor.session, executor.runs = lambda index, run: {}, "second", []
        assert call("--config", matrix) == 3, "the plan still has runs that failed"
        assert executor.runs == []
        assert "2 failed; --retry failed runs them again" in capsys.readouterr().err
        assert call("--config", matrix, "--retry", "failed,oom") == 0
        assert len(executor.runs) == 2
        assert call("--config", matrix, "--retry", "failed", "--no-resume") == 2

    def test_parity_is_resumed_too(self, executor: Executor, matrix: str) -> None:
        assert call("--config", matrix, "--parity") == 0
        assert len(executor.runs) == 7
        executor.runs = []
        assert main.exit_code(["parity", "--config", matrix]) == 0
        assert executor.runs == []


class TestDryRun:
    FLAGS = ("--strategy", "ddp,deepspeed_stage_2", "--gpus", "1,2", "--precision", "fp32,fp16", "--steps", "9")

    def test_it_shows_every_cell_with_theorys_memory_and_runs_nothing(
        self, executor: Executor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(*self.FLAGS, "--data", "synthetic", "--dry-run") == 0
        assert executor.runs == []
        assert list(tmp_path.iterdir()) == []
        out, err = capsys.readouterr()
        rows = {tuple(line.split()[:3]): line for line in out.splitlines()}
        assert "10 cells, 30 runs" in err
        assert "0/3" in rows["ddp", "2", "fp32"]
        spec = make_spec(strategy="ddp", world_size=2, data="synthetic")
        assert f" {size(peak_by_hand(spec))} " in rows["ddp", "2", "fp32"]
        assert " n/a " in rows["deepspeed_stage_2", "2", "fp16"]
        assert out.count("unsupported: deepspeed_stage_2 on 2 ranks in fp16: ") == 1
        assert "30 runs to make; time: unknown, as no run of these cells is recorded" in out

    def test_the_time_is_that_of_earlier_runs_of_the_same_cells(
        self, executor: Executor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ("--strategy", "ddp", "--gpus", "2", "--results", "r")
        executor.session, executor.script = "a", lambda index, run: {"wall_seconds": 2.0 * run.spec.world_size}
        assert call(*flags, "--repeats", "2") == 0
        capsys.readouterr()
        assert call(*flags, "--repeats", "5", "--dry-run") == 0
        assert "10 runs to make; time: about 30.0 s." in capsys.readouterr().out, "5 of 2 s and 5 of 4 s"
        assert call(*flags, "--repeats", "5", "--resume", "--dry-run") == 0
        out = capsys.readouterr().out
        assert "6 runs to make; time: about 18.0 s." in out
        assert out.count(" 2/5 ") == 2
        assert call(*flags, "--precision", "fp32,bf16", "--dry-run") == 0
        assert "time: about 36.0 s, rough, as 6 of them" in capsys.readouterr().out

    def test_as_json_it_prints_the_runs_in_their_order(
        self, executor: Executor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(*self.FLAGS, "--dry-run", "--json") == 0
        printed = [PlannedRun.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
        assert call(*self.FLAGS) == 0
        assert printed == executor.runs

    def test_what_cannot_be_counted_has_no_forecast(
        self, executor: Executor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for option in ("num_layers=2000000000", "hidden_size=2000000000"):
            assert call("--strategy", "ddp", "--set", f"workload.{option}", "--dry-run") == 0
            assert " n/a " in capsys.readouterr().out


def peak_by_hand(spec: RunSpec) -> int:
    """Peak of ddp in fp32 at accumulation 1: parameters, two moments, buckets; then the activations or the gradients,
    with a bucket's copy, whichever are more."""
    workload = workloads.create(spec.workload, spec.size)
    saved = workload.saved_activations()
    elements = workload.parameter_count()
    assert saved is not None
    activations = spec.micro_batch * (
        saved.bytes(compute=4, residual=4, checkpointing=False) + saved.turn.bytes(compute=0, residual=0)
    )
    return 4 * 4 * elements + max(activations, 4 * elements)


class TestUnderAForeignLauncher:
    @pytest.fixture(autouse=True)
    def launched(self, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> list[PlannedRun]:
        """One of two ranks; rank 0 gets a record back, as the runner gives it."""
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
            monkeypatch.setenv(name, value)
        runs: list[PlannedRun] = []

        def work(run: PlannedRun, request: Request) -> tuple[Record, Path]:
            runs.append(run)
            return make_record(run.spec), Path("results/session/x.json")

        monkeypatch.setattr(run_module, "execute_as_worker", work)
        return runs

    def test_one_cell_runs_on_as_many_ranks_as_there_are(self, launched: list[PlannedRun]) -> None:
        assert call("--strategy", "fsdp", "--precision", "fp32", "--local-rank=0") == 0
        (run,) = launched
        assert (run.spec.strategy, run.spec.world_size, run.spec.threads_per_rank) == ("fsdp", 2, 1)

    def test_the_older_launcher_puts_its_option_before_the_command(self, launched: list[PlannedRun]) -> None:
        assert main.exit_code(["--local-rank=0", "run", "--strategy", "ddp", "--local_rank", "0"]) == 0
        assert len(launched) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--strategy", "ddp,fsdp"),
            ("--strategy", "single"),
            ("--strategy", "ddp", "--gpus", "4"),
            ("--strategy", "ddp", "--repeats", "2"),
            ("--strategy", "ddp", "--parity"),
            ("--strategy", "ddp", "--resume"),
        ],
    )
    def test_what_needs_several_launches_is_refused(
        self, launched: list[PlannedRun], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
    ) -> None:
        assert call(*arguments) == 2
        assert not launched
        assert "launch" in capsys.readouterr().err

    def test_other_ranks_say_nothing(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr(run_module, "execute_as_worker", lambda run, request: None)
        assert call("--strategy", "ddp") == 0
        assert call("--strategy", "nonsense") == 2
        assert capsys.readouterr() == ("", "")

    def test_a_failed_rank_is_not_a_bug(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(run: PlannedRun, request: Request) -> None:
            raise RuntimeError("no memory")

        monkeypatch.setattr(run_module, "execute_as_worker", fail)
        assert call("--strategy", "ddp") == 3
        assert "rank 0: RuntimeError: no memory" in capsys.readouterr().err

    def test_nodes_are_counted_in(self, launched: list[PlannedRun], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert call("--strategy", "ddp") == 0
        assert (launched[0].spec.world_size, launched[0].spec.threads_per_rank) == (4, 1)


FLAGS = [flag for option in run_module.run.params for flag in option.opts if flag not in ("--results", "--help")]
WORDS = (
    "ddp fsdp,single 1 2 0 -1 1.5 all fp32 bf16,32 none tiny weak,strong , a=b workload.num_layers=1 strategy.x=[ é {} "
    "synthetic /dev/null -- -h ~nobody-here nan 1e400"
)
WORDS_AND_WORSE = [*WORDS.split(), "", "\0", "\udcff", "x" * 300]


@given(
    arguments=st.lists(
        st.one_of(st.sampled_from(FLAGS), st.sampled_from(WORDS_AND_WORSE), st.text(max_size=6)), max_size=7
    )
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_command_line_makes_a_traceback(
    executor: Executor, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code = call(*arguments)
    err = capsys.readouterr().err
    assert code in (0, 2), err
    assert "Traceback" not in err
    assert "this is a bug" not in err
    if code:
        assert err.rstrip().splitlines()[-1].startswith("scalebench: error: ")


def test_a_table_of_several_models_names_them_and_what_was_asked_of_one_size() -> None:
    shapes = [("gpt", "tiny", {}), ("gpt", "124m", {}), ("dit", "tiny", {}), ("dit", "tiny", {"num_layers": 3})]
    specs = [
        make_spec(workload=name, size=size, workload_options=workloads.resolve_options(name, size, options))
        for name, size, options in shapes
    ]
    assert [name for name in varying(specs) if name not in ("workload", "size")] == ["workload.num_layers"]
    assert varying(specs[:2]) == ["size"]
