"""Which keys and values a DeepSpeed JSON may have, so that a mistake in it is refused before anything starts.

DeepSpeed ignores a key that it does not know at the top level, and a section then silently keeps its defaults. The
names are those that deepspeed 0.19.8 reads (its config.py, and the models of its sections); a test compares them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from .deepspeed_config import Json, section

BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
REDUCTION = (
    "communication_data_type",
    "seq_parallel_communication_data_type",
    "disable_allgather",
    "gradient_allreduce_op",
    "gradient_clipping",
    "gradient_predivide_factor",
    "managed_gradient_accumulation",
    "prescale_gradients",
)
ENGINE = (
    "optimizer",
    "scheduler",
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "bf16",
    "bfloat16",
    "fp16",
    "torch_autocast",
    "data_types",
    "activation_checkpointing",
    "aio",
    "checkpoint",
    "compile",
    "data_efficiency",
    "dataloader_drop_last",
    "datastates_ckpt",
    "disable_python_gc",
    "expert_parallel",
    "hybrid_engine",
    "pipeline",
    "sequence_parallel_size",
    "tensor_parallel",
    "use_data_before_expert_parallelism",
    "vocabulary_size",
    "weight_quantization",
)
OUTPUT = (
    "autotuning",
    "comet",
    "comms_logger",
    "csv_monitor",
    "dump_state",
    "flops_profiler",
    "log_level",
    "memory_breakdown",
    "steps_per_print",
    "tensorboard",
    "timers",
    "wall_clock_breakdown",
    "wandb",
)
TOP_LEVEL = (*BATCH, *REDUCTION, *ENGINE, *OUTPUT)

SWITCH, SIZE, OBJECT, OTHER = "true or false", "a number of at least 0", "an object", ""
"""What a section's value may be; a switch, a size and an object may be null or "auto" too."""

_ZERO_SWITCHES = (
    "allgather_partitions",
    "compute_grad_norm",
    "contiguous_gradients",
    "elastic_checkpoint",
    "enable_sanity_checks",
    "ignore_unused_parameters",
    "legacy_stage1",
    "load_from_fp32_weights",
    "log_trace_cache_warnings",
    "memory_efficient_linear",
    "overlap_comm",
    "override_module_apply",
    "parameter_alignment",
    "pipeline_loading_checkpoint",
    "reduce_scatter",
    "round_robin_gradients",
    "save_muon_momentum_buffer_in_memory",
    "stage3_allgather_sequential",
    "stage3_gather_16bit_weights_on_model_save",
    "stage3_use_all_reduce_for_fetch_params",
    "use_multi_rank_bucket_allreduce",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_weights",
)
_ZERO_SIZES = (
    "allgather_bucket_size",
    "reduce_bucket_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
    "sub_group_size",
    "zero_hpz_partition_size",
)
_ZERO_OBJECTS = ("leaf_module", "offload_optimizer", "offload_param", "zenflow")
_FP16_SIZES = ("hysteresis", "initial_scale_power", "loss_scale", "loss_scale_window", "min_loss_scale")
_FP16_SWITCHES = ("enabled", "auto_cast", "consecutive_hysteresis", "fp16_master_weights_and_grads")
_BF16_SWITCHES = (
    "enabled",
    "bf16_master_weights_and_grads",
    "bf16_optimizer_states",
    "check_grad_overflow",
    "immediate_grad_update",
)
_BF16 = dict.fromkeys(_BF16_SWITCHES, SWITCH)
SECTIONS: Mapping[str, Mapping[str, str]] = {
    "zero_optimization": {"stage": OTHER}
    | dict.fromkeys(_ZERO_SWITCHES, SWITCH)
    | dict.fromkeys(_ZERO_SIZES, SIZE)
    | dict.fromkeys(_ZERO_OBJECTS, OBJECT),
    "fp16": dict.fromkeys(_FP16_SWITCHES, SWITCH) | dict.fromkeys(_FP16_SIZES, SIZE),
    "bf16": _BF16,
    "bfloat16": _BF16,
}
"""Sections in which DeepSpeed itself refuses unknown keys, with their keys and what the values may be."""

REPLACED = {
    "zero_optimization.cpu_offload": "offload_optimizer",
    "zero_optimization.cpu_offload_param": "offload_param",
    "zero_optimization.cpu_offload_use_pin_memory": "offload_optimizer",
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
}
REMOVED = (
    "amp",
    "compression_training",
    "curriculum_learning",
    "eigenvalue",
    "elasticity",
    "graph_harvesting",
    "nebula",
    "progressive_layer_drop",
    "quantize_training",
    "sparse_attention",
    "sparse_gradients",
)
"""Keys of older versions that DeepSpeed refuses even when they say that nothing is enabled."""


def unknown_keys(user: Json) -> Iterator[str]:
    """A sentence for each key that DeepSpeed does not know, with the nearest that it does."""
    for key in user:
        if key in REMOVED:
            yield f"{key} is in the DeepSpeed JSON, but DeepSpeed has removed it: remove the key."
        elif key not in TOP_LEVEL:
            yield _sentence(key, key, TOP_LEVEL)
    for name, allowed in SECTIONS.items():
        for key in section(user, name):
            if key not in allowed:
                yield _sentence(f"{name}.{key}", key, allowed)


def wrong_values(user: Json) -> Iterator[str]:
    """A sentence for each value of the sections that is of another kind than DeepSpeed takes."""
    for name, allowed in SECTIONS.items():
        for key, value in section(user, name).items():
            kind = allowed.get(key, OTHER)
            if kind and value not in (None, "auto") and not _is(kind, value):
                yield f'{name}.{key} is {value!r} in the DeepSpeed JSON: it takes {kind}, or "auto".'


def _is(kind: str, value: object) -> bool:
    if kind == OBJECT:
        return isinstance(value, Mapping)
    if kind == SWITCH:
        return isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _sentence(path: str, key: str, allowed: Iterable[str]) -> str:
    close = [REPLACED[path]] if path in REPLACED else difflib.get_close_matches(key, list(allowed), n=1)
    remedy = f"write '{close[0]}'" if close else "remove it"
    return (
        f"'{path}' in the DeepSpeed JSON is no key of DeepSpeed's: {remedy}, or, if a newer DeepSpeed knows it, add "
        "--set strategy.allow_unknown_keys=true."
    )
