"""CPU time that was used and that was denied, from the kernel's files: as they are written, and as they are here."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from scalebench.meters import cgroup, cpu
from scalebench.meters.cpu import CpuTimes, read_cpu_times


def groups(monkeypatch: pytest.MonkeyPatch, root: Path, membership: str, files: dict[str, str]) -> None:
    """A process that is a member as `membership` says, with these files in the control groups' file system."""
    (root / "membership").write_text(membership)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", root / "membership")


def test_version_1_counts_nanoseconds_of_the_group_and_of_those_above_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {
        "cpu/job/rank/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 1500000000\n",
        "cpu/job/cpu.stat": "nr_periods 9\nnr_throttled 1\nthrottled_time 500000000\n",
        "cpu/other/cpu.stat": "throttled_time 7000000000\n",
        "cpu/job/cpu.cfs_quota_us": "150000",
        "cpu/job/cpu.cfs_period_us": "100000",
        "cpu/job/rank/cpu.cfs_quota_us": "-1",
    }
    groups(monkeypatch, tmp_path, "4:memory:/\n3:cpu,cpuacct:/job/rank\n", files)
    assert cgroup.throttled_seconds() == pytest.approx(2.0)
    assert cgroup.cpu_quota() == pytest.approx(1.5)


def test_version_2_counts_microseconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"job/cpu.stat": "usage_usec 9\nnr_throttled 4\nthrottled_usec 250000\n", "job/cpu.max": "50000 100000"}
    groups(monkeypatch, tmp_path, "0::/job\n", files)
    assert cgroup.throttled_seconds() == pytest.approx(0.25)
    assert cgroup.cpu_quota() == pytest.approx(0.5)


def test_without_a_controller_nobody_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups(monkeypatch, tmp_path, "0::/\n", {"cpu.stat": "usage_usec 9\n"})
    assert cgroup.throttled_seconds() is None


def test_the_kernels_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    (tmp_path / "schedstat").write_text("2500000000 500000000 77\n")
    (tmp_path / "stat").write_text("cpu  100 20 30 9999 8888 4 5 60 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    monkeypatch.setattr(cpu, "MAIN_THREAD", tmp_path / "schedstat")
    monkeypatch.setattr(cpu, "HOST", tmp_path / "stat")
    now = read_cpu_times()
    assert (now.main, now.waited) == pytest.approx((2.5, 0.5))
    assert (now.host_busy, now.host_stolen) == pytest.approx((159 * tick, 60 * tick)), "idle and iowait are no work"
    (tmp_path / "schedstat").write_text("0 0 0\n")
    (tmp_path / "stat").unlink()
    blind = read_cpu_times()
    assert (blind.main, blind.waited, blind.host_busy, blind.host_stolen) == (None,) * 4
    assert blind.since(now).waited is None
    assert CpuTimes(own=3.0, waited=1.0).since(CpuTimes(own=1.0)) == CpuTimes(own=2.0)


@pytest.mark.skipif(not cpu.MAIN_THREAD.exists(), reason="this kernel does not account for waits")
def test_a_thread_that_computes_is_seen_here() -> None:
    before, until = read_cpu_times(), time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    spent = read_cpu_times().since(before)
    assert spent.main is not None
    assert spent.own is not None
    assert spent.main >= 0.045
    assert spent.own >= 0.045
