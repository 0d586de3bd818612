"""`bitpress serve`: start the service where it is installed."""

import os
import sys
from importlib.util import find_spec

import typer

from bitpress.command.exits import ExitCode
from bitpress.command.output import say

_SERVER = "app.embedded"


def serve(context: typer.Context) -> None:
    """Start the service on this machine; options are handed on to it."""
    if not _is_installed():
        say(
            "bitpress: only the client is installed here, not the service. In a checkout of Bitpress "
            "`make serve` installs and starts it. For a service elsewhere set BITPRESS_URL and BITPRESS_KEY."
        )
        raise typer.Exit(ExitCode.FAILED)
    # -P: a folder `app` in the current directory is not the service.
    os.execv(sys.executable, [sys.executable, "-P", "-m", _SERVER, *context.args])


def _is_installed() -> bool:
    try:
        return find_spec(_SERVER) is not None
    except ImportError:
        return False
