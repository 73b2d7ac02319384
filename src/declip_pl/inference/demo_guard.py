"""What stands before the page of ``declip-pl demo``: who may ask for what, and how much comes in.

Any page that is open in the same browser can send requests to this machine. So each request has to
come from this page itself, or from nobody (an address that was typed, a program).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost")
"""What the page may be called. A name from elsewhere that leads here (DNS rebinding) is none."""

UPLOAD = "/gradio_api/upload"

PATHS = (
    *("/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"),
    *(f"/gradio_api/{name}" for name in ("startup-events", "theme.css", "cancel", "reset", "info")),
    *(f"/gradio_api/queue/{name}" for name in ("join", "data")),
    *(UPLOAD, "/gradio_api/upload_progress"),
)
BELOW = ("/assets/", "/static/", "/svelte/", "/gradio_api/file=", "/gradio_api/heartbeat/")
"""All that the page itself and ``gradio_client`` ask for. Gradio's other doors are shut."""

WAITING = 8
"""Uploads that wait while one is read; the others are told to come later."""

STORED = 10
"""Requests of the largest size whose uploads may lie in the folder, unread, at a time."""

_LATER = "too many photos are waiting here; try again in a few minutes"

_DIGITS = 20
"""Of a length that is worth reading as a number."""


class Guard:
    """An ASGI application that hands on what the page itself and ``gradio_client`` ask for.

    Args:
        app: The page.
        folder: Where it stores uploads; nothing but folders of photos stays in it.
        most_bytes: Of a request's body.
    """

    def __init__(self, app: App, folder: Path, most_bytes: int) -> None:
        self.app = app
        self.folder = folder
        self.most_bytes = most_bytes
        self._one_upload = asyncio.Lock()  # the others wait, unread
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif refused := refusal(scope, self.most_bytes):
            status, why = refused
            await PlainTextResponse(why, status)(scope, receive, send)
        elif scope["path"] == UPLOAD:
            await self._upload(scope, receive, send)
        else:
            await self.app(scope, bounded(receive, self.most_bytes), send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._waiting > WAITING or stored(self.folder) > STORED * self.most_bytes:
            await PlainTextResponse(_LATER, 503)(scope, receive, send)
            return
        self._waiting += 1
        try:
            async with self._one_upload:
                await self._one(scope, receive, send)
        finally:
            self._waiting -= 1

    async def _one(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, bounded(receive, self.most_bytes), send)
        finally:
            for left in self.folder.iterdir():
                if left.is_file():  # half an upload, or one that was refused
                    left.unlink()


def refusal(scope: Scope, most_bytes: int) -> tuple[int, str] | None:
    """Return the status and the reason why a request is refused, or None.

    Args:
        scope: ASGI's description of the request.
        most_bytes: Of its body.
    """
    if scope["type"] != "http":
        return 403, "this page has no such connections"
    headers = Headers(scope=scope)
    if not from_the_page(headers):
        return 403, "this page answers nobody else's pages: type its address into the browser"
    path = scope["path"]
    if "://" in path or (path not in PATHS and not path.startswith(BELOW)):
        return 404, "the page has nothing here"
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > _DIGITS or int(length) > most_bytes:
        return 413, f"a request may have {most_bytes} bytes"
    return None


def stored(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # what has been read is deleted meanwhile
                total += Path(place, name).stat().st_size
    return total


def from_the_page(headers: Headers) -> bool:
    """Whether a request comes from the page itself, or from no page.

    ``Host`` has to be a name of loopback; ``Origin``, which browsers add to what changes
    anything, the same address; ``Sec-Fetch-Site``, which they add to everything, no other site.
    """
    hosts, origins, sites = map(headers.getlist, ("host", "origin", "sec-fetch-site"))
    return (
        len(hosts) == 1
        and _hostname(hosts[0]) in HOSTS
        and set(origins) <= {f"http://{hosts[0]}"}
        and set(sites) <= {"same-origin", "none"}
    )


def bounded(receive: Receive, most_bytes: int) -> Receive:
    """Return what receives a body and stops at a number of bytes, whatever its header said."""
    received = 0

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most_bytes:
            raise HTTPException(413, f"a request may have {most_bytes} bytes")
        return message

    return receive_bounded


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
