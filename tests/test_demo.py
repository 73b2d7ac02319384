"""The page as a visitor meets it, in headless Chromium, and as a program does."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from itertools import count, groupby
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import PATIENCE, make_clip, wait_until
from localizer_example import checkpoint_of, save_localizer, write_run
from PIL import Image

from declip_pl.data.images import read_photo
from declip_pl.errors import UserError
from declip_pl.inference import demo, demo_choices
from declip_pl.inference.demo_text import CANCELLED, FAILED, TOO_MUCH
from declip_pl.inference.localizer import Localizer
from declip_pl.model.checkpoint import BEST
from declip_pl.training.task import LocalizationTask

LOOPBACK = "127.0.0.1"
WAIT = 1000 * PATIENCE
SHOWN_SIDE = 2048  # of the larger side of pictures on the page
UNFINISHED = "going on"
OVERLAY, HEAT, TRUTH = ".over", ".figures img", ".figures figure:nth-child(2) img"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with three models, beside what is none: the second marks no photo, the third is
    still in training."""
    folder = tmp_path_factory.mktemp("outputs")
    clip = make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")
    task = LocalizationTask(str(clip), "layer1", "linear", image_size=64, seed=2)
    write_run(checkpoint_of(task), folder / UNFINISHED / BEST)
    save_localizer(folder / "first", clip, 0, "ldm", "mini is a stand-in", floor=0)
    save_localizer(folder / "second", clip, 1, "lama*<b>", None, floor=1)
    (folder / "unfinished").mkdir()
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A large photo, so that it is shown smaller, whose name needs care."""
    path = tmp_path_factory.mktemp("photos") / "my <b>photo \N{CAMERA}.png"
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((2500, 1500), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def site(chromium, models, tree, tmp_path_factory):
    """The page being served.

    ``passes`` are the photos looked at, ``steps`` the batches of tiles, ``calls`` the server's
    connections. While ``go`` is not set, it stays at the first batch of tiles; while ``fail``
    is set, the network breaks.
    """
    pytest.importorskip("gradio", reason="gradio is not installed (extra: demo)")
    folder, passes, steps, calls = tmp_path_factory.mktemp("gradio"), [], [], []
    forward, connect, go = Localizer.steps, socket.socket.connect, threading.Event()
    fail = threading.Event()
    go.set()

    def counted(self, *args, **options):
        passes.append(self.name)
        if fail.is_set():
            raise RuntimeError("the GPU of /home/ann is full")
        looking = forward(self, *args, **options)
        while True:
            try:
                step = next(looking)
            except StopIteration as end:
                return end.value
            steps.append(step)
            yield step
            while not go.wait(0.1):  # briefly: what runs in a thread can't be ended inside a step
                yield step

    def watched(self, address):
        calls.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # both as they were before, afterwards
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        patch.setenv("GRADIO_SHARE", "True")  # none of which counts
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
        patch.setenv("GRADIO_MCP_SERVER", "True")
        patch.setattr(Localizer, "steps", counted)
        patch.setattr(socket.socket, "connect", watched)
        patch.setattr(demo, "MAX_UPLOAD", 40)
        listener = demo.listen(0)
        offered = demo_choices.find_models(str(models))
        samples = demo_choices.find_samples(str(tree))
        server = demo.build_server(offered, samples, str(folder))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        yield SimpleNamespace(
            url=url, folder=folder, passes=passes, steps=steps, calls=calls, go=go, fail=fail
        )
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def tab(request, chromium, site):
    """The page in a browser, which must ask nobody else and never scroll sideways."""
    width, scheme = getattr(request, "param", (400, "light"))
    tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, broken = [], []
    tab.on("request", lambda request: asked.append(urlsplit(request.url)))
    tab.on("websocket", lambda websocket: asked.append(urlsplit(websocket.url)))
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.set_default_timeout(WAIT)
    tab.goto(site.url)
    tab.get_by_text("Drop photos").wait_for()
    site.passes.clear()
    site.steps.clear()
    yield tab
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert {url.hostname for url in asked if url.scheme not in ("data", "blob")} == {LOOPBACK}
    assert {address[0] for address in site.calls} <= {LOOPBACK}
    assert not broken
    tab.close()


def upload(tab, *paths: Path) -> None:
    tab.locator("input[type=file]").first.set_input_files(paths)


def source(tab, picture: str) -> str:
    return tab.locator(picture).first.get_attribute("src")


def decoded(address: str) -> Image.Image:
    """Return the picture that an address itself holds."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")


def drawn(tab) -> Image.Image:
    """The overlay as it is shown."""
    return decoded(source(tab, OVERLAY))


def wait_until_gone(tab, picture: str, address: str) -> None:
    """Wait until a picture has given way to another."""
    new = "([picture, old]) => document.querySelector(picture)?.src != old"
    tab.wait_for_function(new, arg=[picture, address])


def redness(pixels: Image.Image) -> float:
    """How much the outermost pixels are red."""
    red, green, blue = np.asarray(pixels, np.float64)[0].mean(0)
    return red - max(green, blue)


@pytest.mark.parametrize(
    "tab",
    [pytest.param((1280, "light"), marks=pytest.mark.slow), (400, "dark")],
    indirect=True,
)
def test_a_photo_gives_a_result_and_the_slider_redraws_without_the_network(
    tab, site, models, photo
):
    upload(tab, photo)
    score = tab.locator(".score")
    score.wait_for()
    assert tab.locator(".name").inner_text().startswith("my ")
    assert 0 <= float(score.inner_text()) <= 1
    tab.get_by_text("2500 x 1500 px").wait_for()
    assert drawn(tab).size == (SHOWN_SIDE, round(SHOWN_SIDE * 3 / 5))
    tab.wait_for_function("document.getElementById('score').getBoundingClientRect().top < 900")
    assert site.passes == ["first"]
    content = photo.read_bytes()  # gone before the result was there
    assert all(path.read_bytes() != content for path in site.folder.rglob("*") if path.is_file())

    heat, before = source(tab, HEAT), source(tab, OVERLAY)
    slider = tab.get_by_label("range slider for Threshold")
    own = Localizer.from_pretrained(models / "first", "cpu")(photo)
    assert float(slider.input_value()) == round(own.threshold, 2) != 0.5
    assert tab.get_by_text(f"{own.mask.mean():.1%} of the photo").is_visible()
    slider.press("End")
    tab.get_by_text("No part of the photo is above the threshold.").wait_for()
    wait_until_gone(tab, OVERLAY, before)
    assert redness(drawn(tab)) < 100
    assert not tab.get_by_text("Nothing is marked in this photo.").is_visible()  # by the visitor
    before = source(tab, OVERLAY)
    slider.press("Home")  # everything is above 0: the red line runs along the edge
    tab.get_by_text("100.0% of the photo (2500 x 1500 px)").wait_for()
    assert tab.locator(".regions td").all_inner_texts()[:3] == ["0, 0", "2500 x 1500", "100.0%"]
    wait_until_gone(tab, OVERLAY, before)
    assert redness(drawn(tab)) > 150
    assert source(tab, HEAT) == heat
    assert site.passes == ["first"]


@pytest.mark.parametrize("damage", ["text", pytest.param("truncated", marks=pytest.mark.slow)])
def test_a_broken_file_says_so_on_the_page(tab, site, photo, tmp_path, damage):
    broken = tmp_path / "holiday.png"
    broken.write_bytes(photo.read_bytes()[:5000] if damage == "truncated" else b"hello")
    upload(tab, photo)
    tab.locator(".score").wait_for()
    upload(tab, broken)
    problem = tab.get_by_role("alert")
    problem.wait_for()
    with pytest.raises(UserError) as error:
        read_photo(broken)
    words = str(error.value).replace(str(broken), "holiday.png")
    assert problem.inner_text().split("\n\n") == ["Not everything could be analysed.", words]
    assert not tab.get_by_text("Heat map", exact=True).is_visible()
    assert not list(site.folder.rglob("holiday.png"))
    upload(tab, photo)  # and the next one is welcome
    tab.locator(".score").wait_for()


def test_a_file_that_is_too_large_is_refused(tab, site, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(41 * 2**20)
    upload(tab, large)
    tab.get_by_text("exceed the maximum allowed size of 40.0 Mb").first.wait_for()
    assert not site.passes


def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(tab, site, tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    upload(tab, bomb)
    tab.get_by_text("bomb.png: ").wait_for()
    assert "more than 175,000,000 pixels" in tab.get_by_role("alert").inner_text()
    assert not list(site.folder.rglob("bomb.png"))


def test_when_something_breaks_nothing_is_left_and_no_folder_named(tab, site, photo):
    site.fail.set()
    upload(tab, photo)
    tab.get_by_text(FAILED).wait_for()
    site.fail.clear()
    assert "ann" not in tab.locator("body").inner_text()
    assert not tab.get_by_role("button", name="Cancel").is_visible()
    wait_until(lambda: not list(site.folder.rglob(photo.name)))
    upload(tab, photo)
    tab.get_by_text("Done: ").wait_for()


def test_photos_that_are_too_many_pixels_together_are_refused_before_they_are_decoded(
    tab, site, tmp_path
):
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file in files:
        Image.new("1", (9_500, 9_500)).save(file)  # each of them would be welcome
        os.truncate(file, 100)  # and nothing of it can be decoded
    upload(tab, *files)
    tab.get_by_text(TOO_MUCH).wait_for()
    assert not site.passes and not list(site.folder.rglob("?.png"))


def test_several_photos_are_looked_at_one_by_one_and_chosen_from(tab, site, photo, tmp_path):
    small, broken, copy = (tmp_path / name for name in ("small.png", "broken.png", "copy.png"))
    with Image.open(photo) as image:
        image.resize((50, 30)).save(small)
    broken.write_bytes(b"hello")
    copy.write_bytes(small.read_bytes())  # Gradio puts files of one content into one folder
    upload(tab, small, broken, photo, copy)
    tab.get_by_text("Done: 3 photos were looked at, 1 could not be analysed.").wait_for()
    assert tab.get_by_role("alert").inner_text().split("\n\n")[1].startswith("broken.png is no")
    assert site.passes == ["first"] * 3
    assert tab.locator(".name").inner_text() == "small.png"
    assert not list(site.folder.rglob("small.png"))
    tab.get_by_role("button", name=re.compile("my .*png")).press("Enter")
    tab.get_by_text("2500 x 1500 px").wait_for()
    slider = tab.get_by_label("range slider for Threshold")
    slider.press("End")
    tab.get_by_text("No part of the photo is above the threshold.").wait_for()
    tab.get_by_role("button", name="copy.png").press("Enter")
    tab.get_by_text("50 x 30 px").wait_for()
    assert float(slider.input_value()) < 1  # each photo has its own
    assert site.passes == ["first"] * 3


def test_wipe_and_zoom_move_by_keys_and_ask_nobody(tab, site, photo):
    upload(tab, photo)
    tab.get_by_text("Done: ").wait_for()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    clip = "getComputedStyle(document.querySelector('.over')).clipPath"
    assert tab.evaluate(clip) == "inset(0px 0px 0px 50%)"
    tab.get_by_label("range slider for Wipe").press("Home")
    tab.wait_for_function(f"{clip}.startsWith('inset(0px 0px 0px 0')")
    wider = "(w => w.scrollWidth / w.clientWidth)(document.querySelector('.window'))"
    assert tab.evaluate(wider) == 1
    tab.get_by_label("range slider for Zoom").press("End")
    tab.wait_for_function(f"{wider} > 7.5")
    window = tab.get_by_role("group", name="Photo and overlay")
    window.press("ArrowRight")
    tab.wait_for_function("document.querySelector('.window').scrollLeft > 0")
    assert not [url for url in asked if "queue" in url]


def test_tiles_say_how_far_they_are_and_can_be_cancelled(tab, site, photo):
    tab.get_by_label("In tiles").check()
    site.go.clear()
    upload(tab, photo)
    tab.locator("progress").wait_for()
    done, total = site.steps[0]
    assert 0 < done < total
    assert re.match(rf"tile {done} of {total}, about \d+ (s|min) left$", told(tab, "#progress"))
    assert told(tab, "#status").startswith("Looking at my ")
    with tab.expect_response(re.compile("/gradio_api/reset")):  # the last that Gradio does of it
        tab.get_by_role("button", name="Cancel").press("Enter")
    tab.get_by_text(CANCELLED).wait_for()
    site.go.set()
    assert not tab.get_by_role("button", name="Cancel").is_visible()
    tab.locator("progress").wait_for(state="hidden")
    wait_until(lambda: not list(site.folder.rglob(photo.name)))
    tab.locator("#samples button").nth(4).click()
    tab.get_by_text("Done: ").wait_for()
    assert len(site.steps) < total / done / 2 and site.passes == ["first", "first"]


def told(tab, place: str) -> str:
    return tab.locator(place).inner_text().strip()


def test_keys_alone_are_enough(tab, site):
    """Tabbing by changes nothing, what has the focus has a ring, and everything has a name."""
    tab.locator("#samples button").nth(4).press("Enter")
    tab.get_by_text("Done: ").wait_for()
    tab.get_by_role("button", name="Make the files").wait_for()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.get_by_label("Model").focus()
    reached = ["combobox"]
    for _ in range(12):
        tab.keyboard.press("Tab")
        kind, ring = tab.evaluate(
            """async () => {
              const e = document.activeElement, outer = e.closest("label:has([type=radio])") || e;
              await Promise.all(outer.getAnimations().map(a => a.finished.catch(() => 0)));
              return [e.type || e.getAttribute("role"), getComputedStyle(outer).outlineStyle];
            }"""
        )
        reached.append(kind)
        assert ring == "solid", reached
        if kind == "submit":
            break
    kinds = ["combobox", "radio", "group", *["number", "range"] * 3, "submit"]
    assert [kind for kind, _ in groupby(reached)] == kinds
    assert not [url for url in asked if "queue" in url] and site.passes == ["first"]


def test_those_who_do_not_see_it_are_told(tab, site):
    tab.locator("#samples button").nth(2).click()
    tab.get_by_text("Done: ").wait_for()
    tab.get_by_role("img", name="Heat map of 2.png").wait_for()
    session = tab.context.new_cdp_session(tab)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    named = {"button", "image", "combobox", "radio", "slider", "spinbutton", "group", "link"}
    shown = {name for role, name in found if role == "image" and name}
    assert {"The photo 2.png", "Heat map of 2.png"} < shown
    assert any(name.startswith("Overlay: 2.png under its heat map, ") for name in shown)
    assert any(name.startswith("True mask of 2.png: ") for name in shown)
    assert ("button", "ldm") in found and not [n for _, n in found if n.startswith("Thumbnail")]
    assert not [role for role, name in found if role in named - {"image", "group"} and not name]
    assert ("heading", "2.png") in found and (
        "table",
        "Parts above the threshold, in pixels of the photo",
    ) in found
    live = [
        node
        for node in nodes
        if node["role"]["value"] == "status"
        and tab.locator("#status").count() == 1
        and {"name": "live", "value": {"type": "token", "value": "polite"}} in node["properties"]
    ]
    assert live and told(tab, "#status").startswith("Done: score 0.")


def test_files_are_made_when_asked_for_and_go_with_another_threshold(tab, site, photo, models):
    upload(tab, photo)
    tab.get_by_text("Done: ").wait_for()
    assert not list(site.folder.rglob("*-mask.png"))
    tab.get_by_role("button", name="Make the files").click()
    saved = {}
    for label in (
        "Report (HTML)",
        "Heat map (PNG)",
        "Mask (PNG)",
        "Overlay (PNG)",
        "Figures (JSON)",
    ):
        with tab.expect_download() as waiting:
            tab.get_by_text(label).click()
        saved[label] = Path(waiting.value.path())
    found = Localizer.from_pretrained(models / "first", "cpu")(photo)
    for kind, label in zip(found.pictures(), list(saved)[1:4], strict=True):
        assert np.array_equal(np.asarray(Image.open(saved[label])), found.pictures()[kind])
    figures = json.loads(saved["Figures (JSON)"].read_text())
    assert figures["score"] == pytest.approx(found.score) and figures["model"] == "first"
    assert "mini is a stand-in" in saved["Report (HTML)"].read_text()
    tab.get_by_label("range slider for Threshold").press("End")
    tab.get_by_text("Report (HTML)").wait_for(state="hidden")


def test_a_test_photo_is_looked_at_again_by_another_model_and_in_tiles(tab, site):
    captions = tab.locator("#samples .caption-label")
    captions.nth(5).wait_for()
    assert captions.all_inner_texts() == ["lama", "lama", "ldm", "ldm", "real", "real"]
    tab.locator("#samples button").nth(4).click()
    tab.get_by_text("96 x 96 px").wait_for()
    slider = tab.get_by_label("range slider for Threshold")
    assert float(slider.input_value()) < 1
    assert not tab.get_by_text("Nothing is marked in this photo.").is_visible()
    assert tab.get_by_text("What it finds in other photos means nothing.").is_visible()
    before = source(tab, HEAT)
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="second").click()
    tab.get_by_text("Trained on photos changed by: lama*<b>. ").wait_for()
    wait_until_gone(tab, HEAT, before)
    assert not tab.get_by_text("What it finds in other photos means nothing.").is_visible()
    assert site.passes == ["first", "second"]
    tab.get_by_text("Nothing is marked in this photo.").wait_for()
    tab.get_by_text("No part of the photo is above the threshold.").wait_for()
    assert float(slider.input_value()) == 1
    tab.get_by_label("In tiles").check()
    wait_until(lambda: len(site.passes) == 3)
    assert site.passes == ["first", "second", "second"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_pages_get_nothing_and_store_nothing(site, headers):
    before = files_in(site.folder)
    picture = next(path for path in before if path.suffix == ".webp")
    assert ask(site, "GET", f"/gradio_api/file={picture}")[0] == 200
    for method, path in [
        *(("GET", "/"), ("GET", "/config"), ("GET", f"/gradio_api/file={picture}")),
        *(("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join")),
    ]:
        assert ask(site, method, path, FORM, headers) == (403, REFUSED)
    assert files_in(site.folder) == before


def test_one_endpoint_is_described(site):
    for path in ("/openapi.json", "/docs", "/gradio_api/openapi.json"):
        assert ask(site, "GET", path)[0] == 404
    assert ask(site, "GET", f"/gradio_api/file={__file__}")[0] == 403
    status, described = ask(site, "GET", "/gradio_api/info")
    assert status == 200 and list(json.loads(described)["named_endpoints"]) == ["/localize"]
    assert json.loads(described)["unnamed_endpoints"] == {}


@pytest.mark.slow  # another process
def test_a_program_asks_by_gradio_client(site, models, photo, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(site.url, verbose=False, download_files=str(tmp_path))
    figures, files = client.predict(handle_file(photo), api_name="/localize")
    found = Localizer.from_pretrained(models / "first", "cpu")(photo)
    assert figures["score"] == pytest.approx(found.score) and figures["model"] == "first"
    names = [Path(file).name.rpartition("-")[2] for file in files]
    assert names == ["report.html", "heatmap.png", "mask.png", "overlay.png", "localization.json"]
    assert np.array_equal(np.asarray(Image.open(files[2])), found.pictures()["mask"])
    other, _ = client.predict(handle_file(photo), "second", True, api_name="/localize")
    assert (other["model"], other["tiles"]) == ("second", True)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"hello")
    with pytest.raises(AppError, match=r"^broken.png is no photo"):
        client.predict(handle_file(broken), api_name="/localize")
    with pytest.raises(AppError, match="no model 'third'; found: first, second"):
        client.predict(handle_file(photo), "third", api_name="/localize")
    assert not list(site.folder.rglob(photo.name)) and not list(site.folder.rglob("broken.png"))
    client.close()


@pytest.mark.parametrize("path", ["photo", "relative", "http://1.1.1.1/photo.png", 5])
def test_no_other_file_is_read(site, photo, path):
    """By no event that takes files, wherever among its inputs one stands."""
    asked = {"photo": str(photo), "relative": "setup.cfg"}.get(path, path)
    sent = {"path": asked, "meta": {"_type": "gradio.FileData"}}
    config = json.loads(ask(site, "GET", "/config")[1])
    files = [part["id"] for part in config["components"] if part["type"] == "file"]
    entries = [entry for entry in config["dependencies"] if set(entry["inputs"]) & set(files)]
    assert {entry["api_name"] for entry in entries} > {"localize"} and len(entries) == 3
    before, connected = files_in(site.folder), len(site.calls)
    passes = len(site.passes)
    for entry in entries:
        for inputs in ([[sent], "first", False], [[], sent, False]):
            taken = inputs[: len(entry["inputs"])]
            if sent not in (*taken[0], *taken[1:]):
                continue
            answer = send(site, entry["id"], taken)
            assert '"success":false' in answer.replace(" ", "")
            assert str(photo.parent) not in answer and str(Path.cwd()) not in answer
    assert photo.exists() and files_in(site.folder) <= before
    assert {address[0] for address in site.calls[connected:]} <= {LOOPBACK}
    assert len(site.passes) == passes


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info"])
def test_no_folder_but_its_own_is_named(site, models, tree, path):
    text = ask(site, "GET", path)[1].replace(str(site.folder), "")
    for folder in (models, tree, Path.cwd(), Path(demo.__file__).parent):
        assert str(folder) not in text


def test_more_wishes_than_may_wait_are_refused(site):
    from declip_pl.inference.demo_page import WAITING

    picture = io.BytesIO()
    Image.new("RGB", (300, 300)).save(picture, "PNG")
    head, tail = FORM.split(b"photo" * 100)
    form = head + picture.getvalue() + tail
    status, paths = ask(site, "POST", "/gradio_api/upload", form)
    assert status == 200
    file = {"path": json.loads(paths)[0], "meta": {"_type": "gradio.FileData"}}
    config = json.loads(ask(site, "GET", "/config")[1])
    (upload_event,) = (e["id"] for e in config["dependencies"] if e["api_name"] == "upload")
    (again,) = (e["id"] for e in config["dependencies"] if e["api_name"] == "again")
    site.steps.clear()
    site.go.clear()
    try:
        assert join(site, upload_event, [[file], "first", True], "first")[0] == 200
        wait_until(lambda: site.steps)
        wishes = [join(site, again, [None, "first", False], f"wish{n}") for n in range(WAITING + 2)]
    finally:
        site.go.set()
    assert [status for status, _ in wishes] == [200] * WAITING + [503] * 2
    wait_until(lambda: not Path(file["path"]).exists())


def join(site, index: int, data: list, session: str) -> tuple[int, str]:
    """Send an event as the page does; return the status and the answer."""
    body = json.dumps({"data": data, "fn_index": index, "session_hash": session})
    kind = {"Content-Type": "application/json"}
    return ask(site, "POST", "/gradio_api/queue/join", body.encode(), kind)


def send(site, index: int, data: list) -> str:
    """Send an event and return what the server says of it."""
    session = f"test{next(SESSIONS)}"
    status, text = join(site, index, data, session)
    if status != 200:
        return text
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=PATIENCE)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
    for line in connection.getresponse():
        text += line.decode()
        if "process_completed" in text or "close_stream" in text:
            break
    connection.close()
    return text


SESSIONS = count()


def test_an_upload_that_breaks_off_or_grows_too_large_leaves_nothing(site):
    before = files_in(site.folder)
    place = urlsplit(site.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {place.netloc}\r\n{KIND}\r\n"
        connection.sendall(f"{head}Content-Length: 9999\r\n\r\n".encode() + FORM[:-10])
        wait_until(lambda: not files_in(site.folder) <= before)
    large = (FORM[:-40] + bytes(2**20) for _ in range(45))  # of no length that it says
    assert ask(site, "POST", "/gradio_api/upload", large)[0] == 413
    assert files_in(site.folder) <= before


BOUNDARY = "x" * 20
KIND = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    f"{'photo' * 100}\r\n--{BOUNDARY}--\r\n"
).encode()
REFUSED = "this page answers nobody else's pages: type its address into the browser"


def ask(site, method, path, body=None, headers=None) -> tuple[int, str]:
    """Send a request as a program does and return the status and the answer."""
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=PATIENCE)
    kind = dict([KIND.split(": ")]) if method == "POST" else {}
    sent = body if method == "POST" else None
    connection.request(method, path, sent, kind | (headers or {}), encode_chunked=True)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow  # starts the page as a process, and waits for its end
def test_ctrl_c_ends_it_with_one_line_and_leaves_nothing(chromium, models, photo, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed (extra: demo)")
    command = [sys.executable, "-m", "declip_pl", "demo", "--model", str(models), "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path), "DECLIP_DATA": str(tmp_path)}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        line = process.stdout.readline()
        try:
            tab = chromium.new_page()
            tab.goto(re.search(r"http://127\.0\.0\.1:\d+", line).group())
            upload(tab, photo)
            tab.locator(".score").wait_for()
            tab.get_by_role("button", name="Make the files").click()
            tab.get_by_text("Report (HTML)").wait_for()
            assert any(tmp_path.rglob("*-report.html"))
        finally:
            process.send_signal(signal.SIGINT)  # while a page is open
            rest, errors = process.communicate(timeout=PATIENCE)
            tab.close()
    assert (process.returncode, rest, errors) == (0, "stopped; no photo is kept\n", "")
    assert not list(tmp_path.iterdir())


def test_the_port_is_taken(models, error_of):
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        message = error_of("demo", "--model", str(models), "--port", str(port))
    assert f"port {port} can't be used" in message and "choose another by --port" in message


def test_nobody_else_can_reach_it():
    with demo.listen(0) as listener:
        assert listener.getsockname()[0] == LOOPBACK


def test_gradio_is_not_there(models, error_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    message = error_of("demo", "--model", str(models), "--port", "0")
    assert "install it with pip install 'declip-pl[demo]'" in message


def test_it_can_not_be_shared(models, error_of):
    message = error_of("demo", "--model", str(models), "--share", "true")
    assert "--share" in message and message.startswith("2 ")
