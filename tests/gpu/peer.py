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

WARM_UP, STEPS = 10, 30
MICRO_BATCHES = (16, 32)
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


def tokens_per_second(nanogpt: Any, micro_batch: int, device: torch.device, shape: dict[str, Any]) -> float:
    """Throughput over `STEPS` steps between two events."""
    model = nanogpt.GPT(nanogpt.GPTConfig(**shape)).to(device)
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), device.type)
    compiled = torch.compile(model)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for index in range(WARM_UP + STEPS):
        if index == WARM_UP:
            begin.record()
        tokens = torch.randint(shape["vocab_size"], (micro_batch, shape["block_size"] + 1), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            _, loss = compiled(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    end.record()
    end.synchronize()
    return STEPS * micro_batch * shape["block_size"] / begin.elapsed_time(end) * 1e3


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
