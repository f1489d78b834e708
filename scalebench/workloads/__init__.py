"""The models that are measured: name to `module:Class`, imported on use.

A workload class has `SIZES` (name to preset of its options), and `options` fields that `--set workload.NAME=VALUE` may change.
"""

from __future__ import annotations

WORKLOADS: dict[str, str] = {"gpt": "scalebench.workloads.gpt:GPT"}
