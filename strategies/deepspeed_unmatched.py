"""What the `matched` profile asks for and DeepSpeed does not do. Read in the source of DeepSpeed 0.19."""

from __future__ import annotations

from .deepspeed_config import Plan

STAGE_0 = "gradients are all-reduced after the backward pass, in buckets of 500 million elements, without overlap"
STAGE_1 = (
    "gradients are all-reduced, not reduce-scattered, and the updated parameters are gathered after the update: "
    "1.5 times the bytes of ddp"
)
STAGE_1_BF16 = "bf16 with fp32 accumulation reduces after the backward pass, in buckets of 500 million, without overlap"
STAGE_2 = (
    "gradients are all-reduced, not reduce-scattered, and the updated parameters are gathered after the update: "
    "1.5 times the bytes of ddp where there is one micro-batch per step"
)
STAGE_3 = "torch.nn.functional.linear is replaced by a version that saves no gathered weight for the backward pass"
SECOND_COPY = "the optimizer updates a second fp32 copy of this rank's share of the parameters"
ENGINE_CAST = "parameters are stored in {dtype} with fp32 masters, and nothing is autocast to fp32"
HOST_SYNC = "each step waits for the gradient norm on the host"


def unmatched(plan: Plan) -> tuple[str, ...]:
    """One plain sentence for each thing in which this engine differs from the other backends' matched profile."""
    sentences = [(STAGE_0, STAGE_1, STAGE_2, STAGE_3)[plan.stage]]
    if plan.wrapper == "BF16_Optimizer":
        sentences.append(STAGE_1_BF16)
    if plan.stage > 0 and plan.config.precision == "fp32":
        sentences.append(SECOND_COPY)
    if plan.engine_dtype and plan.config.mixed:
        sentences.append(ENGINE_CAST.format(dtype=plan.engine_dtype))
    if plan.stage > 0:
        sentences.append(HOST_SYNC)
    if plan.user:
        sentences.append("a DeepSpeed JSON of the user's own may say otherwise than the profile")
    return tuple(sentences)
