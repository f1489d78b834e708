"""What the torch strategies refuse, and what they say they cannot match, without starting anything."""

from __future__ import annotations

from typing import Any

import pytest

from scalebench import strategies
from scalebench.strategies.config import TrainConfig

PLAIN = TrainConfig()


@pytest.mark.parametrize(
    ("name", "options", "world_size", "words"),
    [
        ("single", {}, 2, ["one rank", "ddp"]),
        ("ddp", {"gradient_compression": "bf16"}, 2, ["NCCL", "fp16"]),
        ("ddp", {"gradient_compression": "zip"}, 2, ["none, fp16, bf16, powersgd", "zip"]),
        ("ddp", {"bucket_cap_mb": 0.0}, 2, ["MiB", "0.0"]),
        ("fsdp", {"shard_size": 3}, 4, ["shard_size", "1, 2, 4"]),
        ("fsdp", {"reshard_after_forward": 4}, 6, ["reshard_after_forward", "1, 2, 3, 6"]),
        ("fsdp", {"prefetch": -1}, 2, ["prefetch", "-1"]),
        ("fsdp_hybrid", {}, 1, ["even number", "fsdp"]),
        ("fsdp_hybrid", {}, 3, ["even number", "fsdp"]),
        ("fsdp_hybrid", {"reshard_after_forward": 4}, 4, ["reshard_after_forward", "1, 2"]),
        ("fsdp1", {"sharding_strategy": "half"}, 2, ["FULL_SHARD", "half"]),
    ],
)
def test_what_cannot_run_is_said(name: str, options: dict[str, Any], world_size: int, words: list[str]) -> None:
    reason = strategies.create(name, options).unsupported_reason(PLAIN, "cpu", world_size)
    assert reason is not None
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(
    ("name", "options", "world_size"),
    [
        ("single", {}, 1),
        ("ddp", {"gradient_compression": "fp16"}, 1),
        ("fsdp", {"reshard_after_forward": False}, 3),
        ("fsdp", {"reshard_after_forward": 2, "shard_size": 4}, 8),
        ("fsdp_hybrid", {}, 2),
        ("fsdp1", {}, 1),
    ],
)
def test_what_can_run_is_not_refused(name: str, options: dict[str, Any], world_size: int) -> None:
    assert strategies.create(name, options).unsupported_reason(PLAIN, "cpu", world_size) is None


def test_hybrid_shards_within_a_node_when_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = strategies.create("fsdp_hybrid", {"reshard_after_forward": 3})
    assert "1, 2, 4" in str(hybrid.unsupported_reason(PLAIN, "cpu", 8))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "1, 2." in str(hybrid.unsupported_reason(PLAIN, "cpu", 8)) + "."


def test_what_is_not_matched_is_said() -> None:
    def unmatched(name: str, config: TrainConfig, **options: Any) -> str:
        return " | ".join(strategies.create(name, options).unmatched(config, "cpu", 2))

    mixed = TrainConfig(precision="bf16", accumulation=2)
    assert unmatched("single", mixed) == unmatched("ddp", mixed) == ""
    assert "10 MiB" in unmatched("ddp", mixed, bucket_cap_mb=10.0)
    assert "powersgd" in unmatched("ddp", mixed, gradient_compression="powersgd")
    assert "block by block" in unmatched("fsdp", PLAIN)
    assert "16 bit" not in unmatched("fsdp", PLAIN)
    assert "16 bit" in unmatched("fsdp", mixed)
    assert "optimizer runs on the CPU" in unmatched("fsdp_cpu_offload", PLAIN)
    assert "added up in 16 bit" in unmatched("fsdp1", mixed)
    assert unmatched("fsdp", TrainConfig(profile="backend-default")) == ""
