"""Who may see the page: browsers on this machine, or everyone who knows the token.

Protection against other sites in the user's browser: without a token, `Host` must name this machine (DNS rebinding),
and `Origin` must be our own page for every request that changes or shows something (cross-site requests).
"""

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from aiohttp import web

from graph import ConfigError, is_loopback

LEAST_TOKEN = 12
"""Minimum length of a token; 12 random letters and digits are 71 bits, too many to guess over a network."""


class Access:
    """The rules for one server. Raises ConfigError for a host open to others without a token, or a short token."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.token = token
        self.cookie = f"facegraph-{port}"  # browsers share cookies between the ports of a host
        if token and len(token) < LEAST_TOKEN:
            raise ConfigError(f"token has {len(token)} characters, expected at least {LEAST_TOKEN}")
        if not token and not is_loopback(host):
            raise ConfigError(
                f"host {host!r} is open to others, and needs a token: set the environment variable "
                f"FACEGRAPH_WEB_TOKEN, or the setting token, for instance to {secrets.token_urlsafe(16)}; "
                "or use 127.0.0.1 and ssh -L"
            )

    @property
    def cookie_value(self) -> str:
        """The cookie of a browser that has given the token; it is the same after a restart."""
        return hmac.new(self.token.encode(), b"facegraph web page", hashlib.sha256).hexdigest()

    def is_allowed(self, request: web.Request) -> bool:
        """Return whether a request comes from someone who may see the page."""
        given = request.cookies.get(self.cookie, "")
        return not self.token or hmac.compare_digest(given.encode(), self.cookie_value.encode())

    def is_token(self, given: str) -> bool:
        """Return whether the given token is the right one."""
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())

    def check_host(self, request: web.Request) -> None:
        """Raise HTTPForbidden for a host name other than this machine's, which another site may have pointed here.

        With a token, any name is allowed, such as that of a proxy.
        """
        try:
            name = urlsplit(f"//{request.host}").hostname or ""
        except ValueError:
            name = request.host
        if not self.token and not is_loopback(name):
            raise web.HTTPForbidden(text=f"This page is at http://127.0.0.1, not at {name!r}.\n")

    def check_origin(self, request: web.Request) -> None:
        """Raise HTTPForbidden for a request from another site's page; programs send no Origin."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
            raise web.HTTPForbidden(text="Requests from other sites are not allowed.\n")
