"""Training for one session: the same examples in the same order, from wherever it stopped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.hooks import SessionHooks
from pocketfl.device.plans import OpenPlan
from pocketfl.device.sessions import Session, Sessions
from pocketfl.features.loading import load_training_arrays
from pocketfl.runtimes import FloatVector
from pocketfl.store import ExampleStore
from pocketfl.training import (
    Checkpoint,
    Checkpointer,
    CheckpointPolicy,
    TrainingState,
    fingerprint,
    train_locally,
)


class SessionTraining:
    """Makes a session's update.

    Parameters
    ----------
    store : ExampleStore
        The device's examples.
    sessions : Sessions
        Keeps checkpoints.
    runtime : str
        What trains.
    checkpoints : CheckpointPolicy
        How often training is written down.
    hooks : SessionHooks
        Counts what is spent.
    """

    def __init__(
        self,
        store: ExampleStore,
        sessions: Sessions,
        *,
        runtime: str,
        checkpoints: CheckpointPolicy,
        hooks: SessionHooks,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._runtime = runtime
        self._policy = checkpoints
        self._hooks = hooks

    def run(
        self,
        attempt: Attempt,
        session: Session,
        opened: OpenPlan,
        *,
        start: FloatVector,
        checkpoint: Checkpoint | None,
        should_stop: Callable[[], bool],
    ) -> NDArray[np.float64]:
        """Train from the start or from a checkpoint.

        Parameters
        ----------
        attempt : Attempt
            Takes note of time and results.
        session : Session
            Says which examples in which order.
        opened : OpenPlan
            Says how.
        start : ndarray of float32, shape (P,)
            The round's parameters.
        checkpoint : Checkpoint or None
            Where an earlier run stopped.
        should_stop : callable
            Asked before every batch.

        Returns
        -------
        ndarray of float64, shape (P,)
            The trained parameters minus the round's; zeros when no example is usable.

        Raises
        ------
        RoundEnd
            If it was told to stop; a checkpoint is written.
        """
        manifest = opened.plan.manifest
        batch_size, training = manifest.required_model.batch_size, manifest.required_training
        with attempt.phase("select"):
            arrays = load_training_arrays(
                self._store,
                opened.pipeline,
                limit=training.max_examples,
                seed=session.seed,
                up_to=session.examples_up_to,
            )
        if len(arrays["target"]) == 0:
            # Whether examples turn out to be usable is the device's own business: it reports zeros, and
            # the number of reports does not depend on data.
            return np.zeros(start.shape)

        def identify() -> str:
            return fingerprint(
                arrays,
                training,
                batch_size=batch_size,
                seed=session.seed,
                runtime=self._runtime,
                start=start,
            )

        if checkpoint is not None and checkpoint.fingerprint != identify():
            checkpoint = None
        earlier = TrainingState() if checkpoint is None else checkpoint.state
        attempt.earlier_step_seconds = earlier.step_seconds
        with attempt.phase("train"), opened.runtime(self._runtime) as runtime:
            runtime.set_parameters(start if checkpoint is None else checkpoint.parameters)
            if checkpoint is not None:
                runtime.restore_optimizer(checkpoint.optimizer, steps=earlier.steps)
            checkpointer = Checkpointer(
                lambda made: self._keep(session, made),
                fingerprint=identify,
                parameters=runtime.parameters,
                optimizer=runtime.optimizer_state,
                spent=self._hooks.spent,
                policy=self._policy,
            )

            def after_batch(state: Callable[[], TrainingState]) -> None:
                checkpointer.after_batch(state)
                self._hooks.trained_batch(state)

            with self._hooks.training(runtime.cancel):
                result = train_locally(
                    runtime,
                    arrays,
                    training,
                    batch_size=batch_size,
                    seed=session.seed,
                    should_stop=should_stop,
                    resume=earlier,
                    after_batch=after_batch,
                )
            attempt.training = result
            if not result.completed and result.steps > earlier.steps:
                checkpointer.save(result.state)
            update = np.subtract(runtime.parameters(), start, dtype=np.float64)
        if not result.completed:
            raise RoundEnd(
                "interrupted",
                "stopped",
                f"training was stopped after {result.steps} batches; it goes on within its lease",
                resumable=True,
            )
        return update

    def _keep(self, session: Session, checkpoint: Checkpoint) -> None:
        with self._store.database.transaction():
            self._sessions.keep_checkpoint(session, checkpoint)
            self._hooks.checkpointed(session, spent=checkpoint.spent)
