"""What routes are given: the services, the long polls, and a caller who has shown the key."""

import secrets
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Unauthenticated
from app.services import Services
from app.services.watching import JobWatcher

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer <key>`")


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _watcher(request: Request) -> JobWatcher:
    watcher: JobWatcher = request.app.state.watcher
    return watcher


async def authenticated(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Raises `Unauthenticated` unless the request carries the API key."""
    if given is None:
        raise Unauthenticated("Send the API key as `Authorization: Bearer <key>`.", code="key_missing")
    if not secrets.compare_digest(given.credentials.encode(), request.app.state.api_key.encode()):
        raise Unauthenticated("This API key is not known here.", code="key_unknown")


ServicesDep = Annotated[Services, Depends(_services)]
WatcherDep = Annotated[JobWatcher, Depends(_watcher)]
Limit = Annotated[int, Query(ge=1, le=200, description="Rows of a page.")]
Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before.")]
