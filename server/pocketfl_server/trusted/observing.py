"""What somebody who watches the trusted tier is told of its work: counts, never contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    """Is told of releases and of refused ones."""

    def released(
        self, task: str, *, accepted: int, rejected: Mapping[str, int], seconds: float
    ) -> None:
        """Hear of a release that is on disk; of one that is only repeated, nothing.

        Parameters
        ----------
        task : str
            Name of the task.
        accepted : int
            Reports in the sum, of partial sums too.
        rejected : mapping of str to int
            Those that were left out, by reason; the release says the same.
        seconds : float
            From the request to the release on disk.
        """
        ...

    def refused(self, task: str, code: str) -> None:
        """Hear of a release that was refused, by the code of its reason."""
        ...

    def handed_over(self, task: str) -> None:
        """Hear of a partial sum that went to the root; what is in it is for the root alone."""
        ...


class Nobody:
    """Observes nothing."""

    def released(
        self, task: str, *, accepted: int, rejected: Mapping[str, int], seconds: float
    ) -> None:
        """Ignore it."""

    def refused(self, task: str, code: str) -> None:
        """Ignore it."""

    def handed_over(self, task: str) -> None:
        """Ignore it."""
