"""The first lines that a sandbox child runs: confine, report, then serve what the parent named.

Run as a file by `python -I -B`, with one JSON argument: `root` (the folder to import `workers` and `app`
from), `target` (`module:function`) and `plan`. The function is called as
`serve(scratch, commands, progress)` and returns when `commands` ends. `BITPRESS_PROGRESS_FD` names the
pipe for progress: JSON lines, never on stdout.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY_EXIT = 74  # the parent takes this exit code for "out of memory"
LINE_BYTES = 4096  # what a pipe takes in one piece: lines of several threads do not mix
_PROGRESS_SECONDS = 0.2


def emitter(fd: int) -> Callable[[dict[str, Any]], None]:
    """A function that writes one event to the parent.

    Progress is thinned to five events a second, because its bytes are limited; texts are cut to fit a line.
    """
    last = -_PROGRESS_SECONDS

    def emit(event: dict[str, Any]) -> None:
        nonlocal last
        if "progress" in event:
            now = time.monotonic()
            if now - last < _PROGRESS_SECONDS and event["progress"] < 1:
                return
            last = now
        os.write(fd, _line(event))

    return emit


def _line(event: dict[str, Any]) -> bytes:
    for length in (LINE_BYTES, 1000, 500):
        short = {key: value[:length] if isinstance(value, str) else value for key, value in event.items()}
        line = json.dumps(short).encode() + b"\n"
        if len(line) <= LINE_BYTES:
            return line
    raise ValueError("An event does not fit a line.")


def main() -> None:
    arguments = json.loads(sys.argv[1])
    emit = emitter(int(os.environ.pop("BITPRESS_PROGRESS_FD")))
    sys.path.insert(0, arguments["root"])

    # Both packages while their folder can still be listed; only they, not what lies beside them, stay readable.
    import app
    import workers
    from workers.sandbox.confinement import Plan, confine

    plan = Plan.from_dict(arguments["plan"] | {"packages": [*app.__path__, *workers.__path__]})
    confinement = confine(plan)
    sys.path[:1] = plan.code
    emit({"confined": confinement.as_dict()})
    if not sys.stdin.readline():  # the parent hands the scratch folder over, or does not like the report
        return

    module, _, function = arguments["target"].partition(":")
    serve = getattr(importlib.import_module(module), function)
    serve(Path(plan.scratch), sys.stdin, emit)


def _exit_code() -> int:
    try:
        main()
    except MemoryError:
        os.write(2, b"MemoryError\n")  # a traceback would take memory
        return MEMORY_EXIT
    except BaseException:
        sys.excepthook(*sys.exc_info())  # into the log
        return 1
    return 0


if __name__ == "__main__":
    code = _exit_code()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything of worth is in files: no time for tearing down runtimes
