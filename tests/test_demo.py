"""The page as a visitor meets it, in headless Chromium; the rest as plain functions."""

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import PATIENCE, make_clip, wait_until
from localizer_example import checkpoint_of
from PIL import Image
from scipy import ndimage

from declip_pl.data.images import read_photo
from declip_pl.errors import UserError
from declip_pl.inference import demo, demo_text, saved_folder
from declip_pl.inference.localizer import Localization, Localizer, Region
from declip_pl.inference.recorded_scores import RecordedScores, ScoredOn, recorded_scores
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import BEST, read_checkpoint
from declip_pl.model.description import ForgedPhotos, TrainedOn
from declip_pl.training.task import LocalizationTask

LOOPBACK = "127.0.0.1"
WAIT = 1000 * PATIENCE
SHOWN_SIDE = 1280  # of the larger side of pictures on the page


def save_localizer(
    folder: Path, clip: Path, seed: int, generator: str, notice: str | None, floor: float
) -> None:
    """Save a localizer whose random decoder knows nothing."""
    task = LocalizationTask(str(clip), "layer1", "linear", image_size=64, seed=seed)
    chosen = Thresholds(None, {task.description.pooling: 0.4321}, floor)
    data = TrainedOn((generator,), "full", "0" * 64, "some", notice or "")
    found = {generator: {"iou_n": 1, "image_threshold": 0.4321}}
    scores = RecordedScores(found, {generator: {}}, ScoredOn("some"), notice)
    saved_folder.save(checkpoint_of(task, trained_on=data, thresholds=chosen), folder, scores)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two models, beside what is none; the second one marks no photo."""
    folder = tmp_path_factory.mktemp("outputs")
    clip = make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")
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
    """The page being served; ``passes`` are the network's, ``calls`` the server's connections."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra: demo)")
    folder, passes, calls = tmp_path_factory.mktemp("gradio"), [], []
    forward, connect = Localizer.__call__, socket.socket.connect

    def counted(self, *args, **options):
        passes.append(self.name)
        return forward(self, *args, **options)

    def watched(self, address):
        calls.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # both as they were before, afterwards
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        patch.setattr(Localizer, "__call__", counted)
        patch.setattr(socket.socket, "connect", watched)
        patch.setattr(demo, "MAX_UPLOAD", 40)
        listener = demo.listen(0)
        server = demo.build_server(
            demo.find_models(str(models)), demo.find_samples(str(tree)), str(folder)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        yield SimpleNamespace(url=url, folder=folder, passes=passes, calls=calls)
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def tab(request, chromium, site):
    """The page in a browser, which must ask nobody else and never scroll sideways."""
    width = getattr(request, "param", 400)
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    asked, broken = [], []
    tab.on("request", lambda request: asked.append(urlsplit(request.url)))
    tab.on("websocket", lambda websocket: asked.append(urlsplit(websocket.url)))
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.set_default_timeout(WAIT)
    tab.goto(site.url)
    tab.get_by_text("Drop a photo").wait_for()
    site.passes.clear()
    yield tab
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert {url.hostname for url in asked if url.scheme not in ("data", "blob")} == {LOOPBACK}
    assert {address[0] for address in site.calls} <= {LOOPBACK}
    assert not broken
    tab.close()


def upload(tab, path: Path) -> None:
    tab.locator("input[type=file]").first.set_input_files(path)


def drawn(tab) -> Image.Image:
    """The overlay as it is shown."""
    source = picture(tab, "Overlay")
    return Image.open(io.BytesIO(tab.request.get(source).body())).convert("RGB")


def picture(tab, label: str) -> str:
    image = tab.locator(".block").filter(has=tab.get_by_text(label, exact=True)).locator("img")
    return image.first.get_attribute("src")


def wait_until_gone(tab, source: str) -> None:
    """Wait until a picture has given way to another."""
    tab.wait_for_function("old => !document.querySelector(`img[src='${old}']`)", arg=source)


def redness(pixels: Image.Image) -> float:
    """How much the outermost pixels are red."""
    red, green, blue = np.asarray(pixels, np.float64)[0].mean(0)
    return red - max(green, blue)


@pytest.mark.parametrize("tab", [1280, 400], indirect=True)
def test_a_photo_gives_a_result_and_the_slider_redraws_without_the_network(
    tab, site, models, photo
):
    upload(tab, photo)
    score = tab.locator(".score")
    score.wait_for()
    assert 0 <= float(score.inner_text()) <= 1
    tab.get_by_text("2500 x 1500 px").wait_for()
    assert drawn(tab).size == (SHOWN_SIDE, SHOWN_SIDE * 3 // 5)
    tab.wait_for_function("document.getElementById('score').getBoundingClientRect().top < 900")
    assert site.passes == ["first"]
    content = photo.read_bytes()  # gone before the result was there
    assert all(path.read_bytes() != content for path in site.folder.rglob("*") if path.is_file())

    heat, before = picture(tab, "Heat map"), picture(tab, "Overlay")
    slider = tab.locator("input[type=range]")
    own = Localizer.from_pretrained(models / "first", "cpu")(photo)
    site.passes.remove("first")
    assert float(slider.input_value()) == round(own.threshold, 2) != 0.5
    assert tab.get_by_text(f"{own.mask.mean():.1%} of the photo").is_visible()
    slider.press("End")
    tab.get_by_text("No part of the photo is above the threshold.").wait_for()
    wait_until_gone(tab, before)
    assert redness(drawn(tab)) < 100
    assert not tab.get_by_text("Nothing is marked in this photo.").is_visible()  # by the visitor
    before = picture(tab, "Overlay")
    slider.press("Home")  # everything is above 0: the red line runs along the edge
    tab.get_by_text("100.0% of the photo (2500 x 1500 px)").wait_for()
    assert tab.locator(".regions td").all_inner_texts()[:3] == ["0, 0", "2500 x 1500", "100.0%"]
    wait_until_gone(tab, before)
    assert redness(drawn(tab)) > 150
    assert picture(tab, "Heat map") == heat
    assert site.passes == ["first"]


@pytest.mark.parametrize("damage", ["text", "truncated"])
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
    assert problem.inner_text().split("\n\n") == ["This photo could not be analysed.", words]
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


def test_no_api_is_described(site):
    for path in ("/openapi.json", "/docs", "/gradio_api/openapi.json", "/gradio_api/info"):
        assert ask(site, "GET", path)[0] == 404
    assert ask(site, "GET", f"/gradio_api/file={__file__}")[0] == 403


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


def test_a_test_photo_is_looked_at_again_by_another_model_and_in_tiles(tab, site):
    captions = tab.locator(".samples .caption-label")
    captions.nth(5).wait_for()
    assert captions.all_inner_texts() == ["lama", "lama", "ldm", "ldm", "real", "real"]
    tab.locator(".samples button").nth(4).click()
    tab.get_by_text("96 x 96 px").wait_for()
    slider = tab.locator("input[type=range]")
    assert float(slider.input_value()) < 1
    assert not tab.get_by_text("Nothing is marked in this photo.").is_visible()
    assert tab.get_by_text("What it finds in other photos means nothing.").is_visible()
    before = picture(tab, "Heat map")
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="second").click()
    tab.get_by_text("Trained on photos changed by: lama*<b>. ").wait_for()
    wait_until_gone(tab, before)
    assert not tab.get_by_text("What it finds in other photos means nothing.").is_visible()
    assert site.passes == ["first", "second"]
    tab.get_by_text("Nothing is marked in this photo.").wait_for()
    tab.get_by_text("No part of the photo is above the threshold.").wait_for()
    assert float(slider.input_value()) == 1
    tab.get_by_label("In tiles").check()
    wait_until(lambda: len(site.passes) == 3)
    assert site.passes == ["first", "second", "second"]


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
            assert any(tmp_path.rglob("*.webp"))
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


def test_models_are_runs_and_saved_folders(models, tmp_path):
    assert demo.find_models(str(models)) == {n: models / n for n in ("first", "second")}
    assert demo.find_models(str(models / "second")) == {"second": models / "second"}
    best = tmp_path / "run" / BEST
    best.parent.mkdir(parents=True)
    best.touch()
    assert demo.find_models(str(tmp_path)) == {"run": tmp_path / "run"}
    assert demo.find_models(str(best)) == {"run": best}


def test_without_a_model_it_says_how_to_get_one(tmp_path, error_of):
    for folder in (tmp_path, tmp_path / "nowhere"):
        message = error_of("demo", "--model", str(folder))
        assert f"no trained localizer in {folder}" in message
        assert "make train" in message and "declip-pl import" in message


def test_samples_are_test_photos_where_there_are_any(tree, tmp_path, monkeypatch):
    found = demo.find_samples(str(tree))
    assert [sample.generator for sample in found] == ["lama", "lama", "ldm", "ldm", "real", "real"]
    assert {sample.image.parent.name for sample in found} == {"test"}
    with pytest.raises(UserError, match="no folder"):
        demo.find_samples(str(tmp_path / "nowhere"))
    monkeypatch.setenv("DECLIP_DATA", str(tmp_path / "nowhere"))
    assert demo.find_samples(None) == []


def test_another_threshold_gives_what_the_heat_map_holds():
    heat = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 60)), 2)
    heat = ((heat - heat.min()) / np.ptp(heat)).astype(np.float32)
    photo = np.zeros((40, 60, 3), np.uint8)
    found = Localization(photo, heat, heat > 0.5, 0.5, 0.5, []).at_threshold(0.6)
    labels, count = ndimage.label(heat > 0.6, np.ones((3, 3)))
    areas = sorted(np.bincount(labels.ravel())[1:], reverse=True)
    assert count > 2 and [region.area for region in found.regions] == areas
    assert (found.threshold, found.decision) == (0.6, "fixed")
    assert np.array_equal(found.mask, heat > 0.6)


def test_a_photo_below_the_floor_says_that_nothing_is_marked():
    heat = np.full((4, 6), 0.25, np.float32)
    found = Localization(
        np.zeros((4, 6, 3), np.uint8), heat, heat > 1, 0.2, 1.0, [], "expected-iou"
    )
    assert demo_text.UNMARKED in demo_text.score_html(found)
    assert demo_text.UNMARKED not in demo_text.score_html(found.at_threshold(1))


def test_only_the_largest_regions_are_listed():
    regions = [Region((i, 2, i + 3, 7), 100 - i, 0.75) for i in range(demo_text.SHOWN_REGIONS + 3)]
    text = demo_text.regions_html(regions, 1000)
    assert text.count("<tr>") == 1 + demo_text.SHOWN_REGIONS and "and 3 smaller ones" in text
    assert "<td>1, 2</td><td>3 x 5</td><td>9.9%</td><td>0.75</td>" in text
    assert "smaller" not in demo_text.regions_html(regions[:1], 1000)


def test_what_is_known_of_a_model_is_said(models):
    checkpoint = read_checkpoint(models / "first")
    text = demo_text.model_text(checkpoint, recorded_scores(checkpoint))
    assert "**ldm**" in text and "over **0.43**" in text and demo_text.STAND_IN in text
    text = demo_text.model_text(replace(checkpoint, trained_on=None), None)
    assert "**not known**" in text and demo_text.STAND_IN not in text
    made = ForgedPhotos("ab" * 32, {"<i>": 12}, 4, ("own", "everywhere:blur"))
    alone = TrainedOn(("forgeries",), "full", "f" * 64, "none", "", made, 7)
    text = demo_text.model_text(replace(checkpoint, trained_on=alone), None)
    assert "Trained on **forgeries** alone" in text and "<i>" not in text
    assert "12 photos of &#60;i&#62;, 4 times each; regions re-processed by own." in text
    assert "without a fake pixel: 7." in text
    both = replace(alone, generators=("ldm",))
    text = demo_text.model_text(replace(checkpoint, trained_on=both), None)
    assert "**ldm**. And on **forgeries**" in text
