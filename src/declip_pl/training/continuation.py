"""Going on with a run: only as it was begun, and only from what is whole."""

from pathlib import Path
from typing import Any

from declip_pl.errors import UserError
from declip_pl.model.checkpoint import BEST, load_lightning, run_of
from declip_pl.training.recipe import compared, decisive
from declip_pl.training.recipe_file import Sections, read_config
from declip_pl.training.run_folder import NAME, OVERWRITE, RESUME

ANEW = f"start the run anew ({OVERWRITE})"


def check_continuation(checkpoint: Path, settings: Sections, may_grow: bool) -> None:
    """Refuse to go on from a checkpoint that is damaged, or with other settings than the run's.

    Which data and which encoder it was trained on is compared when it is loaded.

    Args:
        checkpoint: A ``last.ckpt``.
        settings: All options of ``fit``, as a run's ``config.yaml`` has them.
        may_grow: Whether the number of epochs may change.

    Raises:
        UserError: If so; it names the file, or every setting that differs with both values.
    """
    content = _read(checkpoint)
    run = run_of(checkpoint)
    if run is None:
        raise UserError(
            f"{checkpoint} lies in no run's folder, so nothing says what it was trained with"
        )
    _check_best(content, run)
    try:
        theirs = read_config(run)
    except UserError as error:
        raise UserError(f"{error}, so nothing says what was trained; {ANEW}") from error
    # An encoder may have moved: its weights are compared when the checkpoint is loaded.
    free = ("model.encoder", "trainer.max_epochs" if may_grow else "")
    found = [e for e in compared(decisive(theirs), decisive(settings)) if e[0] not in free]
    if found:
        named = "; ".join(f"{name} is {there}, here {here}" for name, there, here in found)
        raise UserError(
            f"{run} was begun with other settings: {named}. Repeat the run's own, or give the new "
            f"run a name of its own ({NAME})"
        )
    done, wanted = content["epoch"] + 1, settings["trainer"]["max_epochs"]
    if wanted is not None and 0 <= wanted < done:
        raise UserError(
            f"{run} has trained for {done} epochs; --trainer.max_epochs {wanted} is too few"
        )


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        content = load_lightning(checkpoint)
    except UserError as error:
        raise UserError(f"{error}; the run can't go on: {ANEW}") from error
    if "optimizer_states" not in content:
        raise UserError(
            f"{checkpoint} has no optimiser's state to go on with; last.ckpt beside it has "
            f"({RESUME})"
        )
    return content


def _check_best(content: dict[str, Any], run: Path) -> None:
    """Refuse to go on where the best epoch so far is lost: a later, worse one would be kept."""
    states = [state for state in content["callbacks"].values() if isinstance(state, dict)]
    kept = [Path(state.get("best_model_path") or "").name for state in states]
    if Path(BEST).name not in kept:
        return
    try:
        load_lightning(run / BEST)
    except UserError as error:
        raise UserError(f"{error}; it was the best epoch so far: {ANEW}") from error
