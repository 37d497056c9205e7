"""Who may see the page: a browser on this machine, or whoever knows the token.

Against pages of others that the user's browser has open: `Host` must name this machine where no token is asked
(DNS rebinding), and `Origin` must be our own page for whatever changes or shows something (cross-site requests).
"""

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from aiohttp import web

from graph import ConfigError, is_loopback

LEAST_TOKEN = 12
"""Characters of a token; 12 random letters and digits are 71 bits, too many to be tried over a network."""


class Access:
    """The rules for one server. Raises ConfigError for a host that others reach without a token of some length."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.token = token
        self.cookie = f"facegraph-{port}"  # browsers share cookies between the ports of a host
        if token and len(token) < LEAST_TOKEN:
            raise ConfigError(f"token has {len(token)} characters, expected at least {LEAST_TOKEN}")
        if not token and not is_loopback(host):
            raise ConfigError(
                f"host {host!r} is open to others, who must then know a token: set the environment variable "
                f"FACEGRAPH_WEB_TOKEN, or the setting token, for instance to {secrets.token_urlsafe(16)}; "
                "or stay on 127.0.0.1 and use ssh -L"
            )

    @property
    def proof(self) -> str:
        """What the cookie of a browser holds that has shown the token; the same after a restart."""
        return hmac.new(self.token.encode(), b"facegraph web page", hashlib.sha256).hexdigest()

    def knows(self, request: web.Request) -> bool:
        """Say whether a request comes from somebody who may see the page."""
        return not self.token or hmac.compare_digest(request.cookies.get(self.cookie, "").encode(), self.proof.encode())

    def is_token(self, given: str) -> bool:
        """Say whether somebody has given the right token."""
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())

    def check_host(self, request: web.Request) -> None:
        """Raise HTTPForbidden for a name that is not this machine's; a page of others may have it point here.

        Where a token is asked for, that keeps them out, and the name may be that of a proxy.
        """
        try:
            name = urlsplit(f"//{request.host}").hostname or ""
        except ValueError:
            name = request.host
        if not self.token and not is_loopback(name):
            raise web.HTTPForbidden(text=f"This page is at http://127.0.0.1, not at {name!r}.\n")

    def check_origin(self, request: web.Request) -> None:
        """Raise HTTPForbidden for a request from a page that is not ours; programs send no Origin."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
            raise web.HTTPForbidden(text="Pages of other sites may not look in here.\n")
