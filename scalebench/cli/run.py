"""`scalebench run` and `scalebench parity`: what was asked becomes cells, each is run, every run becomes a record."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalebench.cli.asking import Asked, read_asked, read_assignments
from scalebench.cli.flags import request_flags
from scalebench.cli.progress import open_progress
from scalebench.cli.summary import (
    Finished,
    cautions,
    columns_of,
    describe_plan,
    describe_shared,
    describe_standing,
    exit_code,
    parity_lines,
    problems,
    summary,
    where_recorded,
)
from scalebench.cli.tables import print_table
from scalebench.errors import EXIT_CELL_NOT_OK, EXIT_OK, UserError
from scalebench.harness.resume import Standing, standing
from scalebench.machine import Machine, detect
from scalebench.matrix import DEFAULT_REPEATS, Request, RequestError, Search, plan, resolve, search_of
from scalebench.records.environment import DEBUG_VARIABLES
from scalebench.records.record import Record
from scalebench.records.store import reserved
from scalebench.spec import PlannedRun, RunSpec

if TYPE_CHECKING:
    from scalebench.harness.runner import Progress

DEFAULT_RESULTS = "results"
WAITING = "another session measures into this results folder; waiting for its end, since each would disturb the other."

HELP = """Measure strategies on this machine and record every run.

For example: scalebench run --strategy ddp,fsdp --gpus 1,2 --precision fp32,bf16

Lists are separated by commas; a cell is every combination. Under torchrun this is one worker of one cell.
"""


PARITY_HELP = """Check that strategies train the same model as plain PyTorch, and record it.

For example: scalebench parity --strategy fsdp,deepspeed_stage_3 --gpus 2,4 --precision fp32,bf16

Takes what `scalebench run` takes; nothing is timed. `scalebench run --parity` does both.
"""


def command(
    config: str | None,
    assignments: Sequence[str],
    json_lines: bool,
    dry_run: bool,
    local_rank: str | None,
    only_parity: bool = False,
    **flags: Any,
) -> int:
    """Carry out `scalebench run`, or `scalebench parity`; returns its exit code."""
    given = {name: value for name, value in flags.items() if value is not None}
    if assignments:
        given["set"] = read_assignments(assignments)
    asked = read_asked(given, Path(config) if config else None)
    request = asked.request()
    if only_parity:
        request = request.model_copy(update={"parity": True, "repeats": 0})
    if request.debug:
        os.environ.update({name: os.environ.get(name, value) for name, value in DEBUG_VARIABLES.items()})
    machine = detect(request.device or "auto")
    if dry_run:
        return foretell(asked, request, machine, json_lines)
    if is_worker(os.environ):
        return work(asked, request, machine, json_lines)
    return measure(asked, request, machine, json_lines)


run = click.Command(
    "run",
    callback=command,
    help=HELP,
    params=[
        *request_flags(),
        click.Option(
            ["--set", "assignments"],
            multiple=True,
            metavar="strategy.X=V|workload.X=V",
            help="Set an option of the strategies that have it, or of the workload. May be repeated.",
        ),
        click.Option(
            ["--deepspeed-config"], metavar="FILE.json", help="DeepSpeed's own JSON, for the strategy deepspeed."
        ),
        click.Option(["--config"], metavar="FILE.toml", help="Read all of this from a file; flags override it."),
        click.Option(
            ["--dry-run"], is_flag=True, help="Show the cells, the memory theory expects and the time; run nothing."
        ),
        click.Option(["--json", "json_lines"], is_flag=True, help="Print each record as a line of JSON instead."),
        click.Option(["--local-rank", "--local_rank"], hidden=True),
    ],
)


parity = click.Command(
    "parity",
    callback=functools.partial(command, only_parity=True),
    help=PARITY_HELP,
    params=[param for param in run.params if param.name not in ("parity", "repeats", "baseline", "steps")],
)


def repeats_of(request: Request) -> int:
    """Timed runs per cell; none when only parity is checked."""
    return DEFAULT_REPEATS if request.repeats is None else request.repeats


def measure(asked: Asked, request: Request, machine: Machine, json_lines: bool) -> int:
    """Plan, run what is left of the plan, and report all of it, on this machine alone."""
    specs = found_cells(asked, request, machine, json_lines)
    runs = planned(specs, request)
    tell(describe_plan(specs, len(runs), machine))
    with reserved(results_folder(request), waiting=lambda: tell([WAITING])):
        found = standing_of(runs, asked, request)
        tell(describe_standing(found, len(runs)))
        progress = open_progress(found.recorded)
        try:
            with progress:
                if found.left:
                    execute(found.left, request, progress, did_not_fit(found))
        finally:  # what has ended is shown even when something stops the rest
            show(progress.finished, json_lines)
    return exit_code([record for record, _ in progress.finished])


def foretell(asked: Asked, request: Request, machine: Machine, json_lines: bool) -> int:
    """Show what would be run, without running or writing anything."""
    specs = cells_of(asked, request, machine)
    if search_asked(asked, request):
        tell(["what is left to a search stands at its smallest, where its trials begin."])
    runs = planned(specs, request)
    stored = stored_of(runs, request)
    found = stored if resumes(asked, request) else replace(stored, left=runs)
    if json_lines:
        for run in found.left:
            click.echo(run.model_dump_json())
        return EXIT_OK
    from scalebench.cli.forecast import forecast, outlook

    tell(describe_shared(specs, len(runs), machine))
    print_table(*forecast(specs, columns_of(specs), runs, found))
    for line in [*outlook(specs, found), *cautions(specs, machine)]:
        click.echo(line)
    return EXIT_OK


def planned(specs: Sequence[RunSpec], request: Request) -> list[PlannedRun]:
    """The runs of `specs` in order. Raises UserError when there is nothing to run."""
    wanted = {"parity": bool(request.parity), "loader_rates": bool(request.loader_rates)}
    runs = plan(specs, repeats_of(request), specs[0].seed, **wanted)
    if not runs:
        raise UserError("nothing to check: `single` is what the others are checked against. Name other strategies.")
    return runs


def found_cells(asked: Asked, request: Request, machine: Machine, json_lines: bool) -> list[RunSpec]:
    """The cells of `request`, its search carried out and told. Raises UserError as `cells_of`."""
    specs, search = cells_of(asked, request, machine), search_asked(asked, request)
    if search is None:
        return specs
    from scalebench.cli.searching import carry_out

    with reserved(results_folder(request), waiting=lambda: tell([WAITING])):
        anew = request.resume is False
        found, findings = carry_out(search, specs, request, machine, results_folder(request), anew=anew)
    for line in findings:
        click.echo(line, err=json_lines)
    return found


def search_asked(asked: Asked, request: Request) -> Search | None:
    """What is left to a search. Raises UserError that says where it was asked in vain."""
    try:
        return search_of(request)
    except RequestError as error:
        raise asked.located(error) from None


def standing_of(runs: Sequence[PlannedRun], asked: Asked, request: Request) -> Standing:
    """How far the plan has come: not at all where it is to be measured anew."""
    return stored_of(runs, request) if resumes(asked, request) else Standing(left=runs)


def stored_of(runs: Sequence[PlannedRun], request: Request) -> Standing:
    """How far the plan has come by what is recorded."""
    return standing(runs, results_folder(request), request.retry or (), force=bool(request.force))


def resumes(asked: Asked, request: Request) -> bool:
    """Whether what is recorded counts: as asked, else for a plan from a file, or of which some runs are retried."""
    if request.retry and request.resume is False:
        raise asked.located(RequestError(("retry",), "--no-resume measures everything anew. Leave one of them out."))
    return bool(asked.file or request.retry) if request.resume is None else request.resume


def work(asked: Asked, request: Request, machine: Machine, json_lines: bool) -> int:
    """Be one worker of one cell under a foreign launcher, which says how many there are; rank 0 speaks for all."""
    world_size, machine = int(os.environ["WORLD_SIZE"]), of_all_nodes(machine)
    specs = cells_of(asked, alone(request, world_size), machine)
    if len(specs) > 1 or specs[0].world_size != world_size:
        raise UserError(
            f"under a launcher of {world_size} ranks exactly one cell can run, on all of them; {len(specs)} are asked "
            f"for, the first on {specs[0].world_size}. Give one strategy, precision and batch."
        )
    planned = PlannedRun(spec=specs[0], loader_rates=bool(request.loader_rates))
    if os.environ["RANK"] == "0":
        tell(describe_plan(specs, 1, machine))
    try:
        ended = execute_as_worker(planned, request)
    except UserError:
        raise
    except Exception as error:  # recorded by the runner; the launcher ends the other ranks
        tell([f"rank {os.environ['RANK']}: {type(error).__name__}: {error}"])
        return EXIT_CELL_NOT_OK
    if ended is None:
        return EXIT_OK
    show([ended], json_lines)
    return exit_code([ended[0]])


def of_all_nodes(machine: Machine) -> Machine:
    """What the nodes of a foreign launcher have together, each as much as this one."""
    world_size = int(os.environ["WORLD_SIZE"])
    nodes = world_size // int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return replace(machine, gpu_count=machine.gpu_count * nodes, cores=machine.cores * nodes)


def is_worker(environment: Mapping[str, str]) -> bool:
    """Whether torchrun, torch.distributed.launch or the like started this process as one of its ranks."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= environment.keys()


def alone(request: Request, world_size: int) -> Request:
    """`request` as one launch of `world_size` ranks carries it out. Raises UserError for what needs several."""
    if request.parity or (request.repeats or 1) > 1 or request.resume or request.retry:
        raise UserError(
            "under a launcher one run is made per launch, anew. Leave --parity, --repeats, --resume and --retry out, "
            "and launch it again."
        )
    if search_of(request):
        raise UserError("a search makes many runs, and a launcher starts one. Leave auto, max and best out.")
    if request.gpus not in (None, (world_size,), ("all",)):
        raise UserError(f"the launcher started {world_size} ranks. Leave --gpus out.")
    return request.model_copy(update={"gpus": (world_size,), "baseline": False})


def cells_of(asked: Asked, request: Request, machine: Machine) -> list[RunSpec]:
    """The cells of `request`. Raises UserError that says where a wrong value was given."""
    try:
        return resolve(request, machine)
    except RequestError as error:
        raise asked.located(error) from None


def execute(runs: Sequence[PlannedRun], request: Request, progress: Progress, unfit: Sequence[RunSpec] = ()) -> None:
    """Measure `runs` in fresh processes (imports torch); `unfit` are cells known to lack memory."""
    from scalebench.harness import runner

    runner.execute(
        runs,
        results=results_folder(request),
        progress=progress,
        start_method=request.start_method or "forkserver",
        did_not_fit=None if request.force else unfit,
    )


def did_not_fit(found: Standing) -> list[RunSpec]:
    """The cells of a plan that are recorded as out of memory."""
    return [record.spec for record, _ in found.recorded if record.status == "oom"]


def execute_as_worker(run: PlannedRun, request: Request) -> tuple[Record, Path] | None:
    """Be this process's rank of `run` (imports torch)."""
    from scalebench.harness import runner

    return runner.execute_as_worker(run, results=results_folder(request))


def results_folder(request: Request) -> Path:
    """Where records go."""
    return Path(request.results or DEFAULT_RESULTS)


def show(finished: Finished, json_lines: bool) -> None:
    """Results on standard output, problems on standard error."""
    if not finished:
        return
    from scalebench.reporting import answer

    records = [record for record, _ in finished]
    if json_lines:
        for record in records:
            click.echo(record.model_dump_json())
    else:
        if any(record.kind == "run" for record in records):
            print_table(*summary(records))
            click.echo()
        for line in [*parity_lines(records), *answer(records), where_recorded(finished)]:
            click.echo(line)
    tell(problems(finished))


def tell(lines: Iterable[str]) -> None:
    """Messages go to standard error."""
    for line in lines:
        click.echo(line, err=True)
