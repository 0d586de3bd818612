"""The HTTP application and its lifespan."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from app import wiring
from app.api import problems
from app.api.answers import head_routes
from app.api.deps import authenticated
from app.api.routes import artifacts, catalogue, comparison, frontier, health, jobs, uploads
from app.errors import BitpressError
from app.services.sweeper import Sweeper
from app.services.watching import JobWatcher
from app.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; `uvicorn --factory app.main:create_app` serves it."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = wiring.build(settings)
        app.state.services = services
        app.state.api_key = wiring.api_key(settings)
        app.state.watcher = JobWatcher(services.jobs)
        background = [
            asyncio.create_task(app.state.watcher.run()),
            asyncio.create_task(_sweep(services.sweeper, settings.sweep_seconds)),
        ]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            services.close()

    app = FastAPI(
        title="Bitpress",
        version=version("bitpress-service"),
        summary="Upload a model, say what it must keep and where it will run; get back the fastest artifact "
        "that really keeps it, with the measurements to prove it.",
        lifespan=lifespan,
    )
    problems.install(app)
    routers = [routes.router for routes in (uploads, frontier, jobs, artifacts, comparison, catalogue)]
    # Those for HEAD last: routes are tried in turn.
    for public in (health.router, head_routes(health.router)):
        app.include_router(public)
    for router in (*routers, *map(head_routes, routers)):
        app.include_router(router, prefix="/v1", dependencies=[Depends(authenticated)])
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


async def _sweep(sweeper: Sweeper, every_seconds: float) -> None:
    while True:
        try:
            await anyio.to_thread.run_sync(sweeper.sweep)
        except BitpressError as error:
            log.warning("sweep put off: %s", error.detail)
        except Exception:
            log.exception("sweep failed")
        await asyncio.sleep(every_seconds)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of bodies that routes read or write by hand."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document["components"]["schemas"]
        specification = dict(jobs.SPEC_SCHEMA)
        schemas.update(specification.pop("$defs", {}))
        schemas["JobSpec"] = specification
        schemas.update(uploads.PREPROCESS_SCHEMAS)
        schemas.update(problems.schemas())
        app.openapi_schema = document
    return app.openapi_schema
