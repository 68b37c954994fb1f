"""Dropout whose masks come from outside: in eager torch, in a graph, and on a device alike.

Every mask that torch draws ends in a Bernoulli or a uniform draw. Those are answered here from one
tensor of uniform numbers, a row for each example, read from left to right in the order of the draws.
A device fills that tensor from its seeded generator; a graph has it as its input ``random``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pocketfl_export.errors import UnsupportedModelError

aten = torch.ops.aten


class RandomNumbers:
    """Uniform numbers that are handed out once each, in order.

    Parameters
    ----------
    rows : int
        Rows of a batch; a draw takes the same number of elements for each.
    values : Tensor or None
        Numbers from 0 to below 1, shape (rows, n). Without them every draw gets zeros, which keeps
        every element of a dropout, and ``taken`` tells how many there would have to be.
    """

    def __init__(self, rows: int, values: Tensor | None = None) -> None:
        self._rows = rows
        self._values = values
        self.taken = 0

    def start(self, values: Tensor) -> None:
        """Hand these numbers out from now on."""
        self._values, self.taken = values, 0

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Return the next numbers in this shape.

        Raises
        ------
        UnsupportedModelError
            If they cannot be divided evenly among the rows.
        """
        count = math.prod(int(n) for n in shape)
        if count % self._rows:
            raise UnsupportedModelError(
                operator="random numbers in forward",
                rewrite="draw a mask with the batch as its first axis, as torch.nn.Dropout does",
                reason=f"it draws {count} numbers for {self._rows} rows",
            )
        first, self.taken = self.taken, self.taken + count // self._rows
        if self._values is None:
            return torch.zeros([int(n) for n in shape])
        return self._values[:, first : self.taken].reshape([int(n) for n in shape])


def _bernoulli_(numbers: RandomNumbers, x: Tensor, p: float = 0.5, **_: Any) -> Tensor:
    return x.copy_(numbers.draw(x.shape) < p)


def _bernoulli(numbers: RandomNumbers, x: Tensor, p: float | None = None, **_: Any) -> Tensor:
    return (numbers.draw(x.shape) < (x if p is None else p)).to(x.dtype)


def _native_dropout(
    numbers: RandomNumbers, x: Tensor, p: float, train: bool | None
) -> tuple[Tensor, Tensor]:
    if train is False or p == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    keep = numbers.draw(x.shape) < 1 - p
    return x * keep * (1 / (1 - p) if p < 1 else 0.0), keep


def _rand_like(numbers: RandomNumbers, x: Tensor, **_: Any) -> Tensor:
    return numbers.draw(x.shape).to(x.dtype)


_ANSWERS: Mapping[Any, Callable[..., Any]] = {
    aten.bernoulli_.float: _bernoulli_,
    aten.bernoulli.p: _bernoulli,
    aten.bernoulli.default: _bernoulli,
    aten.native_dropout.default: _native_dropout,
    aten.rand_like.default: _rand_like,
}


class _Answering(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, numbers: RandomNumbers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = numbers

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        answer = _ANSWERS.get(func)
        if answer is None:
            return func(*args, **(kwargs or {}))
        return answer(self._numbers, *args, **(kwargs or {}))


@contextlib.contextmanager
def random_numbers(rows: int, values: Tensor | None = None) -> Iterator[RandomNumbers]:
    """Within this context eager torch's masks come of these numbers; see :class:`RandomNumbers`."""
    numbers = RandomNumbers(rows, values)
    with _Answering(numbers):
        yield numbers


def decompositions(numbers: RandomNumbers) -> dict[Any, Callable[..., Any]]:
    """Return the same answers in the form in which a tracer takes them."""

    def bind(answer: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: answer(numbers, *args, **kwargs)

    return {operator: bind(answer) for operator, answer in _ANSWERS.items()}
