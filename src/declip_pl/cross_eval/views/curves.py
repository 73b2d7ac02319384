"""A row's curves and reliability diagrams, one line for each test generator."""

from collections.abc import Callable
from typing import Literal

from declip_pl.cross_eval.figures import Curve, Roc
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.views.plots import Line, Plot, Series, draw, series
from declip_pl.metrics import THRESHOLD

Level = Literal["pixel", "image"]
_NOUNS = {"pixel": "pixels", "image": "photos"}
_PRECISION = ("recall", "precision")
_PERCENT = ((0.0, 100.0), (0.0, 100.0))


def series_of(matrix: Matrix, row: str) -> list[Series]:
    """Return how each test generator is drawn; a generator looks the same in every row."""
    return series(matrix.columns, matrix.in_domain.get(row, ()))


def curve_svg(matrix: Matrix, row: str, score: Literal["iou", "f1"]) -> str:
    """Draw a row's mean IoU or F1 against the threshold, one line for each test generator.

    Returns:
        An ``<svg>`` element to stand inline in a page; :func:`series_of` is its legend.
    """
    curves = matrix.curves.get(row, {})
    title = {"iou": "IoU", "f1": "F1"}[score]
    return draw(
        Plot(
            f"curve/{score}/{row}",
            f"Mean {title} against the threshold, trained on {row}",
            f"mean {title}, percent",
            "threshold",
            ((0.0, 1.0), (0.0, 100.0)),
            _lines(matrix, row, lambda drawn: _threshold_line(curves, drawn, score)),
            upright=(THRESHOLD,),
            dashed=_pixel_thresholds(matrix, row),
        )
    )


def reliability_svg(matrix: Matrix, row: str, level: Level) -> str:
    """Draw a row's reliability diagram: the share of fakes against the predicted probability.

    Large points stand for at least 1 % of the pixels (photos), small ones for less.

    Returns:
        An ``<svg>`` element as of :func:`curve_svg`; empty where nothing was measured.
    """
    diagrams = matrix.reliability.get(row, {})

    def line(drawn: Series) -> Line | None:
        bins = getattr(diagrams.get(drawn.name), level, None)
        return Line(drawn, bins.probability, bins.fake, bins.share) if bins else None

    limits = (-0.03, 1.03)
    return draw(
        Plot(
            f"reliability/{level}/{row}",
            f"Reliability of {_NOUNS[level]}, trained on {row}",
            f"share of {_NOUNS[level]} that are fake",
            "predicted probability",
            (limits, limits),
            _lines(matrix, row, line),
            diagonal=True,
        )
    )


def roc_svg(matrix: Matrix, row: str, level: Level) -> str:
    """Draw a row's ROC: the share of fakes that are found against the share of false alarms."""
    return draw(
        Plot(
            f"roc/{level}/{row}",
            f"ROC of {_NOUNS[level]}, trained on {row}",
            f"ROC: fake {_NOUNS[level]} found, percent",
            f"real {_NOUNS[level]} called fake, percent",
            _PERCENT,
            _lines(matrix, row, lambda s: _rates_line(matrix, row, level, s, "alarms", "found")),
            diagonal=True,
        )
    )


def precision_svg(matrix: Matrix, row: str, level: Level) -> str:
    """Draw a row's precision against its recall; the dashed lines are what guesses reach."""
    rates = (matrix.rates or {}).get(row, {}).values()
    shares = {round(found.fake, 1) for found in (getattr(r, level) for r in rates) if found}
    return draw(
        Plot(
            f"precision/{level}/{row}",
            f"Precision against recall of {_NOUNS[level]}, trained on {row}",
            f"precision over {_NOUNS[level]}, percent",
            "recall, percent",
            _PERCENT,
            _lines(matrix, row, lambda s: _rates_line(matrix, row, level, s, *_PRECISION)),
            level=sorted(shares),
        )
    )


def _lines(matrix: Matrix, row: str, line: Callable[[Series], Line | None]) -> list[Line]:
    drawn = (line(entry) for entry in series_of(matrix, row))
    return [found for found in drawn if found]


def _threshold_line(curves: dict[str, Curve], drawn: Series, score: str) -> Line | None:
    curve = curves.get(drawn.name)
    return Line(drawn, curve.thresholds, getattr(curve, score)) if curve else None


def _rates_line(
    matrix: Matrix, row: str, level: Level, drawn: Series, x: str, y: str
) -> Line | None:
    rates = (matrix.rates or {}).get(row, {}).get(drawn.name)
    roc: Roc | None = getattr(rates, level, None)
    return Line(drawn, getattr(roc, x), getattr(roc, y)) if roc else None


def _pixel_thresholds(matrix: Matrix, row: str) -> list[float]:
    """Return the thresholds chosen on validation photos by a row's models, one for each seed."""
    found = [model.thresholds.pixel for model in matrix.models if model.row == row]
    return sorted({value for value in found if value is not None})
