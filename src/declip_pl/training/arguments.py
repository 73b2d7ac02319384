"""The words of a command line, with recipes read as our one reader of YAML reads them."""

from pathlib import Path

from declip_pl.files import expanded
from declip_pl.training.recipe_file import as_argument, parse_yaml, read_recipe

PARTS = (
    *("--model.encoder", "--model.decoder", "--model.loss"),
    *("--data.layout", "--data.augmentation", "--data.perturbation"),
)
"""Options that may name a class."""


def with_read_recipes(args: list[str]) -> list[str]:
    """Put the content of recipes in place of their files' names, as our one reader reads them.

    Parts that are named on the command line go into the last recipe: jsonargparse can't put one
    class in the place of another.
    """
    words = _joined(args)
    recipes = [index for index, word in enumerate(words) if word.startswith("--config=")]
    if not recipes:
        return words
    named = [word for word in words if word.partition("=")[0] in PARTS]
    for index in recipes:
        sections = read_recipe(Path(expanded(words[index].removeprefix("--config="))))
        for word in named if index == recipes[-1] else []:
            name, _, value = word.removeprefix("--").partition("=")
            section, _, key = name.partition(".")
            sections[section] = (sections.get(section) or {}) | {key: parse_yaml(value)}
        words[index] = f"--config={as_argument(sections)}"
    return [word for word in words if word not in named]


def _joined(args: list[str]) -> list[str]:
    """Write ``--config FILE`` as ``--config=FILE``, and named parts likewise."""
    words: list[str] = []
    for word in args:
        if words and words[-1] in ("--config", *PARTS):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words
