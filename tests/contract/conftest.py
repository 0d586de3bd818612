"""The real parts that the contract tests stand on."""

from collections.abc import Iterator

import pytest

from tests.parts.proxy import Proxy, proxy_before
from tests.parts.seaweedfs import S3Server, start_seaweedfs


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that the tests share; whoever breaks one starts his own."""
    with start_seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_proxy(s3_server: S3Server) -> Iterator[Proxy]:
    """A proxy before the S3 server that can delay, cut and stall."""
    with proxy_before(s3_server.endpoint) as proxy:
        yield proxy
