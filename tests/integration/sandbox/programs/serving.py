"""The step loop that hostile and honest test programs share. Runs inside the child, standard library only."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

Act = Callable[..., Any]
Progress = Callable[[dict[str, Any]], None]


def serve_acts(acts: Mapping[str, Act], scratch: Path, commands: TextIO, progress: Progress) -> None:
    """Answer each command with what its act returned, `{"value": …}`, or raised, `{"refused": …}`."""
    for line in commands:
        command = json.loads(line)
        request = scratch / command["request"]
        try:
            answer = {"value": acts[command["step"]](**json.loads(request.read_text()))}
        except MemoryError:
            raise
        except BaseException as error:
            answer = {"refused": type(error).__name__, "because": str(error)}
        request.with_name("result.json").write_text(json.dumps(answer))
        progress({"done": request.parent.name})
