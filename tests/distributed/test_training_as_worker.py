"""`scalebench train` as a worker of torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalebench.records.store import load_records
from scalebench.training.manifest import checkpoints_in
from tests.distributed.test_training import facts, train
from tests.processes import printed

pytestmark = pytest.mark.distributed

TRAIN = (
    "train --strategy fsdp --size tiny --set workload.num_layers=1 --set workload.hidden_size=32 "
    "--set workload.num_heads=2 --set workload.context_length=16 --data synthetic --device cpu --micro-batch 2 "
    "--steps 3 --save-every 2 --limit-val-batches 2 --checkpoint-dir c --results results"
)


TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2 -m scalebench"


@pytest.mark.slow
def test_ranks_of_torchrun_train_as_our_own_do(tmp_path: Path) -> None:
    told = printed(*TORCHRUN.split(), *TRAIN.split(), cwd=tmp_path)
    assert told.count("Record: ") == 1
    (record,) = load_records(tmp_path / "results").records
    assert [path.name for path in checkpoints_in(tmp_path / "c")] == ["step-00000003"]
    assert record.recipe is not None
    own = train(tmp_path / "own", record.spec, record.recipe)
    assert [rank.losses for rank in own.ranks] == [rank.losses for rank in record.ranks]
    assert facts(own).evaluations[-1].metrics == facts(record).evaluations[-1].metrics
