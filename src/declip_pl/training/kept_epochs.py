"""Which epochs a run keeps: the options that decide on it, and what they may be."""

from collections.abc import Iterator
from inspect import signature
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint

from declip_pl.errors import UserError
from declip_pl.metrics import map_metrics

BEST = {
    "filename": "best",
    "monitor": "val/score",
    "mode": "max",
    "save_on_train_epoch_end": True,  # after the schedule has decided
    "enable_version_counter": False,
    "save_weights_only": True,  # last.ckpt is what a run is resumed from
}
"""Options of the callback that keeps the best epoch, where they are not Lightning's defaults."""

LAST = {"filename": "last", "save_on_train_epoch_end": True, "enable_version_counter": False}
"""Options of the callback that keeps the last epoch, where they are not Lightning's defaults."""

OPEN = ("best.monitor", "best.mode", "best.verbose", "last.verbose")
"""Options of the two callbacks that anybody may change."""

WHY = {
    "best": "the best epoch is kept as checkpoints/best.ckpt, which every command reads",
    "last": "the last epoch is kept as checkpoints/last.ckpt, which the run is resumed from",
}

OWN = "a ModelCheckpoint of your own in --trainer.callbacks can keep more"


class KeptEpoch(ModelCheckpoint):
    """Lightning's callback under a name of its own.

    A ModelCheckpoint of the user's may then watch the same figure; Lightning tells callbacks apart
    by their class and figure.
    """


def check_options(config: Namespace) -> None:
    """Refuse options of ``fit`` with which the best epoch would not be kept, found or tested.

    Args:
        config: All options of ``fit``.

    Raises:
        UserError: If there is one; it says what to give instead.
    """
    for wrong in (*_wrong_callbacks(config), *_wrong_trainer(config), *_wrong_monitors(config)):
        raise UserError(wrong)


def _wrong_callbacks(config: Namespace) -> Iterator[str]:
    defaults = {name: p.default for name, p in signature(ModelCheckpoint).parameters.items()}
    for section, ours in (("best", BEST), ("last", LAST)):
        for name, expected in (defaults | ours).items():
            given = config[section][name]
            if given != expected and f"{section}.{name}" not in OPEN:
                yield (
                    f"--{section}.{name} {given}: {WHY[section]}; leave it at {_typed(expected)} "
                    f"({OWN})"
                )


def _wrong_trainer(config: Namespace) -> Iterator[str]:
    given = config.trainer
    for name, advice in (
        ("max_epochs", "give the number of epochs, or -1 for no limit"),
        ("max_steps", "give the number of steps, or -1 for no limit"),
        ("limit_train_batches", "give a share such as 0.1, or a number of batches"),
    ):
        if given[name] == 0:
            yield f"--trainer.{name} 0 trains nothing; {advice}"
    for name, task in (("val", "decides which epoch is the best"), ("test", "scores the best")):
        if given[f"limit_{name}_batches"] == 0:
            yield (
                f"--trainer.limit_{name}_batches 0: nothing {task}; give a share such as 0.1, or a "
                "number of batches"
            )
    interval, every, epochs = (
        given[name] for name in ("val_check_interval", "check_val_every_n_epoch", "max_epochs")
    )
    if every is None or not (interval is None or (isinstance(interval, float) and interval == 1)):
        yield (
            f"--trainer.val_check_interval {interval} with check_val_every_n_epoch {every}: epochs "
            "are validated at their end, where their checkpoint is written; leave them at 1.0 and "
            "1 (--trainer.limit_train_batches 0.25 makes epochs shorter)"
        )
    elif epochs is not None and 0 < epochs < every:
        yield (
            f"--trainer.check_val_every_n_epoch {every}: none of {epochs} epochs would be "
            f"validated; give at most {epochs}"
        )
    if given.enable_checkpointing is False or given.barebones:
        name = "barebones true" if given.barebones else "enable_checkpointing false"
        yield f"--trainer.{name}: {WHY['best']}; leave it out"
    if given.default_root_dir:
        yield f"--trainer.default_root_dir {given.default_root_dir}: a run's folder is --run.root"
    for name in ("optimizer", "lr_scheduler"):
        if config.get(name):
            yield (
                f"--{name}: the optimiser is AdamW, its rate --model.learning_rate and its course "
                "--schedule"
            )


def _wrong_monitors(config: Namespace) -> Iterator[str]:
    yield from _wrong_monitor(config, "best.monitor", config.best.monitor, config.best.mode)
    schedule = config.schedule.get("init_args") or {}
    if "monitor" in schedule:  # PaperSchedule's
        yield from _wrong_monitor(config, "schedule.monitor", schedule["monitor"], "max")


def _wrong_monitor(config: Namespace, option: str, monitor: str | None, mode: str) -> Iterator[str]:
    modes = monitored()
    if monitor not in modes:
        if not config.trainer.callbacks:  # which may log figures of their own
            names = ", ".join(modes)
            yield f"--{option} {monitor}: there is no such figure; choose one of {names}"
    elif modes[monitor] != mode:
        better, advice = ("higher", "leave --best.mode at max")
        if modes[monitor] == "min":
            better, advice = ("lower", "add --best.mode min")
        if option != "best.monitor":
            advice = "choose one that should rise"
        yield f"--{option} {monitor}: {better} is better; {advice}"


def monitored() -> dict[str, str]:
    """Return the logged figures that an epoch can be chosen by, each with ``max`` or ``min``."""
    figures = {"val/score": "max"}
    for metric in map_metrics(tuned=False):
        figures[f"val/{metric.name}"] = "min" if metric.less_is_better else "max"
    names = ("image_ap", "image_auroc", "image_accuracy")
    return figures | {f"val/{name}": "max" for name in names} | {"train/loss": "min"}


def _typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value
