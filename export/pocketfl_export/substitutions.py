"""Functions of torch that are replaced while a model is traced.

Some look at values for their checks, which a graph cannot; others carry options that a graph would pay
for at every step though nobody asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from pocketfl_export.distances import cdist
from pocketfl_export.embedding_bags import embedding_bag
from pocketfl_export.errors import UnsupportedModelError

_NOT_IGNORED = -100
"""torch's default for the class to ignore."""


class Substitutions(TorchFunctionMode):
    """Within this context some functions take other forms of the same value."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func is F.one_hot:
            return one_hot(*args, **keywords)
        if func is F.cross_entropy:
            result = cross_entropy_of_one(*args, **keywords)
            if result is not None:
                return result
        if func is F.pad and _is_circular(*args, **keywords):
            return circular_pad(args[0], args[1] if len(args) > 1 else keywords["pad"])
        if func in _ADAPTIVE_MEANS and _is_one(args, keywords):
            return args[0].mean(_ADAPTIVE_MEANS[func], keepdim=True)
        if func in _REPLACED:
            return _REPLACED[func](*args, **keywords)
        return func(*args, **keywords)


_ADAPTIVE_MEANS: Final[dict[Callable[..., Any], tuple[int, ...]]] = {
    F.adaptive_avg_pool1d: (-1,),
    F.adaptive_avg_pool2d: (-2, -1),
}
"""Averages over all of these axes; torch changes the strides of an image of one pixel in place."""

_REPLACED: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    F.embedding_bag: embedding_bag,
    torch.cdist: cdist,
}


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """``torch.nn.functional.one_hot`` by comparison, without its look at the values.

    Raises
    ------
    UnsupportedModelError
        If the number of classes is left to the data.
    """
    if num_classes <= 0:
        raise UnsupportedModelError(
            operator="one_hot without num_classes",
            rewrite="pass num_classes to torch.nn.functional.one_hot",
            reason="its shape would depend on the values of the example",
        )
    return (tensor.unsqueeze(-1) == torch.arange(num_classes)).long()


def cross_entropy_of_one(  # noqa: PLR0917 - torch's own signature
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = _NOT_IGNORED,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """Cross entropy of a single example with one class, else None.

    torch's own carries the class to ignore through the whole backward pass. Of a single example that is
    ignored there is no mean (torch gives not-a-number), so nothing is lost without it: a class outside
    the logits is an error of the runtime, as it is in torch.
    """
    if target.is_floating_point() or logits.dim() != 2 or logits.shape[0] != 1:
        return None
    plain = weight is None and size_average is None and reduce is None and label_smoothing == 0.0
    if not plain or ignore_index != _NOT_IGNORED or reduction != "mean":
        return None
    likelihood = F.log_softmax(logits, 1).gather(1, target.unsqueeze(1))
    return -likelihood.reshape(())


def _is_circular(
    input: Tensor,  # noqa: A002 - torch's own name
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> bool:
    return mode == "circular"


def circular_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    """Pad with the other end of each axis; torch writes into slices of a new tensor instead."""
    for number in range(len(pad) // 2):
        axis = x.dim() - 1 - number
        before, after, length = pad[2 * number], pad[2 * number + 1], x.shape[axis]
        parts = [x.narrow(axis, length - before, before), x, x.narrow(axis, 0, after)]
        x = torch.cat([part for part in parts if part.shape[axis]], axis)
    return x


def _is_one(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> bool:
    size = args[1] if len(args) > 1 else keywords.get("output_size")
    return size == 1 or (isinstance(size, (tuple, list)) and all(n == 1 for n in size))
