"""``declip-pl demo``: a page in the browser that shows what a localizer finds in a photo.

Everything happens on this machine: the page is served on loopback alone, loads nothing from
elsewhere, and a photo's file is deleted as soon as it has been read.
"""

import os
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval

from declip_pl.data.layout import Sample
from declip_pl.errors import UserError
from declip_pl.inference.demo_choices import Choice, find_models, find_samples
from declip_pl.inference.demo_style import CSS
from declip_pl.inference.demo_text import MAX_UPLOAD

HOST = "127.0.0.1"

Port = Annotated[int, Interval(ge=0, le=65535)]

HEADERS = [
    # The browser itself sees to it that the page loads nothing from elsewhere, stands in nobody's
    # frame, and keeps nothing.
    (
        "Content-Security-Policy",
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]


def demo(
    model: str | None = None,
    port: Port = 7860,
    data: str | None = None,
    device: str | None = None,
    encoder: str | None = None,
) -> None:
    """Show in the browser what a localizer finds in a photo (extra: demo).

    The page is served on this machine alone and loads nothing from elsewhere. Ctrl-C ends it.

    Args:
        model: One, named as everywhere, or a folder of runs and saved localizers to choose from. By
            default outputs/train, and where that holds none the starter.
        port: Of the page's address; 0 takes any that is free.
        data: Data set in Dolos' layout, or LAYOUT:PATH, whose test photos are offered to try the
            page with. By default the one that declip-pl train would take, if it is on this machine.
        device: Where it runs, such as cpu, cuda or cuda:1; by default a GPU where there is one.
        encoder: The frozen encoder's folder or hub id, in place of those on record; its weights
            have to be the same.

    Raises:
        UserError: If there is no model, the port is taken, or Gradio is not installed.
    """
    found, photos = find_models(model), find_samples(data)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then as well
    # The server ends on a signal by returning, or by KeyboardInterrupt, as its loop was caught.
    with (
        suppress(KeyboardInterrupt),
        listen(port) as listener,
        tempfile.TemporaryDirectory(prefix="declip-demo-") as folder,
    ):
        server = build_server(found, photos, folder, encoder, device)
        print(f"open http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        server.run(sockets=[listener])
    print("stopped; no photo is kept")


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Raises:
        UserError: If another program has the port.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} can't be used ({error}); choose another by --port") from error


def build_server(
    models: Mapping[str, Choice],
    photos: Sequence[Sample],
    folder: str,
    encoder: str | None = None,
    device: str | None = None,
) -> Any:
    """Return the ``uvicorn.Server`` of the page.

    Args:
        models: To choose from, by name; the first one is loaded.
        photos: To try the page with.
        folder: Where uploads and pictures are while the page shows them.
        encoder: Where the user says that the frozen encoder is.
        device: Where models run.

    Raises:
        UserError: If Gradio is not installed, or the model can't be loaded.
    """
    # Gradio reads the first when it is imported and the second when a page is made.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio ({error}); install it with pip install 'declip-pl[demo]', in a "
            "checkout with pip install --editable '.[demo]'"
        ) from error
    import uvicorn

    from declip_pl.inference.demo_guard import Guard
    from declip_pl.inference.demo_page import build_page

    body = (MAX_UPLOAD + 1) * 2**20  # files, and what stands around them
    config = uvicorn.Config(
        Guard(_as_app(build_page(models, photos, folder, encoder, device)), Path(folder), body),
        headers=HEADERS,
        proxy_headers=False,
        server_header=False,
        log_level="critical",
        timeout_graceful_shutdown=1,  # an open page never lets go of its connection
    )
    return uvicorn.Server(config)


def _as_app(page: Any) -> Any:
    """Return the ASGI application of a page, whatever Gradio's variables say."""
    import fastapi
    import gradio

    return gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        path="/",
        root_path="",
        show_error=False,  # its text may name folders; errors meant for people are on the page
        max_file_size=f"{MAX_UPLOAD}mb",
        theme=gradio.themes.Base(font="system-ui", font_mono="monospace"),
        css=CSS,
        footer_links=[],
        run_history=False,  # would keep photos in the browser
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
