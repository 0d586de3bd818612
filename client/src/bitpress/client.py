"""The SDK: everything that the service does, as methods that return what it answers."""

import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast, overload

from bitpress.discovery import find_service
from bitpress.errors import ApiError, InputRejected, TimedOut
from bitpress.retries import PATIENT, Backoff
from bitpress.transfer import Progress, download, multipart
from bitpress.transport import Transport, decoded
from bitpress.types import Artifact, CatalogueEntry, Dataset, Job, JobSpec, Model, Target, Validation

Upload = TypeVar("Upload", Model, Dataset)

_PLACES = {"mdl": "models", "dst": "datasets", "job": "jobs", "art": "artifacts"}
_ENDED = frozenset({"succeeded", "failed", "cancelled"})
_POLL_SECONDS = 30
_UPLOAD_PATIENCE = 300.0
"""Seconds that the service may take to put away what it was sent."""


class Client:
    """A service and the calls to it; to be closed, or used in a `with` statement.

    Without `url` and `key`, the variables BITPRESS_URL and BITPRESS_KEY tell, else the embedded
    service of this user. `timeout` is in seconds and holds for each read and write of the network.
    Connection errors and 429, 502, 503 and 504 answers are met with up to `retries` further tries
    where a repetition does no harm. Every call raises the errors of `bitpress.errors`. May be shared
    by threads.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, timeout: float = 60.0, retries: int = 4
    ) -> None:
        service = find_service(url, key)
        self.url = service.url
        self._http = Transport(service, timeout=timeout, backoff=Backoff(attempts=retries + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    # Models and datasets

    def upload_model(
        self, path: str | os.PathLike[str], name: str | None = None, *, on_progress: Progress | None = None
    ) -> Model:
        """Upload a model file, or the archive of a file set, reading it piece by piece.

        Returns at once after the last byte, usually with state `inspecting`: see `wait_ready`.
        `on_progress` is told the bytes sent and the bytes there are.
        """
        return cast(Model, self._upload("models", Path(path), name, {}, on_progress))

    def upload_dataset(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        preprocess: Mapping[str, Any] | None = None,
        *,
        on_progress: Progress | None = None,
    ) -> Dataset:
        """Upload a dataset as `upload_model` does a model; `preprocess` says how images become inputs."""
        fields = {} if preprocess is None else {"preprocess": json.dumps(preprocess)}
        return cast(Dataset, self._upload("datasets", Path(path), name, fields, on_progress))

    def import_model(self, source: str, name: str | None = None) -> Model:
        """Have the service fetch a model itself, from `s3://…` in a bucket that its settings allow."""
        return cast(Model, self._import("models", source, name, {}))

    def import_dataset(
        self, source: str, name: str | None = None, preprocess: Mapping[str, Any] | None = None
    ) -> Dataset:
        """Have the service fetch a dataset itself, as `import_model` does."""
        more = {} if preprocess is None else {"preprocess": preprocess}
        return cast(Dataset, self._import("datasets", source, name, more))

    def _upload(
        self, place: str, path: Path, name: str | None, fields: dict[str, str], progress: Progress | None
    ) -> Any:
        if name is not None:
            fields["name"] = name
        return self._http.json(
            "POST",
            f"/v1/{place}",
            # The same bytes are stored once, so a second try leaves no second copy behind.
            repeatable=True,
            patience=_UPLOAD_PATIENCE,
            body=lambda: multipart(path, fields, progress),
        )

    def _import(self, place: str, source: str, name: str | None, more: dict[str, Any]) -> Any:
        body = {"source": source, **more} | ({} if name is None else {"name": name})
        return self._http.json("POST", f"/v1/{place}", repeatable=True, patience=_UPLOAD_PATIENCE, json=body)

    def wait_ready(self, upload: Upload, timeout: float | None = None) -> Upload:
        """Wait until a model or dataset has been inspected, and return it as it is then.

        Raises `InputRejected` with the service's reason, `TimedOut` after `timeout` seconds.
        """
        started = monotonic()
        pause = 0.05
        while True:
            if upload["state"] == "ready":
                return upload
            if upload["state"] == "rejected":
                error = upload["error"]
                raise InputRejected(
                    error["detail"] if error else f"{upload['id']} was rejected.",
                    code=error["code"] if error else None,
                    document=dict(upload),
                )
            if timeout is not None and monotonic() - started + pause > timeout:
                raise TimedOut(f"{upload['id']} is still being inspected after {timeout:g} s.")
            sleep(pause)
            pause = min(pause * 1.5, 1.0)
            upload = self._http.json("GET", _path(upload["id"]), backoff=PATIENT)

    def model(self, model_id: str) -> Model:
        """One model."""
        return cast(Model, self._get(model_id, "mdl"))

    def models(self, **filters: str) -> Iterator[Model]:
        """Every model, newest first, fetched page by page; `filters` are the list's query parameters."""
        return self._pages("models", filters)

    def dataset(self, dataset_id: str) -> Dataset:
        """One dataset."""
        return cast(Dataset, self._get(dataset_id, "dst"))

    def datasets(self, **filters: str) -> Iterator[Dataset]:
        """Every dataset, newest first, fetched page by page."""
        return self._pages("datasets", filters)

    # Jobs

    @overload
    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job: ...
    @overload
    def submit(self, *, idempotency_key: str | None = None, **fields: Unpack[JobSpec]) -> Job: ...

    def submit(
        self, spec: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Create a job from its specification, given whole or as keywords, which win.

        One key is made a call and goes along with each of its tries, so however often the network
        fails there is one job. Who calls again after a crash of their own passes the key.
        """
        key = idempotency_key or str(uuid.uuid4())
        body = {**(spec or {}), **fields}
        return cast(
            Job,
            self._http.json("POST", "/v1/jobs", repeatable=True, headers={"Idempotency-Key": key}, json=body),
        )

    def validate(self, spec: Mapping[str, Any] | None = None, **fields: Any) -> Validation:
        """Ask what a job would do, what is wrong with it and what is doubtful; creates nothing."""
        body = {**(spec or {}), **fields}
        return cast(Validation, self._http.json("POST", "/v1/jobs/validate", repeatable=True, json=body))

    def job(self, job_id: str) -> Job:
        """One job as it is now."""
        return cast(Job, self._get(job_id, "job"))

    def jobs(self, **filters: str) -> Iterator[Job]:
        """Every job, newest first, fetched page by page; `state="running"` and the like choose among them."""
        return self._pages("jobs", filters)

    def wait(
        self, job: str | Job, timeout: float | None = None, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait for a job's end and return it, however it ended: look at `state`, `gate` and `error`.

        The service holds each request until something changes; `on_progress` is told the job each
        time. Raises `TimedOut` after `timeout` seconds; the job goes on.
        """
        job_id = job if isinstance(job, str) else job["id"]
        path = _path(job_id, "job")
        until = None if timeout is None else monotonic() + timeout
        etag: str | None = None
        while True:
            asked = monotonic()
            # The first question is answered at once; those after it name the answer that is known.
            hold = 0 if etag is None else _POLL_SECONDS
            if until is not None:
                hold = min(hold, max(0, math.ceil(until - asked)))
            response = self._http.send(
                "GET",
                path,
                params={"wait": hold} if hold else {},
                headers={} if etag is None else {"If-None-Match": etag},
                patience=hold,
                backoff=PATIENT,
                until=until,
            )
            if response.status_code != 304:
                now = cast(Job, decoded(response))
                if on_progress is not None:
                    on_progress(now)
                if now["state"] in _ENDED:
                    return now
            fresh = response.headers.get("etag")
            # A proxy that strips what makes the service wait must not turn this into a hot loop.
            heeded = fresh is not None and (fresh != etag or monotonic() - asked >= min(hold, 1))
            if until is not None and monotonic() >= until:
                raise TimedOut(f"{job_id} has not ended after {timeout:g} s; it goes on.")
            if not heeded:
                sleep(1.0)
            etag = fresh

    def cancel(self, job: str | Job) -> Job:
        """Cancel a job that has not ended; a running one is `cancelling` until its process is dead."""
        path = _path(job if isinstance(job, str) else job["id"], "job")
        try:
            return cast(Job, self._http.json("POST", f"{path}/cancel", repeatable=True))
        except ApiError as error:
            # The answer to an earlier try was lost on its way.
            if error.repeated and error.status == 409:
                now: Job = self._http.json("GET", path)
                if now["state"] == "cancelled":
                    return now
            raise

    def log(self, job_id: str) -> str:
        """What the job's process wrote."""
        return self._http.send("GET", f"{_path(job_id, 'job')}/log", headers={"Accept": "text/plain"}).text

    def report(self, job_id: str) -> dict[str, Any]:
        """The job's report, raw samples included."""
        return cast(dict[str, Any], self._http.json("GET", f"{_path(job_id, 'job')}/report"))

    def report_page(self, job_id: str) -> bytes:
        """The job's report as one HTML page with plots, which opens without network.

        Raises `ApiError` (404, `page_not_found`) where the report was not drawn.
        """
        response = self._http.send("GET", f"{_path(job_id, 'job')}/report", headers={"Accept": "text/html"})
        if not response.headers.get("content-type", "").startswith("text/html"):
            raise ApiError(404, "page_not_found", f"{self.url} draws no reports as pages: it may be an older service.")
        return response.content

    def frontier(
        self,
        model_id: str,
        *,
        target: str | None = None,
        minimize: str | None = None,
        constraints: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Every measured variant of a model, those that no other beats marked, and the best under constraints.

        A constraint reads `top1>=0.9`, `latency_p50<=5` or `max_drop:top1<=0.01`.
        """
        given = {"target": target, "minimize": minimize, "constraint": list(constraints)}
        params = {name: value for name, value in given.items() if value}
        return cast(dict[str, Any], self._http.json("GET", f"{_path(model_id, 'mdl')}/frontier", params=params))

    def compare(self, *ids: str) -> dict[str, Any]:
        """Artifacts and models side by side; the first is what the others are compared with."""
        for each in ids:
            _path(each, "art", "mdl")
        return cast(dict[str, Any], self._http.json("GET", "/v1/comparison", params={"of": list(ids)}))

    # Artifacts

    def artifact(self, artifact_id: str) -> Artifact:
        """What is known of one artifact."""
        return cast(Artifact, self._get(artifact_id, "art"))

    def manifest(self, artifact_id: str) -> dict[str, Any]:
        """Model, data, recipe, versions, target, measurements and digests behind an artifact."""
        return cast(dict[str, Any], self._http.json("GET", f"{_path(artifact_id, 'art')}/manifest"))

    def download(
        self,
        content: str | Artifact | Model,
        path: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Download an artifact or a model to a file, or into a folder under its own name; returns the file.

        A cut connection is taken up where it broke. Size and SHA-256 are checked before the file takes
        its place: it is whole or not there. Raises `IntegrityError`.
        """
        place = _path(content if isinstance(content, str) else content["id"], "art", "mdl")
        known = self._http.json("GET", place)
        target = Path(path)
        if target.is_dir():
            target = target / _file_name(known)
        download(
            self._http,
            f"{place}/content",
            target,
            size=known["bytes"],
            sha256=known["sha256"],
            progress=on_progress,
        )
        return target

    def delete(self, thing: str | Model | Dataset | Job | Artifact) -> None:
        """Delete a model, dataset, job or artifact. Raises `ApiError` (409) where something still uses it."""
        try:
            self._http.send("DELETE", _path(thing if isinstance(thing, str) else thing["id"]))
        except ApiError as error:
            if not (error.repeated and error.status == 404):
                raise

    # The catalogue

    def targets(self) -> list[Target]:
        """The machine classes that jobs can name, and whether a worker of each is alive."""
        return list(self._pages("targets", {}))

    def techniques(self) -> list[CatalogueEntry]:
        """What can be done to a model, with the JSON Schema of each technique's options."""
        return list(self._pages("techniques", {}))

    def metrics(self) -> list[CatalogueEntry]:
        """What can be measured of a model's outputs."""
        return list(self._pages("metrics", {}))

    def _get(self, thing_id: str, kind: str) -> Any:
        return self._http.json("GET", _path(thing_id, kind))

    def _pages(self, place: str, filters: Mapping[str, str]) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            params = {**filters} if cursor is None else {**filters, "cursor": cursor}
            page = self._http.json("GET", f"/v1/{place}", params=params)
            yield from page["items"]
            following = page.get("next_cursor")
            if following is None or following == cursor:
                return
            cursor = following


def _path(thing_id: str, *kinds: str) -> str:
    """Where a thing lives, by the prefix of its id. Raises `ValueError` for an id of another kind."""
    kind = thing_id.partition("_")[0]
    if kind not in (kinds or _PLACES) or not re.fullmatch(r"[a-z]+_\w+", thing_id, re.ASCII):
        wanted = " or ".join(f"{each}_…" for each in kinds or _PLACES)
        raise ValueError(f"{thing_id!r} is not an id of the form {wanted}")
    return f"/v1/{_PLACES[kind]}/{thing_id}"


def _file_name(known: Mapping[str, Any]) -> str:
    """A name for content, none that climbs out of the folder it is meant for."""
    name = re.split(r"[/\\]", str(known.get("file_name") or known.get("name") or ""))[-1]
    return name if name.strip(". ") else f"{known['id']}.onnx"
