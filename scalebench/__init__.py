"""scalebench: measure DDP, FSDP and DeepSpeed with one model, one loop and one clock."""

from __future__ import annotations

__version__ = "0.1.0"
