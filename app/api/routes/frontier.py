"""The frontier of a model: every measured variant, those that no other beats, the best under constraints."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.answers import json_answer
from app.api.deps import ServicesDep
from app.api.problems import PROBLEMS
from app.api.schemas.documents import FrontierDocument, frontier_document
from app.domain.goal import Minimizable

router = APIRouter(prefix="/models", responses=PROBLEMS)

_SYNTAX = (
    "May be repeated; all must hold. `NAME>=NUMBER` or `NAME<=NUMBER` bounds a value, `max_drop:NAME<=NUMBER` the drop "
    "from the original. NAME is a metric of `/v1/metrics`, a measurement such as `latency_p50` or `artifact_bytes`, or "
    "`latency`, `size` or `memory`. Shares, and their drops, are fractions. A constraint counts as met where the whole "
    "95 % interval is inside."
)


@router.get("/{model_id}/frontier", response_model=FrontierDocument)
def get_frontier(
    model_id: str,
    services: ServicesDep,
    target: Annotated[
        str | None, Query(max_length=100, description="Only what was measured on this target or fingerprint.")
    ] = None,
    minimize: Annotated[Minimizable, Query(description="What the best has least of.")] = "latency",
    constraint: Annotated[
        list[str] | None,
        Query(description=_SYNTAX, examples=["top1>=0.9", "latency_p50<=5", "max_drop:top1<=0.01"]),
    ] = None,
) -> Response:
    """Every measured variant of a model, the original included, in groups that can be compared.

    Variants measured on other machines, on other rows, by another runtime or version of it, or with other threads, rows
    a call or shapes are in other groups. In each group those that no other beats in latency, size and accuracy are
    marked, and `best` is the one with the least of `minimize` that meets every constraint; a value that scatters and
    has no interval meets none.
    """
    found = services.frontiers.of_model(model_id, target=target, minimize=minimize, constraints=constraint or [])
    return json_answer(frontier_document(found))
