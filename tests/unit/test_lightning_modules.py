"""LightningModules and their data as workloads: what is honoured, what is refused, without a Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scalebench import adapters
from scalebench.cli.asking import Asked
from scalebench.cli.recipes import rated, resolved, schedule
from scalebench.cli.resuming import resuming_flags, with_optimizer
from scalebench.cli.train import cell
from scalebench.cli.training_flags import SHARED
from scalebench.errors import UserError
from scalebench.harness.loading import at_rates
from scalebench.machine import detect
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.training.learning_rate import learning_rates
from scalebench.training.manifest import Manifest
from scalebench.training.parts import parts
from tests.unit.factory import make_spec

pytest.importorskip("lightning")
EXAMPLES = Path(__file__).parents[1] / "examples"
LIT = f"{EXAMPLES / 'lit.py'}:both"
CLASSES = f"{EXAMPLES / 'lit.py'}:LitRegression+SumsData"

HEAD = """
import lightning as L
import torch
from torch import nn
class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)
data = [torch.ones(4) * i for i in range(8)]
"""


def own(tmp_path: Path, source: str) -> Any:
    path = tmp_path / f"lit_{abs(hash(source))}.py"
    path.write_text(HEAD + source)
    return adapters.create(adapters.resolve_name(f"{path}:make"), {})


def test_a_factory_and_the_two_classes_are_the_same() -> None:
    assert adapters.resolve_options(CLASSES, {}) == {"width": 32, "lr": 0.01, "samples": 256, "batch_size": 16}
    one, other = adapters.create(LIT, {}), adapters.create(CLASSES, {"lr": 0.01})
    assert one.parameter_count() == other.parameter_count()
    assert len(one.samples("own", 0)) == len(other.samples("own", 0)) == 205


def test_its_optimizer_is_that_of_the_run() -> None:
    config = adapters.optimizer_of(CLASSES, {"lr": 0.5})
    assert config is not None
    assert (config.name, config.learning_rate, config.weight_decay, config.betas) == ("adamw", 0.5, 0.05, (0.9, 0.999))


def test_its_scheduler_sets_the_rate_of_each_step() -> None:
    workload = adapters.create(LIT, {}, seed=7)
    rates = workload.rates(0.1, steps_per_epoch=5)
    assert [next(rates) for _ in range(12)] == pytest.approx([0.01 * min(10, step + 1) for step in range(12)])


def test_the_steps_of_a_run_get_their_rates() -> None:
    class Step:
        def __init__(self) -> None:
            self.rates: list[float] = []

        def set_learning_rate(self, value: float) -> None:
            self.rates.append(value)

    step, spec = Step(), make_spec(workload=LIT, data="own", optimizer={"learning_rate": 0.5})
    batches: Any = iter([["a"], ["b"], ["c"]])
    assert list(at_rates(batches, step, adapters.create(LIT, {}, seed=8), spec, 205)) == [["a"], ["b"], ["c"]]
    assert step.rates == pytest.approx([0.05, 0.1, 0.15])


def test_a_training_follows_the_scheduler_wherever_it_goes_on_unless_another_is_asked_for() -> None:
    spec = make_spec(workload=LIT, data="own", size="own", optimizer={"learning_rate": 0.1})
    assert (schedule(spec, {}), schedule(spec, {"schedule": "cosine"})) == ("model", "cosine")
    recipe = Recipe(steps=12, steps_per_epoch=5, val_every=5, base_learning_rate=0.1, schedule="model")
    for first in (0, 7):
        rates = learning_rates(recipe, 0.1, adapters.create(LIT, {}, seed=9 + first).rates, first)
        assert [next(rates) for _ in range(5)] == pytest.approx([0.01 * min(10, first + n) for n in range(1, 6)])
    with pytest.raises(UserError, match="--warmup-steps does not go with the scheduler"):
        schedule(spec, {"warmup_steps": 3})
    with pytest.raises(UserError, match="brings no scheduler along"):
        schedule(make_spec(), {"schedule": "model"})


def test_a_scheduler_by_the_epoch(tmp_path: Path) -> None:
    workload = own(
        tmp_path,
        """
class Stepped(Lit):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]
make = lambda: (Stepped(), data)
""",
    )
    rates = workload.rates(1.0, steps_per_epoch=3)
    assert [next(rates) for _ in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert (workload.optimizer.name, workload.optimizer.momentum) == ("sgd", 0.9)


def test_a_scheduler_with_an_end_leaves_its_last_rate(tmp_path: Path) -> None:
    workload = own(
        tmp_path,
        """
class Once(Lit):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
make = lambda: (Once(), data)
""",
    )
    rates = workload.rates(workload.optimizer.learning_rate, steps_per_epoch=3)
    first = [next(rates) for _ in range(14)]
    assert max(first) == pytest.approx(0.1)
    assert first[10:] == [first[9]] * 4
    assert any("momentum, which it would change too, stays" in note for note in workload.notes)


def test_what_it_logs_becomes_means() -> None:
    workload = adapters.create(LIT, {})
    root, batch = workload._root, workload.samples("own", 0).__getitems__(range(6))
    assert set(root(batch, "metrics")) == {"loss_sum", "val_loss_sum", "val_error_sum", "samples"}
    parts = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 2), slice(2, 6))]
    sums = [root(part, "metrics") for part in parts]
    together = {name: sums[0][name] + sums[1][name] for name in sums[0]}
    x, y = batch["0"], batch["1"]
    error = (root.model(x) - y).abs().mean().item()
    assert workload.metrics(together)["val_error"] == pytest.approx(error, rel=1e-5)


def test_groups_without_weight_decay_stay_so(tmp_path: Path) -> None:
    workload = own(
        tmp_path,
        """
class Grouped(Lit):
    def configure_optimizers(self):
        plain, decayed = {"params": [self.layer.weight], "weight_decay": 0.0}, {"params": [self.layer.bias]}
        return torch.optim.AdamW([plain, decayed], lr=0.01, weight_decay=0.3)
make = lambda: (Grouped(), data)
""",
    )
    assert workload.no_decay_names(workload.build()) == {"model.layer.weight"}
    assert workload.optimizer.weight_decay == 0.3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("class M(Lit):\n def __init__(self):\n  super().__init__()\n  self.automatic_optimization = False\n",
         ["optimizes manually", "scalebench.Recorder"]),
        ("class M(Lit):\n def configure_optimizers(self):\n"
         "  return [torch.optim.SGD(self.parameters(), lr=1), torch.optim.SGD(self.parameters(), lr=1)]\n",
         ["2 optimizers"]),
        ("class M(Lit):\n def optimizer_step(self, *args, **kwargs):\n  pass\n",
         ["overrides optimizer_step", "lightning_callback"]),
        ("class M(Lit):\n def configure_optimizers(self):\n  return torch.optim.RMSprop(self.parameters())\n",
         ["RMSprop", "--optimizer"]),
        ("class M(Lit):\n def configure_optimizers(self):\n"
         "  return torch.optim.Adam(self.parameters(), weight_decay=0.1)\n",
         ["Adam decays", "AdamW"]),
        ("class M(Lit):\n def configure_optimizers(self):\n  return torch.optim.SGD([self.layer.weight], lr=1.0)\n",
         ["leaves out model.layer.bias"]),
        ("class M(Lit):\n def configure_optimizers(self):\n"
         "  return torch.optim.SGD(self.parameters(), lr=1.0 / self.trainer.max_epochs)\n",
         ["not attached to a `Trainer`", "there is none here", "scalebench.lightning_callback"]),
        ("M = Lit\ndata = None", ["no train_dataloader"]),
    ],
)  # fmt: skip
def test_what_only_a_trainer_can_do_is_refused(tmp_path: Path, source: str, words: list[str]) -> None:
    path = tmp_path / f"lit_{abs(hash(source))}.py"
    path.write_text(HEAD + source + "\nmake = lambda: (M(), data) if data else M()")
    with pytest.raises(UserError) as caught:
        adapters.optimizer_of(f"{path}:make", {})
    told = str(caught.value)
    assert [word for word in words if word not in told] == [], told


def test_a_refused_optimizer_can_be_replaced(tmp_path: Path) -> None:
    workload = own(
        tmp_path,
        """
class M(Lit):
    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters())
make = lambda: (M(), data)
""",
    )
    adapters.check(workload)  # with --optimizer nobody asks for its own
    assert workload.parameter_count() == 5


def test_hooks_that_are_not_called_are_named(tmp_path: Path) -> None:
    workload = own(
        tmp_path,
        """
class M(Lit):
    def on_train_epoch_end(self):
        pass
make = lambda: (M(), data)
""",
    )
    assert any("on_train_epoch_end" in note for note in workload.notes)


def test_both_packages_are_known(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    workload = own(
        tmp_path,
        """
import pytorch_lightning as pl
class M(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
    def training_step(self, batch):
        self.log("x", 1.0)
        return {"loss": self.layer(batch).mean()}
    def configure_optimizers(self):
        return None
make = lambda: (M(), torch.utils.data.DataLoader(data))
""",
    )
    adapters.check(workload)
    assert workload.optimizer is None
    assert torch.is_tensor(workload._root(workload.samples("own", 0).__getitems__([0, 1])))
    assert "lightning" in sys.modules


def test_a_training_is_validated_on_its_validation_data() -> None:
    workload = adapters.create(LIT, {})
    recipe = Recipe(steps=4, steps_per_epoch=4, val_every=4, base_learning_rate=0.1)
    split = parts(workload, make_spec(workload=LIT, data="own"), recipe)
    assert (len(split.train), len(split.val)) == (205, 51)


STAGED = """
class Data(L.LightningDataModule):
    def setup(self, stage):
        x = torch.randn(32, 4)
        self.train, self.val, rest = torch.utils.data.random_split(x, [20, 4, 8])
        if stage == "test":
            self.test = rest
    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.train)
    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.val)
    def test_dataloader(self):
        return torch.utils.data.DataLoader(self.test)
make = lambda: (Lit(), Data())
"""


def rows_of(source: Any) -> set[tuple[float, ...]]:
    return {tuple(row.tolist()) for row in source.__getitems__(range(len(source)))["batch"]}


def test_a_training_is_tested_on_its_test_data_which_it_has_not_seen(tmp_path: Path) -> None:
    workload = own(tmp_path, STAGED)
    spec = make_spec(workload=workload.name, data="own", size="own")
    asked = rated(spec, {"test": True, "lr": 0.1})
    assert (asked.test_data, asked.test_share) == ("own", None)
    before = torch.get_rng_state()
    split = parts(workload, spec, asked)
    assert torch.equal(torch.get_rng_state(), before)
    seen = [rows_of(part) for part in (split.train, split.val, split.test)]
    assert [len(rows) for rows in seen] == [20, 4, 8]
    assert len(set.union(*seen)) == 32
    assert rows_of(parts(workload, spec, asked).test) == seen[2]
    assert parts(workload, spec, rated(spec, {})).test is None


def test_its_training_goes_on_as_it_was_asked(tmp_path: Path) -> None:
    def planned(flags: dict[str, Any]) -> tuple[Recipe, RunSpec]:
        asked = Asked(flags={name: flags.pop(name) for name in (*SHARED, "set") if name in flags}, table={})
        return resolved(cell(asked, asked.request(), detect("cpu")), flags, lambda spec, recipe: (10, 4))

    recipe, spec = planned({"strategy": "ddp", "gpus": "2", "workload": CLASSES, "device": "cpu"})
    assert spec.optimizer.weight_decay == 0.05
    manifest = Manifest(step=3, elapsed_seconds=1.0, contents="full", spec=spec, recipe=recipe)
    again, same = planned(resuming_flags(tmp_path / "step-00000003", manifest, {}))
    assert (again, with_optimizer(same, spec.optimizer)) == (recipe, spec)


def test_without_test_data_of_its_own_a_share_is_held_out() -> None:
    workload, spec = adapters.create(LIT, {}), make_spec(workload=LIT, data="own", size="own")
    asked = rated(spec, {"test": True})
    assert (asked.test_data, asked.test_share) == (None, 0.1)
    with pytest.raises(UserError, match="brings no such data along"):
        parts(workload, spec, asked.model_copy(update={"test_data": "own"}))


def test_a_data_module_that_changes_batches_is_refused(tmp_path: Path) -> None:
    source = """
class Data(L.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(data)
    def on_after_batch_transfer(self, batch, index):
        return batch * 2
make = lambda: (Lit(), Data())
"""
    with pytest.raises(UserError, match="on_after_batch_transfer"):
        own(tmp_path, source)


def test_metrics_of_torchmetrics_become_means_over_samples(tmp_path: Path) -> None:
    workload = own(
        tmp_path,
        """
import torchmetrics
class M(Lit):
    def __init__(self):
        super().__init__()
        self.error = torchmetrics.MeanAbsoluteError()
        self.several = torchmetrics.MetricCollection({"mse": torchmetrics.MeanSquaredError()})
    def validation_step(self, batch, batch_idx):
        found, wanted = self.layer(batch).squeeze(1), batch[:, 0]
        self.error.update(found, wanted)
        self.several(found, wanted)
        self.log("val/error", self.error)
        self.log_dict(self.several)
        self.log_dict({"rows": len(batch), "none of a number": found})
make = lambda: (M(), data)
""",
    )
    root, batch = workload._root, workload.samples("own", 0).__getitems__(range(6))
    sums = [root({"batch": batch["batch"][part]}, "metrics") for part in (slice(0, 2), slice(2, 6))]
    found = workload.metrics({name: sums[0][name] + sums[1][name] for name in sums[0]})
    difference = root.model.layer(batch["batch"]).squeeze(1) - batch["batch"][:, 0]
    assert found == {
        "loss": pytest.approx(root.model.layer(batch["batch"]).square().mean().item()),  # training_step's
        "val/error": pytest.approx(difference.abs().mean().item()),
        "mse": pytest.approx(difference.square().mean().item()),
        "rows": pytest.approx((2 * 2 + 4 * 4) / 6),
    }
