"""One command's conversation with the service."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from bitpress.command.exits import ExitCode, exit_code_of_error
from bitpress.command.output import complain
from bitpress.errors import BitpressError

if TYPE_CHECKING:
    from bitpress.client import Client


@contextmanager
def connected() -> Iterator["Client"]:
    """Give a client to the service; what goes wrong becomes a sentence and an exit code."""
    from bitpress.client import Client

    try:
        with Client() as client:
            yield client
    except BitpressError as error:
        complain(error)
        raise typer.Exit(exit_code_of_error(error)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(error)
        raise typer.Exit(ExitCode.FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def is_id(text: str, prefix: str) -> bool:
    """Tell whether a text is an id with this prefix."""
    return re.fullmatch(rf"{prefix}_[0-9a-z]+", text) is not None


def id_of(prefix: str) -> Callable[[str], str]:
    """Make the check of an argument that has to be an id with this prefix."""

    def check(text: str) -> str:
        if not is_id(text, prefix):
            raise typer.BadParameter(f"{text!r} is not an id of the form {prefix}_…")
        return text

    return check
