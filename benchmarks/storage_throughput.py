"""Uploads and downloads through our object store beside obstore's own, on a folder and on S3.

    python -m benchmarks.storage_throughput [--mib 600] [--rounds 5] [--stores folder s3]

obstore's own upload is `put_async` of a file, its own download the stream of `get_async`, both as they
come. Ours is fed chunks of 64 KiB, as an HTTP server hands them on, and hashes them. The two take turns
in one process; a rate is the median of its rounds. Memory is the highest resident size of a fresh
process above what it had before, over one upload and one download.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import obstore

from app.storage.opening import S3Options, open_store
from app.storage.store import ObjectStore
from tests.parts.seaweedfs import S3Server, start_seaweedfs

MiB = 1 << 20
CHUNK = 64 * 1024

# A store's address and how to reach it, for the processes that open it anew.
Address = tuple[str, S3Options | None]


async def chunks(size: int) -> AsyncIterator[bytes]:
    chunk = os.urandom(CHUNK)
    for _ in range(size // CHUNK):
        yield chunk


@dataclass(frozen=True)
class Source:
    """A file to upload, and how many bytes it has."""

    path: Path
    size: int


async def put_own(store: ObjectStore, source: Source) -> None:
    await obstore.put_async(store._backend, "own", source.path)


async def put_ours(store: ObjectStore, source: Source) -> None:
    await store.put_stream("ours", chunks(source.size))


async def get_own(store: ObjectStore, source: Source) -> None:
    async for _ in (await obstore.get_async(store._backend, "own")).stream():
        pass


async def get_ours(store: ObjectStore, source: Source) -> None:
    async for _ in await store.stream("own"):
        pass


CALLS: dict[str, Callable[[ObjectStore, Source], Awaitable[None]]] = {
    "put, obstore": put_own,
    "put, ours": put_ours,
    "get, obstore": get_own,
    "get, ours": get_ours,
}


async def rates(store: ObjectStore, source: Source, rounds: int) -> dict[str, float]:
    """Median rate of each call in MiB/s, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in CALLS}
    for number in range(rounds + 1):
        # The order is turned round each time, so that none is always the one after a flush.
        for name in sorted(CALLS, reverse=number % 2 == 1):
            if number == 0 and name.startswith("get"):
                await put_own(store, source)
            started = time.perf_counter()
            await CALLS[name](store, source)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: source.size / MiB / statistics.median(each) for name, each in seconds.items()}


def growth(address: Address, name: str, source: Source) -> float:
    """Highest resident memory in MiB during one call, above that before it, in this fresh process."""

    def highest() -> float:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

    async def warm_up() -> None:
        await open_store(*address).put_stream("warm", chunks(MiB))

    async def call() -> None:
        await CALLS[name](open_store(*address), source)

    asyncio.run(warm_up())
    Path("/proc/self/clear_refs").write_text("5")
    before = highest()
    asyncio.run(call())
    return highest() - before


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of the object store beside obstore's own.")
    parser.add_argument("--mib", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stores", nargs="+", choices=["folder", "s3"], default=["folder", "s3"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Source(folder / "source", options.mib * MiB)
        with source.path.open("wb") as file:
            for _ in range(options.mib):
                file.write(os.urandom(MiB))
        print(
            f"{options.mib} MiB, median of {options.rounds} rounds, on {os.cpu_count()} cores with a load of", end=" "
        )
        print(f"{os.getloadavg()[0]:.1f}")
        print(f"{'':24}{'MiB/s':>8}{'of own':>8}{'memory':>12}")
        if "folder" in options.stores:
            report("folder", ((folder / "objects").as_uri(), None), source, options.rounds)
        if "s3" in options.stores:
            with start_seaweedfs(folder / "s3") as server:
                report("s3", address_of(server), source, options.rounds)


def address_of(server: S3Server) -> Address:
    return f"s3://{server.bucket}", S3Options(
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        allow_http=True,
    )


def report(kind: str, address: Address, source: Source, rounds: int) -> None:
    found = asyncio.run(rates(open_store(*address), source, rounds))
    # Not forked: obstore's threads do not survive that.
    fresh = multiprocessing.get_context("spawn")
    for name, rate in found.items():
        own = found[name.split(",")[0] + ", obstore"]
        with fresh.Pool(1) as pool:
            memory = pool.apply(growth, (address, name, source))
        print(f"{kind + ' ' + name:24}{rate:8.0f}{rate / own:8.0%}{memory:8.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
