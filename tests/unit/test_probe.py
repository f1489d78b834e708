"""Probes: which one a run is set against, what reports say of them, how they are asked for and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scalebench.analysis.probe import by_machine, matmul_rate, memory_rate, messages, number_of, probe_for
from scalebench.cli.probe import probe as command
from scalebench.cli.probe import probe_specs
from scalebench.cli.report import report
from scalebench.errors import UserError
from scalebench.harness.probing import fits, together
from scalebench.machine import Machine
from scalebench.matrix import Request
from scalebench.records.probe import CollectiveFacts, CopyFacts, MatmulFacts, MemoryPassFacts, Probe, ProbeFacts
from scalebench.records.store import load_records, write_record
from scalebench.reporting.report import write_report
from scalebench.spec import ProbeSpec
from tests.unit.factory import ENVIRONMENT, make_record, make_spec


def make_facts(scale: float = 1.0) -> ProbeFacts:
    """Two repeats of a rank whose device multiplies at 1 GFLOP/s / scale, over links of 10 us and 1 GB/s."""
    seconds = [[scale, 2 * scale]]
    return ProbeFacts(
        matmul=[
            MatmulFacts(number="fp32", size=1000, seconds=seconds),
            MatmulFacts(number="fp32", size=1000, sustained=True, seconds=seconds),
        ],
        memory=[MemoryPassFacts(kernel="copy", array_bytes=2**26, moved_bytes=2**27, seconds=seconds)],
        collectives=[
            CollectiveFacts(kind="barrier", payload_bytes=0, seconds=seconds),
            *(
                CollectiveFacts(kind="all_reduce", payload_bytes=size, seconds=[[1e-5 + size / 1e9] * 2])
                for size in (64, 2**20, 2**26)
            ),
        ],
        left_out={"fp16 from size 256 on": "time was up"},
    )


def make_probe(world_size: int = 2, **fields: Any) -> Probe:
    facts = fields.pop("facts", None) or together([make_facts() for _ in range(world_size)])
    spec = ProbeSpec(device="cpu", world_size=world_size, threads_per_rank=1, cores_per_rank=1)
    defaults: dict[str, Any] = {
        "spec": spec,
        "session": "p1",
        "started_at": "2030-01-01T00:00:00+00:00",
        "wall_seconds": 9.0,
        "device_names": [None] * world_size,
        "facts": facts,
        "fits": list(fits(facts)),
        "environment": ENVIRONMENT,
    }
    return Probe(**{**defaults, **fields})


def test_ranks_are_put_together_and_the_slowest_counts() -> None:
    facts = together([make_facts(), make_facts(scale=4.0)])
    assert facts.matmul[0].seconds == [[1.0, 2.0], [4.0, 8.0]]
    rate = matmul_rate(make_probe(facts=facts), "fp32")
    assert rate is not None
    assert (rate.low, rate.median, rate.high) == pytest.approx((2e9 / 8, 2e9 / 6, 2e9 / 4))
    copied = memory_rate(make_probe(facts=facts), "copy")
    assert copied is not None
    assert copied.median == pytest.approx(2**27 / 6)
    assert matmul_rate(make_probe(facts=facts), "bf16") is None
    assert memory_rate(make_probe(facts=facts), "triad") is None


def test_every_collective_and_every_way_of_copying_gets_its_line() -> None:
    facts = make_facts().model_copy(
        update={
            "copies": [
                CopyFacts(direction="to_device", pinned=pinned, payload_bytes=size, seconds=[[5e-6 + size / 2e10]])
                for pinned in (True, False)
                for size in (4096, 2**28)
            ]
        }
    )
    found = {fit.name: fit for fit in fits(facts)}
    assert list(found) == ["all_reduce", "to_device, pinned", "to_device, pageable"], "a barrier has no bandwidth"
    assert found["all_reduce"].latency_seconds == pytest.approx(1e-5)
    assert found["all_reduce"].bytes_per_second == pytest.approx(1e9)
    assert found["to_device, pinned"].bytes_per_second == pytest.approx(2e10)


def test_a_run_is_set_against_the_latest_probe_of_its_own_machine_and_placement() -> None:
    record = make_record(make_spec(world_size=2))
    old, new = make_probe(), make_probe(started_at="2030-01-02T00:00:00+00:00")
    others = [
        make_probe(world_size=1, started_at="2030-01-03"),
        make_probe(environment=ENVIRONMENT | {"cpu_model": "Another CPU"}, started_at="2030-01-03"),
        make_probe(environment=ENVIRONMENT | {"torch": "2.6.0"}, started_at="2030-01-03"),
    ]
    assert probe_for(record, [new, old, *others]) == new
    assert probe_for(record, others) is None
    assert probe_for(record, [make_probe(environment=ENVIRONMENT | {"deepspeed": None})]) is not None
    assert [[probe.spec.world_size for probe in machine] for machine in by_machine([new, old, others[0]])] == [[1, 2]]
    assert len(by_machine([new, *others])) == 3


@pytest.mark.parametrize(
    ("fields", "number"),
    [({}, "fp32"), ({"tf32": True}, "tf32"), ({"precision": "bf16-true"}, "bf16"), ({"precision": "fp16"}, "fp16")],
)
def test_a_run_is_measured_against_the_number_format_that_it_asked_for(fields: dict[str, Any], number: str) -> None:
    assert number_of(make_record(make_spec(**fields))) == number


def test_messages_are_ascending_and_a_barrier_has_no_bandwidth() -> None:
    found = messages(make_probe(), "all_reduce")
    assert [message.payload_bytes for message in found] == [64, 2**20, 2**26]
    rate = found[-1].bytes_per_second
    assert rate is not None
    assert rate.median == pytest.approx(2**26 / (1e-5 + 2**26 / 1e9))
    assert messages(make_probe(), "barrier")[0].bytes_per_second is None


def test_probes_are_stored_beside_records_and_told_apart(tmp_path: Path) -> None:
    probe, record = make_probe(), make_record()
    path = write_record(probe, tmp_path / "p1")
    write_record(record, tmp_path / "s1")
    loaded = load_records(tmp_path)
    assert (loaded.probes, loaded.records, loaded.damaged) == ([probe], [record], [])
    path.write_text(path.read_text().replace('"probe_schema": 1', '"probe_schema": 9'))
    ((damaged, reason),) = load_records(tmp_path).damaged
    assert damaged == path
    assert "probe schema 9" in reason


def test_the_report_shows_rates_lines_and_what_was_left_out(tmp_path: Path) -> None:
    path = write_report([make_record()], tmp_path / "a", probes=[make_probe(), make_probe(world_size=1)])
    text = path.read_text()
    assert "What the machine can do: Example CPU, 8 cores" in text
    assert "1.33 [1.00 – 2.00]" in text, "2 GFLOP in 1.5 s [2 s – 1 s]"
    assert "| all-reduce" in text
    assert "Left out at 2 ranks, time was up: fp16 from size 256 on." in text
    for plot in ("probe-1-collectives.png", "probe-1-matmul.png"):
        assert f"({plot})" in text
        again = write_report([make_record()], tmp_path / "b", probes=[make_probe(world_size=1), make_probe()])
        assert (path.parent / plot).read_bytes() == (again.parent / plot).read_bytes()
    assert "What the machine can do" not in write_report([make_record()], tmp_path / "c").read_text()


def test_a_probe_alone_can_be_reported(tmp_path: Path) -> None:
    write_record(make_probe(), tmp_path / "p1")
    done = CliRunner().invoke(report, ["--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "What the machine can do" in (tmp_path / "report" / "report.md").read_text()


CPU = Machine(device="cpu", gpu_count=0, cores=8, bf16_native=True)
GPUS = Machine(device="cuda", gpu_count=6, cores=8, bf16_native=True)


def test_ranks_are_placed_as_a_run_places_them() -> None:
    cpu = list(probe_specs(Request.model_validate({"gpus": "1,2"}), CPU, None))
    assert [(s.world_size, s.threads_per_rank, s.cores_per_rank, s.max_seconds) for s in cpu] == [
        (1, 4, 4, 30.0),
        (2, 4, 4, 30.0),
    ]
    gpus = list(probe_specs(Request(), GPUS, 60.0))
    assert [(s.world_size, s.threads_per_rank, s.max_seconds) for s in gpus] == [
        (1, None, 15.0),
        (2, None, 15.0),
        (4, None, 15.0),
        (6, None, 15.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--gpus", "0"], "--gpus"), (["--gpus", "100000"], "--gpus"), (["--device", "tpu"], "--device")],
)
def test_a_mistake_is_told_by_its_flag(arguments: list[str], word: str) -> None:
    error = CliRunner().invoke(command, arguments).exception
    assert isinstance(error, UserError)
    assert word in str(error)
