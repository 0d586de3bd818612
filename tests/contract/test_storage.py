"""What every object store must do, and what none may do when its disk, server or network fails."""

import asyncio
import hashlib
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import obstore
import pytest

from app.errors import (
    BitpressError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RangeNotSatisfiable,
    StorageFull,
    Unavailable,
)
from app.storage.failures import translation
from app.storage.opening import S3Options, open_source, open_store
from app.storage.store import BLOCK_BYTES, MiB, ObjectStore, StoredObject
from tests.parts.proxy import Fault, Proxy
from tests.parts.seaweedfs import S3Server, start_seaweedfs

# Larger than one part of any store, so that it goes up as several.
LARGE = 11 * MiB + 12345


async def in_chunks(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for first in range(0, len(content), size):
        yield content[first : first + size]


def put(store: ObjectStore, location: str, content: bytes, **options: int) -> StoredObject:
    return asyncio.run(store.put_stream(location, in_chunks(content), **options))


def get(store: ObjectStore, location: str, start: int = 0, end: int | None = None) -> bytes:
    async def collect() -> bytes:
        return b"".join([block async for block in await store.stream(location, start, end)])

    return asyncio.run(collect())


class StoreContract:
    """Inherited by one class for each kind of store, which gives `store`."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    @pytest.fixture
    def remains(self, store: ObjectStore) -> Callable[[], list[str]]:
        """Lists everything in the store, finished or not."""
        return lambda: [each.location for each in store.list()]

    @pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 8 * MiB, LARGE])
    def test_what_is_stored_comes_back(self, store: ObjectStore, size: int) -> None:
        content = secrets.token_bytes(size)
        stored = put(store, "models/one", content)
        assert stored == StoredObject(size, hashlib.sha256(content).hexdigest())
        assert get(store, "models/one") == content
        assert store.size("models/one") == size

    def test_chunks_of_any_size_make_one_object(self, store: ObjectStore) -> None:
        async def uneven() -> AsyncIterator[bytes]:
            for size in (0, 1, 3 * MiB, 0, 7, 10 * MiB, 1):
                yield b"x" * size

        stored = asyncio.run(store.put_stream("one", uneven()))
        assert stored.bytes == 13 * MiB + 9
        assert get(store, "one") == b"x" * stored.bytes

    def test_a_range_comes_back(self, store: ObjectStore) -> None:
        content = secrets.token_bytes(LARGE)
        put(store, "one", content)
        bounds = [(0, 1), (5, None), (MiB - 1, MiB + 1), (LARGE - 1, LARGE), (7, LARGE + 99), (3, 3)]
        for start, end in bounds:
            assert get(store, "one", start, end) == content[start:end], (start, end)

    def test_a_range_outside_is_refused_with_the_size(self, store: ObjectStore) -> None:
        put(store, "one", b"0123456789")
        for start, end in ((10, None), (11, 12), (99, 99)):
            with pytest.raises(RangeNotSatisfiable) as refused:
                get(store, "one", start, end)
            assert refused.value.content_bytes == 10

    def test_a_missing_object_is_not_found_before_its_first_byte(self, store: ObjectStore, tmp_path: Path) -> None:
        async def open_it(*bounds: int) -> None:
            await store.stream("missing", *bounds)

        for bounds in ((), (5,), (0, 0), (3, 9)):
            with pytest.raises(NotFound):
                asyncio.run(open_it(*bounds))
        with pytest.raises(NotFound):
            store.size("missing")
        with pytest.raises(NotFound):
            store.read("missing", 10)
        with pytest.raises(NotFound):
            store.fetch_file("missing", tmp_path / "file")
        assert not (tmp_path / "file").exists()
        assert not store.exists("missing")

    def test_deleting_twice_is_the_same_as_once(self, store: ObjectStore) -> None:
        store.write("one", b"1")
        assert store.exists("one")
        store.delete("one")
        store.delete("one")
        assert not store.exists("one")

    def test_files_go_up_and_come_down(self, store: ObjectStore, tmp_path: Path) -> None:
        content = secrets.token_bytes(LARGE)
        sha256 = hashlib.sha256(content).hexdigest()
        (tmp_path / "up").write_bytes(content)
        assert store.put_file("one", tmp_path / "up") == StoredObject(LARGE, sha256)
        assert store.fetch_file("one", tmp_path / "down", size=LARGE, sha256=sha256) == StoredObject(LARGE, sha256)
        assert (tmp_path / "down").read_bytes() == content

    @pytest.mark.parametrize("promise", [{"size": 5}, {"sha256": "0" * 64}, {"size": 4, "sha256": "0" * 64}])
    def test_damaged_bytes_are_not_handed_out(
        self, store: ObjectStore, tmp_path: Path, promise: dict[str, int | str]
    ) -> None:
        store.write("one", b"good")
        with pytest.raises(Unavailable) as refused:
            store.fetch_file("one", tmp_path / "file", **promise)  # type: ignore[arg-type]
        assert (refused.value.code, refused.value.retryable) == ("object_damaged", False)
        assert not (tmp_path / "file").exists()

    def test_a_fetched_file_never_replaces_or_follows_another(self, store: ObjectStore, tmp_path: Path) -> None:
        store.write("one", b"good")
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError):
            store.fetch_file("one", tmp_path / "link")
        assert not (tmp_path / "elsewhere").exists()

    def test_a_small_object_is_read_only_while_it_is_small(self, store: ObjectStore) -> None:
        store.write("one", b"0123456789")
        assert store.read("one", 10) == b"0123456789"
        with pytest.raises(PayloadTooLarge):
            store.read("one", 9)

    def test_listing_shows_what_is_below_a_prefix(self, store: ObjectStore) -> None:
        for location in ("a/1", "a/b/2", "ab/3"):
            store.write(location, b"xy")
        found = {each.location: each for each in store.list("a")}
        assert sorted(found) == ["a/1", "a/b/2"]
        assert found["a/1"].bytes == 2
        assert abs(found["a/1"].modified.timestamp() - time.time()) < 60

    def test_a_check_leaves_nothing(self, store: ObjectStore, remains: Callable[[], list[str]]) -> None:
        store.check()
        assert remains() == []

    @pytest.mark.parametrize("location", ["../out", "a/../../out", "a//b", "a\nb"])
    def test_no_location_leads_outside(self, store: ObjectStore, location: str) -> None:
        with pytest.raises(ValueError, match="path"):
            store.write(location, b"1")
        with pytest.raises(ValueError, match="path"):
            put(store, location, b"1")

    # What ends early leaves nothing

    @pytest.mark.parametrize("sent", [10, LARGE])
    def test_an_upload_that_breaks_off_leaves_nothing(
        self, store: ObjectStore, remains: Callable[[], list[str]], sent: int
    ) -> None:
        async def cut_off() -> AsyncIterator[bytes]:
            async for chunk in in_chunks(b"x" * sent):
                yield chunk
            raise ConnectionResetError("the caller is gone")

        with pytest.raises(ConnectionResetError, match="the caller is gone"):
            asyncio.run(store.put_stream("one", cut_off()))
        assert remains() == []

    @pytest.mark.parametrize("limit", [0, 100, 9 * MiB, LARGE - 1])
    def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(
        self, store: ObjectStore, remains: Callable[[], list[str]], limit: int
    ) -> None:
        with pytest.raises(PayloadTooLarge):
            put(store, "one", b"x" * LARGE, max_bytes=limit)
        assert remains() == []

    def test_an_upload_at_the_limit_is_accepted(self, store: ObjectStore) -> None:
        assert put(store, "one", b"x" * LARGE, max_bytes=LARGE).bytes == LARGE

    @pytest.mark.parametrize("sent", [10, LARGE])
    def test_a_cancelled_upload_leaves_nothing(
        self, store: ObjectStore, remains: Callable[[], list[str]], sent: int
    ) -> None:
        async def cancel_it() -> None:
            waiting = asyncio.Event()

            async def endless() -> AsyncIterator[bytes]:
                async for chunk in in_chunks(b"x" * sent):
                    yield chunk
                waiting.set()
                await asyncio.Event().wait()

            upload = asyncio.create_task(store.put_stream("one", endless()))
            await waiting.wait()
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            await store.aclose()

        asyncio.run(cancel_it())
        assert remains() == []

    def test_an_upload_cancelled_at_any_moment_is_whole_or_gone(
        self, store: ObjectStore, remains: Callable[[], list[str]]
    ) -> None:
        content = secrets.token_bytes(LARGE)

        async def cancel_after(seconds: float, insistently: bool) -> bool:
            upload = asyncio.create_task(store.put_stream("one", in_chunks(content, MiB)))
            await asyncio.wait([upload], timeout=seconds)
            upload.cancel()
            while insistently and not upload.done():
                # As a cancelled scope of anyio does: again and again, until the task has ended.
                await asyncio.sleep(0)
                upload.cancel()
            await asyncio.wait([upload])
            await store.aclose()
            return upload.cancelled()

        cancelled = 0
        seconds = 0.0
        for trial in range(200):
            if not asyncio.run(cancel_after(seconds, insistently=trial % 2 == 0)):
                break
            cancelled += 1
            assert remains() == [], f"cancelled after {seconds} s"
            seconds = seconds * 1.5 + 0.001
        assert cancelled > 3
        assert get(store, "one") == content


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return open_store("memory://")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Make `folder` a file system of 4 MiB; without the right to mount one, no file may be larger."""
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount is not None and (
        subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode == 0
    )
    if mounted:
        try:
            yield
        finally:
            subprocess.run(["umount", folder], check=True)
    else:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MiB, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFolder(StoreContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "a folder of objects#1"

    @pytest.fixture
    def store(self, folder: Path) -> ObjectStore:
        return open_store(folder.as_uri())

    @pytest.fixture
    def remains(self, store: ObjectStore, folder: Path) -> Callable[[], list[str]]:
        return lambda: [str(path) for path in folder.rglob("*") if path.is_file()]

    def test_only_the_owner_can_enter(self, store: ObjectStore, folder: Path) -> None:
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_a_full_disk_is_named_and_nothing_is_left(self, tmp_path: Path) -> None:
        folder = tmp_path / "small"
        (tmp_path / "large").write_bytes(b"x" * LARGE)
        with small_disk(folder):
            store = open_store(folder.as_uri())
            attempts: list[Callable[[], object]] = [
                lambda: put(store, "one", b"x" * LARGE),
                lambda: put(store, "two", b"x" * (5 * MiB)),
                lambda: store.put_file("three", tmp_path / "large"),
                lambda: store.write("four", b"x" * LARGE),
            ]
            for attempt in attempts:
                with pytest.raises(StorageFull) as refused:
                    attempt()
                assert (refused.value.code, refused.value.retryable) == ("storage_full", True)
                assert [path for path in folder.rglob("*") if path.is_file()] == []
            put(store, "five", b"x" * MiB)
            assert get(store, "five") == b"x" * MiB

    def test_a_full_scratch_disk_is_named_and_nothing_is_left(self, store: ObjectStore, tmp_path: Path) -> None:
        store.write("one", b"x" * LARGE)
        with small_disk(tmp_path / "small"), pytest.raises(StorageFull):
            store.fetch_file("one", tmp_path / "small" / "file")
        assert not (tmp_path / "small" / "file").exists()

    def test_what_a_killed_process_left_is_discarded_when_it_is_old(self, store: ObjectStore, folder: Path) -> None:
        store.write("models/one", b"1")
        killed = """if True:
            import asyncio, os, sys
            from app.storage.opening import open_store
            async def chunks():
                for _ in range(9):
                    yield b"x" * (1 << 20)
                await asyncio.sleep(0.2)
                os.kill(os.getpid(), 9)
            asyncio.run(open_store(sys.argv[1]).put_stream("models/two", chunks()))
        """
        subprocess.run([sys.executable, "-c", killed, folder.as_uri()], check=False)
        assert [path.name for path in folder.rglob("two*")] == ["two#1"]
        assert [each.location for each in store.list()] == ["models/one"]
        assert store.discard_unfinished(timedelta(hours=1)) == 0
        assert store.discard_unfinished(timedelta(0)) == 1
        assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["one"]

    def test_a_folder_that_cannot_be_used_is_unavailable(self, store: ObjectStore, folder: Path) -> None:
        folder.rmdir()
        folder.write_text("a file in its place")
        with pytest.raises(Unavailable) as refused:
            store.check()
        assert refused.value.code == "storage_unavailable"


def s3_options(server: S3Server, **changes: object) -> S3Options:
    given: dict[str, object] = {
        "endpoint": server.endpoint,
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
        "region": server.region,
        "allow_http": True,
        **changes,
    }
    return S3Options(**given)  # type: ignore[arg-type]


class TestS3(StoreContract):
    @pytest.fixture
    def prefix(self) -> str:
        return "test-" + secrets.token_hex(4)

    @pytest.fixture
    def store(self, s3_server: S3Server, prefix: str) -> ObjectStore:
        return open_store(f"s3://{s3_server.bucket}/{prefix}", s3_options(s3_server))

    @pytest.fixture
    def proxied(self, s3_server: S3Server, s3_proxy: Proxy, prefix: str) -> ObjectStore:
        """The same store, reached through the proxy, and soon out of patience."""
        options = s3_options(s3_server, endpoint=s3_proxy.endpoint, timeout_seconds=2.0)
        return open_store(f"s3://{s3_server.bucket}/{prefix}", options)

    @pytest.fixture
    def remains(self, store: ObjectStore, s3_server: S3Server) -> Callable[[], list[str]]:
        # Tests that break the network for good leave uploads that nobody could abort.
        earlier = set(s3_server.unfinished_uploads())
        return lambda: [
            *(each.location for each in store.list()),
            *sorted(set(s3_server.unfinished_uploads()) - earlier),
        ]

    def test_a_prefix_is_a_store_of_its_own(self, store: ObjectStore, s3_server: S3Server, prefix: str) -> None:
        store.write("one", b"1")
        whole = open_store(f"s3://{s3_server.bucket}", s3_options(s3_server))
        assert whole.read(f"{prefix}/one", 1) == b"1"
        assert not whole.exists("one")

    def test_the_keys_given_are_the_keys_used(
        self, s3_server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, "of-somebody-else")
        open_store(f"s3://{s3_server.bucket}/{prefix}", s3_options(s3_server)).check()

    @pytest.mark.parametrize("wrong", [{"secret_access_key": "wrong"}, {"access_key_id": "unknown"}])
    def test_wrong_keys_are_refused_and_another_try_does_not_help(
        self, s3_server: S3Server, tmp_path: Path, wrong: dict[str, str]
    ) -> None:
        (tmp_path / "file").write_bytes(b"1")
        store = open_store(f"s3://{s3_server.bucket}", s3_options(s3_server, **wrong))
        attempts: list[Callable[[], object]] = [
            store.check,
            lambda: put(store, "one", b"1"),
            lambda: put(store, "one", b"x" * LARGE),
            lambda: get(store, "one"),
            lambda: store.put_file("one", tmp_path / "file"),
            lambda: store.exists("one"),
            lambda: store.delete("one"),
            lambda: list(store.list()),
        ]
        for attempt in attempts:
            with pytest.raises(Unavailable) as refused:
                attempt()
            assert (refused.value.code, refused.value.retryable) == ("storage_unavailable", False)

    def test_no_server_is_known_in_seconds(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x" * LARGE)
        nowhere = S3Options(
            endpoint="http://127.0.0.1:9", access_key_id="k", secret_access_key="s", allow_http=True
        )  # port 9: discard, never listening
        store = open_store("s3://bucket", nowhere)
        attempts: list[Callable[[], object]] = [
            store.check,
            lambda: put(store, "one", b"x" * LARGE),
            lambda: get(store, "one"),
            lambda: store.put_file("one", tmp_path / "file"),
            lambda: store.fetch_file("one", tmp_path / "down"),
            lambda: store.exists("one"),
        ]
        for attempt in attempts:
            started = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                attempt()
            assert (refused.value.code, refused.value.retryable) == ("storage_unavailable", True)
            assert time.monotonic() - started < 5
        assert not (tmp_path / "down").exists()

    def test_a_server_killed_in_the_middle_is_known_in_seconds(self, tmp_path: Path) -> None:
        with start_seaweedfs(tmp_path / "s3") as server:
            store = open_store(f"s3://{server.bucket}", s3_options(server))
            put(store, "one", b"x" * LARGE)

            async def upload() -> None:
                async def chunks() -> AsyncIterator[bytes]:
                    async for chunk in in_chunks(b"x" * LARGE, MiB):
                        yield chunk
                    server.kill()
                    async for chunk in in_chunks(b"x" * 2 * LARGE, MiB):
                        yield chunk

                await store.put_stream("two", chunks())

            started = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                asyncio.run(upload())
            assert (refused.value.code, refused.value.retryable) == ("storage_unavailable", True)
            assert time.monotonic() - started < 10
            with pytest.raises(Unavailable):
                get(store, "one")

    @pytest.mark.parametrize("after", [0, 6 * MiB])
    def test_an_upload_survives_a_connection_that_breaks(
        self, proxied: ObjectStore, s3_proxy: Proxy, remains: Callable[[], list[str]], after: int
    ) -> None:
        content = secrets.token_bytes(LARGE)
        s3_proxy.fault = Fault("cut", after_bytes=after)
        assert put(proxied, "one", content).sha256 == hashlib.sha256(content).hexdigest()
        assert s3_proxy.fault is None, "nothing was cut"
        assert get(proxied, "one") == content
        assert remains() == ["one"]

    @pytest.mark.parametrize("after", [0, 6 * MiB])
    def test_a_download_survives_a_connection_that_breaks(
        self, proxied: ObjectStore, s3_proxy: Proxy, after: int
    ) -> None:
        content = secrets.token_bytes(LARGE)
        put(proxied, "one", content)
        s3_proxy.fault = Fault("cut", after_bytes=after)
        assert get(proxied, "one") == content
        assert s3_proxy.fault is None, "nothing was cut"

    def test_a_network_that_stays_broken_is_unavailable(
        self, proxied: ObjectStore, s3_proxy: Proxy, tmp_path: Path
    ) -> None:
        put(proxied, "one", b"x" * LARGE)
        attempts: list[Callable[[], object]] = [
            lambda: put(proxied, "two", b"x" * LARGE),
            lambda: get(proxied, "one"),
            lambda: proxied.fetch_file("one", tmp_path / "file"),
        ]
        for attempt in attempts:
            s3_proxy.fault = Fault("cut", after_bytes=6 * MiB, for_good=True)
            with pytest.raises(Unavailable):
                attempt()
        assert not (tmp_path / "file").exists()

    def test_a_server_that_falls_silent_is_known_in_seconds(self, proxied: ObjectStore, s3_proxy: Proxy) -> None:
        put(proxied, "one", b"x" * LARGE)
        attempts: list[Callable[[], object]] = [
            lambda: put(proxied, "two", b"x" * LARGE),
            lambda: get(proxied, "one"),
            lambda: proxied.exists("one"),
        ]
        for attempt in attempts:
            s3_proxy.fault = Fault("stall", after_bytes=0 if attempt is attempts[-1] else 6 * MiB)
            started = time.monotonic()
            with pytest.raises(Unavailable):
                attempt()
            # The 2 s that it may be silent, twice where an upload is then aborted, and some air.
            assert time.monotonic() - started < 12

    def test_an_upload_broken_for_good_is_aborted_when_the_server_is_back(
        self, proxied: ObjectStore, s3_proxy: Proxy, remains: Callable[[], list[str]]
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in in_chunks(b"x" * LARGE):
                yield chunk
            s3_proxy.fault = Fault("stall")
            await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_later(1.0, setattr, s3_proxy, "fault", None)
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            asyncio.run(proxied.put_stream("one", chunks()))
        assert remains() == []

    def test_an_upload_cancelled_while_it_is_completed_is_taken_back(
        self, proxied: ObjectStore, s3_proxy: Proxy, remains: Callable[[], list[str]]
    ) -> None:
        async def cancel_it() -> None:
            # So few bytes are sent only when the upload is completed, and now that takes its time.
            s3_proxy.fault = Fault("delay", seconds=0.3)
            upload = asyncio.create_task(proxied.put_stream("one", in_chunks(b"1")))
            await asyncio.wait([upload], timeout=0.15)
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            s3_proxy.fault = None
            await proxied.aclose()

        asyncio.run(cancel_it())
        time.sleep(1)  # for what may still be on its way
        assert remains() == []

    def test_a_slow_server_is_waited_for(self, proxied: ObjectStore, s3_proxy: Proxy) -> None:
        s3_proxy.fault = Fault("delay", seconds=0.2)
        assert put(proxied, "one", b"x" * 100_000).bytes == 100_000
        assert get(proxied, "one") == b"x" * 100_000

    @pytest.mark.parametrize(
        ("status", "body", "expected"),
        [
            (507, "", StorageFull),
            (403, "<Error><Code>QuotaExceeded</Code></Error>", StorageFull),
            (404, "<Error><Code>NoSuchBucket</Code></Error>", Unavailable),
            (503, "<Error><Code>SlowDown</Code></Error>", Unavailable),
            (400, "<Error><Code>BadDigest</Code></Error>", Unavailable),
        ],
    )
    def test_a_refused_upload_is_named(self, status: int, body: str, expected: type[BitpressError]) -> None:
        class Refusing(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Refusing)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            store = open_store(
                "s3://bucket",
                S3Options(
                    endpoint=f"http://127.0.0.1:{server.server_port}",
                    access_key_id="k",
                    secret_access_key="s",
                    allow_http=True,
                ),
            )
            with pytest.raises(Unavailable) as refused:
                put(store, "one", b"1")
            assert type(refused.value) is expected
        finally:
            server.shutdown()
            server.server_close()

    # Sources that users name

    def test_a_source_is_read_from_an_allowed_bucket(
        self, store: ObjectStore, s3_server: S3Server, prefix: str
    ) -> None:
        content = secrets.token_bytes(LARGE)
        put(store, "a model?#%41.onnx", content)
        url = f"s3://{s3_server.bucket}/{prefix}/a model?#%41.onnx"
        source = open_source(url, [s3_server.bucket], s3_options(s3_server))
        assert get(source.store, source.location) == content

    def test_a_source_that_is_not_there_is_not_found(self, s3_server: S3Server) -> None:
        source = open_source(f"s3://{s3_server.bucket}/no/such", [s3_server.bucket], s3_options(s3_server))
        with pytest.raises(NotFound):
            get(source.store, source.location)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_memory_does_not_grow_with_the_upload(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In a process of its own: the highest resident memory over 192 MiB up and down, above that before."""
    url, key, secret, endpoint = (tmp_path / "objects").as_uri(), "", "", ""
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        url, endpoint = f"s3://{server.bucket}/memory", server.endpoint
        key, secret = server.access_key_id, server.secret_access_key
    program = """if True:
        import asyncio, sys
        from pathlib import Path
        from app.storage.opening import S3Options, open_store
        url, key, secret, endpoint = sys.argv[1:]
        s3 = S3Options(endpoint=endpoint, access_key_id=key, secret_access_key=secret, allow_http=True)
        store = open_store(url, s3 if key else None)
        async def chunks(mib):
            for _ in range(mib * 16):
                yield bytes(65536)
        def high():
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        async def main():
            await store.put_stream("warm", chunks(1))
            Path("/proc/self/clear_refs").write_text("5")
            before = high()
            await store.put_stream("large", chunks(192))
            async for _ in await store.stream("large"):
                pass
            print(high() - before)
        asyncio.run(main())
    """
    arguments = [sys.executable, "-c", program, url, key, secret, endpoint]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 64


def test_no_foreign_error_stays_foreign() -> None:
    """Every exception class of obstore, present or future, and those of Python that it raises."""
    foreign = [each for each in vars(obstore.exceptions).values() if isinstance(each, type)]
    assert len(foreign) > 8
    for kind in (*foreign, OSError, FileNotFoundError, PermissionError, NotImplementedError, RuntimeError):
        for writing in (False, True):
            assert isinstance(translation(kind("text"), writing=writing), NotFound | Unavailable)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), StorageFull),
        (OSError(122, "Disk quota exceeded"), StorageFull),
        (OSError("Generic LocalFileSystem error: No space left on device (os error 28)"), StorageFull),
        (OSError("Generic LocalFileSystem error: Permission denied (os error 13)"), Unavailable),
        (FileNotFoundError("Object at location a not found"), NotFound),
        (FileNotFoundError("NoSuchBucket: a"), Unavailable),
    ],
)
def test_an_error_becomes_what_it_means(error: Exception, expected: type[BitpressError]) -> None:
    assert type(translation(error)) is expected


@pytest.mark.parametrize("url", ["", "objects", "http://host/x", "file:relative", "file://other/x", "s3://", "s3:///x"])
def test_other_addresses_are_no_store(url: str) -> None:
    with pytest.raises(ValueError, match="Not the address of an object store"):
        open_store(url)


def test_unencrypted_s3_has_to_be_allowed() -> None:
    with pytest.raises(ValueError, match="not encrypted"):
        open_store("s3://bucket", S3Options(endpoint="http://s3"))


def test_half_a_key_is_no_key() -> None:
    with pytest.raises(ValueError, match="belong together"):
        open_store("s3://bucket", S3Options(access_key_id="k"))


def test_the_secret_is_not_shown() -> None:
    assert "hush" not in repr(S3Options(access_key_id="k", secret_access_key="hush"))


@pytest.mark.parametrize(
    ("url", "error", "code"),
    [
        ("", InvalidRequest, "source_invalid"),
        ("model.onnx", InvalidRequest, "source_invalid"),
        ("s3://", InvalidRequest, "source_invalid"),
        ("s3://good", InvalidRequest, "source_invalid"),
        ("s3://good/", InvalidRequest, "source_invalid"),
        ("s3://good/folder/", InvalidRequest, "source_invalid"),
        ("s3://good/../other/key", InvalidRequest, "source_invalid"),
        ("s3://good/a//b", InvalidRequest, "source_invalid"),
        ("s3://good/a\nb", InvalidRequest, "source_invalid"),
        ("s3://other/key", Forbidden, "source_not_allowed"),
        ("s3://good@other/key", Forbidden, "source_not_allowed"),
        ("https://good/key", Forbidden, "source_not_allowed"),
        ("file:///etc/passwd", Forbidden, "source_not_allowed"),
        ("S3://good/key", Forbidden, "source_not_allowed"),
    ],
)
def test_other_sources_are_refused(url: str, error: type[BitpressError], code: str) -> None:
    with pytest.raises(error) as refused:
        open_source(url, ["good"])
    assert refused.value.code == code
    if error is InvalidRequest:
        assert refused.value.errors[0].pointer == "/source"
