"""What goes to the terminal: JSON and tables on stdout, sentences and bars on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitpress.errors import ApiError, BitpressError, InputRejected

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]

NOTHING = "-"
"""Stands where there is no number."""
_WIDE = 2000
"""Columns of what is piped into something else, which can wrap by itself."""


def show(laid: "Table") -> None:
    """Print a table, without the blanks that fill its lines up to the right."""
    console = _stdout()
    with console.capture() as captured:
        console.print(laid)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


@cache
def _stdout() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=not sys.stdout.isatty())


@cache
def stderr() -> "Console":
    """The console for everything that is not the result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """Print a document for a program."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def say(sentence: str) -> None:
    """Tell the user something that is not the result."""
    typer.echo(sentence, err=True)


def complain(error: BitpressError | OSError) -> None:
    """Print an error as a sentence with its code, and the fields at fault below it."""
    if isinstance(error, OSError):
        say(f"bitpress: {error.filename or 'the local disk'}: {error.strerror or error}")
        return
    found = error.errors if isinstance(error, ApiError) else ()
    same = len(found) == 1 and found[0].detail == str(error)
    where = f" at {found[0].pointer}" if same and found[0].pointer else ""
    code = getattr(error, "code", None)
    say(f"bitpress: {error}" + (f" ({code}{where})" if code else ""))
    for each in () if same else found:
        say(f"  {each.pointer or '/'}: {each.detail} ({each.code})")
    if isinstance(error, ApiError) and error.status == 401:
        say("  Set BITPRESS_KEY to the API key of this service.")
    if isinstance(error, InputRejected):
        for note in error.document.get("notes") or ():
            say(f"  {note}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> "Table":
    """Lay out rows; columns named in `right` hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    laid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        laid.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        laid.add_row(*(Text(cell) for cell in row))
    return laid


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a list; of an empty one it is said that it is empty, where a program does not read it."""
    if rows:
        show(table(columns, rows, right=right))
    else:
        say("there are none")


def facts(named: Iterable[tuple[str, str | None]]) -> "Table":
    """Lay out one thing as names and values; those without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    laid = Table.grid(padding=(0, 2))
    for name, value in named:
        if value:
            laid.add_row(Text(name, style="dim"), Text(value))
    return laid


def in_bytes(count: float | None) -> str:
    """A number of bytes in decimal units: `251 KB`."""
    if count is None:
        return NOTHING
    value, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"


def moment(stamp: str | None) -> str:
    """An RFC 3339 time in the user's own time zone, to the second."""
    from datetime import datetime

    return "" if stamp is None else datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def shape(tensor: Any) -> str:
    """A tensor in one word: `image float32[?, 3, 224, 224]`."""
    axes = tensor.get("shape")
    inside = "…" if axes is None else ", ".join("?" if axis is None else str(axis) for axis in axes)
    return f"{tensor['name']} {tensor['dtype']}[{inside}]"
