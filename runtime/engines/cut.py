"""Ends a run from another thread, whatever engine it is in."""

from collections.abc import Callable


class CutOff(Exception):
    """A run that was ended by its `Cut` before it had an answer; no fault of anybody's."""


class Cut:
    """Given to `Engine.run`, whose run `stop` then ends as soon as the engine can; once, for the runs of one request.

    Safe from any thread. `asked`: whether `stop` was called; runs that begin after that end at once.
    """

    __slots__ = ("_end", "asked")

    def __init__(self) -> None:
        self.asked = False
        self._end: Callable[[], object] | None = None

    def stop(self) -> None:
        """Asks the run under way to end with `CutOff`; does nothing where there is none, or it can't."""
        self.asked = True
        end = self._end
        if end is not None:
            end()

    def ended_by(self, end: Callable[[], object]) -> None:
        """For engines, at the begin of a run: what ends it. May be called twice, by `stop` and here."""
        self._end = end
        if self.asked:  # `stop` may have come before there was anything to end
            end()
