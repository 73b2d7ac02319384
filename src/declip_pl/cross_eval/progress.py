"""How far a cross-evaluation is: which model of how many, and about how long the rest takes."""

import time

MINUTE = 60


class Countdown:
    """Tells of each of several models, as it begins, how far that is.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.begun = 0
        self._start = time.monotonic()

    def next(self, what: str) -> str:
        """Return the line for the next model.

        Args:
            what: Is done now, with its name.
        """
        left = ""
        if self.begun:
            each = (time.monotonic() - self._start) / self.begun
            left = f", about {duration(each * (self.total - self.begun))} left"
        self.begun += 1
        return f"{what} (model {self.begun} of {self.total}{left})"


def duration(seconds: float) -> str:
    """Return a time in words, in seconds or minutes, whichever says enough."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min"
