"""What there is to choose from: targets, techniques, metrics."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers import json_answer
from app.api.deps import ServicesDep
from app.api.problems import PROBLEMS
from app.api.schemas.documents import CatalogueEntry, Page, TargetDocument, target_document
from app.domain.metric import metric_catalogue
from app.domain.recipe import technique_catalogue
from app.domain.recovery import recovery_catalogue

router = APIRouter(responses=PROBLEMS)


@router.get("/targets", response_model=Page[TargetDocument])
def list_targets(services: ServicesDep) -> Response:
    """List machine classes, their features, whether a worker of each is alive, and what suits them."""
    items = [target_document(target, suits) for target, suits in services.targets.catalogue()]
    return json_answer({"items": items, "next_cursor": None})


@router.get("/techniques", response_model=Page[CatalogueEntry])
def list_techniques(services: ServicesDep) -> Response:
    """List techniques with the JSON Schema of their options, and the recovery steps of those that have any."""
    steps = recovery_catalogue({target.id: target.fingerprint for target in services.targets.all()})
    items = [
        entry | ({"recovery_steps": steps} if "recovery" in entry["schema"]["properties"] else {})
        for entry in technique_catalogue()
    ]
    return json_answer({"items": items, "next_cursor": None})


@router.get("/metrics", response_model=Page[CatalogueEntry])
async def list_metrics() -> Response:
    """List metrics with their direction and what they need."""
    return json_answer({"items": metric_catalogue(), "next_cursor": None})
