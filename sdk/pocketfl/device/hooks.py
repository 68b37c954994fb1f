"""Where budgets, conditions and receipts hold on to a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pocketfl.device.sessions import Session
    from pocketfl.plan.manifest import Manifest
    from pocketfl.reports import SealedReport
    from pocketfl.training import TrainingState

SessionEnd: TypeAlias = Literal["accepted", "rejected", "abandoned", "unknown"]
"""How a session ends for good.

``accepted``: the back end holds this device's report, which counts once. ``rejected``: it said that it
will not take it, and has none. ``abandoned``: no report was ever sent. ``unknown``: a report may have
arrived, and the back end could not be asked in time.
"""


class SessionHooks:
    """What else happens when a session moves on; the methods here do nothing.

    All but :meth:`should_stop`, :meth:`spent`, :meth:`gives_up`, :meth:`opened`, :meth:`training` and
    :meth:`trained_batch` are called inside the write transaction that moves the session: what they
    write into the device's database is on disk together with that, or not at all.
    What they raise undoes the transaction and comes out of ``run_once`` as any error does.
    """

    def should_stop(self) -> bool:
        """Say whether the session shall stop at the next batch or phase, to go on another time."""
        return False

    def spent(self) -> Mapping[str, float]:
        """Return what this session has used so far, for its next checkpoint; finite numbers."""
        return {}

    def began(
        self,
        session: Session,
        *,
        manifest: Manifest | None,
        resumed: bool,
        spent: Mapping[str, float],
    ) -> None:
        """Take note of a lease that was given, or of a process that goes on under an earlier one.

        Parameters
        ----------
        session : Session
            Which.
        manifest : Manifest or None
            The plan's; None when resumed, see :meth:`opened`.
        resumed : bool
            Whether an earlier run began it.
        spent : mapping of str to float
            As of the last checkpoint; empty without one. What was used after it is not known.
        """

    def gives_up(self) -> str | None:
        """Say whether a session that was just taken up again can never go on.

        Returns
        -------
        str or None
            In a sentence why it is to end now; None to go on.
        """
        return None

    def opened(self, session: Session, manifest: Manifest) -> None:
        """Take note of the plan of a resumed session that is still to be trained."""

    @contextmanager
    def training(self, cancel: Callable[[], bool]) -> Iterator[None]:
        """Be there while batches are trained; not inside a transaction.

        Parameters
        ----------
        cancel : callable
            Ends the step under way, from any thread; False where the runtime cannot.
        """
        del cancel
        yield

    def trained_batch(self, state: Callable[[], TrainingState]) -> None:
        """Take note of a trained batch, for a progress bar; not inside a transaction.

        Parameters
        ----------
        state : callable
            Returns where training stands; costs time in proportion to the batches so far.
        """

    def checkpointed(self, session: Session, *, spent: Mapping[str, float]) -> None:
        """Take note of a checkpoint, with what :meth:`spent` returned for it."""

    def prepared(self, session: Session, report: SealedReport, manifest: Manifest) -> None:
        """Take note of a sealed report, before its first byte is sent."""

    def paused(self) -> None:
        """Take note that this run is over and the session is not: it waits to go on."""

    def settled(
        self,
        *,
        task: str,
        round: int,  # noqa: A002 - the word of the field
        end: SessionEnd,
        code: str,
    ) -> None:
        """Take note of a session's end; of each session exactly once.

        Parameters
        ----------
        task, round
            Which session; its record may be damaged.
        end : SessionEnd
            How.
        code : str
            The outcome's code, such as ``reported``, ``lease_expired``, ``plan_refused``.
        """
