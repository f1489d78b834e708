"""What is made of a profile of a GPU: kernels of NCCL and others, by their names, on a made-up timeline."""

from __future__ import annotations

import pytest
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from scalebench.meters.communication import cuda_trace, length, nccl_kind, outside, union, what_ran

GEMM = "nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_TNN"


def event(name: str, start: float, end: float, *, gpu: bool = True, annotation: bool = False) -> FunctionEvent:
    """As torch's profiler makes one; times in microseconds."""
    device = DeviceType.CUDA if gpu else DeviceType.CPU
    made = FunctionEvent(0, name, 0, start, end, device_type=device, is_user_annotation=annotation)  # type: ignore[no-untyped-call]
    assert isinstance(made, FunctionEvent)
    return made


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_reduce"),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_gather"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "reduce_scatter"),
        ("ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "broadcast"),
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)", "all_reduce"),
        (GEMM, None),
        ("Memcpy DtoD (Device -> Device)", None),
    ],
)
def test_kernels_of_nccl_are_known_by_their_names(kernel: str, kind: str | None) -> None:
    assert nccl_kind(kernel) == kind


def test_ranges_of_the_host_on_the_gpus_timeline_are_no_kernels() -> None:
    """DDP's reducer and the optimizer are annotated there: taken for kernels they would hide what is exposed."""
    reduction = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    events = [
        event("aten::mm", 0.0, 1.0, gpu=False),
        event(GEMM, 10.0, 30.0),
        event(reduction, 20.0, 50.0),
        event("nccl:all_reduce", 20.0, 50.0, annotation=True),
        event("Optimizer.step#AdamW.step", 10.0, 70.0, annotation=True),
        event("DistributedDataParallel.forward", 0.0, 5.0, gpu=False, annotation=True),
        event("void at::native::multi_tensor_apply_kernel", 60.0, 70.0),
    ]
    ran = list(what_ran(events))
    assert [name for name, _, _ in ran] == [
        "aten::mm",
        GEMM,
        reduction,
        "DistributedDataParallel.forward",
        "void at::native::multi_tensor_apply_kernel",
    ]
    trace = cuda_trace(ran)
    assert [kind for kind, _ in trace.collectives] == ["all_reduce"]
    assert trace.span == (10.0, 70.0)
    exposed = outside(union(interval for _, interval in trace.collectives), union(trace.computing))
    assert length(exposed) == 20.0
