"""The report as a reader and as a shell sees it."""

import hashlib
import random
import re
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from scalebench.cli.report import report
from scalebench.errors import UserError
from scalebench.records.record import Record, WindowFacts
from scalebench.records.store import write_record
from scalebench.reporting.experiments import experiments
from scalebench.reporting.outcomes import ENDED
from scalebench.reporting.report import write_report
from scalebench.reporting.rules_of_thumb import RULES, rules_of_thumb, verdict
from scalebench.reporting.text import change, figure, size, with_interval
from scalebench.stats.intervals import Estimate
from tests.processes import ROOT, python
from tests.unit.factory import ENVIRONMENT, make_parity, make_record, make_repeats, make_spec


def sweep() -> list[Record]:
    """A small matrix with everything that a report must say in it."""
    records = []
    for precision, factor in (("fp32", 1.0), ("bf16", 0.6)):
        for strategy, ranks, seconds in (
            ("single", 1, 0.010),
            ("ddp", 1, 0.0101),
            ("ddp", 2, 0.011),
            ("fsdp", 2, 0.013),
        ):
            spec = make_spec(strategy=strategy, world_size=ranks, precision=precision)
            times = [factor * seconds * (1 + 0.004 * i) for i in range(3)]
            records += make_repeats(spec, times, memory={"tensor_peak": round(3e6 * factor)}, unmatched=["no buckets"])
    offload = make_spec(strategy="deepspeed_stage_2_offload", world_size=2)
    records += make_repeats(offload, [0.5], functional_only="a CPU has nothing to offload to")
    records += make_repeats(make_spec(strategy="ddp", world_size=4), [0.5], oversubscribed=True)
    records += make_repeats(
        make_spec(strategy="fsdp1", world_size=2), [0.5], status="oom", reason="out of memory | rank 1"
    )
    return [*records, make_parity(make_spec(strategy="ddp", world_size=2))]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    records = sweep()
    write_report(records, tmp_path / "a")
    random.Random(3).shuffle(records)
    write_report(records, tmp_path / "b")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert len(hashes(tmp_path / "a")) == 5


def test_the_report_says_everything_it_must(tmp_path: Path) -> None:
    text = write_report(sweep(), tmp_path).read_text()
    assert text.index("is fastest") < text.index("## ")
    for heading in (
        "Speed",
        "Weak scaling",
        "Memory",
        "Precision",
        "Contract",
        "What could not be matched",
        "Not measured",
    ):
        assert f"### {heading}" in text
    for heading in ("Rules of thumb", "Parity", "Environment"):
        assert f"## {heading}" in text
    assert "functional only: a CPU has nothing to offload to" in text
    assert "oversubscribed: more ranks than cores" in text
    assert "out of memory \\| rank 1" in text
    assert "Example CPU" in text
    assert "2.13.0+cpu" in text


def test_what_measures_nothing_is_in_no_table_of_figures(tmp_path: Path) -> None:
    text = write_report(sweep(), tmp_path).read_text()
    figures = text[text.index("### Speed") : text.index("### Contract")]
    assert "offload" not in figures
    assert "fsdp1" not in figures
    assert "| 4 " not in figures


def test_every_plot_is_a_picture_with_something_in_it(tmp_path: Path) -> None:
    import matplotlib.image

    text = write_report(sweep(), tmp_path).read_text()
    for name in ("throughput", "efficiency", "memory", "precision"):
        path = tmp_path / f"gpt-tiny-cpu-weak-{name}.png"
        assert path.name in text
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert len({tuple(pixel) for pixel in pixels[::7, ::7, :3].reshape(-1, 3).tolist()}) > 10


def test_16_bit_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    records = [record for record in sweep() if record.spec.precision == "bf16"]
    assert "### Precision" not in write_report(records, tmp_path).read_text()


def test_what_failed_its_parity_check_is_not_in_bold(tmp_path: Path) -> None:
    spec = make_spec(strategy="ddp", world_size=2)
    records = [record for record in sweep() if record.kind == "run"]
    assert "**ddp**" in write_report(records, tmp_path).read_text()
    fp32 = next(
        line
        for line in write_report([*records, make_parity(spec, passed=False)], tmp_path).read_text().splitlines()
        if re.match(r"\| 2 +\| fp32 +\| \**ddp", line)
    )
    assert "**" not in fp32
    assert "FAILED" in fp32


def test_without_parity_records_the_report_says_na(tmp_path: Path) -> None:
    records = [record for record in sweep() if record.kind == "run"]
    assert "Parity: n/a" in write_report(records, tmp_path).read_text()


def test_how_many_unreadable_files_were_left_out_is_told(tmp_path: Path) -> None:
    record = make_record()
    assert record.workload is not None
    name = "images:/pictures (3 of 20 unreadable, left out)"
    workload = record.workload.model_copy(update={"data_name": name})
    text = write_report([make_record(workload=workload)], tmp_path).read_text()
    assert f"Data: {name}." in text
    assert "Data:" not in write_report([make_record()], tmp_path).read_text()


def test_environments_that_differ_are_shown_side_by_side(tmp_path: Path) -> None:
    other = make_record(make_spec(), environment=ENVIRONMENT | {"torch": "2.11.0"})
    text = write_report([*sweep(), other], tmp_path).read_text()
    row = next(line for line in text.splitlines() if line.startswith("| torch "))
    assert "2.13.0+cpu" in row
    assert "2.11.0" in row


def test_every_way_in_which_timing_ends_has_its_words() -> None:
    assert set(ENDED) == set(get_args(WindowFacts.model_fields["stopped"].annotation))


def test_records_of_nothing_but_failures_still_make_a_report(tmp_path: Path) -> None:
    text = write_report(make_repeats(make_spec(), [0.1], status="failed", reason="boom"), tmp_path).read_text()
    assert "nothing was measured" in text
    assert "boom" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.75, 1.85, "agrees"),
        (1.65, 1.85, "inconclusive"),
        (1.91, 1.95, "disagrees (above)"),
        (1.2, 1.6, "disagrees (below)"),
        (None, None, "inconclusive (one process)"),
    ],
)
def test_a_rule_of_thumb_is_judged_by_where_the_whole_interval_lies(
    low: float | None, high: float | None, expected: str
) -> None:
    assert verdict(RULES[0], Estimate(value=1.8, low=low, high=high, processes=5)) == expected


def test_cpu_figures_are_no_verdict_on_claims_about_gpus() -> None:
    table = rules_of_thumb(experiments(sweep()))
    assert table is not None
    ddp = table.frame[table.frame["claim"].str.startswith("DDP on 2")]
    assert all(text.startswith("not measured on a GPU (on CPU: ") for text in ddp["verdict"])
    assert all("Example CPU" in text for text in ddp["where"])
    assert list(table.frame[table.frame["claim"].str.startswith("DDP on 8")]["verdict"]) == ["not measured"]


def test_gpu_figures_are_a_verdict() -> None:
    records = make_repeats(make_spec(strategy="single", device="cuda"), [0.0100, 0.0101, 0.0099])
    records += make_repeats(make_spec(strategy="ddp", device="cuda", world_size=2), [0.0111, 0.0112, 0.0110])
    table = rules_of_thumb(experiments(records))
    assert table is not None
    assert table.frame["verdict"].tolist()[0] == "agrees"
    assert "Example GPU" in table.frame["where"].tolist()[0]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figure(12345.6), "12,350"),
        (figure(0.0123456), "0.01235"),
        (figure(999.96), "1,000"),
        (figure(0), "0"),
        (size(1536), "1.50 KiB"),
        (size(3 * 2**30), "3.00 GiB"),
        (size(0), "0 B"),
        (change(1.0811), "+8.1%"),
        (change(1.0002), "+0.02%"),
        (with_interval(None), "n/a"),
        (with_interval(Estimate(value=2, low=0.1, high=3, processes=2), str), "2 [interval wider than 10-fold]"),
        (with_interval(Estimate(value=2, low=1, high=3, processes=1, within_run=True), str), "2 [1 – 3] within run"),
    ],
)
def test_figures_are_written_for_people(shown: str, expected: str) -> None:
    assert shown == expected


def store(folder: Path) -> Path:
    for record in sweep():
        write_record(record, folder / record.session)
    return folder


def test_the_command_prints_the_answer_and_the_path(tmp_path: Path) -> None:
    done = CliRunner().invoke(report, ["--results", str(store(tmp_path / "results"))])
    assert done.exit_code == 0, done.output
    assert "ddp is fastest" in done.stdout
    path = tmp_path / "results" / "report" / "report.md"
    assert done.stdout.splitlines()[-1] == str(path)
    assert path.exists()


def test_damaged_files_are_listed_and_the_report_is_still_written(tmp_path: Path) -> None:
    (store(tmp_path / "results") / "bad.json").write_text("{")
    done = CliRunner().invoke(report, ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "bad.json" in done.stderr
    assert "bad.json" in (tmp_path / "out" / "report.md").read_text()


def test_only_the_sessions_asked_for_are_reported(tmp_path: Path) -> None:
    write_record(make_record(make_spec(strategy="ddp"), session="a"), tmp_path / "a")
    write_record(make_record(make_spec(strategy="fsdp"), session="b"), tmp_path / "b")
    done = CliRunner().invoke(report, ["--results", str(tmp_path), "--session", "b"])
    assert "fsdp" in done.stdout
    assert "ddp" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "nowhere"], "does not exist"),
        (["--results", "empty"], "holds no records"),
        (["--results", "damaged"], "readable record"),
        (["--results", "good", "--session", "x"], "Its sessions: s1"),
        (["--results", "good", "--output", "good/s1/taken"], "cannot be written"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("damaged").mkdir()
    Path("damaged/bad.json").write_text("{}")
    write_record(make_record(), Path("good/s1"))
    Path("good/s1/taken").write_text("a file")
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(report, arguments, catch_exceptions=False)


def test_report_py_runs_without_torch_and_without_a_traceback(tmp_path: Path) -> None:
    """A finder that refuses torch stands in for a machine where importing it would be slow or impossible."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch must not be imported')")
    run = partial(python, ROOT / "report.py", "--results", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    good = run(store(tmp_path / "results"))
    assert good.returncode == 0, good.stderr
    missing = run("nowhere")
    assert missing.returncode == 2
    assert missing.stderr.startswith("scalebench: error: 'nowhere' does not exist")
    assert len(missing.stderr.splitlines()) == 1
