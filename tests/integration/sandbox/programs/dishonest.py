"""Programs that do not keep to the protocol: each serves one command in its own way."""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

sys.path.append(os.path.dirname(__file__))

from serving import Progress


def _first(scratch: Path, commands: TextIO) -> Path:
    request: str = json.loads(commands.readline())["request"]
    return (scratch / request).parent


def _planter(plant: Callable[[Path, str], object]) -> Callable[[Path, TextIO, Progress], None]:
    """Plant something named result.json and say that the step is done."""

    def serve(scratch: Path, commands: TextIO, progress: Progress) -> None:
        folder = _first(scratch, commands)
        outside = json.loads((folder / "request.json").read_text()).get("outside", "")
        plant(folder / "result.json", outside)
        progress({"done": folder.name})
        commands.readline()

    return serve


def _swap_folder(result: Path, outside: str) -> None:
    result.parent.rename(result.parent.with_name("aside"))
    result.parent.symlink_to(Path(outside).parent)


link = _planter(lambda result, outside: result.symlink_to(outside))
hard_link = _planter(lambda result, outside: result.hardlink_to(outside))
fifo = _planter(lambda result, _: os.mkfifo(result))
folder = _planter(lambda result, _: result.mkdir())
swapped_folder = _planter(_swap_folder)
nothing = _planter(lambda result, _: None)
huge = _planter(lambda result, _: result.write_text('{"a": "%s"}' % ("x" * (2 << 20))))
not_json = _planter(lambda result, _: result.write_text("{'a': 1}"))
not_utf8 = _planter(lambda result, _: result.write_bytes(b'{"a": "\xff\xfe\xfa"}'))
an_array = _planter(lambda result, _: result.write_text("[1, 2]"))
nested = _planter(lambda result, _: result.write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"))
infinite = _planter(lambda result, _: result.write_text('{"a": 1e999}'))
not_a_number = _planter(lambda result, _: result.write_text('{"a": NaN}'))
long_number = _planter(lambda result, _: result.write_text('{"a": ' + "9" * 10_000 + "}"))
surrogate = _planter(lambda result, _: result.write_text('{"a": "\\ud800"}'))
nul = _planter(lambda result, _: result.write_text('{"a": "\\u0000"}'))


def flood(scratch: Path, commands: TextIO, progress: Progress) -> None:
    _first(scratch, commands)
    fd = _progress_fd()
    while True:
        os.write(fd, b'{"progress": 0.5, "message": "again"}\n' * 100)


def endless_line(scratch: Path, commands: TextIO, progress: Progress) -> None:
    _first(scratch, commands)
    fd = _progress_fd()
    while True:
        os.write(fd, b"x" * 1000)


def _say(line: bytes) -> Callable[[Path, TextIO, Progress], None]:
    def serve(scratch: Path, commands: TextIO, progress: Progress) -> None:
        _first(scratch, commands)
        os.write(_progress_fd(), line)
        threading.Event().wait(60)

    return serve


garbage = _say(b"\x00\xff{]\n")
not_an_object = _say(b"[1]\n")
another_step = _say(b'{"done": "another-1"}\n')
progress_that_is_none = _say(b'{"progress": "much", "message": 1}\n')
confined_again = _say(b'{"confined": {"strong": true}}\n')


def _progress_fd() -> int:
    """The one pipe that is neither standard input nor output."""
    for fd in range(3, 64):
        try:
            if os.fstat(fd).st_mode & 0o170000 == 0o010000:
                return fd
        except OSError:
            continue
    raise RuntimeError("There is no progress pipe.")


def fail(scratch: Path, commands: TextIO, progress: Progress) -> None:
    """Fails as the request says, each time, and serves on."""
    for line in commands:
        request = scratch / json.loads(line)["request"]
        progress({"failed": request.parent.name} | json.loads(request.read_text()))


def report_progress(scratch: Path, commands: TextIO, progress: Progress) -> None:
    """An honest one: much progress, thinned by the entry, then a result."""
    folder = _first(scratch, commands)
    for number in range(100_000):
        progress({"progress": number / 100_000, "message": f"row {number}\x1b[31m"})
    progress({"progress": 1.0, "message": "all rows\x1b[0m"})
    (folder / "result.json").write_text('{"rows": 100000}')
    progress({"done": folder.name})
    commands.readline()


def cannot_be_imported(scratch: Path, commands: TextIO, progress: Progress) -> None:
    raise ImportError("no such model library")
