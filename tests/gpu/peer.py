"""nanoGPT's own model trained as its train.py does, on random tokens: what `gpt 124m` is held against.

    python -m tests.gpu.peer PATH/TO/nanoGPT/model.py RESULT.json

Its source is given, not shipped: compiled, bf16 autocast, fused AdamW, clipping at 1, one micro-batch per step.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from scalebench.meters.clock import clock_for

WARM_UP, STEPS = 10, 30
MICRO_BATCHES = (32,)
SHAPE: dict[str, Any] = {
    "block_size": 1024, "vocab_size": 50304, "n_layer": 12, "n_head": 12, "n_embd": 768, "dropout": 0.0, "bias": True,
}  # fmt: skip


def load(path: Path) -> Any:
    """The module at `path`."""
    found = importlib.util.spec_from_file_location("nanogpt_model", path)
    if found is None or found.loader is None:
        raise click.ClickException(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def tokens_per_second(
    nanogpt: Any, micro_batch: int, device: torch.device, shape: dict[str, Any], *, compiled: bool = True
) -> float:
    """Throughput over `STEPS` steps, from the end of the warm-up to the end of the last one on the device."""
    model = nanogpt.GPT(nanogpt.GPTConfig(**shape)).to(device)
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), device.type)
    forward, clock = torch.compile(model) if compiled else model, clock_for(device, run_ahead=None)
    for _ in range(WARM_UP):
        train(model, forward, optimizer, random_tokens(micro_batch, device, shape))
    began = clock.start()
    for _ in range(STEPS):
        train(model, forward, optimizer, random_tokens(micro_batch, device, shape))
    clock.mark()
    return STEPS * micro_batch * int(shape["block_size"]) / (clock.read_ns()[-1] - began) * 1e9


def random_tokens(micro_batch: int, device: torch.device, shape: dict[str, Any]) -> Tensor:
    return torch.randint(shape["vocab_size"], (micro_batch, shape["block_size"] + 1), device=device)


def train(model: Any, forward: Any, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    """One step as nanoGPT's train.py makes it."""
    with torch.autocast(tokens.device.type, torch.bfloat16):
        _, loss = forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("result", type=click.Path(path_type=Path))
def main(model: Path, result: Path) -> None:
    nanogpt, device = load(model), torch.device("cuda", 0)
    torch.set_float32_matmul_precision("high")
    found = {str(batch): tokens_per_second(nanogpt, batch, device, SHAPE) for batch in MICRO_BATCHES}
    result.write_text(json.dumps(found))
    click.echo(found)


if __name__ == "__main__":
    main()
