"""HTTP for the browser: bounded in bytes, time and redirects, and kept off the machine's own networks.

Needs httpx (the extra `tools`), so that it is imported only where something is fetched.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from .backend import BrowserError

USER_AGENT = "gptoss-mlx (a language model's browser)"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    max_bytes: int
    timeout: float
    """Seconds from the first look-up to the last byte, redirects included."""
    max_redirects: int = 0


@dataclass(frozen=True)
class Request:
    """What is asked of a server."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] | None = None
    json: Any = None


@dataclass(frozen=True)
class Answer:
    """What a server answered, after redirects and decompression."""

    url: str
    status: int
    media_type: str
    charset: str | None
    body: bytes
    cut: bool
    """Whether the body was longer than the limit."""


async def ask(
    request: Request,
    limits: Limits,
    *,
    guarded: bool,
    accepts: Callable[[str], bool] | None = None,
) -> Answer:
    """Send a request and read the answer, up to the limits.

    Args:
        request: what to ask.
        limits: see there.
        guarded: whether only public addresses may be reached.
        accepts: whether a media type is worth reading; another one's body is left unread. None reads all.

    Raises:
        BrowserError: it cannot be sent, nothing comes back in time, or the server may not be asked.
    """
    try:
        return await asyncio.wait_for(_ask(request, limits, guarded, accepts), limits.timeout)
    except (asyncio.TimeoutError, httpx.TimeoutException):
        reason = f"no complete answer within {limits.timeout:g} s"
    except httpx.TooManyRedirects:
        reason = f"more than {limits.max_redirects} redirects"
    except httpx.UnsupportedProtocol:
        reason = "an address that begins with http:// or https:// expected"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
    raise BrowserError(f"{request.url}: {reason}")


async def _ask(request: Request, limits: Limits, guarded: bool, accepts: Callable[[str], bool] | None) -> Answer:
    client = httpx.AsyncClient(
        transport=PinnedTransport(guarded=guarded),
        timeout=limits.timeout,
        follow_redirects=limits.max_redirects > 0,
        max_redirects=limits.max_redirects,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
        trust_env=False,
    )
    async with (
        client,
        client.stream(
            request.method, request.url, headers=request.headers, params=request.params, json=request.json
        ) as response,
    ):
        content_type = response.headers.get("content-type", "text/plain")
        media_type = content_type.partition(";")[0].strip().lower()
        body, cut = b"", False
        if accepts is None or accepts(media_type):
            body, cut = await _read(response, limits.max_bytes)
        return Answer(str(response.url), response.status_code, media_type, response.charset_encoding, body, cut)


async def _read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """The first `limit` bytes of a body, and whether there are more; a small body cannot unpack into a huge one."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise BrowserError(f"{response.url}: packed as {encoding!r}, which was not asked for")
    unpack = None if encoding == "identity" else zlib.decompressobj(16 + zlib.MAX_WBITS)
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk if unpack is None else unpack.decompress(chunk, limit + 1 - len(body))
            if len(body) > limit:
                return bytes(body[:limit]), True
    except zlib.error:
        raise BrowserError(f"{response.url}: the server's gzip data is damaged") from None
    return bytes(body), False


class PinnedTransport(httpx.AsyncBaseTransport):
    """Looks a name up once, and connects to what was found and checked: a second look-up could tell otherwise.

    Each redirect comes through here again. Connections are not kept: they are pooled by address, and one address may
    serve several names.
    """

    def __init__(self, *, guarded: bool) -> None:
        self._guarded = guarded
        self._inner: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(
            verify=_certificates(), limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first address of its host that can be reached."""
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{url.scheme}: not HTTP", request=request)
        host = url.raw_host.decode("ascii")
        failure: httpx.TransportError = httpx.ConnectError(f"{host} has no address", request=request)
        for address in await self._addresses(host, url.port or {"http": 80, "https": 443}[url.scheme]):
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _addresses(self, host: str, port: int) -> list[str]:
        addresses = await resolve(host, port)
        if self._guarded and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
            raise BrowserError(f"{host}: leads to a private or reserved address, which the browser may not reach")
        return addresses


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # kept: it takes 0.1 s


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, each once, in the order in which they should be tried."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise BrowserError(f"{host}: no such host, or no network") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: Address) -> bool:
    """Whether an address, and the IPv4 address that it may carry, belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried:
            return is_public(carried)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
