"""Functions of torch that are replaced while a model is traced.

Some look at values for their checks, which a graph cannot; others carry options that a graph would pay
for at every step though nobody asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from pocketfl_export.errors import UnsupportedModelError

_NOT_IGNORED = -100
"""torch's default for the class to ignore."""


class Substitutions(TorchFunctionMode):
    """Within this context ``one_hot`` and ``cross_entropy`` take the forms below."""

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
        return func(*args, **keywords)


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
