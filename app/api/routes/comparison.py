"""Artifacts and models side by side."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.answers import json_answer
from app.api.deps import ServicesDep
from app.api.problems import PROBLEMS
from app.api.schemas.documents import ComparisonDocument, comparison_document

router = APIRouter(prefix="/comparison", responses=PROBLEMS)


@router.get("", response_model=ComparisonDocument)
def get_comparison(
    services: ServicesDep,
    of: Annotated[
        list[str],
        Query(
            description="2 to 20 ids of artifacts (`art_…`) and models (`mdl_…`), each its own `of`. The first is what "
            "the others are compared with."
        ),
    ],
) -> Response:
    """Every measurement side by side, with differences, their intervals, and whether they are more than noise.

    What one job measured in turn, or on the same rows, is compared as paired; variants of one model from several jobs
    through their original; anything else by its own interval. Where conditions differ there is no difference, and
    `differs_in` says which.
    """
    return json_answer(comparison_document(services.comparisons.compare(of)))
