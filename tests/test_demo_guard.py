"""Who gets through to the page of ``declip-pl demo``, and how much of what is sent."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="gradio is not installed (extra: demo)")

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from declip_pl.inference.demo_guard import STORED, UPLOAD, WAITING, Guard, bounded, from_the_page

HOST = "127.0.0.1:7860"
OWN = {"host": HOST}
OTHERS = [
    {},
    {"host": "evil.example"},
    {"host": "evil.example:7860"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "127.0.0.1@evil.example"},
    {"host": "0.0.0.0:7860"},
    {"host": "[::1"},
    OWN | {"origin": "http://evil.example"},
    OWN | {"origin": "null"},
    OWN | {"origin": "http://127.0.0.1:8888"},
    OWN | {"origin": "https://127.0.0.1:7860"},
    OWN | {"origin": "http://localhost:7860"},
    OWN | {"sec-fetch-site": "cross-site"},
    OWN | {"sec-fetch-site": "same-site"},
    OWN | {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"},
]
PAGES = ["/", "/config", UPLOAD, "/gradio_api/queue/join", "/gradio_api/file=/tmp/x.png"]
SHUT = [
    *("/openapi.json", "/docs", "/redoc", "/monitoring", "/login", "/%2e"),
    *("/gradio_api/openapi.json", "/gradio_api/info/x", "/gradio_api/call/upload"),
    *("/gradio_api/run/upload", "/gradio_api/api/upload", "/gradio_api/vibe-edit/"),
    *("/gradio_api/proxy=http://evil.example", "/gradio_api/file=http://evil.example"),
]


class Page:
    """Stands for the page: keeps what gets through to it, and how much at a time."""

    def __init__(self, folder: Path | None = None):
        self.folder, self.paths, self.bodies = folder, [], []
        self.together = self.most = 0

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        self.together += 1
        self.most = max(self.most, self.together)
        try:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message.get("more_body", False)
                if self.folder and scope["path"] == UPLOAD:
                    (self.folder / "tmpabc").write_bytes(body)
                await asyncio.sleep(0)
            self.bodies.append(body)
        finally:
            self.together -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(guard, path="/", headers=OWN, parts=(b"",), kind="http"):
    """Return what sends a request and gives its status."""
    left = [*parts]

    async def receive():
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def asked():
        sent = []

        async def send(message):
            sent.append(message)

        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": kind, "path": path, "headers": pairs, "method": "POST"}
        await guard(scope, receive, send)
        return sent[0]["status"]

    return asked()


@pytest.mark.parametrize("headers", OTHERS, ids=str)
def test_requests_of_other_pages_are_refused(tmp_path, headers):
    page = Page()
    guard = Guard(page, tmp_path, 100)
    assert {asyncio.run(ask(guard, path, headers)) for path in PAGES} == {403}
    assert page.paths == []


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost"])
@pytest.mark.parametrize(
    "site", [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}]
)
def test_requests_of_the_page_itself_come_through(tmp_path, host, site):
    page = Page()
    guard = Guard(page, tmp_path, 100)
    headers = {"host": host, "origin": f"http://{host}"} | site
    assert {asyncio.run(ask(guard, path, headers)) for path in PAGES} == {200}
    assert page.paths == PAGES


@given(st.text(), st.text())
def test_another_origin_never_is_the_page(host, origin):
    headers = Headers({"host": host, "origin": origin}) if _latin(host + origin) else None
    if headers is not None and from_the_page(headers):
        assert origin == f"http://{host}"


def _latin(text: str) -> bool:
    return text.isascii()


def test_two_hosts_are_none():
    assert not from_the_page(Headers(raw=[(b"host", HOST.encode()), (b"host", b"evil.example")]))


@pytest.mark.parametrize("path", SHUT)
def test_what_the_page_does_not_ask_for_is_shut(tmp_path, path):
    page = Page()
    assert asyncio.run(ask(Guard(page, tmp_path, 100), path)) == 404 and page.paths == []


def test_there_are_no_websockets(tmp_path):
    page = Page()
    assert asyncio.run(ask(Guard(page, tmp_path, 100), kind="websocket")) == 403
    assert page.paths == []


@pytest.mark.parametrize("length", ["101", "1e9", "-1", "x", "9" * 5000])
def test_a_body_that_says_it_is_too_large_is_not_read(tmp_path, length):
    page = Page()
    headers = OWN | {"content-length": length}
    assert asyncio.run(ask(Guard(page, tmp_path, 100), UPLOAD, headers)) == 413
    assert page.paths == []


def test_a_body_that_does_not_say_it_is_cut_and_leaves_nothing(tmp_path):
    (tmp_path / "kept").mkdir()
    page = Page(tmp_path)
    guard = Guard(page, tmp_path, 100)
    with pytest.raises(HTTPException) as error:
        asyncio.run(ask(guard, UPLOAD, parts=[b"x" * 60, b"x" * 60]))
    assert error.value.status_code == 413 and page.bodies == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert asyncio.run(ask(guard, UPLOAD, parts=[b"x" * 50, b"x" * 50])) == 200
    assert page.bodies == [b"x" * 100]


@given(st.lists(st.binary(max_size=5)), st.integers(0, 20))
def test_no_more_than_that_is_received(parts, most):
    async def received():
        left = [{"type": "http.request", "body": part} for part in parts]

        async def receive():
            return left.pop(0)

        limited, found = bounded(receive, most), b""
        try:
            for _ in parts:
                found += (await limited())["body"]
        except HTTPException:
            return found, True
        return found, False

    found, cut = asyncio.run(received())
    assert len(found) <= most and cut == (sum(map(len, parts)) > most)
    assert b"".join(parts).startswith(found)


def test_uploads_come_one_by_one_and_the_rest_does_not_wait(tmp_path):
    page = Page(tmp_path)
    guard = Guard(page, tmp_path, 100)

    async def together(path):
        page.most = 0
        return await asyncio.gather(*(ask(guard, path, parts=[b"x"] * 5) for _ in range(4)))

    assert asyncio.run(together(UPLOAD)) == [200] * 4 and page.most == 1
    assert asyncio.run(together("/")) == [200] * 4 and page.most == 4
    assert not list(tmp_path.iterdir())


def test_more_uploads_than_may_wait_are_told_to_come_later(tmp_path):
    page = Page(tmp_path)
    guard = Guard(page, tmp_path, 100)

    async def together():
        return await asyncio.gather(*(ask(guard, UPLOAD, parts=[b"x"] * 5) for _ in range(12)))

    allowed = WAITING + 1  # one is read
    assert asyncio.run(together()) == [200] * allowed + [503] * (12 - allowed)
    assert len(page.bodies) == allowed and page.most == 1
    assert asyncio.run(ask(guard, UPLOAD)) == 200  # and then there is room again


def test_uploads_that_nobody_looks_at_fill_no_disk(tmp_path):
    page = Page(tmp_path)
    guard = Guard(page, tmp_path, 100)
    there = tmp_path / "folder of a photo" / "photo.png"
    there.parent.mkdir()
    there.write_bytes(bytes(STORED * 100))
    assert asyncio.run(ask(guard, UPLOAD)) == 200
    there.write_bytes(bytes(STORED * 100 + 1))
    assert asyncio.run(ask(guard, UPLOAD)) == 503 and len(page.bodies) == 1
    there.unlink()
    assert asyncio.run(ask(guard, UPLOAD)) == 200
