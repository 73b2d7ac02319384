"""The W&B dashboard of all runs: a saved workspace, and a report for people."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from declip_pl.cross_eval.matrix import ROOT, Matrix, read_matrix, readable_matrices
from declip_pl.cross_eval.views.wandb_run import JOB_TYPE, panels_key
from declip_pl.errors import UserError
from declip_pl.files import command
from declip_pl.metrics import all_metrics
from declip_pl.training.wandb_runs import PROJECT, wandb_mode, wandb_project

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

TITLE = "declip-pl: which generators does a localizer carry over to?"
VIEW = "declipboard"
"""The workspace's name in its address, by which it is found again."""

DOLOS = ("ldm", "repaint-p2-9k", "lama", "pluralistic")
"""Generators to expect where no cross-evaluation names any."""

COLUMNS = (
    *("run:displayName", "run:jobType", "config:generator.value", "config:encoder.value"),
    *("config:layer.value", "config:decoder.value", "config:supervision.value"),
    *("config:dataset.value", "config:seed.value"),
    *("summary:iou/in_domain", "summary:iou/out_of_domain", "summary:iou/worst_out_of_domain"),
)
"""Columns of the run table: what one filters and sorts by."""


class Panel(NamedTuple):
    """One panel: its title, how it shows, and the logged names in it."""

    title: str
    kind: Literal["curve", "bars", "table", "pictures"]
    keys: list[str]


def dashboard(folder: Path | None = None, entity: str | None = None) -> None:
    """Build the W&B dashboard of this project: a saved workspace, and a report.

    Both show training curves and test scores by generator, pictures and cross-evaluations.
    Building them again replaces what they show, edits made in the browser included. Without an
    account nothing is built: it says what would be, and where the local report is.

    Args:
        folder: Cross-evaluation whose generators are shown; by default the newest.
        entity: W&B user or team that owns the project; by default the account's own.

    Raises:
        UserError: If the folder is no cross-evaluation, a package is missing, or W&B refuses.
    """
    folder, matrix = (folder, read_matrix(folder)) if folder else _newest()
    sections = plan(matrix)
    if (wandb_mode() or os.environ["WANDB_MODE"]) != "online":
        print("\n".join(_without_account(sections, folder)))
        return
    _require_workspaces()
    try:
        addresses = _build(sections, matrix, entity)
    except (wandb.errors.Error, WandbApiFailedError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"W&B did not take the dashboard: {reason}") from error
    for name, address in addresses.items():
        print(f"{name + ':':<11}{address}")


def plan(matrix: Matrix | None) -> dict[str, list[Panel]]:
    """Return the panels of each section.

    Args:
        matrix: A cross-evaluation that names generators and cells, if there is one.
    """
    generators = matrix.columns if matrix else DOLOS
    panels = matrix.panels if matrix else {}
    cells = [panels_key(row, test) for row, tests in panels.items() for test in tests]
    return {
        "Training": [
            Panel("Training loss", "curve", ["train/loss_epoch"]),
            Panel("IoU on validation photos", "curve", ["val/iou"]),
            Panel("Image AP on validation photos (weak)", "curve", ["val/image_ap"]),
            Panel("Learning rate", "curve", ["learning_rate"]),
        ],
        "Test scores": [
            Panel(metric.title, "bars", [f"test/{name}/{metric.name}" for name in generators])
            for metric in all_metrics()
            if metric.key
        ],
        "Pictures": [Panel("Validation photos at the best epoch", "pictures", ["panels"])],
        "Cross-evaluation": [
            Panel("Every row and column", "table", ["matrix"]),
            Panel("Matrix", "pictures", ["matrix_plot"]),
            Panel(
                "IoU in and out of domain",
                "bars",
                ["iou/in_domain", "iou/out_of_domain", "iou/worst_out_of_domain"],
            ),
            Panel(
                "Out-of-domain IoU by training generator",
                "bars",
                [f"iou/by_train/{name}" for name in generators],
            ),
            *([Panel("Best, median and worst photos", "pictures", cells)] if cells else []),
        ],
    }


def build_workspace(sections: dict[str, list[Panel]], entity: str) -> "ws.Workspace":
    """Return the workspace, not yet saved: runs grouped, and so coloured, by generator."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    workspace = ws.Workspace(
        entity=entity,
        project=wandb_project(),
        name=PROJECT,
        sections=[
            ws.Section(
                name=name,
                panels=[_widget(panel, grouped=False) for panel in panels],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=2, rows=2),
            )
            for name, panels in sections.items()
        ],
        settings=ws.WorkspaceSettings(max_runs=50),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Config("generator")],
            pinned_columns=list(COLUMNS),
        ),
    )
    workspace._internal_name = f"nw-{VIEW}-v"  # a name of its own, not one drawn by lot
    return workspace


def build_report(
    sections: dict[str, list[Panel]], entity: str, matrix: Matrix | None
) -> "wr.Report":
    """Return the report, not yet saved: what this is, the matrix, then everything behind it."""
    import wandb_workspaces.reports.v2 as wr

    notice = matrix and matrix.notice
    order = ["Cross-evaluation", *(name for name in sections if name != "Cross-evaluation")]
    return wr.Report(
        entity=entity,
        project=wandb_project(),
        title=TITLE,
        description="DeCLIP localizers, each trained on one generator and tested on all.",
        width="fluid",
        blocks=[
            *([wr.CalloutBlock(text=notice)] if notice else []),
            wr.MarkdownBlock(text=_ABOUT),
            *(block for name in order for block in _chapter(name, sections[name], entity)),
        ],
    )


_ABOUT = """A localizer marks the pixels of a photo that a generative model painted. Each one here
learned from the photos of the generator in `generator`; what counts is how it does on generators
it has never seen. A cross-evaluation tests every localizer on every generator: cells of the
matrix on the training generator are *in domain*, all others *out of domain*. Scores are percent.

The runs below each section can be filtered by `encoder`, `layer`, `decoder`, `supervision`,
`generator`, `dataset` and `seed`; where a cross-evaluation joins several, it holds them all."""


def _build(
    sections: dict[str, list[Panel]], matrix: Matrix | None, entity: str | None
) -> dict[str, str]:
    """Save both, in place of what earlier calls saved, and return their addresses."""
    api = wandb.Api()
    entity = entity or api.default_entity
    if not entity:
        raise UserError("your account has no default entity; name a user or team with --entity")
    if wandb_project() not in {project.name for project in api.projects(entity)}:
        api.create_project(wandb_project(), entity)
    workspace: Any = build_workspace(sections, entity)  # its save() is untyped, the report's too
    workspace._internal_id = _workspace_id(entity)
    workspace.save()
    report: Any = build_report(sections, entity, matrix)
    there = api.reports(f"{entity}/{wandb_project()}")
    saved = [old.id for old in there if old.display_name == TITLE]
    report.id = saved[0] if saved else ""
    report.save()
    return {"workspace": str(workspace.url), "report": str(report.url)}


def _workspace_id(entity: str) -> str:
    """Return the id of the workspace that an earlier call saved, empty if there is none."""
    from wandb_workspaces.workspaces.errors import SpecVersionError
    from wandb_workspaces.workspaces.internal import get_view_dict

    try:
        return str(get_view_dict(entity, wandb_project(), VIEW)["id"])
    except SpecVersionError as error:
        raise UserError(str(error)) from error
    except ValueError:  # how the library says that there is none
        return ""


def _chapter(name: str, panels: list[Panel], entity: str) -> "Iterator[wr.H2 | wr.PanelGrid]":
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    crossed = name == "Cross-evaluation"
    job = expr.Metric("JobType")
    yield wr.H2(text=name)
    yield wr.PanelGrid(
        runsets=[
            wr.Runset(
                entity=entity,
                project=wandb_project(),
                name="cross-evaluations" if crossed else "training runs",
                filters=expr.And(job == JOB_TYPE if crossed else job != JOB_TYPE),
                groupby=[] if crossed else ["config.generator"],
                pinned_columns=list(COLUMNS),
            )
        ],
        panels=[_widget(panel, grouped=not crossed) for panel in panels],
    )


def _widget(panel: Panel, grouped: bool) -> Any:
    """Return W&B's panel, its runs ``grouped`` by generator if the run table does not do that."""
    import wandb_workspaces.reports.v2 as wr

    by = wr.Config("generator") if grouped else None
    half, whole = wr.Layout(w=12, h=8), wr.Layout(w=24, h=12)
    if panel.kind == "curve":
        return wr.LinePlot(panel.title, x="epoch", y=[*panel.keys], groupby=by, layout=half)
    if panel.kind == "bars":
        return wr.BarPlot(panel.title, metrics=[*panel.keys], groupby=by, layout=half)
    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=panel.keys[0], layout=whole)
    return wr.MediaBrowser(panel.title, media_keys=panel.keys, num_columns=1, layout=whole)


def _without_account(sections: dict[str, list[Panel]], folder: Path | None) -> list[str]:
    mode = os.environ.get("WANDB_MODE")
    reason = f"WANDB_MODE={mode}" if mode else f"no account; `{command('wandb')} login` adds one"
    lines = [f"W&B: nothing was built ({reason})"]
    project = wandb_project()
    lines += [f"with an account: a workspace and a report of the project {project} that show"]
    for name, panels in sections.items():
        lines += [f"  {name}", *(f"    {p.title}: {_names(p.keys)}" for p in panels)]
    if folder and (folder / "report.html").exists():
        return [*lines, f"without an account: {folder / 'report.html'}"]
    return [*lines, "without an account: `make cross-eval` writes a report for the browser"]


def _names(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _newest() -> tuple[Path, Matrix] | tuple[None, None]:
    """Return the cross-evaluation that was written last, if there is any."""
    return next(readable_matrices(ROOT), (None, None))


def _require_workspaces() -> None:
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the dashboard needs wandb-workspaces: {command('pip')} install wandb-workspaces"
        ) from error
