"""How a server behaves, apart from its models."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gptoss_mlx.errors import RequestError


@dataclass(frozen=True)
class Settings:
    """What an operator may set.

    Raises:
        RequestError: a number is out of its range.
    """

    api_key: str | None = None
    """What clients must show; None: nothing."""
    cors: tuple[str, ...] = ()
    """Origins of web pages that may ask; none by default."""
    max_body: int = 16 << 20
    """Bytes of a request at most."""
    max_choices: int = 16
    """Choices (`n`) of one request at most."""
    ping_seconds: float = 15.0
    """After so long without an event a stream gets a comment, so that proxies keep the connection."""
    idle_unload: float | None = None
    """Seconds without a request after which a model's weights are let go; None: never."""
    log_content: bool = False
    """Whether the log holds the bodies of requests."""

    def __post_init__(self) -> None:
        for name, value in (
            ("max_body", self.max_body),
            ("max_choices", self.max_choices),
            ("ping_seconds", self.ping_seconds),
            ("idle_unload", self.idle_unload),
        ):
            if value is not None and value <= 0:
                raise RequestError(f"{name}: more than 0 expected, {value} found")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise RequestError("api_key: printable ASCII characters expected, something else found")


def check_exposure(host: str, api_key: str | None, *, insecure: bool) -> None:
    """Refuse to serve other machines without a key, unless that is what the operator wants.

    Raises:
        RequestError: `host` is no loopback address, and there is no key.
    """
    if api_key is None and not insecure and not _is_loopback(host):
        raise RequestError(f"host: {host} is open to other machines; give --api-key KEY, or --insecure to do without")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
