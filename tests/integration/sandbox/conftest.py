"""Children to try things in: confined as a worker starts them, as another user, and not confined at all."""

import functools
import os
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox.trial import PROGRAMS, BareChild, Trial, make_child, new_folder
from workers.sandbox.child import SandboxChild
from workers.sandbox.scratch import remove_scratch

NOBODY = 65534

Start = Callable[..., SandboxChild]


def python_for_another_user() -> Path | None:
    """An interpreter of this version that an unprivileged user can start; ours may lie in a private home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (Path(sys.executable), Path("/usr/bin") / version, Path("/usr/local/bin") / version):
        real = Path(os.path.realpath(python))
        if not real.exists() or not all(place.stat().st_mode & stat.S_IXOTH for place in (real, *real.parents)):
            continue
        command = [str(python), "-I", "-c", "import ctypes, json, sqlite3"]
        if subprocess.run(command, user=NOBODY, group=NOBODY, cwd="/", check=False).returncode == 0:
            return python
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only a worker that is root changes its child's user: for others there is nothing to test."""
    if os.geteuid() == 0:
        return
    needless = [item for item in items if "as_another_user" in getattr(item, "fixturenames", ())]
    needless += [item for item in items if "another user" in item.name and item not in needless]
    if needless:
        config.hook.pytest_deselected(items=needless)
        items[:] = [item for item in items if item not in needless]


@pytest.fixture(scope="session")
def as_another_user() -> dict[str, Any]:
    """Arguments that make a child change its user."""
    python = python_for_another_user()
    if python is None:
        pytest.skip("no interpreter of this version can be started by an unprivileged user")
    packages = Path(sysconfig.get_path("purelib"))
    return {"python": python, "code": [PROGRAMS, packages], "uid": NOBODY, "gid": NOBODY}


@contextmanager
def _new_scratch() -> Iterator[Path]:
    path = new_folder("scratch", 0o700)
    try:
        yield path
    finally:
        remove_scratch(path)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with _new_scratch() as path:
        yield path


@pytest.fixture
def start(scratch: Path, tmp_path: Path) -> Start:
    """Makes a confined child; enter it."""
    return functools.partial(make_child, SandboxChild, tmp_path / "log", scratch)


@pytest.fixture
def start_bare(scratch: Path, tmp_path: Path) -> Start:
    """Makes a child without confinement; enter it."""
    return functools.partial(make_child, BareChild, tmp_path / "log", scratch)


@pytest.fixture(scope="module", params=["own user", "another user"])
def confined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """One confined child for all acts of a module."""
    options = {} if request.param == "own user" else request.getfixturevalue("as_another_user")
    log = tmp_path_factory.mktemp("log") / "log"
    with _new_scratch() as library, _new_scratch() as scratch:
        library.chmod(0o755)
        options = options | {"code": [*options.get("code", [PROGRAMS]), library]}
        with make_child(SandboxChild, log, scratch, **options) as child:
            yield Trial(child, library)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """One child without confinement for all acts of a module."""
    log = tmp_path_factory.mktemp("log") / "log"
    with _new_scratch() as library, _new_scratch() as scratch, make_child(BareChild, log, scratch) as child:
        yield Trial(child, library)
