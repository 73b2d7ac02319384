"""Which localizer is used where none is named: the finished run, or the starter."""

from pathlib import Path
from shlex import quote

from declip_pl.errors import UserError
from declip_pl.inference.runs import all_runs
from declip_pl.inference.saved_folder import CARD_FILE
from declip_pl.model.checkpoint import BEST, STARTER, find, has_starter
from declip_pl.training.run_folder import RESULTS, Run


def default_model() -> str:
    """Return the one finished run in ``outputs/train``, or the starter, and say which.

    Raises:
        UserError: If there are several runs, or neither a run nor the starter.
    """
    root = Path(Run.root)
    runs = sorted(path.parent for path in root.glob(f"*/{RESULTS}"))
    runs = [run for run in runs if (run / BEST).is_file()]
    if len(runs) > 1:
        named = {str(run.folder): run.in_words() for run in all_runs() if run.folder in runs}
        named |= {STARTER: "comes with declip-pl"} if has_starter() else {}
        names = "".join(f"\n  --model {quote(name)}  {words}" for name, words in named.items())
        raise UserError(f"{root} holds {len(runs)} finished runs, name a model:{names}")
    if runs:
        print(f"model: {runs[0]} (the only finished run)")
        return str(runs[0])
    if not has_starter():
        raise UserError(
            f"there is no finished run in {root}: train one (make train GEN=ldm), or name a "
            "localizer with --model"
        )
    print(starter_line(root))
    return STARTER


def starter_line(folder: Path) -> str:
    """Return the line that says that the starter is used, as a folder holds no localizer."""
    return (
        f"no trained localizer in {folder}: using the starter that comes with declip-pl (its model "
        f"card: {find(STARTER) / CARD_FILE})"
    )
