"""The localizers that the page of ``declip-pl demo`` offers, loaded when they are used."""

from collections.abc import Mapping
from functools import lru_cache, partial

from declip_pl.errors import UserError
from declip_pl.inference.demo_choices import Choice
from declip_pl.inference.demo_text import NOT_FINISHED, error_text, model_text
from declip_pl.inference.localizer import Localizer
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.names import markdown


class Models:
    """The localizers to choose from; one at a time is in memory, as an encoder is large.

    Args:
        choices: By name.
        encoder: Where the user says that the frozen encoder is.
        device: Where they run.
    """

    def __init__(
        self, choices: Mapping[str, Choice], encoder: str | None, device: str | None
    ) -> None:
        self.choices = choices
        load = partial(Localizer.from_pretrained, device=device, encoder=encoder)
        self._load = lru_cache(maxsize=1)(load)

    def load(self, name: str) -> Localizer:
        """Return a localizer.

        Raises:
            UserError: If there is none of that name, or it can't be loaded.
        """
        if name not in self.choices:
            raise UserError(f"there is no model {name!r}; found: {', '.join(self.choices)}")
        return self._load(self.choices[name].path)

    def about(self, name: str) -> str:
        """Return in Markdown what a localizer is, or what is wrong with it."""
        choice = self.choices[name]
        try:
            checkpoint = read_checkpoint(choice.path)
            text = model_text(checkpoint, recorded_scores(checkpoint))
        except UserError as error:
            return markdown(error_text(error))
        return text if choice.finished else f"{NOT_FINISHED}\n\n{text}"
