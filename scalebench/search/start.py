"""Where a search begins: at what theory expects to fit. It saves trials, and decides nothing."""

from __future__ import annotations

from scalebench import workloads
from scalebench.machine import nvml, visible_handles
from scalebench.meters import cgroup
from scalebench.scheme import model_of, scheme_of
from scalebench.search.question import Question
from scalebench.spec import RunSpec
from scalebench.theory.memory import memory


def first_to_try(question: Question) -> int:
    """The last index, of 0, 1, 3, 7 ..., whose cell should fit; 0 where theory, or the room, is unknown."""
    place = 0
    while 2 * place + 1 < len(question.values) and should_fit(question.cell(question.values[2 * place + 1])):
        place = 2 * place + 1
    return place


def should_fit(spec: RunSpec) -> bool:
    """Whether theory expects `spec` to fit."""
    workload = workloads.create(spec.workload, spec.size, spec.workload_options)
    model = model_of(workload, whole_regions=spec.compile)
    scheme, room = scheme_of(spec, model), room_bytes(spec)
    needed = memory(model, scheme, workload.saved_activations(), spec.micro_batch).peak if scheme else None
    return room is not None and needed is not None and needed <= room


def room_bytes(spec: RunSpec) -> int | None:
    """What a rank of `spec` may allocate; None when unknown."""
    if spec.memory_limit_bytes:
        return spec.memory_limit_bytes
    if spec.device == "cuda":
        with nvml() as library:
            handles = visible_handles(library)
            return min((library.nvmlDeviceGetMemoryInfo(handle).total for handle in handles), default=None)
    room = cgroup.free_bytes()
    return None if room is None else room // spec.world_size
