"""Write the report of what was measured: `python report.py --help`. The same command as `scalebench report`."""

import sys

import click

from scalebench.cli.report import report
from scalebench.errors import UserError

if __name__ == "__main__":
    try:
        report(prog_name="report.py")
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
