"""What every request passes before it reaches the page: whose name it calls, where it comes from, how much it sends."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READING = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Hosts:
    """Names under which a server may be called. Any other in a request means that somebody else's name was pointed at
    this machine (DNS rebinding), so that their page could read ours. literals: bare addresses are served, too; nobody
    can point those elsewhere."""

    names: frozenset[str]
    literals: bool

    @staticmethod
    def of(host: str) -> "Hosts":
        """For a server on this address."""
        if is_loopback(host):
            return Hosts(frozenset({"localhost", "127.0.0.1", "::1", host.lower()}), literals=False)
        return Hosts(frozenset({"localhost", host.lower(), socket.gethostname().lower()}), literals=True)

    def serve(self, header: str) -> bool:
        """Whether the Host header of a request is one of them. The port is free: tunnels change it."""
        name = _hostname(f"//{header}")
        return name in self.names or (self.literals and _is_address(name))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Guard:
    """ASGI middleware: refuses foreign hosts (421) and origins (403) and large bodies (413); sets security headers."""

    def __init__(self, app: ASGIApp, hosts: Hosts, max_bytes: int) -> None:
        self.app, self.hosts, self.max_bytes = app, hosts, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # there are no web sockets
        headers = Headers(scope=scope)

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            await JSONResponse({"error": refusal.detail}, refusal.status_code)(scope, receive, guarded_send)
        else:
            await self.app(scope, self._limited(receive), guarded_send)

    def _refusal(self, method: str, headers: Headers) -> HTTPException | None:
        host = headers.get("host", "")
        if not self.hosts.serve(host):
            return HTTPException(421, "this server is not called by that name: open the address that it printed")
        if method not in READING and not _same_origin(headers, host):
            return HTTPException(403, "the request comes from another site")
        length = headers.get("content-length", "0")
        return self._too_large() if not length.isdigit() or int(length) > self.max_bytes else None

    def _limited(self, receive: Receive) -> Receive:
        """Counts what arrives, whatever the headers announce."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the upload is larger than {self.max_bytes / 1e6:g} MB")


def _same_origin(headers: Headers, host: str) -> bool:
    """Browsers name the origin of every request that changes something; other programs need not."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none")
    return urlsplit(origin).netloc.lower() == host.lower() if origin.isascii() and "://" in origin else False


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
