"""Artifacts: show, download, manifest, delete."""

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.answers import CONTENT, content_answer, document_answer, json_answer
from app.api.deps import ServicesDep
from app.api.problems import PROBLEMS
from app.api.schemas.documents import ArtifactDocument, artifact_document

router = APIRouter(prefix="/artifacts", responses=PROBLEMS)


@router.get("/{artifact_id}", response_model=ArtifactDocument)
def get_artifact(artifact_id: str, services: ServicesDep) -> Response:
    """Show an artifact."""
    row, _, _ = services.artifacts.get(artifact_id)
    return json_answer(artifact_document(row))


@router.get("/{artifact_id}/content", response_class=Response, responses=CONTENT)
async def get_artifact_content(artifact_id: str, request: Request, services: ServicesDep) -> Response:
    """Download an artifact; `Range` resumes."""
    row, content, _ = await anyio.to_thread.run_sync(services.artifacts.get, artifact_id)
    return await content_answer(request, services.store, row, content)


@router.get("/{artifact_id}/manifest", response_class=Response, responses={200: {"content": {"application/json": {}}}})
async def get_artifact_manifest(artifact_id: str, request: Request, services: ServicesDep) -> Response:
    """What the artifact is made of, how it was measured, and a snippet that runs it."""
    _, _, manifest = await anyio.to_thread.run_sync(services.artifacts.get, artifact_id)
    return await document_answer(request, services.store, manifest, media_type="application/json")


@router.delete("/{artifact_id}", status_code=204)
def delete_artifact(artifact_id: str, services: ServicesDep) -> Response:
    """Delete an artifact; its bytes go when nothing else needs them."""
    services.artifacts.delete(artifact_id)
    return Response(status_code=204)
