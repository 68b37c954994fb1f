"""A person's drawings in the example store: those that train, and those set aside to judge by.

Those set aside are in a collection of their own that no training and no round ever reads, so that
"accuracy on your own drawings" means drawings that the model has not seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.store import Collection, ExampleStore, Field
from pocketfl_app.drawing import SIDE

TRAINING: Final = "drawings"
"""The collection that the plan reads."""
HELD_OUT: Final = "drawings_held_out"
HOLD_OUT_EVERY: Final = 4
DIGITS: Final = 10

_FIELDS: Final = {"image": Field("tensor", shape=(1, SIDE, SIDE)), "digit": Field("int")}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A drawing that was just stored.

    Attributes
    ----------
    collection : str
        Where.
    id : int
        The store's number.
    digit : int
        What it shows.
    """

    collection: str
    id: int
    digit: int


class Drawings:
    """The app's two collections; not safe for threads.

    Parameters
    ----------
    store : ExampleStore
        The device's.
    """

    def __init__(self, store: ExampleStore) -> None:
        self._store = store
        self._declare()
        self._counts = {name: self._count(name) for name in (TRAINING, HELD_OUT)}

    def add(self, image: NDArray[np.float32], digit: int) -> Saved:
        """Keep a drawing; each fourth one of a digit is set aside.

        Which one is it differs from digit to digit, so that somebody who draws 0 to 9 a few times has a
        little of everything on both sides.
        """
        if not 0 <= digit < DIGITS:
            raise ValueError(f"a digit is 0 to 9, not {digit}")
        drawn = sum(counts[digit] for counts in self._counts.values())
        aside = (drawn + digit) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        name = HELD_OUT if aside else TRAINING
        self._store.append(name, [{"image": image, "digit": digit}])
        self._counts[name][digit] += 1
        return Saved(collection=name, id=self._store.last_id(name), digit=digit)

    def undo(self, saved: Saved) -> None:
        """Delete a drawing that was just stored."""
        if self._store.delete(saved.collection, ids=[saved.id]):
            self._counts[saved.collection][saved.digit] -= 1

    def counts(self) -> tuple[int, ...]:
        """Return how many drawings of each digit there are, those set aside included."""
        return tuple(sum(c[digit] for c in self._counts.values()) for digit in range(DIGITS))

    @property
    def training(self) -> int:
        """Drawings that train."""
        return self._counts[TRAINING].total()

    @property
    def held_out(self) -> int:
        """Drawings set aside."""
        return self._counts[HELD_OUT].total()

    def erase(self) -> int:
        """Erase all drawings and all that was made from them; return how many there were.

        Raises
        ------
        StoreError
            As :meth:`ExampleStore.revoke`.
        """
        erased = sum(self._store.revoke(name).examples for name in (TRAINING, HELD_OUT))
        self._declare()
        self._counts = {TRAINING: Counter(), HELD_OUT: Counter()}
        return erased

    def _declare(self) -> None:
        for name in (TRAINING, HELD_OUT):
            self._store.create_collection(Collection(name, _FIELDS))

    def _count(self, name: str) -> Counter[int]:
        everything = self._store.select(name, limit=self._store.count(name), seed=0)
        return Counter(everything.columns["digit"] if len(everything) else ())
