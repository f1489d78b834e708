"""What becomes of learning when ranks are added: no, linear and root scaling of the learning rate, over seeds.

\b
    python -m tests.benchmarks.learning_rates                    # 1, 2 and 4 ranks, about 8 minutes on two cores
    python -m tests.benchmarks.learning_rates --optimizer sgd
    python -m tests.benchmarks.learning_rates --show             # the table of what is recorded

The convolutional classifier learns scikit-learn's digits under ddp with a fixed micro-batch per rank, so that the batch
grows with the ranks; every training sees equally many samples. One rank is the same under every rule. It measures
learning, not speed: more ranks than cores change nothing. Records are kept in --results: what is there is not trained
again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from scalebench import workloads
from scalebench.cli.recipes import resolved
from scalebench.recipe import Recipe, Training
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.records.training import Evaluation
from scalebench.reporting.text import with_interval
from scalebench.spec import PlannedRun, RunSpec
from scalebench.stats.intervals import Estimate, geometric_mean, mean
from scalebench.strategies.config import OptimizerConfig
from scalebench.training import session
from scalebench.training.board import Board
from tests.benchmarks.tables import markdown

MICRO_BATCH = 8
SAMPLES = 6400
VALIDATED_EVERY = 320
TARGET = 0.97
RULES = ("none", "linear", "sqrt")
RANKS = (1, 2, 4)
OPTIMIZERS = {
    "adamw": OptimizerConfig(name="adamw", learning_rate=1e-3),
    "sgd": OptimizerConfig(name="sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4),
}
"""At a learning rate with which one rank learns well."""
OPTIONS = {"image_size": 12}


def planned(optimizer: str, ranks: int, rule: str, seed: int) -> tuple[RunSpec, Recipe]:
    """One training of the study."""
    spec = RunSpec(
        workload="classifier", size="conv", workload_options=workloads.resolve_options("classifier", "conv", OPTIONS),
        data="digits", strategy="ddp", device="cpu", world_size=ranks, threads_per_rank=1, micro_batch=MICRO_BATCH,
        optimizer=OPTIMIZERS[optimizer], seed=seed,
    )  # fmt: skip
    flags = {
        "steps": SAMPLES // spec.global_batch, "val_every": VALIDATED_EVERY // spec.global_batch, "lr_rule": rule,
        "warmup_steps": 2 * VALIDATED_EVERY // spec.global_batch, "checkpoint_contents": "weights", "keep_best": 0,
        "monitor": "accuracy", "val_share": 0.2,
    }  # fmt: skip
    recipe, spec = resolved(spec, flags, session.lengths)
    return recipe, spec


def study(optimizer: str, seeds: int) -> list[tuple[RunSpec, Recipe]]:
    """All trainings; seed after seed, so that a study that is stopped has something of every row."""
    cells = [(ranks, rule) for ranks in RANKS for rule in RULES if ranks > 1 or rule == "none"]
    return [planned(optimizer, ranks, rule, seed)[::-1] for seed in range(seeds) for ranks, rule in cells]


def trained(spec: RunSpec, recipe: Recipe, results: Path) -> Record:
    """The record of one training, its checkpoint thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        run = PlannedRun(spec=spec, kind="train", training=Training(recipe=recipe, folder=folder))
        record, _ = session.train(run, results=results, start_method="forkserver", board=Board())
    return record


def known(results: Path) -> list[Record]:
    """Trainings that are recorded already."""
    found = load_records(results).records if results.exists() else []
    return [record for record in found if record.kind == "train" and record.status == "ok"]


def row(ranks: int, rule: str, records: Sequence[Record], one_rank: Sequence[Record]) -> list[str]:
    """One cell over its seeds, beside one rank of the same seeds: they start alike and validate on the same samples."""
    spec, last = records[0].spec, [evaluations(record)[-1].metrics for record in records]
    reached = [samples for record in records if (samples := samples_to_target(record)) is not None]
    return [
        str(ranks),
        rule if ranks > 1 else "any",
        str(spec.global_batch),
        f"{spec.optimizer.learning_rate:.3g}",
        with_spread([100 * metrics["accuracy"] for metrics in last], 2),
        with_spread([metrics["loss"] for metrics in last], 3),
        with_interval(loss_ratio(records, one_rank), "{:.2f}".format),
        with_spread(reached, 0) if reached else "n/a",
        f"{len(reached)} of {len(records)}",
    ]


def loss_ratio(records: Sequence[Record], others: Sequence[Record]) -> Estimate | None:
    """Geometric mean, over the seeds that both have, of the ratio of their last losses; None without any."""
    beside = {record.spec.seed: evaluations(record)[-1].metrics["loss"] for record in others}
    pairs = [(evaluations(record)[-1].metrics["loss"], beside.get(record.spec.seed)) for record in records]
    ratios = [loss / other for loss, other in pairs if other]
    return geometric_mean(ratios) if ratios and records is not others else None


def evaluations(record: Record) -> list[Evaluation]:
    """The validations of a training."""
    assert record.training is not None
    return record.training.evaluations


def samples_to_target(record: Record) -> int | None:
    """Samples trained on at the first validation that reached the target."""
    return next((one.samples for one in evaluations(record) if one.metrics["accuracy"] >= TARGET), None)


def with_spread(values: Sequence[float], digits: int) -> str:
    """`mean ± half the width of Student's 95% interval of it`."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    found = mean(values)
    assert found.high is not None
    return f"{found.value:.{digits}f} ± {found.high - found.value:.{digits}f}"


def table(records: Sequence[Record]) -> str:
    """A row per number of ranks and rule."""
    found: dict[tuple[int, str], list[Record]] = {}
    for record in records:
        assert record.recipe is not None
        found.setdefault((record.spec.world_size, record.recipe.rule), []).append(record)
    heads = ["ranks", "rule", "batch", "learning rate", "accuracy, %", "loss", "loss / 1 rank's"]
    heads += [f"samples to {TARGET:.0%}", "reached by"]
    ordered = sorted(found, key=lambda cell: (cell[0], RULES.index(cell[1])))
    one_rank = found.get((1, "none"), [])
    return markdown(heads, [row(*cell, found[cell], one_rank) for cell in ordered])


@click.command(help=__doc__)
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default="adamw", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/learning-rates"), show_default=True)
@click.option("--show", is_flag=True, help="Train nothing; print the table of the records in --results.")
def main(optimizer: str, seeds: int, results: Path, show: bool) -> None:
    recorded, asked = known(results), study(optimizer, seeds)
    found: list[Record] = []
    for spec, recipe in asked:
        there = next((record for record in recorded if (record.spec, record.recipe) == (spec, recipe)), None)
        if there is None and not show:
            there = trained(spec, recipe, results)
            print(
                f"{spec.label}, rule {recipe.rule}, seed {spec.seed}: {there.status} {there.reason or ''}", flush=True
            )
        found += [there] if there and there.status == "ok" else []
    print(table(found))


if __name__ == "__main__":
    main()
