import json
import time
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from crosseval_example import GENERATORS, UNTOUCHED, as_matrix, example_matrix, write_example
from PIL import Image

from declip_pl.cross_eval.provenance import made
from declip_pl.cross_eval.views import curves, heat_map, published_figures
from declip_pl.cross_eval.views.report import write_report
from declip_pl.errors import UserError

NOTICE = "mini is a stand-in: these scores say nothing about <Dolos>"
NASTY = '<blink>&"$x_1$ {{ 7*7 }}'
LOADING = {"src", "srcset", "poster", "data", "action", "background", "xlink:href", "ping"}
CELLS_WITHOUT_FAILED = len(GENERATORS) * (len(GENERATORS) + 2) - 1


class Page(HTMLParser):
    """All tags and text of a page; ``cells`` is the text of each table cell."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.cells, self.open_cell = [], "", [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.open_cell = []

    def handle_endtag(self, tag):
        if tag == "td":
            self.cells.append(" ".join(self.open_cell))
            self.open_cell = None

    def handle_data(self, data):
        self.text += data
        if self.open_cell is not None and data.strip():
            self.open_cell.append(data.strip())

    def values(self, attribute):
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with everything a report can hold, and its ``matrix.json``."""
    folder = tmp_path_factory.mktemp("cross_eval") / "example"
    return folder, write_example(folder, notice=NOTICE)


@pytest.fixture(scope="module")
def page(example):
    return Page(write_report(example[0]).read_text(encoding="utf-8"))


@pytest.fixture
def report_of(tmp_path, blank_plots):
    """Write a report of a matrix without panels and plots and read it."""

    def report(matrix):
        (tmp_path / "matrix.json").write_text(json.dumps(matrix))
        return Page(write_report(tmp_path).read_text(encoding="utf-8"))

    return report


def test_every_value_stands_with_its_interval_in_its_matrix(example, page):
    shown = Counter(" ".join(cell.split()[:2]) for cell in page.cells)
    expected = Counter(
        f"{cell['value']:.1f} {cell['low']:.1f}\N{EN DASH}{cell['high']:.1f}"
        for table in example[1]["matrix"].values()
        for row in table.values()
        for cell in row.values()
    )
    assert expected.total() == 21 * CELLS_WITHOUT_FAILED
    assert expected <= shown


def test_what_is_marked_of_untouched_photos_is_a_table_with_a_line_for_each_row(example, page):
    matrix = example[1]
    shown = " ".join(page.text[page.text.index("Untouched photos, percent") :].split())
    for row in matrix["rows"]:
        first = [next(iter(matrix["matrix"][name][row].values())) for name in UNTOUCHED]
        told = [f"{s['value']:.1f} {s['low']:.1f}\N{EN DASH}{s['high']:.1f}" for s in first]
        assert " ".join([row, *told]) in shown
    assert "0.123" in page.cells


def test_without_reals_there_is_no_table_of_untouched_photos(report_of):
    assert "Untouched" not in report_of(example_matrix(reals=False)).text


def test_published_figures_are_all_there_and_marked_as_others(page):
    published = Counter(
        f"{value:.1f}" for row in published_figures.MATRIX.values() for value in row.values()
    )
    assert published <= Counter(cell.removesuffix(" in-domain") for cell in page.cells)
    assert "Not the same measurement: other data: Dolos, not objects; another network" in page.text
    assert "73.85" in page.text and "34.72" in page.text


def test_published_figures_are_not_called_another_network_where_they_are_the_same(report_of):
    matrix = example_matrix()
    for model in matrix["models"]:
        model |= {
            "encoder": "openai/clip-vit-large-patch14+RN50",
            "layer": "layer20",
            "decoder": "conv-20",
        }
    text = report_of(matrix).text
    assert "other data: Dolos, not objects" in text and "another network" not in text
    matrix["data"]["name"] = "celebahq"
    assert "Not the same measurement" not in report_of(matrix).text


def test_nothing_is_loaded_from_elsewhere(example, page):
    assert {"link", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, attrs in page.tags:
        for name in LOADING & attrs.keys():
            assert attrs[name].startswith("data:image/webp;base64,"), (tag, attrs[name][:80])
        if tag != "a" and "href" in attrs:
            assert attrs["href"].startswith("#")
    html = (example[0] / "report.html").read_text(encoding="utf-8")
    assert "@import" not in html and "url(http" not in html and "url(//" not in html
    assert not list(example[0].glob(".*"))  # no temporary file is left


def test_ids_of_all_plots_differ_and_references_point_somewhere(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {href[1:] for href in page.values("href") if href.startswith("#")}
    targets |= {value[5:-1] for value in page.values("clip-path")}
    targets |= set(page.values("aria-labelledby")) | set(page.values("for"))
    assert targets <= set(ids)


def test_text_in_plots_is_text(example):
    svg = curves.curve_svg(as_matrix(example[1]), "migan", "iou")
    assert svg.startswith("<svg") and ">threshold</text>" in svg and "http" not in svg
    assert "DejaVuSans-" not in svg  # no glyph outlines


def test_names_are_escaped_wherever_they_stand(tmp_path):
    matrix = write_example(
        tmp_path, generators=(NASTY, "_b"), left_out=(NASTY,), notice=NOTICE, failing=True
    )
    matrix["panels"]["_b"]["_b"]["best"]["photo"] = "<blink>photo"
    matrix["failed"][0]["why"] = "<blink>why"
    (tmp_path / "matrix.json").write_text(json.dumps(matrix))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "blink" not in {tag for tag, _ in page.tags}
    for text in (NASTY, f"all-but-{NASTY}", "<blink>photo", "<blink>why", NOTICE):
        assert text in page.text
    assert any(NASTY in label for label in page.values("aria-label"))
    assert any(NASTY in label for label in page.values("alt"))
    heat_map.draw_matrix(as_matrix(matrix), tmp_path / "matrix.png")  # `$` would start a formula


def test_a_failed_cell_says_so_and_failures_stand_on_top(example, page):
    failures = example[1]["failed"]
    head = page.text[: page.text.index("In short")]
    assert failures and all(f["what"] in head and f["why"] in head for f in failures)
    # 21 matrices, the one beside the published figures, and 5 scores of whole photos
    assert page.cells.count("failed") == 21 + 1 + 5


def test_a_row_of_which_everything_failed_is_still_a_column(report_of):
    matrix = example_matrix(left_out=())
    for table in matrix["matrix"].values():
        table["telea"] = {}
    for part in ("curves", "reliability", "panels"):
        del matrix[part]["telea"]
    failed = [cell for cell in report_of(matrix).cells if cell.startswith("failed")]
    assert len(failed) == 21 * 4 + 4 + 4 * 5 + 4  # and 4 scores of untouched photos


def test_an_undefined_score_is_called_undefined(report_of, tmp_path):
    matrix = example_matrix()
    empty = {"value": None, "low": None, "high": None, "n": 0}
    matrix["matrix"]["ap"]["migan"]["telea"] = empty
    matrix["models"][0]["thresholds"] = {"pixel": None, "image": None}
    assert report_of(matrix).cells.count("undefined") == 1
    heat_map.draw_matrix(as_matrix(matrix), tmp_path / "matrix.png")


def test_without_real_photos_there_is_no_section_on_whole_photos(report_of):
    page = report_of(example_matrix(reals=False))
    assert "images" not in page.values("id") and "#images" not in page.values("href")
    assert "there are no real photos" in page.text
    assert "AUROC" not in page.text


def test_a_matrix_of_one_cell(report_of, tmp_path):
    matrix = example_matrix(("lama",), (), failing=False)
    page = report_of(matrix)
    assert "nothing can be said about which generalises best" in page.text
    assert page.text.count("there is no such cell") == 2  # out-of-domain mean and worst cell
    heat_map.draw_matrix(as_matrix(matrix), tmp_path / "matrix.png")


def test_a_metric_that_is_not_known_is_shown_under_its_name(report_of):
    matrix = example_matrix()
    matrix["metrics"].append("boundary_iou")
    matrix["matrix"]["boundary_iou"] = {
        "migan": {"telea": {"value": 12.34, "low": None, "high": None, "n": 1}}
    }
    page = report_of(matrix)
    assert "boundary_iou" in page.text and "12.3" in page.cells


def test_the_notice_stands_wherever_scores_do(page, report_of):
    sections = [tag for tag, _ in page.tags if tag == "section"]
    # Once on top and once at the end; all sections but the first one (right below it) and the
    # two that hold no scores repeat it.
    assert page.text.count(NOTICE) == 2 + len(sections) - 3
    assert "stand-in" not in report_of(example_matrix()).text


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ({"value": 30.0, "low": 29.0, "high": 31.0}, "The intervals do not overlap."),
        ({"value": 36.5, "low": 35.0, "high": 38.5}, "The intervals overlap: not settled."),
        ({"value": 36.5, "low": None, "high": None}, "this is not settled"),
    ],
)
def test_which_training_generalises_best_and_whether_that_is_settled(report_of, second, verdict):
    matrix = example_matrix(GENERATORS[:2], ())
    best = {"value": 40.0, "low": 38.0, "high": 42.0, "n": 200}
    matrix["summary"]["iou"]["by_train"] = {"latent": second | {"n": 200}, "migan": best}
    text = " ".join(report_of(matrix).text.split())
    lead = 40 - second["value"]
    assert "Trained on migan, the localizer reaches 40.0 (38.0\N{EN DASH}42.0) IoU" in text
    assert f"the best of 2, {lead:.1f} points ahead of latent" in text
    assert verdict in text


def test_pictures_are_small_and_a_missing_one_is_named(tmp_path):
    matrix = write_example(tmp_path, generators=GENERATORS[:2], left_out=())
    first, second = (matrix["panels"]["migan"]["migan"][kind]["file"] for kind in ("best", "worst"))
    (tmp_path / first).unlink()
    (tmp_path / second).write_bytes(b"no picture")
    path = write_report(tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    assert f"picture missing: {first}" in page.text and f"picture missing: {second}" in page.text
    sources = page.values("src")
    assert len(sources) == 3 * 3 - 2
    assert all(len(source) < 60_000 for source in sources)
    assert all(page.values("alt")) and len(page.values("alt")) == len(sources)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match=r"is no cross-evaluation: there is no matrix\.json"):
        write_report(tmp_path)
    path = tmp_path / "matrix.json"
    for content in ("{", "[]", json.dumps({"name": "x"}), b"\xff"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=r"matrix\.json is damaged"):
            write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("generators", "left_out"),
    [
        (("lama",), ()),
        (GENERATORS, ("migan", "telea")),
        (tuple(f"stable_diffusion_inpainting-{i}" for i in range(8)), ()),
    ],
)
def test_no_text_of_the_matrix_leaves_the_picture(monkeypatch, tmp_path, generators, left_out):
    figures = []

    class Watched(heat_map.Figure):
        def savefig(self, *args, dpi, **options):
            self.set_dpi(dpi)  # positions are told in it
            super().savefig(*args, **options)
            figures.append(self)

    monkeypatch.setattr(heat_map, "Figure", Watched)
    path = tmp_path / "matrix.png"
    heat_map.draw_matrix(as_matrix(example_matrix(generators, left_out, notice=NOTICE)), path)
    (figure,) = figures
    drawn = [text for axes in figure.axes for text in [axes.title, *axes.texts]]
    labels = [
        label
        for axes in figure.axes
        for label in [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label]
    ]
    for text in [*figure.texts, *drawn, *labels]:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 10


def test_text_on_every_cell_colour_has_contrast():
    def contrast(colours):
        levels = sorted(luminance([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in colours)
        return (levels[1] + 0.05) / (levels[0] + 0.05)

    for less_is_better in (False, True):
        for value in np.linspace(-1, 101, 1021):
            assert contrast(heat_map.cell_colours(value, less_is_better)) >= 4.5


def luminance(rgb):
    """Relative luminance of WCAG 2.1 of 0..255."""
    parts = np.asarray(rgb) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.fixture(params=[(1280, "light"), (400, "dark")])
def tab(request, chromium, page, example):
    """The report in a browser, which must make no request and print nothing."""
    width, scheme = request.param
    tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    heard, requested = [], []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: requested.append(request.url))
    address = (example[0] / "report.html").as_uri()
    tab.goto(address)
    yield tab
    tab.close()
    assert heard == []
    assert [url for url in requested if not url.startswith("data:")] == [address]


def test_no_page_scroll_to_the_side_whatever_is_open(tab):
    for _ in range(2):
        width, inner = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner
        tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


def test_pictures_are_decoded_once_they_are_open(tab):
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    tab.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    widths = tab.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) == 3 * CELLS_WITHOUT_FAILED and min(widths) > 0


def test_metric_switcher_shows_one_metric_by_mouse_and_keys(tab, example):
    metrics = example[1]["metrics"]
    shown = (
        "[...document.querySelectorAll('.view')].filter(v => v.checkVisibility()).map(v => v.id)"
    )
    assert tab.evaluate(shown) == ["view-1"]
    for number in range(2, len(metrics) + 1):
        tab.click(f"label[for=metric-{number}]")
        assert tab.evaluate(shown) == [f"view-{number}"]
        assert metrics[number - 1] in tab.inner_text(f"#view-{number}")
    tab.focus(f"#metric-{len(metrics)}")
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(shown) == [f"view-{len(metrics) - 1}"]


def test_all_text_has_contrast_to_what_is_behind_it(tab):
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    tab.add_style_tag(content=".view { display: block !important; }")
    found = tab.evaluate(
        """() => {
          const numbers = text => text.match(/[0-9.]+/g).map(Number);
          const behind = element => {
            for (let e = element; e; e = e.parentElement) {
              const colour = numbers(getComputedStyle(e).backgroundColor);
              if (colour.length < 4 || colour[3] > 0.8) return colour.slice(0, 3);
            }
          };
          const own = e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
          return [...document.querySelectorAll('body *:not(svg, svg *)')].filter(own).map(e =>
            [e.textContent.trim(), !!e.closest('.cell'),
             numbers(getComputedStyle(e).color).slice(0, 3), behind(e)]);
        }"""
    )
    assert sum(in_cell for _, in_cell, *_ in found) > 14 * CELLS_WITHOUT_FAILED
    for text, _, ink, paper in found:
        low, high = sorted((luminance(ink), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ink, paper)


@pytest.mark.parametrize("program", ["/x/bin/declip-pl", "/x/declip_pl/__main__.py"])
def test_the_command_on_record_is_the_one_to_type(monkeypatch, program):
    monkeypatch.setattr("sys.argv", [program, "ablate", "layer", "--data=/home/ann/dolos"])
    assert made(time.monotonic(), "cpu").command == "declip-pl ablate layer --data=dolos"
