"""`scalebench doctor` as a user starts it, on machines where something really is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scalebench.doctor import FAMILIES
from scalebench.doctor.compilers import cxx
from scalebench.doctor.versions import OLDEST_DEEPSPEED, numbers, runs_on
from tests.fake_nvml.library import build
from tests.processes import ROOT, printed, python

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("NCCL_", "MASTER_", "CUDA_", "LD_"))}
DOCTOR = ("-m", "scalebench", "doctor")

Findings = dict[str, list[dict[str, Any]]]


def doctor(*families: str, inside: tuple[str, ...] = (), cwd: Path = ROOT, **variables: str) -> Findings:
    """What it found, by `family: check`; `inside` is a command that runs it. Its exit code always fits."""
    done = python(*DOCTOR, "--json", *families, inside=inside, cwd=cwd, environment=CLEAN, **variables)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results, done.stderr
    assert done.stderr == ""
    assert done.returncode == (3 if any(result["status"] == "problem" for result in results) else 0)
    found: Findings = {}
    for result in results:
        found.setdefault(f"{result['family']}: {result['check']}", []).append(result)
    return found


def statuses(found: Findings) -> dict[str, str]:
    """The worst status of each check."""
    return {name: results[-1]["status"] for name, results in found.items()}


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def namespaces(*flags: str) -> tuple[str, ...]:
    """A command that runs what follows in new namespaces; skips the test where that is not allowed."""
    command = ("unshare", "--map-root-user", *flags)
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces of its own (unshare)")
    return command


def after(*lines: str) -> tuple[str, ...]:
    """A shell that runs these lines before what follows."""
    return ("sh", "-ec", "; ".join((*lines, 'exec "$@"')), "sh")


def test_every_family_says_what_it_saw_why_and_what_to_do() -> None:
    quick = [family for family in FAMILIES if family not in ("collectives", "versions", "compilers")]
    found = doctor(*quick)
    assert {name.partition(":")[0] for name in found} == set(quick)
    for results in found.values():
        for result in results:
            assert result["seen"]
            assert result["why"].endswith((".", '"'))
            assert result["remedy"] or result["status"] in ("ok", "unknown", "note")


def test_problems_stand_last_with_their_remedies(tmp_path: Path) -> None:
    done = python(*DOCTOR, "variables", environment=CLEAN, NCCL_DEBUG="INFO", NCCL_P2P_DISABLE="1")
    assert (done.returncode, done.stderr) == (3, "")
    table, *blocks, count = done.stdout.strip().split("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["status", "ok", "ok", "note", "problem"]
    assert [block.partition(":")[0] for block in blocks] == ["note", "problem"]
    assert "what to do: unset NCCL_DEBUG" in blocks[-1]
    assert count == "1 problem, 1 note, 0 unknown, 2 ok"


def test_the_documentation_and_the_help_name_every_family() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    table = page.partition("| family | looks at |\n|---|---|\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| ([a-z]+) \|", table, re.MULTILINE) == list(FAMILIES)
    assert ", ".join(FAMILIES) in " ".join(printed(*DOCTOR, "--help").split())


def test_torch_is_not_imported_by_the_command() -> None:
    code = "import sys; from scalebench.cli import main; main.exit_code(sys.argv[1:]); print('torch' in sys.modules)"
    families = ("packages", "gpus", "clocks", "processes", "limits", "network", "variables", "builds")
    assert printed("-c", code, "doctor", *families).splitlines()[-1] == "False"


# --- packages and versions


def distribution(folder: Path, name: str, version: str) -> None:
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_foreign_scalebench_an_old_pynvml_and_doubled_packages_are_noticed(tmp_path: Path) -> None:
    for name, version in (
        ("scalebench", "9.9"),
        ("pynvml", "8.0"),
        ("rich", "1.0"),
        ("pandas", "1.0"),
        ("pandas", "1.1"),
    ):
        distribution(tmp_path, name, version)
    (tmp_path / "damaged-1.0.dist-info").mkdir()
    found = doctor("packages", PYTHONPATH=f"{ROOT}:{tmp_path}")
    (foreign,) = found["packages: foreign scalebench"]
    assert (foreign["status"], foreign["remedy"].split(" &&")[0]) == ("problem", "pip uninstall scalebench")
    assert found["packages: deprecated pynvml"][0]["status"] == "note"
    doubled = {result["seen"].partition(":")[0]: result["status"] for result in found["packages: twice installed"]}
    assert doubled == {"rich": "note", "pandas": "problem"}  # a path may well have two, one folder may not


def test_a_file_of_ones_own_that_hides_a_library(tmp_path: Path) -> None:
    (tmp_path / "deepspeed.py").write_text("")
    (result,) = doctor("packages", cwd=tmp_path)["packages: shadowed"]
    assert (result["status"], str(tmp_path / "deepspeed.py") in result["seen"]) == ("problem", True)


HIDE = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden} else find(name, path, target)
machinery.PathFinder.find_spec = find_others
"""


def test_it_works_without_torch_deepspeed_pynvml_and_psutil(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden={"torch", "deepspeed", "pynvml", "psutil"}))
    found = doctor(*FAMILIES, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert {result["seen"] for result in found["packages: needed"]} == {
        "torch is not installed",
        "psutil is not installed",
    }
    seen = statuses(found)
    assert seen["versions: torch"] == "problem"
    assert seen["collectives: gloo"] == seen["collectives: deepspeed"] == "unknown"
    assert seen["gpus: driver"] == seen["topology: pcie"] == seen["network: import"] == "unknown"
    assert "No module named 'psutil'" in found["network: import"][0]["seen"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing torch failed: killed by SIGSEGV"),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "OSError: libcudart.so.12: cannot open"),
        ("raise SystemExit(7)", "importing torch failed: exit code 7"),
    ],
)
def test_a_broken_torch_is_a_finding(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(code)
    found = doctor("versions", PYTHONPATH=f"{tmp_path}:{ROOT}")
    (result,) = found["versions: torch"]
    assert (result["status"], said in result["seen"]) == ("problem", True)
    assert found["versions: nccl"][0]["status"] == "unknown"


STAND_IN = """
__version__ = {version!r}
class version: cuda, hip = {cuda!r}, None
class distributed:
    is_available = is_gloo_available = is_nccl_available = staticmethod(lambda: True)
class cuda:
    is_available = staticmethod(lambda: True)
    get_arch_list = staticmethod(lambda: ["sm_80", "sm_90"])
    class nccl: version = staticmethod(lambda: (2, 27, 5))
"""


def test_versions_that_do_not_fit_each_other(tmp_path: Path, nvml: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(STAND_IN.format(version="2.5.1+cu130", cuda="13.0"))
    (tmp_path / "deepspeed" / "git_version_info").mkdir(parents=True)
    (tmp_path / "deepspeed" / "__init__.py").write_text("__version__ = '0.19.8'")
    (tmp_path / "deepspeed" / "git_version_info" / "__init__.py").write_text(
        "installed_ops = {'fused_adam': True, 'aio': False}; torch_info = {'version': '2.4'}"
    )
    distribution(tmp_path, "nvidia_nccl_cu13", "2.21.5")
    distribution(tmp_path, "deepspeed", "0.19.8")
    shadow = tmp_path / "libraries"
    shutil.copytree(nvml, shadow)
    (shadow / "libnccl.so.2").touch()
    found = doctor(
        *("versions",),
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        LD_LIBRARY_PATH=str(shadow),
        FAKE_NVML_GPUS="2",
        FAKE_NVML_ANSWER="nvmlSystemGetCudaDriverVersion=12040",
    )
    seen = {name: results[-1]["seen"] for name, results in found.items() if results[-1]["status"] == "problem"}
    assert seen["versions: torch"] == "torch 2.5.1+cu130, CUDA 13.0, NCCL 2.27.5 is too old"
    assert seen["versions: driver and cuda"] == "the driver runs CUDA up to 12.4, torch is built for 13.0"
    assert seen["versions: nccl"] == "torch loads NCCL 2.27.5, beside it is installed 2.21.5"
    assert "capability 7.0" in seen["versions: torch and gpus"]  # GPU 1; GPU 0 has 9.0
    assert "fused_adam were compiled for torch 2.4" in seen["versions: deepspeed"]
    assert found["versions: torch and gpus"][0]["status"] == "ok"
    assert str(shadow / "libnccl.so.2") in found["versions: library path"][0]["seen"]


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_80"], (8, 6), True),  # CUDA's binary compatibility: later minors of one major
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["sm_80", "compute_80"], (9, 0), True),  # PTX is compiled for whatever comes later
        (["sm_100", "sm_120"], (12, 0), True),
        (["sm_90a"], (9, 0), True),
        ([], (9, 0), False),
    ],
)
def test_which_gpus_an_architecture_runs_on(architectures: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(architectures, *capability) is runs


def test_the_oldest_versions_are_those_of_the_strategies_and_of_the_package() -> None:
    from scalebench.strategies.deepspeed import MINIMUM_VERSION

    assert OLDEST_DEEPSPEED == MINIMUM_VERSION
    assert numbers("2.13.0+cpu") == (2, 13, 0)


# --- GPUs, through pynvml's real calls and a stand-in of NVIDIA's library


GPU_FAMILIES = ("gpus", "topology", "clocks", "processes")


def test_healthy_gpus(nvml: Path) -> None:
    healthy = "nvmlDeviceGetCurrentClocksThrottleReasons=1"
    found = doctor(*GPU_FAMILIES, LD_LIBRARY_PATH=str(nvml), FAKE_NVML_GPUS="2", FAKE_NVML_ANSWER=healthy)
    seen = statuses(found)
    for name in ("visible", "compute mode", "mig", "memory errors"):
        assert seen[f"gpus: {name}"] == "ok"
    for name in ("topology: peer access", "topology: nvlink", "topology: pcie", "clocks: gpu throttling"):
        assert seen[name] == "ok"
    assert seen["clocks: persistence mode"] == seen["processes: gpu memory"] == "ok"
    assert found["gpus: driver"][0]["seen"] == "driver 999.42, 2 GPU(s)"
    assert found["gpus: models"][0]["status"] == "note"  # Fake GPU 0 and Fake GPU 1
    assert len(found["processes: gpu processes"]) == 2
    assert "(1000)" in found["processes: gpu processes"][0]["seen"]


def test_what_is_wrong_with_gpus(nvml: Path) -> None:
    answers = {
        "nvmlDeviceGetComputeMode": 2,
        "nvmlDeviceGetMigMode": 1,
        "nvmlDeviceGetTotalEccErrors": 3,
        "nvmlDeviceGetP2PStatus": 4,
        "nvmlDeviceGetNvLinkState": 1,
        "nvmlDeviceGetCurrPcieLinkWidth": 4,
        "nvmlDeviceGetPersistenceMode": 0,
        "nvmlDeviceGetMemoryInfo": 1 << 30,
    }
    text = ",".join(f"{name}={value}" for name, value in answers.items())
    found = doctor(*GPU_FAMILIES, LD_LIBRARY_PATH=str(nvml), FAKE_NVML_GPUS="2", FAKE_NVML_ANSWER=text)
    seen = {name: results[-1] for name, results in found.items()}
    assert seen["gpus: compute mode"]["status"] == "problem"
    assert seen["gpus: mig"]["remedy"] == "sudo nvidia-smi -i 1 -mig 0"
    assert seen["gpus: memory errors"]["seen"] == "GPU 1 (Fake GPU 1): 3 since boot"
    assert seen["topology: peer access"]["seen"] == "GPU 0 and 1 (one PCIe switch): no peer access (NVML status 4)"
    assert seen["topology: nvlink"]["seen"] == "GPU 1 (Fake GPU 1): 1 of 4 links up"
    assert seen["topology: pcie"]["seen"] == "GPU 1 (Fake GPU 1): x4 of x16 lanes"
    assert seen["clocks: gpu throttling"]["status"] == "problem"
    assert "thermal slowdown by the driver" in seen["clocks: gpu throttling"]["seen"]
    assert seen["clocks: persistence mode"]["remedy"] == "sudo nvidia-smi -pm 1"
    assert seen["processes: gpu memory"]["seen"] == "GPU 1 (Fake GPU 1): 1 GiB of 74.5 GiB free"


@pytest.mark.parametrize(("selection", "status"), [("0", "note"), ("0,1", "ok"), ("0,7,1", "problem"), ("", "note")])
def test_which_gpus_are_visible(nvml: Path, selection: str, status: str) -> None:
    found = doctor("gpus", LD_LIBRARY_PATH=str(nvml), FAKE_NVML_GPUS="2", CUDA_VISIBLE_DEVICES=selection)
    assert found["gpus: visible"][0]["status"] == status


def test_driver_and_library_of_different_versions(nvml: Path) -> None:
    found = doctor("gpus", LD_LIBRARY_PATH=str(nvml), FAKE_NVML_FAIL="nvmlInitWithFlags=18")
    assert (found["gpus: driver"][0]["status"], found["gpus: driver"][0]["remedy"]) == ("problem", "sudo reboot")
    assert found["gpus: models"][0]["status"] == "unknown"


def test_a_sensor_that_fails_is_unknown_with_its_reason(nvml: Path) -> None:
    found = doctor("topology", LD_LIBRARY_PATH=str(nvml), FAKE_NVML_FAIL="nvmlDeviceGetMaxPcieLinkWidth=999")
    (result,) = found["topology: pcie"]
    assert (result["status"], "NVMLError" in result["seen"]) == ("unknown", True)


def test_a_gpu_without_a_driver(tmp_path: Path) -> None:
    from scalebench.doctor.gpus import driver

    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (tmp_path / "0000:01:00.0" / "class").write_text("0x030200\n")
    (finding,) = driver(tmp_path)
    assert finding.status in ("problem", "ok")  # ok where the tests run beside a working driver
    assert finding.status == "ok" or finding.seen.startswith("1 NVIDIA GPU(s) on the PCI bus")


# --- limits, network, processes


def test_a_small_shared_memory() -> None:
    inside = (*namespaces("--mount"), *after("mount -t tmpfs -o size=1m tmpfs /dev/shm"))
    (result,) = doctor("limits", inside=inside)["limits: shared memory"]
    assert (result["status"], result["seen"]) == ("problem", "1 MiB of 1 MiB free in /dev/shm")
    assert "--shm-size" in result["remedy"]


LOWER = """
import os, resource, sys
for limit, value in (("NOFILE", 100), ("NPROC", 300), ("AS", 4 << 30)):
    resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_low_limits() -> None:
    found = doctor("limits", inside=(sys.executable, "-c", LOWER))
    seen = statuses(found)
    assert seen["limits: open files"] == seen["limits: process count"] == seen["limits: address space"] == "problem"
    assert found["limits: open files"][0]["seen"] == "at most 100 per process"
    assert found["limits: address space"][0]["seen"] == "at most 4 GiB per process"


def test_locked_memory_matters_where_there_is_infiniband(tmp_path: Path) -> None:
    code = """
import pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
from scalebench.doctor.limits import locked_memory
print(*(next(locked_memory(pathlib.Path(folder))).status for folder in sys.argv[1:]))
"""
    (tmp_path / "adapters" / "mlx5_0").mkdir(parents=True)
    assert printed("-c", code, tmp_path / "adapters", tmp_path / "none").split() == ["problem", "ok"]


def test_no_loopback_and_a_name_without_an_address() -> None:
    inside = (*namespaces("--net", "--uts"), *after("hostname has-no-address"))
    found = doctor("network", inside=inside)
    assert found["network: loopback"][0]["status"] == "problem"
    assert found["network: hostname"][0]["status"] == "problem"
    assert found["network: hostname"][0]["seen"].startswith("has-no-address has no address")


def test_a_port_that_is_in_use_is_named_with_who_holds_it() -> None:
    with socket.create_server(("", 0)) as server:
        number = server.getsockname()[1]
        (result,) = doctor("network", MASTER_PORT=str(number))["network: port"]
    assert result["status"] == "problem"
    assert f"process {os.getpid()}" in result["seen"]


def test_names_of_interfaces_and_of_the_master() -> None:
    variables = {"GLOO_SOCKET_IFNAME": "nowhere0", "NCCL_SOCKET_IFNAME": "l", "MASTER_ADDR": "no.such.host.invalid"}
    found = doctor("network", **variables)
    assert "GLOO_SOCKET_IFNAME=nowhere0 names none of" in found["network: interfaces"][-1]["seen"]
    assert len([result for result in found["network: interfaces"] if result["status"] == "problem"]) == 1
    assert found["network: master address"][0]["status"] == "problem"


def test_what_a_launcher_left_in_the_environment() -> None:
    (result,) = doctor("variables", RANK="0", WORLD_SIZE="2")["variables: left by a launcher"]
    assert (result["status"], result["remedy"]) == ("problem", "unset RANK WORLD_SIZE")


def test_variables_under_which_runs_are_slow_or_wait_for_ever() -> None:
    found = doctor("variables", NCCL_SHM_DISABLE="1", NCCL_P2P_DISABLE="0", TORCH_NCCL_ASYNC_ERROR_HANDLING="0")
    assert [result["remedy"] for result in found["variables: slower ways"]] == ["unset NCCL_SHM_DISABLE"]
    assert found["variables: endless waits"][0]["status"] == "problem"


@pytest.fixture
def stopped_rank() -> Iterator[int]:
    """A process as torchrun starts them, that was stopped."""
    environment = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], env=environment)
    while not psutil.Process(process.pid).cmdline()[1:]:  # until it has become Python
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    yield process.pid
    process.kill()
    process.wait()


def test_a_rank_that_hangs_is_found(stopped_rank: int) -> None:
    results = doctor("processes")["processes: left over"]
    (mine,) = [result for result in results if result["remedy"] == f"kill -9 {stopped_rank}"]
    assert (mine["status"], "is stopped" in mine["seen"]) == ("note", True)


def test_others_on_the_cores() -> None:
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        (result,) = doctor("processes")["processes: cpu load"]
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    assert result["status"] == "problem"


# --- compilers and builds


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    (finding,) = cxx()
    assert (finding.status, finding.seen) == ("problem", "no C++ compiler on PATH")


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'x.cpp:2:10: fatal error: Python.h: No such file or directory' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    (finding,) = cxx()
    assert (finding.status, "fatal error: Python.h" in finding.seen) == ("problem", True)


def test_stale_locks_are_told_from_builds_under_way(tmp_path: Path) -> None:
    hour_ago = time.time() - 3600
    for name in ("stale", "building", "young"):
        lock = tmp_path / "py311_cpu" / name / "lock"
        lock.parent.mkdir(parents=True)
        lock.touch()
        if name != "young":
            os.utime(lock, (hour_ago, hour_ago))
    with subprocess.Popen(["sleep", "100"], cwd=tmp_path / "py311_cpu" / "building") as compiler:
        results = doctor("builds", TORCH_EXTENSIONS_DIR=str(tmp_path))["builds: locks"]
        compiler.kill()
    seen = {Path(re.split(r":\s", result["seen"])[0]).parent.name: result["status"] for result in results}
    assert seen == {"stale": "problem", "building": "note", "young": "note"}
    assert results[-1]["remedy"] == f"rm -r {tmp_path}/py311_cpu/stale"
