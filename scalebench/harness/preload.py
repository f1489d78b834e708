"""Imported by the fork server, so that no rank imports it again. Importing this must not initialise CUDA."""

from __future__ import annotations

import gc
import tempfile

import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.tensor  # noqa: F401

import scalebench.data.batches
import scalebench.harness.worker
import scalebench.strategies.ddp
import scalebench.strategies.fsdp
import scalebench.strategies.fsdp1
import scalebench.strategies.single
import scalebench.workloads.gpt  # noqa: F401

# torch._dynamo: torch.optim and checkpointing import it on first use, which takes over a second.

# Looked for by writing a file: a rank that was killed while it did so would leave the file.
tempfile.gettempdir()

# Ranks collect garbage before the window, and ZeRO-3 while it is built. What was imported here is garbage to none of
# them; walking it would write into, and so copy, nearly every page shared with the server: a quarter of a second a
# time.
gc.collect()
gc.freeze()
