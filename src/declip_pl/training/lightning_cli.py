"""LightningCLI for this package: ``fit``, ``validate`` and ``test``."""

import logging
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from declip_pl import parts
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.forgeries.sources import as_forgeries
from declip_pl.errors import UserError
from declip_pl.files import expanded, relative, write_text
from declip_pl.model.checkpoint import (
    BEST,
    describe_lightning,
    load_lightning,
    name_of,
    read_checkpoint,
    run_of,
)
from declip_pl.model.encoder import short_name
from declip_pl.one_line import joined
from declip_pl.training import kept_epochs
from declip_pl.training.arguments import with_read_recipes
from declip_pl.training.bounds import check_lightning, check_processes
from declip_pl.training.callbacks import PANELS, History, MovedRun, Panels, is_trial
from declip_pl.training.checkpoint_io import note_test
from declip_pl.training.continuation import check_continuation
from declip_pl.training.kept_epochs import KeptEpoch, check_options
from declip_pl.training.progress import MEANT, EpochLines, quiet
from declip_pl.training.recipe_file import parse_yaml, read_recipe
from declip_pl.training.results import describe_results, in_short, results_path, summary
from declip_pl.training.run_folder import CONFIG, RESULTS, Run, run_name
from declip_pl.training.schedules import Schedule
from declip_pl.training.task import LocalizationTask
from declip_pl.training.together import Together
from declip_pl.training.wandb_runs import make_logger, wandb_hints, wandb_id, wandb_options

EVALUATIONS = "evaluations"
"""Where a training run's folder keeps W&B's files of later tests."""

TESTS = "outputs/test"
"""Results of tests of models that lie in no run."""

REFUSALS = (
    *(MisconfigurationException, AssertionError, ImportError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError),
)
"""What Lightning raises where options of its trainer are wrong."""


class DeclipCLI(LightningCLI):
    """LightningCLI around :class:`LocalizationTask` and :class:`LocalizationDataModule`.

    ``fit`` trains, then tests the best checkpoint and writes ``test_metrics.json``.

    Args:
        args: Arguments as on the command line, ``fit``, ``validate`` or ``test`` first.
        output: Folder for the results of ``test``, by default that of the model's run.
    """

    def __init__(self, args: list[str], output: Path | None = None) -> None:
        self.output, self._command = output, args[0]
        for message in MEANT:
            warnings.filterwarnings("ignore", message=message)
        for library in ("pytorch", "fabric"):  # which devices there are not, and advertisements
            logging.getLogger(f"lightning.{library}").setLevel(logging.WARNING)
        self._together = Together()
        self._together.run(
            partial(
                super().__init__,
                LocalizationTask,
                LocalizationDataModule,
                args=with_read_recipes(args),
                seed_everything_default=0,
                save_config_callback=_SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                parser_kwargs={"prog": "declip-pl", "exit_on_error": False},
            )
        )

    # Lightning asks the instance; its own needs none.
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the one that is run: the parsers of all would take twice as long."""
        of_all: dict[str, set[str]] = LightningCLI.subcommands()
        return {self._command: of_all[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and the callbacks; one value serves data and model alike."""
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(KeptEpoch, "best")
        parser.add_lightning_class_args(KeptEpoch, "last")
        parser.add_lightning_class_args(Schedule, "schedule", subclass_mode=True)
        parser.add_lightning_class_args(Panels, "panels")
        parser.add_lightning_class_args(History, "history")
        parser.add_lightning_class_args(EpochLines, "lines")
        parser.add_lightning_class_args(MovedRun, "moved")
        parser.set_defaults(
            {
                "schedule": {"class_path": "declip_pl.training.schedules.PaperSchedule"},
                **{f"best.{name}": value for name, value in kept_epochs.BEST.items()},
                **{f"last.{name}": value for name, value in kept_epochs.LAST.items()},
                "trainer.log_every_n_steps": 10,
                "trainer.use_distributed_sampler": False,  # the data module shares photos itself
            }
        )
        parser.link_arguments("model.supervision", "data.supervision")
        for callback in ("panels", "lines"):
            parser.link_arguments("best.monitor", f"{callback}.monitor")
            parser.link_arguments("best.mode", f"{callback}.mode")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")

    def _parse_ckpt_path(self) -> None:
        """Let the config say what the model is.

        LightningCLI would replace the model's options by the checkpoint's without a word; here a
        checkpoint of another encoder is an error (``LocalizationTask.on_load_checkpoint``).
        """

    def before_instantiate_classes(self) -> None:
        """Name the run, refuse to touch another's, and find what to resume."""
        config = self.config[self.subcommand]
        for key, value in list(config.items()):
            config[key] = expanded(value)
        check_lightning(config.seed_everything, config.trainer.as_dict())
        # Wrong names should fail before weights are fetched.
        data = config.data.as_dict()
        LocalizationDataModule(**data | {"forgeries": as_forgeries(data["forgeries"])})
        if self.subcommand == "fit":
            self._prepare_fit(config)
        elif config.ckpt_path:
            self.checkpoint = read_checkpoint(config.ckpt_path)
            self.run = _run_of(self.checkpoint.path, config.run, self.output)
        else:
            raise UserError(f"{self.subcommand} needs a model: --ckpt_path=RUN")
        config.weights_only = True  # a checkpoint is never unpickled
        config.trainer.default_root_dir = str(self.run.folder)
        config.best.dirpath = config.last.dirpath = str((self.run.folder / BEST).parent)

    def _prepare_fit(self, config: Namespace) -> None:
        check_options(config)
        self.run = _named(config)
        last = None if config.trainer.fast_dev_run else self.run.check()
        config.ckpt_path = config.ckpt_path or (str(last) if last else None)
        if config.ckpt_path:
            checkpoint = Path(config.ckpt_path)
            if self.run.overwrite and self.run.is_at(run_of(checkpoint) or checkpoint):
                raise UserError(f"{checkpoint} would be deleted with the run that it is to replace")
            settings = parse_yaml(self._parser(self.subcommand).dump(config, skip_none=False))
            module, _, name = config.schedule.class_path.rpartition(".")
            schedule = getattr(import_module(module), name)
            check_continuation(checkpoint, settings, may_grow=not schedule.needs_end)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Log to W&B unless the config names loggers or turns them off."""
        wanted = self.config[self.subcommand].trainer.logger
        if wanted is None or wanted is True:
            kwargs["logger"] = self._wandb_logger()
        kwargs |= quiet(self.config_init[self.subcommand].trainer)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except REFUSALS as error:
            raise UserError(
                f"Lightning refuses these --trainer options: {joined(error)}"
            ) from error
        check_processes(trainer)
        self._together.follow(trainer)
        return trainer

    def fit(self, model: LocalizationTask, **kwargs: Any) -> None:
        """Check the data, train, test the best checkpoint and close with a summary."""
        if is_trial(self.trainer):
            self.trainer.fit(model, **kwargs)
            print("fast_dev_run: trained and validated on a few batches; nothing is kept or tested")
            return
        self.datamodule.is_tested_next = bool(self.datamodule.generators)
        if resumed := self.config["fit"].ckpt_path:  # before photos are encoded
            model.take_encoder(describe_lightning(load_lightning(Path(resumed)), resumed))
        if not self.trainer.is_global_zero:  # only the first of several processes writes
            self._train_and_test(model, **kwargs)
            return
        self.datamodule.prepare_data()  # while nothing is written yet
        with self.run.claimed():
            self.run.begin(self.config.fit.ckpt_path)
            self._train_and_test(model, **kwargs)

    def _train_and_test(self, model: LocalizationTask, **kwargs: Any) -> None:
        self.trainer.fit(model, **kwargs)
        best = self.run.folder / BEST
        if not best.exists():
            raise UserError(
                "training ended before an epoch was trained and validated, so there is no best one "
                "to test; see --trainer.max_steps, max_time and the learning rate"
            )
        if self.datamodule.generators:  # without a data set there is nothing to test on
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=str(best), verbose=False,
                weights_only=True,
            )  # fmt: skip
            if self.model.tested_on and self.trainer.is_global_zero:
                note_test(best, self.model.tested_on)
        self._report(best, self.run.folder / RESULTS)

    def validate(self, model: LocalizationTask, ckpt_path: str, **kwargs: Any) -> None:
        """Validate a trained localizer, whatever shape it was saved in."""
        model.load_weights(self.checkpoint)
        self.trainer.validate(model, **kwargs)

    def test(self, model: LocalizationTask, ckpt_path: str, **kwargs: Any) -> None:
        """Test a trained localizer; its scores go to a file of their own beside the run's."""
        if not self.datamodule.generators:
            raise UserError("without a data set there is nothing to test on: name one (--data DIR)")
        target = results_path(self.run.folder, self.datamodule, self.checkpoint.trained_on)
        if target.exists() and not self.run.overwrite:
            raise UserError(f"{target} exists; replace it with --overwrite")
        model.load_weights(self.checkpoint)
        self.trainer.test(model, **kwargs)
        self._report(self.checkpoint.path, target)

    def _report(self, checkpoint: Path, target: Path) -> None:
        if not self.trainer.is_global_zero:
            return
        results = describe_results(self.model, self.datamodule, checkpoint)
        results.write(target)
        wandb.finish()  # its farewell should not stand below the summary
        if self.run.brief:
            print(in_short(results, target))
            return
        print(summary(results, target, relative(run_of(checkpoint) or checkpoint)))
        if (self.run.folder / PANELS).is_dir():
            print(f"pictures: {self.run.folder / PANELS}")
        for line in wandb_hints(self._logs):
            print(line)

    @property
    def _logs(self) -> Path:
        """Where W&B's files go: an evaluation's apart from its training's, which may go on."""
        apart = self.subcommand != "fit" and (self.run.folder / CONFIG).exists()
        return self.run.folder / EVALUATIONS if apart else self.run.folder

    def _wandb_logger(self) -> WandbLogger:
        config = self.config[self.subcommand]
        model, data = config.model, config.data
        facts = {
            "encoder": short_name(model.encoder),
            "layer": model.layer,
            "decoder": parts.short(model.decoder),
            "generator": data.generator,
            "dataset": self.datamodule.root.name,
            "supervision": model.supervision,
            "seed": config.seed_everything,
        }
        name, group, id_ = str(self.run.name), str(facts["dataset"]), None
        if self.subcommand == "fit":
            id_ = None if self.run.overwrite else wandb_id(self.run.folder)
        else:
            trained_on = self.checkpoint.trained_on
            name = f"{name} on {group}/{data.generator}"
            group = (trained_on and trained_on.data) or group
        tags = [f"seed-{value}" if key == "seed" else value for key, value in facts.items()]
        options = wandb_options(name, group, str(self.subcommand), tags)
        return make_logger(
            self._logs,
            **options,
            id=id_,
            config=facts,
        )


class _SaveConfig(SaveConfigCallback):
    """Write the resolved ``config.yaml`` of a training run into its folder."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wait until a checkpoint to resume from has proved to fit."""

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file now."""
        if not is_trial(trainer):
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file and log its content.

        A run that is resumed keeps its file, unless it is to train for longer.
        """
        config = self.config.clone()
        path = Path(trainer.default_root_dir) / CONFIG
        epochs = config.trainer.max_epochs
        resumed = trainer.ckpt_path is not None and path.is_file()
        if not resumed or read_recipe(path)["trainer"]["max_epochs"] != epochs:
            write_text(path, self.parser.dump(_repeatable(config), skip_none=False))
        if isinstance(trainer.logger, WandbLogger):
            source = pl_module.network.encoder.identity.source  # type: ignore[union-attr]
            told = {"encoder_source": source, "notice": trainer.datamodule.notice}  # type: ignore[attr-defined]
            trainer.logger.log_hyperparams(self.config.as_dict() | told)


def _repeatable(config: Namespace) -> Namespace:
    """Return a configuration without what was of this start alone."""
    config.ckpt_path, config.run.brief = None, False
    config.run.resume, config.run.overwrite = False, False
    config.trainer.default_root_dir = config.best.dirpath = config.last.dirpath = None
    return config


def _named(config: Namespace) -> Run:
    """Return the run of a training configuration, under its own or the default name."""
    run, model = Run(**config.run.as_dict()), config.model
    run.name = run.name or run_name(
        model.encoder,
        model.layer,
        model.decoder,
        config.data.generator,
        model.supervision,
        config.data.augmentation,
        model.loss,
        config.seed_everything,
        as_forgeries(config.data.forgeries),
    )
    return run


def _run_of(model: Path, options: Namespace, output: Path | None) -> Run:
    """Return where the results of a model's test go: as asked, its run, or a folder of its own."""
    folder = output.absolute() if output else run_of(model)
    if folder:
        return Run(str(relative(folder.parent)), folder.name, overwrite=options.overwrite)
    return Run(TESTS, options.name or name_of(model), overwrite=options.overwrite)
