"""What several benchmarks need of a running server."""

import socket
import time

import httpx


def free_port() -> int:
    """A loopback port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_it_answers(url: str, seconds: float = 30.0) -> None:
    """Wait for a good answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(url)
        time.sleep(0.02)
