"""Imported by the fork server when a run needs DeepSpeed. A missing DeepSpeed is its cells' affair, not an error
here."""

from __future__ import annotations

import contextlib
import gc
import importlib

IMPORTED_ON_FIRST_USE = (
    "functorch.compile",
    "torch._inductor.compile_fx",
    "torch._dynamo.repro.after_dynamo",
    "deepspeed.runtime.zero.muon.original_muon",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.moe.ep_experts",
    "deepspeed.ops.triton_ops",
    "deepspeed.utils.pin_memory",
)
"""What `deepspeed.initialize` would import in every rank of every run; names that a version lacks are passed over."""

with contextlib.suppress(ImportError):
    import deepspeed  # noqa: F401

    import scalebench.strategies.deepspeed  # noqa: F401

    for name in IMPORTED_ON_FIRST_USE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)

gc.collect()
gc.freeze()  # as in preload
