"""One server with the embedded model for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serving import demo_backend, served


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """The address of a server with the embedded model, which runs four sequences at once."""
    with served({"demo": demo_backend(max_sequences=4)}) as url:
        yield url


@pytest.fixture(scope="session")
def demo(demo_url: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=demo_url, timeout=60) as client:
        yield client
