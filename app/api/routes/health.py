"""Health: whether the process lives, and whether it can do its work."""

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import Response
from kombu.exceptions import OperationalError
from pydantic import BaseModel

from app.api.answers import json_answer
from app.api.deps import ServicesDep
from app.errors import BitpressError

router = APIRouter()


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """Each part: `ok`, or what is wrong. `warnings` do not make the service unready."""

    status: str
    parts: dict[str, str]
    warnings: list[str]


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Answer while the process lives."""
    return json_answer({"status": "ok"})


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
def readyz(services: ServicesDep) -> Response:
    """Ask every part; 503 while the database or the store cannot be used.

    A broker that is down only delays work, and a target without a worker only waits: both are warnings.
    """
    parts = {"database": _state(services.database.ping), "store": _state(services.store.check)}
    warnings = []
    broker = _state(services.wake_ups.check)
    if broker != "ok":
        warnings.append(f"The broker cannot be reached, so jobs start later than they could: {broker}")
    ready = all(state == "ok" for state in parts.values())
    if ready:
        targets = services.targets.all()
        if not any(target.alive for target in targets):
            warnings.append("No worker is alive: jobs wait.")
        if not services.targets.inspection_alive():
            warnings.append("No inspecting worker is alive: uploads stay in the state inspecting.")
        warnings.extend(
            f"Workers of target {target.id!r} cannot confine models: Landlock or seccomp is missing."
            for target in targets
            if target.alive and not target.sandbox.get("strong", False)
        )
    body = {
        "status": "ready" if ready else "unready",
        "parts": parts | {"broker": broker},
        "warnings": warnings,
    }
    return json_answer(body, status=200 if ready else 503)


def _state(check: Callable[[], None]) -> str:
    try:
        check()
    except BitpressError as error:
        return error.detail
    except (OperationalError, OSError) as error:
        return f"{type(error).__name__}"
    return "ok"
