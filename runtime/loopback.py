"""Servers on this machine's loopback, and nowhere else: no proxy, no redirect that leads away."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, build_opener

from reader_theory.errors import require

__all__ = ["loopback_opener"]

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class _Stays(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """No request: the answer that redirects is an error."""


def loopback_opener(url: str, example: str) -> OpenerDirector:
    """What opens `url`.

    Raises
    ------
    InvalidInputError
        If the address is not http on loopback.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not close
        fine = False
    require(
        fine,
        "`url` must be http on this machine's loopback",
        got=repr(url[:200]),
        fix=f"Run the server here, or forward its port: {example}.",
    )
    return build_opener(ProxyHandler({}), _Stays())
