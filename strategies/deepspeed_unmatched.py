"""What the `matched` profile asks for and DeepSpeed does not do. Read in the source of DeepSpeed 0.19, and measured."""

from __future__ import annotations

from .deepspeed_config import Plan, section

LATE = "gradients are all-reduced after the backward pass, in buckets of 500 million elements, without overlap"
GATHERED = "the updated parameters are gathered after the update, beside the reduction of the gradients"
NOT_SCATTERED = "each rank is sent the sums of all gradients (all-reduce), not only of its own share (reduce-scatter)"
SECOND_COPY = "the optimizer updates a second fp32 copy of this rank's share of the parameters"
ENGINE_CAST = "parameters are stored in {dtype} beside fp32 masters, and no operation is autocast to fp32"
OWN_LINEAR = "torch.nn.functional.linear is DeepSpeed's own, written in Python, for the life of the run"
WHOLE_BLOCKS = "activation checkpointing recomputes each block to its end, elsewhere up to the last value needed"
HOST_SYNC = "each step waits on the host for the gradient norm"
USER = "a DeepSpeed JSON of the user's own may say otherwise than the profile"


def unmatched(plan: Plan) -> tuple[str, ...]:
    """One plain sentence for each thing in which this engine differs from the other backends' matched profile."""
    zero, fp32_masters = plan.stage > 0, plan.config.mixed and plan.engine_dtype is not None
    own_linear = plan.stage == 3 and section(plan.json, "zero_optimization").get("memory_efficient_linear", True)
    searches = section(plan.json, "bf16").get("check_grad_overflow", True)
    says = {
        LATE: plan.stage == 0 or plan.wrapper == "BF16_Optimizer",
        NOT_SCATTERED: plan.stage in (1, 2),
        GATHERED: plan.stage in (1, 2),
        SECOND_COPY: zero and plan.parameter_dtype == "fp32",
        ENGINE_CAST.format(dtype=plan.engine_dtype): zero and fp32_masters,
        OWN_LINEAR: own_linear,
        WHOLE_BLOCKS: own_linear and plan.config.activation_checkpointing,
        HOST_SYNC: zero and (plan.wrapper != "DeepSpeedZeroOptimizer" or plan.engine_dtype != "bf16" or searches),
        USER: bool(plan.user),
    }
    return tuple(sentence for sentence, holds in says.items() if holds)
