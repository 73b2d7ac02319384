"""A run is resumed on the data that it began with."""

from declip_pl.errors import UserError
from declip_pl.model.description import ForgedPhotos, TrainedOn
from declip_pl.training.run_folder import NAME


def check_same_data(theirs: TrainedOn | None, ours: TrainedOn | None) -> None:
    """Refuse to resume a run on other data.

    Args:
        theirs: What its checkpoint was trained on; None where that is not on record.
        ours: What it would be trained on now.

    Raises:
        UserError: If they differ; what differs is named.
    """
    if theirs is None or ours is None:
        return
    for name in ("generators", "supervision", "files_sha256", "forgeries"):
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here:
            raise UserError(
                f"this run was trained on other data: its {name} are {_words(there)}, here they "
                f"are {_words(here)}; give the new run a name of its own ({NAME})"
            )


def _words(value: str | tuple[str, ...] | ForgedPhotos | None) -> str:
    if isinstance(value, ForgedPhotos):
        return f"those of manifest {value.sha256[:8]}"
    return value if isinstance(value, str) else ", ".join(value or ("none",))
