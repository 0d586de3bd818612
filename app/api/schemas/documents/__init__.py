"""The documents that the API answers with, and how rows become them: a file a resource, as the routes are."""

from app.api.schemas.documents.artifacts import ArtifactDocument, artifact_document
from app.api.schemas.documents.catalogue import CatalogueEntry, TargetDocument, target_document
from app.api.schemas.documents.comparison import ComparisonDocument, comparison_document
from app.api.schemas.documents.frontier import FrontierDocument, frontier_document
from app.api.schemas.documents.jobs import JobDocument, Validation, job_document
from app.api.schemas.documents.parts import Page
from app.api.schemas.documents.uploads import DatasetDocument, ModelDocument, dataset_document, model_document

__all__ = [
    "ArtifactDocument",
    "CatalogueEntry",
    "ComparisonDocument",
    "DatasetDocument",
    "FrontierDocument",
    "JobDocument",
    "ModelDocument",
    "Page",
    "TargetDocument",
    "Validation",
    "artifact_document",
    "comparison_document",
    "dataset_document",
    "frontier_document",
    "job_document",
    "model_document",
    "target_document",
]
