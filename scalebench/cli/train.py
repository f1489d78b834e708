"""`scalebench train`: one cell trained to a result, with checkpoints, validation and a record of it all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from scalebench.cli.asking import Asked, read_assignments
from scalebench.cli.exporting import asked_to_export, carry_out_export
from scalebench.cli.recipes import resolved
from scalebench.cli.resuming import resumed_checkpoint, resuming_flags, with_global_batch, with_optimizer
from scalebench.cli.run import alone, cells_of, is_worker, of_all_nodes, results_folder
from scalebench.cli.summary import cautions, exit_code, problems
from scalebench.cli.tracking import ended, tracked, tracking
from scalebench.cli.training_flags import SHARED, STAGING, own_flags, shared_flags
from scalebench.cli.training_wording import default_folder, plan_lines, result_lines, way_on
from scalebench.errors import EXIT_CELL_NOT_OK, EXIT_OK, UserError
from scalebench.machine import Machine, detect
from scalebench.matrix import Request
from scalebench.matrix.request import AUTO, MAX
from scalebench.recipe import Recipe, Training
from scalebench.records.record import Record
from scalebench.records.store import reserved
from scalebench.spec import PlannedRun, RunSpec
from scalebench.trackers.feed import Feed
from scalebench.training.board import Board
from scalebench.training.manifest import Manifest

HELP = """Train a model to a result under a strategy; checkpoints, validation and a record.

For example: scalebench train --strategy fsdp --gpus 2 --epochs 3 --lr 0.001 --schedule cosine
"""


def command(assignments: Sequence[str], json_lines: bool, local_rank: str | None, **given: Any) -> int:
    """Carry out `scalebench train`; returns its exit code."""
    flags = {name: value for name, value in given.items() if value not in (None, ())}
    if asked_to_export(flags):
        return carry_out_export(flags)
    options = read_assignments(assignments, ("strategy", "workload", "tracker"))
    tracker_options = options.pop("tracker", {})
    if options:
        flags["set"] = options
    resumed, batch_given = resumed_checkpoint(flags, tell), not {"accumulation", "micro_batch"}.isdisjoint(flags)
    if resumed:
        flags = resuming_flags(*resumed, flags)
    if is_worker(os.environ) and "gpus" not in given:
        flags.pop("gpus", None)
    asked = Asked(flags={name: flags.pop(name) for name in (*SHARED, "set") if name in flags}, table={})
    request = asked.request()
    machine = detect(request.device or "auto")
    if is_worker(os.environ):
        request, machine = alone(request, int(os.environ["WORLD_SIZE"])), of_all_nodes(machine)
    spec = cell(asked, request, machine)
    if resumed:
        spec = with_optimizer(spec, resumed[1].spec.optimizer)
    if resumed and not batch_given:
        spec = with_global_batch(spec, resumed[1].spec.global_batch)
    folder = Path(flags.get("checkpoint_dir") or Path("checkpoints") / default_folder(spec))
    return carry_out(request, spec, flags | {"tracker_options": tracker_options}, folder, resumed, machine, json_lines)


train = click.Command(
    "train",
    callback=command,
    help=HELP,
    params=[
        *shared_flags(),
        *own_flags(),
        click.Option(
            ["--set", "assignments"], multiple=True, metavar="strategy.X=V|workload.X=V|tracker.X=V",
            help="Set an option of the strategy, of the workload, or of the trackers. May be repeated.",
        ),
        click.Option(["--json", "json_lines"], is_flag=True, help="Print the record as a line of JSON instead."),
        click.Option(["--local-rank", "--local_rank"], hidden=True),
    ],
)  # fmt: skip


def carry_out(
    request: Request,
    spec: RunSpec,
    flags: dict[str, Any],
    folder: Path,
    resumed: tuple[Path, Manifest] | None,
    machine: Machine,
    json_lines: bool,
) -> int:
    """Resolve the recipe, train, and tell."""
    from scalebench.training.requirements import require_possible, require_room
    from scalebench.training.resumable import require_resumable
    from scalebench.training.session import lengths

    require_room(folder, resumed[0] if resumed else None)
    recipe, spec = resolved(spec, flags, lengths)
    require_possible(spec, recipe)
    if resumed:
        require_resumable(*resumed, spec, recipe)
    training = Training(
        recipe=recipe,
        folder=str(folder),
        staging=staging_of(spec, recipe, flags),
        resume=str(resumed[0]) if resumed else None,
    )
    run = PlannedRun(spec=spec, kind="train", training=training)
    board, speaks = Board(), not is_worker(os.environ) or os.environ["RANK"] == "0"
    if not speaks:
        trained(run, request, board)
        return EXIT_OK
    trackers = tracking(flags.get("tracker", ()), flags["tracker_options"], folder, resuming=resumed is not None)
    tell([*plan_lines(spec, training, machine), *cautions([spec], machine)])
    first = resumed[1].step if resumed else 0
    with attended(folder, recipe, board, first), tracked(trackers, spec, recipe, first, tell) as relay:
        done = trained(run, request, board, relay.feed if relay else None)
        assert done is not None, "who speaks has the record"
        places = ended(relay, trackers, done[0])
    return shown(*done, folder, json_lines, places)


def staging_of(spec: RunSpec, recipe: Recipe, flags: Mapping[str, Any]) -> str | None:
    """Where checkpoints are written first, if not where they go. Raises UserError where they cannot be."""
    from scalebench.training.requirements import require_staging

    if not recipe.save_async:
        return None
    if is_worker(os.environ):
        raise UserError("--save-async is for ranks that scalebench starts itself. Leave torchrun out and give --gpus.")
    staging = flags.get("staging_dir", STAGING)
    require_staging(spec, recipe, Path(staging))
    return str(staging)


@contextmanager
def attended(folder: Path, recipe: Recipe, board: Board, first: int) -> Iterator[None]:
    """While inside, nobody else trains into `folder`, and what ranks write on `board` is shown."""
    from scalebench.cli.training_progress import showing

    waiting = [f"another training writes into {folder}; waiting for its end."]
    with reserved(folder, lambda: tell(waiting)), showing(board, recipe, first=first):
        yield


def trained(run: PlannedRun, request: Request, board: Board, feed: Feed | None = None) -> tuple[Record, Path] | None:
    """Launch the ranks, or be one of those of a foreign launcher: then rank 0 alone has the record."""
    from scalebench.training import session

    results = results_folder(request)
    if not is_worker(os.environ):
        method = request.start_method or "forkserver"
        return session.train(run, results=results, start_method=method, board=board, feed=feed)
    try:
        return session.train_as_worker(run, results=results, board=board, feed=feed)
    except UserError:
        raise
    except Exception as error:  # recorded by now; the launcher ends the other ranks
        tell([f"rank {os.environ['RANK']}: {type(error).__name__}: {error}"])
        raise SystemExit(EXIT_CELL_NOT_OK) from None


def shown(record: Record, path: Path, folder: Path, json_lines: bool, places: Sequence[str]) -> int:
    """Tell what came of it, and in which `places` trackers have it; returns the exit code."""
    for line in [record.model_dump_json()] if json_lines else result_lines(record, path):
        click.echo(line)
    tell([*places, *problems([(record, path)]), *way_on(record, folder)])
    return exit_code([record])


def cell(asked: Asked, request: Request, machine: Machine) -> RunSpec:
    """The one cell to train. Raises UserError when several are asked for, or one that is to be searched."""
    for flag, word, given in (("--size", MAX, request.size), ("--micro-batch", AUTO, request.micro_batch)):
        if word in (given or ()):
            raise UserError(
                f"{flag} {word}: a training searches nothing. Give what `scalebench run {flag} {word}` finds."
            )
    values = {"baseline": False, "steps": (1,), "warmup_steps": (1,), "repeats": 1}
    if request.strategy is None:
        raise UserError("--strategy is missing: name the one to train under, e.g. --strategy ddp.")
    specs = cells_of(asked, request.model_copy(update=values), machine)
    if len(specs) > 1:
        raise UserError(f"{len(specs)} cells are asked for, and one is trained at a time. Give one value of each flag.")
    return specs[0]


def tell(lines: Sequence[str]) -> None:
    """Messages go to standard error."""
    for line in lines:
        click.echo(line, err=True)
