"""What every peer's script does around its own quantizer: read, measure, record.

Run as `python by_PEER.py CONFIGURATION MODEL CALIBRATION FOLDER` by the peer's interpreter. Writes FOLDER/model.onnx
and FOLDER/made.json: versions, settings, the session options that the maker returned, wall and processor seconds from
reading the model to the written file, the process's peak of resident bytes, and the error if there was one.
"""

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np


def rows(calibration):
    """The feeds of a file whose arrays are named `ROW/INPUT`."""
    found = {}
    with np.load(calibration) as stored:
        for name in stored.files:
            row, _, of = name.partition("/")
            found.setdefault(int(row), {})[of] = stored[name]
    return [found[row] for row in sorted(found)]


class Rows:
    """Feeds as onnxruntime's CalibrationDataReader gives them."""

    def __init__(self, feeds):
        self.feeds = feeds
        self.rewind()

    def get_next(self):
        return next(self.left, None)

    def rewind(self):
        self.left = iter([dict(feed) for feed in self.feeds])

    def __len__(self):
        return len(self.feeds)

    def __iter__(self):
        return iter([dict(feed) for feed in self.feeds])


def _processor_seconds():
    """Of this process and of those that it started and waited for."""
    return sum(os.times()[:4])


def main(packages, configurations):
    """Make what the command line names. `configurations`: (function of model, feeds and out, its settings) by name."""
    name, model, calibration, folder = sys.argv[1], *map(Path, sys.argv[2:5])
    make, settings = configurations[name]
    record = {
        "versions": {package: metadata.version(package) for package in packages},
        "settings": settings,
    }
    feeds = rows(calibration)
    began, worked = time.perf_counter(), _processor_seconds()
    try:
        record["session_options"] = make(model, feeds, folder / "model.onnx", **settings) or {}
        if not (folder / "model.onnx").exists():
            raise FileNotFoundError("it ended without an error and without a model")
    except (Exception, SystemExit) as error:  # some end the process where they have no way on
        import traceback

        traceback.print_exc()
        record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    record["seconds"], record["processor_seconds"] = time.perf_counter() - began, _processor_seconds() - worked
    # Not getrusage: its peak is that of the process which started this one, if that was larger.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    record["peak_bytes"] = int(status["VmHWM"].split()[0]) * 1024
    (folder / "made.json").write_text(json.dumps(record, default=str))
