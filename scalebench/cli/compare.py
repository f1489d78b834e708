"""`scalebench compare`: did the new side get worse, by stored records or by measuring both sides in turn?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalebench.cli.tables import print_table
from scalebench.cli.wording import plain, shown, telling
from scalebench.errors import EXIT_OK, EXIT_REGRESSION, UserError, unknown_name
from scalebench.matrix.request import read_share
from scalebench.spec import RunSpec

if TYPE_CHECKING:
    from scalebench.analysis.verdicts import Match, Rule, Verdict
    from scalebench.reporting.verdicts import Name

HELP = """Say whether NEW got worse than BASE, and fail if it did.

For example: scalebench compare main:results/ci results/ci, or scalebench compare --live a.toml b.toml

BASE and NEW are results folders, records, or REV:PATH, a folder of records in a git revision. With --live they are
configuration files (or the same one twice, for two --checkouts or --pythons), measured here in turn.

Exit codes: 0 no regression, 1 a regression, 2 nothing could be compared or wrong usage.
"""


SPEEDS = ("step", "throughput")
"""What `--slower` is about: whichever of them suits the batches of both sides."""


def read_effect(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A share such as `5%`."""
    try:
        return None if value is None else read_share(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; '{value}' was given") from None


def read_limits(assignments: Sequence[str]) -> dict[str, float]:
    """`memory=2%` and the like as metric to share. Raises UserError."""
    from scalebench.analysis.verdicts.metrics import NAMES

    found = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if name not in NAMES:
            raise UserError(f"--limit {assignment}: {unknown_name('metric', name, NAMES)}")
        try:
            found[name] = read_share(value)
        except ValueError as error:
            raise UserError(f"--limit {assignment}: {error}.") from None
    return found


def rule_of(slower: float | None, limits: Sequence[str], margin: float | None) -> Rule:
    """The rule that the flags ask for."""
    from scalebench.analysis.verdicts import Rule
    from scalebench.analysis.verdicts.deciding import MARGIN

    effects = dict.fromkeys(SPEEDS, slower) if slower else {} | read_limits(limits)
    return Rule(margin=MARGIN if margin is None else margin, effects=effects)


def compare_stored(base: str, new: str) -> list[Match]:
    """The matched cells of two sides. Raises UserError when they have no cell in common."""
    from scalebench.analysis.verdicts import match
    from scalebench.records.revision import load_side

    for given in (base, new):
        if given.endswith(".toml"):
            raise UserError(f"'{given}' says what to measure, and holds no records. Measure both sides in turn: --live")
    sides = [load_side(given) for given in (base, new)]
    for side in sides:
        for path, reason in side.damaged:
            click.echo(f"damaged, left out: {path}: {reason}", err=True)
    found = match(*(side.records for side in sides))
    if not any((one.base or one.checks[0]) and (one.new or one.checks[1]) for one in found):
        raise UserError(
            f"no cell of '{new}' is in '{base}': {nearest(found)}. To see what a setting makes of a speed, measure "
            "both in turn: scalebench compare --live A.toml B.toml"
        )
    return found


def nearest(matches: Sequence[Match]) -> str:
    """In what the specs of the two most alike cells differ."""
    from scalebench.analysis.verdicts.matching import spec_changes

    bases = [match.spec for match in matches if match.base or match.checks[0]]
    news = [match.spec for match in matches if match.new or match.checks[1]]
    changes = min((spec_changes(base, new) for base in bases for new in news), key=len, default=[])
    return f"the nearest differs in {', '.join(changes)}" if changes else "there is none to compare"


def namer(specs: Sequence[RunSpec]) -> Name:
    """Names that tell `specs` apart: `ddp, 2 ranks, fp32`, and what else differs."""
    first = ("strategy", "world_size", "precision")
    fields = [name for name in telling(specs) if name not in first]

    def name(spec: RunSpec) -> str:
        ranks = f"{spec.world_size} rank{'s' if spec.world_size > 1 else ''}"
        others = [
            f"{field.replace('_', ' ')} {value}" for field, value in zip(fields, shown(spec, fields), strict=True)
        ]
        return ", ".join([spec.strategy, ranks, plain(spec.precision), *others])

    return name


def tell_verdicts(verdicts: Sequence[Verdict], name: Name, form: str) -> None:
    """The answer and the table on standard output."""
    from scalebench.reporting.markdown import markdown_table
    from scalebench.reporting.verdicts import as_data, headline, verdict_table

    if form == "json":
        click.echo(json.dumps({"answer": headline(verdicts, name), "verdicts": as_data(verdicts, name)}, indent=1))
        return
    click.echo(headline(verdicts, name) + "\n")
    found = verdict_table(verdicts, name)
    if found is None:
        return
    if form == "markdown":
        click.echo(markdown_table(found))
        return
    rows = [[str(cell).replace("**", "") for cell in row] for row in found.frame.itertuples(index=False)]
    print_table([str(head) for head in found.frame.columns], rows)
    for note in found.notes:
        click.echo(note)


def write_plot(verdicts: Sequence[Verdict], name: Name, margin: float, path: Path) -> None:
    """The forest plot, where there is anything to draw. Raises UserError when it cannot be written."""
    from scalebench.reporting.verdicts import forest

    plot = forest(verdicts, name, margin)
    if plot is None:
        click.echo(f"{path} is not written: there is no measured ratio with an interval to plot.", err=True)
        return
    try:
        plot.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"the plot cannot be written to '{path}': {error}. Choose another: --plot FILE.png") from error


def exit_code_of(verdicts: Sequence[Verdict], fail_on: str) -> int:
    """1 when something got worse, with `inconclusive` also when something is not known to be sound."""
    failed = any(verdict.worse or (fail_on == "inconclusive" and verdict.open) for verdict in verdicts)
    return EXIT_REGRESSION if failed else EXIT_OK


def command(base: str, new: str, live: bool, **options: Any) -> int:
    """Carry out `scalebench compare`; returns its exit code."""
    from scalebench.analysis.verdicts import decide

    rule = rule_of(options["slower"], options["limit"], options["margin"])
    if live:
        from scalebench.cli.live import compare_live

        matches, rule = compare_live(base, new, rule, options)
    else:
        refuse_live_options(options)
        matches = compare_stored(base, new)
    verdicts = decide(matches, rule)
    name = namer([match.spec for match in matches])
    tell_verdicts(verdicts, name, options["form"])
    if options["plot"]:
        write_plot(verdicts, name, rule.margin, Path(options["plot"]))
    return exit_code_of(verdicts, options["fail_on"])


LIVE_ONLY = {"pairs": "--pairs", "results": "--results", "checkouts": "--checkouts", "pythons": "--pythons"}


def refuse_live_options(options: Mapping[str, Any]) -> None:
    """Raises UserError for an option that means nothing without --live."""
    for name, flag in LIVE_ONLY.items():
        if options[name]:
            raise UserError(f"{flag} says how to measure: it needs --live. Stored records are compared as they are.")


compare = click.Command(
    "compare",
    callback=command,
    help=HELP,
    params=[
        click.Argument(["base"], metavar="BASE"),
        click.Argument(["new"], metavar="NEW"),
        click.Option(["--live"], is_flag=True, help="Measure both sides here and now, in turn."),
        click.Option(
            ["--slower"],
            metavar="X%",
            callback=read_effect,
            help="Slowdown of steps that must be seen with 95% power; where the data cannot, that is inconclusive.",
        ),
        click.Option(
            ["--limit"],
            multiple=True,
            metavar="METRIC=X%",
            help="The same for any metric, e.g. memory=2%; of a figure without spread, the growth allowed.",
        ),
        click.Option(
            ["--margin"], metavar="X%", callback=read_effect, help="A change that matters to nobody.  [default: 3%]"
        ),
        click.Option(
            ["--fail-on"],
            type=click.Choice(["regression", "inconclusive"]),
            default="regression",
            show_default=True,
            help="With `inconclusive`, also fail where nothing can be said, or a cell is missing.",
        ),
        click.Option(
            ["--format", "form"],
            type=click.Choice(["text", "markdown", "json"]),
            default="text",
            show_default=True,
            help="How to print.",
        ),
        click.Option(
            ["--plot"], metavar="FILE", help="Draw the ratios with their intervals into a file (png, svg, pdf)."
        ),
        click.Option(
            ["--pairs"],
            metavar="N,...",
            help="With --live: after how many pairs to look; it ends when all is known.  [default: 10,20,40]",
        ),
        click.Option(["--results"], metavar="DIR", help="With --live: where the records go; given again, it goes on."),
        click.Option(
            ["--checkouts"],
            nargs=2,
            metavar="DIR DIR",
            help="With --live: the source trees, of scalebench or of your own model, to measure BASE and NEW in.",
        ),
        click.Option(
            ["--pythons"],
            nargs=2,
            metavar="PYTHON PYTHON",
            help="With --live: the interpreters to measure BASE and NEW with.",
        ),
    ],
)
