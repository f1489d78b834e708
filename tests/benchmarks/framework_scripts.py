"""Two training scripts as a user writes them, recorded beside scalebench's runs: a loop by hand, Lightning's Trainer.

    torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.framework_scripts trainer --like RECORD.json

The same model, optimizer, precision and clipping as the record of `ddp` that they are like, and as many steps.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

import scalebench
from scalebench import workloads
from scalebench.records.record import Record
from scalebench.spec import RunSpec
from tests.benchmarks import bare

BUCKETS = {"bucket_cap_mb": 25.0}


def main() -> None:
    args = parse_arguments()
    spec = Record.model_validate_json(args.like.read_bytes()).spec
    recorded = {"like": args.like, "results": args.results, "session": args.session, "repeat": args.repeat}
    {"script": by_hand, "trainer": by_trainer}[args.how](spec, recorded)
    if dist.is_initialized():
        dist.destroy_process_group()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["script", "trainer"])
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--session")
    parser.add_argument("--repeat", type=int, default=0)
    return parser.parse_args()


def by_hand(spec: RunSpec, recorded: dict[str, Any]) -> None:
    """DistributedDataParallel in a loop of one's own, timed by the Recorder."""
    dist.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(build(spec), **BUCKETS)
    cast = torch.autocast("cpu", enabled=False)
    train: Callable[[dict[str, Tensor]], Tensor] = bare.torch_step(
        model, cast, torch.amp.GradScaler("cpu", enabled=False)
    )
    recorder = scalebench.Recorder(model, **recorded)
    for batch in endless(loader(spec, sampler=DistributedSampler)):
        recorder.step(train(batch))
        if recorder.done:
            return


def by_trainer(spec: RunSpec, recorded: dict[str, Any]) -> None:
    """Lightning's Trainer, timed by the callback."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy

    from scalebench.integrations.lightning import lightning_callback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build(spec)

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            loss: Tensor = self.model(batch)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return bare.make_optimizer(self.model)

    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        strategy=DDPStrategy(**BUCKETS),
        gradient_clip_val=bare.CLIP_NORM,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[lightning_callback(stop=True, **recorded)],
    )
    trainer.fit(Module(), loader(spec))


def build(spec: RunSpec) -> nn.Module:
    """The model with scalebench's start values."""
    workload = workloads.create(spec.workload, spec.size, spec.workload_options)
    model = workload.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            seed = bare.seed_of(f"{spec.seed}:{name}")
            workload.init_parameter_(name, parameter, torch.Generator().manual_seed(seed))
    return model


def loader(spec: RunSpec, sampler: Callable[[Any], Any] | None = None) -> DataLoader[Any]:
    """Micro-batches of the record's data, in an order of torch's."""
    samples: Any = workloads.create(spec.workload, spec.size, spec.workload_options).samples(spec.data, spec.seed)
    return DataLoader(
        samples,
        batch_size=spec.micro_batch,
        sampler=sampler(samples) if sampler else None,
        shuffle=None if sampler else True,
        drop_last=True,
        collate_fn=lambda batch: batch,
    )


def endless(batches: DataLoader[Any]) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from batches


if __name__ == "__main__":
    main()
