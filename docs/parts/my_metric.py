"""A metric of your own: how much of the fake region is found."""

from declip_pl.metrics import Ranking, metric


@metric(
    "recall",
    title="Recall",
    definition="share of the fake pixels that are found at 0.5",
    needs_fake=True,
)
def recall(image: Ranking) -> float:
    """Return it in percent."""
    counts = image.above(0.5)
    return 100 * counts.hits / counts.fakes
