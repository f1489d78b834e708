"""A training script as the guides write it, DDP with a DistributedSampler, AMP and accumulation; two lines are added.

Run it by torchrun.
"""

import os
import sys

import torch
import torch.distributed as dist
from plain import Classifier, Waves
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import scalebench

ACCUMULATION = 2


def main(results):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    data = Waves()
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=8, sampler=sampler, drop_last=True)
    model = DistributedDataParallel(Classifier())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    recorder = scalebench.Recorder(  # the first line
        model, optimizer, micro_batch=8, accumulation=ACCUMULATION, precision="bf16", results=results,
        warmup_steps=5, steps=20, target_precision=None, max_seconds=None,
    )  # fmt: skip
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for index, (inputs, targets) in enumerate(loader):
            last = index % ACCUMULATION == ACCUMULATION - 1
            model.require_backward_grad_sync = last
            with torch.autocast("cpu", torch.bfloat16):
                loss = criterion(model(inputs), targets) / ACCUMULATION
            loss.backward()
            if last:
                optimizer.step()
                optimizer.zero_grad()
                recorder.step(loss * ACCUMULATION)  # the second line
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("RESULTS", "results"))
