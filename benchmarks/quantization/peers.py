"""The peers' environments, and artifacts made in them.

Environments are made under `.bench-peers/` from `requirements/peer-*.txt`; artifacts are kept there by what they came
from (model, calibration rows, maker's script, settings and requirements), so that nothing is made twice.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models.workload import ROOT, Feed

HOME = ROOT / ".bench-peers"
SCRIPTS = Path(__file__).with_name("peer")
SECONDS = 3 * 3600
"""After which a maker is ended, and listed as failed. It is there for one that hangs, not for a slow one."""

OURS = "ours"


@dataclass(frozen=True)
class Made:
    """What came of one configuration: the folder with model.onnx, and the maker's record (see peer/making.py)."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def error(self) -> str:
        return str(self.record.get("error", ""))

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    def log(self, lines: int = 12) -> str:
        """The last lines that the maker printed, without colours and what progress bars wrote over."""
        text = (self.folder / "log.txt").read_bytes().decode(errors="replace")  # read_text would lose the \r
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
        text = _without_places(text)
        shown = [line.rstrip().rpartition("\r")[2][:160] for line in text.split("\n")]
        return "\n".join([line for line in shown if line.strip()][-lines:])


def requirements(peer: str) -> Path:
    return ROOT / "requirements" / f"peer-{peer}.txt"


def interpreter(peer: str) -> Path:
    """The peer's Python, in an environment that is made unless it is there. Raises CalledProcessError.

    `TORCH_INDEX` is where PyTorch's CPU build is looked for when pip's own index has none, as in the Makefile.
    """
    folder = HOME / peer
    python, stamp, wanted = folder / "bin" / "python", folder / "made-from.txt", requirements(peer)
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(wanted)]
    index = os.environ.get("TORCH_INDEX")
    if subprocess.run(command).returncode:
        subprocess.run([*command, *(["--extra-index-url", index] if index else [])], check=True)
    shutil.copy(wanted, stamp)
    return python


def write_calibration(feeds: Sequence[Feed], path: Path) -> None:
    """Store feeds as peer/making.py reads them."""
    arrays: dict[str, Any] = {f"{row}/{name}": of for row, feed in enumerate(feeds) for name, of in feed.items()}
    np.savez(path, **arrays)


def place(peer: str, configuration: str, model: Path, feeds: Sequence[Feed], name: str) -> Path:
    """The folder that an artifact of a model is kept in; `name` is the model's."""
    told = f"{name} {peer} {configuration} {_key(peer, model, feeds)}"
    return HOME / "artifacts" / told.replace(" ", "_").replace(",", "")


def make(peer: str, configuration: str, model: Path, feeds: Sequence[Feed], name: str) -> Made:
    """Make an artifact of a model in the peer's environment, or find it made; failures are kept as well."""
    folder = place(peer, configuration, model, feeds, name)
    record = folder / "made.json"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        calibration = folder / "calibration.npz"
        write_calibration(feeds, calibration)
        try:
            ended = _run(peer, [configuration, str(model), str(calibration), str(folder)], folder / "log.txt")
        except (subprocess.SubprocessError, OSError) as error:
            ended = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if not record.exists():  # it could not even import, or was ended
            record.write_text(json.dumps({"error": _without_places(ended) or "ended without a record"}))
        calibration.unlink()
    return Made(folder, json.loads(record.read_text()))


def _without_places(text: str) -> str:
    """Text that says nothing of where this checkout lies."""
    return text.replace(f"{ROOT}/", "")


def _run(peer: str, arguments: Sequence[str], log: Path) -> str:
    """Run the maker; what went wrong, or ""."""
    with log.open("w") as written:
        if peer == OURS:
            command = [sys.executable, "-m", "benchmarks.quantization.ours"]
        else:
            command = [str(interpreter(peer)), str(SCRIPTS / f"by_{peer}.py")]
        # Some makers leave files where they are run.
        place = ROOT if peer == OURS else log.parent
        done = subprocess.run(
            [*command, *arguments], stdout=written, stderr=subprocess.STDOUT, timeout=SECONDS, cwd=place
        )
    if not done.returncode:
        return ""
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    return f"ended with {done.returncode}: {last[:300]}"


def _key(peer: str, model: Path, feeds: Sequence[Feed]) -> str:
    """Of everything that an artifact comes from, but for its configuration."""
    found = hashlib.sha256()
    files = [*sorted(model.parent.glob(f"{model.name}*")), SCRIPTS / "making.py"]
    if peer == OURS:
        files += [Path(__file__).with_name("ours.py"), ROOT / "app" / "domain" / "recipe.py"]
        files += sorted((ROOT / "workers" / "quantization").rglob("*.py"))
        files += sorted((ROOT / "workers" / "autodiff").rglob("*.py"))
    else:
        files += [SCRIPTS / f"by_{peer}.py", requirements(peer)]
    for file in files:
        found.update(_digest(file))
    for feed in feeds:
        for name, value in feed.items():
            found.update(name.encode() + value.tobytes())
    return found.hexdigest()[:16]


@functools.cache
def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
