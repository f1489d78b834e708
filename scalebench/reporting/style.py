"""One look per strategy in every plot: colours that colour-blind readers can tell apart, and a marker besides."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

# Okabe and Ito, Color Universal Design (2008), without the yellow that is faint on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#7F7F7F"


@dataclass(frozen=True, kw_only=True)
class Style:
    """Colour, marker and line of a strategy; variants of one family share its colour."""

    color: str
    marker: str
    line: str = "-"


STYLES = {
    "single": Style(color=BLACK, marker="o"),
    "ddp": Style(color=BLUE, marker="s"),
    "ddp_find_unused_parameters_true": Style(color=BLUE, marker="<", line="--"),
    "ddp_static_graph": Style(color=BLUE, marker=">", line=":"),
    "fsdp": Style(color=VERMILION, marker="^"),
    "fsdp_shard_grad_op": Style(color=VERMILION, marker="<", line="--"),
    "fsdp_hybrid": Style(color=VERMILION, marker=">", line=":"),
    "fsdp_cpu_offload": Style(color=VERMILION, marker="v", line="-."),
    "fsdp1": Style(color=GREY, marker="^"),
    "deepspeed_stage_0": Style(color=SKY, marker="X"),
    "deepspeed_stage_1": Style(color=GREEN, marker="D"),
    "deepspeed_stage_2": Style(color=PURPLE, marker="v"),
    "deepspeed_stage_2_offload": Style(color=PURPLE, marker="<", line="--"),
    "deepspeed_stage_3": Style(color=ORANGE, marker="P"),
    "deepspeed_stage_3_offload": Style(color=ORANGE, marker=">", line="--"),
    "deepspeed": Style(color=PURPLE, marker="*", line=":"),
    "lightning_ddp": Style(color=BLUE, marker="p", line="-."),
    "lightning_fsdp": Style(color=GREY, marker="p", line="-."),
    "lightning_model_parallel": Style(color=VERMILION, marker="p", line="-."),
    "lightning_deepspeed_stage_2": Style(color=PURPLE, marker="p", line="-."),
    "accelerate_ddp": Style(color=BLUE, marker="d", line=":"),
    "accelerate_fsdp": Style(color=VERMILION, marker="d", line=":"),
    "accelerate_deepspeed_stage_2": Style(color=PURPLE, marker="d", line=":"),
}

HATCHES = {"fp32": "", "tf32": "xx", "bf16": "///", "fp16": "\\\\\\", "bf16-true": "...", "fp16-true": "+++"}


def style(strategy: str, name: str) -> Style:
    """The look of `name`, which is `strategy`'s own unless options tell it from another; the same in every report."""
    own = STYLES.get(strategy) or Style(color=_pick(strategy, (SKY, GREEN, PURPLE, GREY)), marker="h")
    if name == strategy:
        return own
    return Style(color=own.color, marker=_pick(name, ("*", "p", "d", "8")), line="--")


def _pick(name: str, choices: tuple[str, ...]) -> str:
    return choices[zlib.crc32(name.encode()) % len(choices)]
