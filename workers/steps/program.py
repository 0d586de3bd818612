"""The child's program: serve one command after another, each in its own folder of scratch.

A command is a JSON line, `{"step": "inspect", "request": "inspect-1/request.json"}`. What is told on
the progress pipe is `{"progress": …, "message": …}`, and at the end `{"done": folder}` or
`{"failed": folder, "code": …, "detail": …, "retryable": …}`.
"""

import errno
import importlib
import json
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, get_type_hints

from pydantic import BaseModel, ValidationError

from app.errors import BitpressError, StepError
from workers.steps.inputs import Progress

STEPS: dict[str, str] = {
    name: f"workers.steps.{name}"
    for name in (
        "inspect_model",
        "inspect_dataset",
        "probe",
        "inspect",
        "baseline",
        "unfinished",
        "calibrate",
        "candidates",
        "measure_latency",
        "measure_load",
        "profile",
        "precision",
        "gate",
        "package",
    )
}
"""Every step and its module, loaded on its first command: a measuring child imports no more than it
measures with."""

Report = Callable[[dict[str, Any]], None]

_DETAIL_LENGTH = 500
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def serve(scratch: Path, commands: TextIO, progress: Report) -> None:
    """Run commands until there are no more. No failure of a step ends the child but lack of memory."""
    for line in commands:
        if not line.strip():
            continue
        try:
            command = json.loads(line)
            step, request = str(command["step"]), Path(str(command["request"]))
        except (ValueError, KeyError, TypeError):
            progress(_failure("", StepError("The command is no JSON object with a step and a request.")))
            continue
        folder = request.parent.as_posix()
        try:
            _run(step, scratch, request, progress)
        except BitpressError as error:
            progress(_failure(folder, error))
        except MemoryError:
            # Whoever started the child tells a lack of memory by how it ends.
            raise
        except Exception as error:
            traceback.print_exc()
            progress(_failure(folder, _unforeseen(error, scratch)))
        else:
            progress({"done": folder})
        finally:
            # The log is a file: what a step printed must be there when the parent is told.
            sys.stdout.flush()
            sys.stderr.flush()


def _run(step: str, scratch: Path, request: Path, progress: Report) -> None:
    if step not in STEPS:
        raise StepError(f"There is no step {step!r}; there are {', '.join(STEPS)}.", code="unknown_step")
    if request.is_absolute() or ".." in request.parts:
        raise StepError("The request must lie inside the scratch folder.", code="request_invalid")
    run: Callable[[Any, Path, Path, Progress], BaseModel] = importlib.import_module(STEPS[step]).run
    kind: type[BaseModel] = get_type_hints(run)["request"]
    try:
        content = kind.model_validate_json((scratch / request).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StepError(
            f"The request of {step} is invalid at {where}: {first['msg']}.", code="request_invalid"
        ) from error
    folder = scratch / request.parent
    result = run(content, scratch, folder, lambda share, message: progress(_report(share, message)))
    # Written under another name first, so that a result.json is whole whenever there is one.
    unfinished = folder / "result.json.part"
    unfinished.write_text(result.model_dump_json(), encoding="utf-8")
    unfinished.replace(folder / "result.json")


def _report(share: float, message: str) -> dict[str, Any]:
    return {"progress": round(min(max(share, 0.0), 1.0), 4), "message": message[:_DETAIL_LENGTH]}


def _failure(folder: str, error: BitpressError) -> dict[str, Any]:
    return {"failed": folder, "code": error.code, "detail": error.detail, "retryable": error.retryable}


def _unforeseen(error: Exception, scratch: Path) -> StepError:
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return StepError(
            "The disk of the worker is full, or the step reached its limit. Try again later, or upload less.",
            code="disk_limit_exceeded",
            retryable=True,
        )
    return StepError(f"{type(error).__name__}: {_shortened(error, scratch)}")


def _shortened(error: Exception, scratch: Path) -> str:
    """The message of an unforeseen error, without places on this machine, on one line."""
    text = str(error).replace(str(scratch) + "/", "")
    text = re.sub(r"(?<![\w.])/(?:usr|home|root|tmp|opt|var|srv|mnt|lib)/[^\s'\":,)]*/", "", text)
    text = " ".join(text.split()) or "no message"
    return text if len(text) <= _DETAIL_LENGTH else text[: _DETAIL_LENGTH - 1] + "…"
