"""The W&B dashboard, built against a stand-in for W&B's server; and what happens without one."""

import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import wandb
from conftest import run_apart
from crosseval_example import as_matrix, plain_matrix, plain_model

from declip_pl.cross_eval.views import wandb_dashboard as module
from declip_pl.cross_eval.views.wandb_dashboard import (
    build_report,
    build_workspace,
    dashboard,
    plan,
)
from declip_pl.errors import UserError

MATRIX = plain_matrix(
    [plain_model("latent"), plain_model("all-but-migan", trained_on=["latent"])],
    ("latent", "migan"),
    notice="mini is a stand-in",
    panels={"latent": {"latent": {}, "migan": {}}, "all-but-migan": {"migan": {}}},
)
CELLS = ["panels/latent/latent", "panels/latent/migan", "panels/all-but-migan/migan"]
CALL = """
import json, sys
from pathlib import Path
from declip_pl.cross_eval.views.wandb_dashboard import dashboard
for folder, entity in json.loads(sys.argv[1]):
    dashboard(folder and Path(folder), entity)
"""
ADDRESS = re.compile(r"(workspace|report): +(\S+)")


def write_matrix(folder, report=True):
    folder.mkdir(parents=True)
    (folder / "matrix.json").write_text(json.dumps(MATRIX))
    if report:
        (folder / "report.html").write_text("<!doctype html>")
    return folder


def call(cwd, *calls, **environment):
    """Call `dashboard` in a process of its own, as W&B's mode and account hold for a process.

    ``calls`` are folder and entity of each call.
    """
    path = os.pathsep.join(sys.path)  # the same package as here
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": path} | environment
    return run_apart([sys.executable, "-c", CALL, json.dumps(calls)], cwd, clean)


def test_without_an_account_it_says_what_it_would_build(tmp_path):
    old, new = (write_matrix(tmp_path / "outputs/cross_eval" / name) for name in ("b", "a"))
    os.utime(old / "matrix.json", (1, 1))
    done = call(tmp_path, (None, None))
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("W&B: nothing was built (no account; ") and "login" in lines[0]
    for text in ("train/loss_epoch", "val/iou", "test/migan/iou", "iou/out_of_domain", CELLS[0]):
        assert any(text in line for line in lines), text
    assert lines[-1] == f"without an account: {new.relative_to(tmp_path) / 'report.html'}"


def test_without_anything_it_says_how_to_get_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dashboard()  # $WANDB_MODE is "disabled" in tests
    printed = capsys.readouterr().out
    assert "WANDB_MODE=disabled" in printed and "test/pluralistic/iou" in printed
    assert printed.splitlines()[-1].startswith("without an account: `make cross-eval`")


def test_a_folder_that_is_no_cross_evaluation(tmp_path):
    with pytest.raises(UserError, match=r"is no cross-evaluation: there is no matrix\.json"):
        dashboard(tmp_path)


def test_a_missing_package_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "wandb_mode", lambda: "online")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install wandb-workspaces"):
        dashboard()


def panels_of(spec):
    """Return kind, title and keys of every panel of a W&B specification."""
    return {
        (panel["viewType"], panel["config"].get("chartTitle")): panel["config"] for panel in spec
    }


def test_the_workspace_holds_every_panel():
    sections = plan(as_matrix(MATRIX))
    model = build_workspace(sections, "me")._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))["section"]
    bank = spec["panelBankConfig"]["sections"]
    assert [section["name"] for section in bank] == list(sections)
    training, tests, pictures, crossed = (panels_of(section["panels"]) for section in bank)
    curves = {config["metrics"][0] for config in training.values()}
    assert curves == {"train/loss_epoch", "val/iou", "val/image_ap", "learning_rate"}
    assert {config["xAxis"] for config in training.values()} == {"epoch"}
    assert tests["Bar Chart", "IoU"]["metrics"] == ["test/latent/iou", "test/migan/iou"]
    assert {kind for kind, _ in pictures} == {"Media Browser"}
    assert crossed["Media Browser", "Best, median and worst photos"]["mediaKeys"] == CELLS
    assert crossed["Bar Chart", "IoU in and out of domain"]["metrics"] == [
        "iou/in_domain", "iou/out_of_domain", "iou/worst_out_of_domain"
    ]  # fmt: skip
    assert '"val": "matrix"' in json.dumps(crossed["Weave", None])
    (runs,) = spec["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "generator.value"}]
    for key in ("encoder", "layer", "decoder", "generator", "seed", "dataset", "supervision"):
        assert runs["runFeed"]["columnVisible"][f"config:{key}.value"]
    assert model.name == "nw-declipboard-v" and model.project == "declip-pl"


def test_what_is_shown_is_what_runs_log():
    """The names are those of tests/test_cli.py's and tests/test_tracking.py's runs."""
    keys = [key for panels in plan(None).values() for panel in panels for key in panel.keys]
    assert "panels" in keys and "matrix" in keys and "matrix_plot" in keys
    assert not any(key.startswith("panels/") for key in keys)  # no cell is known
    assert {key.split("/")[1] for key in keys if key.startswith("test/")} == set(module.DOLOS)


class Server:
    """Answers W&B's GraphQL queries about one account, and keeps the views that are saved."""

    def __init__(self):
        self.projects, self.views = [], {}
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = json.loads(body) if self.path == "/graphql" else None
                data = json.dumps({"data": answer(**asked)} if asked else {}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, query, variables=None, **ignored):
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        return getattr(self, name[0].lower() + name[1:])(variables or {})

    def viewer(self, asked):
        account = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}"}
        return {"viewer": account | {"teams": {"edges": []}}}

    getDefaultEntity = viewer  # noqa: N815

    def getProjects(self, asked):
        edges = [{"node": {"__typename": "Project", "id": "p", "name": name, "entityName": "me",
                           "createdAt": "", "isBenchmark": False, "user": None}}
                 for name in self.projects]  # fmt: skip
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": edges}}

    def createProject(self, asked):
        self.projects.append(asked["input"]["name"])
        return {"upsertModel": {"model": None, "project": None, "inserted": True}}

    upsertModel = createProject  # noqa: N815

    def projectInternalId(self, asked):
        known = asked["projectName"] in self.projects
        return {"project": {"id": "p", "internalId": "42"} if known else None}

    def view(self, asked):
        return self.listed(lambda view: view["name"] == asked["viewName"])

    def projectViews(self, asked):
        return self.listed(lambda view: view["type"] == "runs")

    def listed(self, wanted):
        edges = [{"node": view, "cursor": ""} for view in self.views.values() if wanted(view)]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def upsertView(self, asked):
        key = asked.get("id") or f"view{len(self.views)}"
        project = {"id": "p", "name": asked["projectName"], "entityName": asked["entityName"]}
        names = ("type", "name", "displayName", "description", "spec")
        view = {"id": key, "project": project} | {name: asked[name] for name in names}
        self.views[key] = view
        return {"upsertView": {"view": view, "inserted": not asked.get("id")}}

    upsertView2 = upsertView  # noqa: N815


def account(server):
    return {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40}


def test_with_an_account_both_are_built_and_built_again_in_place(tmp_path):
    write_matrix(tmp_path / "outputs/cross_eval/a")
    with Server() as server:
        done = call(tmp_path, (None, None), (None, None), **account(server))
        assert done.returncode == 0, done.stderr
        assert server.projects == ["declip-pl"]
        built = {view["type"]: view for view in server.views.values()}
        assert set(built) == {"project-view", "runs"} and len(server.views) == 2
        told = ADDRESS.findall(done.stdout)
        first, again = dict(told[:2]), dict(told[2:])
        assert again == first
        assert first["workspace"] == f"{server.address}/me/declip-pl?nw=declipboard"
        assert first["report"].startswith(f"{server.address}/me/declip-pl/reports/declip-pl")
        report = json.loads(built["runs"]["spec"])
    text = json.dumps(report)
    assert "mini is a stand-in" in text and "in domain" in text
    grids = [block for block in report["blocks"] if block["type"] == "panel-grid"]
    headings = [block["children"][0]["text"] for block in report["blocks"]
                if block["type"] == "heading"]  # fmt: skip
    assert headings == ["Cross-evaluation", "Training", "Test scores", "Pictures"]
    assert len(grids) == 4
    crossed, training = (panels_of(g["metadata"]["panelBankSectionConfig"]["panels"])
                         for g in grids[:2])  # fmt: skip
    assert '"val": "matrix"' in json.dumps(crossed["Weave", None])
    curve = training["Run History Line Plot", "IoU on validation photos"]
    assert curve["groupBy"] == "generator.value" and curve["aggregate"]
    operators = [json.dumps(grid["metadata"]["runSets"][0]["filters"]) for grid in grids]
    assert all('"cross-eval"' in operator for operator in operators)
    assert '"!="' in operators[1] and '"!="' not in operators[0]


@pytest.mark.slow  # W&B started in a process for each
def test_another_entity_and_folder(tmp_path):
    folder = write_matrix(tmp_path / "elsewhere")
    with Server() as server:
        server.projects.append("declip-pl")
        done = call(tmp_path, (str(folder), "team"), **account(server))
        assert done.returncode == 0, done.stderr
        assert {view["project"]["entityName"] for view in server.views.values()} == {"team"}
        assert all("test/migan/iou" in view["spec"] for view in server.views.values())


def refuse():
    raise wandb.errors.CommError("permission denied\nask your team")


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (lambda: SimpleNamespace(default_entity=None), "your account has no default entity"),
        (refuse, "W&B did not take the dashboard: permission denied$"),
    ],
)
def test_what_wandb_refuses_is_one_line(tmp_path, monkeypatch, api, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "wandb_mode", lambda: "online")
    monkeypatch.setattr(wandb, "Api", api)
    with pytest.raises(UserError, match=message):
        dashboard()


def test_the_report_holds_the_notice_only_where_there_is_one():
    quiet = as_matrix(MATRIX | {"notice": None})
    for content, callouts in ((as_matrix(MATRIX), 1), (quiet, 0), (None, 0)):
        report = build_report(plan(content), "", content)
        kinds = [type(block).__name__ for block in report.blocks]
        assert kinds.count("CalloutBlock") == callouts
        assert len(json.loads(report._to_model().spec.model_dump_json())["blocks"]) > 8
