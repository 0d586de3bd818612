"""What the sandbox tests start: children with the sandbox's confinement, and the same without any."""

import os
from pathlib import Path
from typing import Any

from workers.sandbox.child import SandboxChild
from workers.sandbox.limits import GiB, MiB, SandboxLimits

PROGRAMS = Path(__file__).parent / "programs"
CHECKOUT = Path(__file__).resolve().parents[3]


class BareChild(SandboxChild):
    """The control: the same parent, protocol and programs, without the confinement."""

    entry = PROGRAMS / "bare_entry.py"


class Trial:
    """Runs acts in one child, each as a step of its own."""

    def __init__(self, child: SandboxChild, library: Path = PROGRAMS) -> None:
        self.child = child
        self.library = library  # a folder that the child may read, as it may its own code
        self._steps = 0

    def attempt(self, act: str, **arguments: object) -> dict[str, Any]:
        """The act's answer: `{"value": …}` or `{"refused": <exception>, "because": …}`."""
        self._steps += 1
        return self.child.run(step=act, folder=f"step-{self._steps}", request=arguments)

    def expect(self, act: str, **arguments: object) -> Any:
        """The value of an act that must work."""
        answer = self.attempt(act, **arguments)
        assert "value" in answer, answer
        return answer["value"]


def limits(**changed: Any) -> SandboxLimits:
    return SandboxLimits(**({"memory_bytes": 1 * GiB, "disk_bytes": 256 * MiB, "seconds": 20.0} | changed))


def make_child(kind: type[SandboxChild], log: Path, scratch: Path, **options: Any) -> SandboxChild:
    """A child that serves the acts of `hostile.py` unless told otherwise; enter it to start it."""
    given: dict[str, Any] = {
        "limits": limits(),
        "log": log,
        "target": "hostile:serve",
        "code": [PROGRAMS],
        "allow_weak": kind is BareChild,
    }
    return kind(scratch, **(given | options))


def is_gone(pid: int) -> bool:
    """Whether no process of this id is left, not counting one that waits for its parent."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def new_folder(name: str, mode: int, parent: str = "/var/tmp") -> Path:
    """A folder that any user can get to, unlike those of `tmp_path`."""
    path = Path(os.path.realpath(parent)) / f"bitpress-{name}-{os.urandom(8).hex()}"
    path.mkdir()
    path.chmod(mode)
    return path
