"""What the runtimes of Android share: vectors that stay in memory that Java and native code see.

Parameters and the optimizer's memory cross to Python when they are set and when they are asked for,
once a round, and never in a step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pocketfl.errors import RuntimeUnavailableError
from pocketfl.java import Java, load_java
from pocketfl.runtimes.batches import Array
from pocketfl.runtimes.graphs import PARAMETERS, GraphRuntime, PlanContents
from pocketfl.runtimes.interface import FloatVector


class ResidentVector(Protocol):
    """A vector of float32 that a graph reads."""

    def write(self, vector: FloatVector) -> None:
        """Copy a vector of Python into it."""

    def read(self) -> FloatVector:
        """Return a copy."""

    def keep(self, output: Any) -> None:
        """Make a step's output what the graph reads next."""

    def close(self) -> None:
        """Free its memory."""


V = TypeVar("V", bound=ResidentVector)
Library = TypeVar("Library")


def load_classes(find: Callable[[Java], Library], *, runtime: str, dependency: str) -> Library:
    """Return the Java classes of a runtime's library, found once.

    Parameters
    ----------
    find : callable
        Finds them.
    runtime, dependency : str
        The library's name, and what an app's Gradle file calls it.

    Raises
    ------
    RuntimeUnavailableError
        If pyjnius or the library is not in the app.
    """
    try:
        return find(load_java())
    except Exception as error:  # Without a Java machine, pyjnius raises errors of many kinds.
        raise RuntimeUnavailableError(
            f"{runtime} cannot be loaded ({error}): add {dependency} to the app's Gradle dependencies "
            "and pyjnius to its requirements, and open the first plan on the main thread"
        ) from error


class AndroidRuntime(GraphRuntime, Generic[V]):
    """A plan opened in a runtime whose vectors Python does not hold.

    A training graph's ``run`` returns, in place of each vector, what :meth:`ResidentVector.keep` takes.
    """

    def __init__(self, plan: PlanContents) -> None:
        self._vectors: dict[str, V] = {}
        super().__init__(plan)

    @abstractmethod
    def _new_vector(self, length: int) -> V:
        """Return a vector of zeros."""

    def vector(self, name: str) -> V:
        """Return the parameters, or a vector of the optimizer."""
        if name not in self._vectors:
            self._vectors[name] = self._new_vector(self._model.parameter_count)
        return self._vectors[name]

    def is_resident(self, name: str) -> bool:
        """Return whether an input of a graph is one of these vectors."""
        return name == PARAMETERS or name in self._optimizer.vectors

    def close(self) -> None:
        """Free the runtime's memory; further calls raise ``RuntimeError``."""
        super().close()
        for vector in self._vectors.values():
            vector.close()
        self._vectors.clear()

    @property
    def vector_outputs(self) -> int:
        """How many of a training step's outputs are vectors: the first ones."""
        return 1 + len(self._updated)

    def _write_parameters(self, vector: FloatVector) -> None:
        self.vector(PARAMETERS).write(vector)

    def _read_parameters(self) -> FloatVector:
        return self.vector(PARAMETERS).read()

    def _keep_parameters(self, output: Array) -> None:
        self.vector(PARAMETERS).keep(output)

    def _keep_optimizer(self, outputs: Sequence[Array]) -> None:
        for name, output in zip(self._updated, outputs, strict=True):
            self.vector(name).keep(output)
        self._optimizer.count_step()

    def _push_optimizer(self) -> None:
        for name in self._optimizer.vectors:
            self.vector(name).write(self._optimizer.arrays[name])

    def _pull_optimizer(self) -> None:
        for name in self._updated:
            self._optimizer.arrays[name][:] = self.vector(name).read()
