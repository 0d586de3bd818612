"""The command `bitpress`.

What only some commands need, httpx and rich above all, is imported where it is used: `bitpress --help`
and a mistyped option are answered without it.
"""

from typing import Annotated

import typer

from bitpress import __version__
from bitpress.command import artifacts, catalogue, datasets, evaluate, jobs, models, optimize, reports, serve
from bitpress.command.exits import MEANINGS

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    name="bitpress",
    help="Upload a model, get back the fastest artifact that keeps what it must.\n\n"
    "The service is that of BITPRESS_URL and BITPRESS_KEY, else the one that `bitpress serve` started here.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("optimize", no_args_is_help=True)(optimize.optimize)
app.command("evaluate", no_args_is_help=True)(evaluate.evaluate)
app.command("report", no_args_is_help=True)(reports.report)
app.command("frontier", no_args_is_help=True)(reports.frontier)
app.command("compare", no_args_is_help=True)(reports.compare)
jobs.app.command("report")(reports.report)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(artifacts.app, name="artifacts")
app.command("targets")(catalogue.list_targets)
app.command("techniques")(catalogue.list_techniques)
app.command("metrics")(catalogue.list_metrics)
# Its own --help too belongs to the service.
app.command(
    "serve",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve.serve)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitpress {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before any command."""


def main() -> None:
    """Run the command."""
    app()
