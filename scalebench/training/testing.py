"""The test at the end of a training: the best checkpoint's weights, on data that neither trained nor chose them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from scalebench import compat, workloads
from scalebench.harness.job import Job, Report
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.records.training import Test
from scalebench.strategies.base import Strategy
from scalebench.training.agreeing import of_first
from scalebench.training.manifest import STATE, WEIGHTS, read_manifest
from scalebench.training.parts import parts
from scalebench.training.shares import Share
from scalebench.training.validation import Validation
from scalebench.workloads.checkpoint import started


def tested(report: Report, job: Job, strategy: Strategy, place: Place, phase: Phase) -> Report:
    """`report` with what its best checkpoint comes to on the test data, if that was asked for. Collective."""
    training, facts = job.run.training, report.training
    assert training is not None
    assert facts is not None
    checkpoint = of_first(facts.best or facts.last)
    if not training.recipe.tests or checkpoint is None:
        return report
    phase.enter("testing")
    return replace(
        report, training=facts.model_copy(update={"test": test(Path(checkpoint), job, strategy, place, phase)})
    )


def test(checkpoint: Path, job: Job, strategy: Strategy, place: Place, phase: Phase) -> Test:
    """Build the model anew from `checkpoint`, from its shards only where it has no file of weights, and evaluate it.
    Collective."""
    spec, training, began = job.run.spec, job.run.training, time.monotonic()
    assert training is not None
    plain = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    source = parts(plain, spec, training.recipe).test
    assert source is not None, "a recipe that tests has something to test on"
    manifest = read_manifest(checkpoint)
    whole = WEIGHTS in manifest.files
    workload = started(plain, str(checkpoint / WEIGHTS)) if whole else plain
    step = strategy.prepare(workload, spec.train_config(), place.device)
    if not whole:
        step.load(checkpoint / STATE)
    compat.limit_waits(spec.timeout_seconds)
    on = training.recipe.validate_on
    share = Share(source=source, micro_batch=spec.micro_batch, on=on, place=place, phase=phase)
    metrics = Validation(share=share, workload=workload)(step).metrics
    step.close()
    return Test(
        checkpoint=str(checkpoint),
        step=manifest.step,
        samples=share.samples,
        seconds=time.monotonic() - began,
        metrics=metrics,
    )
