"""Which keys a DeepSpeed JSON may have, so that a misspelt one is refused before anything starts.

DeepSpeed ignores a key that it does not know at the top level, and a section then silently keeps its defaults. The
names are those that deepspeed 0.19.8 reads (its config.py, and the models of its sections); a test compares them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

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

ZERO = (
    "stage",
    "allgather_bucket_size",
    "allgather_partitions",
    "compute_grad_norm",
    "contiguous_gradients",
    "elastic_checkpoint",
    "enable_sanity_checks",
    "ignore_unused_parameters",
    "leaf_module",
    "legacy_stage1",
    "load_from_fp32_weights",
    "log_trace_cache_warnings",
    "memory_efficient_linear",
    "offload_optimizer",
    "offload_param",
    "overlap_comm",
    "override_module_apply",
    "parameter_alignment",
    "pipeline_loading_checkpoint",
    "reduce_bucket_size",
    "reduce_scatter",
    "round_robin_gradients",
    "save_muon_momentum_buffer_in_memory",
    "stage3_allgather_sequential",
    "stage3_gather_16bit_weights_on_model_save",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
    "stage3_use_all_reduce_for_fetch_params",
    "sub_group_size",
    "use_multi_rank_bucket_allreduce",
    "zenflow",
    "zero_hpz_partition_size",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_weights",
)
FP16 = (
    "enabled",
    "auto_cast",
    "consecutive_hysteresis",
    "fp16_master_weights_and_grads",
    "hysteresis",
    "initial_scale_power",
    "loss_scale",
    "loss_scale_window",
    "min_loss_scale",
)
BF16 = (
    "enabled",
    "bf16_master_weights_and_grads",
    "bf16_optimizer_states",
    "check_grad_overflow",
    "immediate_grad_update",
)
SECTIONS: Mapping[str, tuple[str, ...]] = {"zero_optimization": ZERO, "fp16": FP16, "bf16": BF16, "bfloat16": BF16}
"""Sections that DeepSpeed itself refuses unknown keys in, and their keys."""

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


def _sentence(path: str, key: str, allowed: tuple[str, ...]) -> str:
    close = [REPLACED[path]] if path in REPLACED else difflib.get_close_matches(key, allowed, n=1)
    remedy = f"write '{close[0]}'" if close else "remove it"
    return (
        f"'{path}' in the DeepSpeed JSON is no key of DeepSpeed's: {remedy}, or, if a newer DeepSpeed knows it, add "
        "--set strategy.allow_unknown_keys=true."
    )
