"""The gradient of an embedding table against autograd in double precision."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.decompositions.embedding import embedding_dense_backward
from pocketfl_export.errors import UnsupportedModelError


@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)])
def test_gradient_equals_autograd(shape: tuple[int, ...], padding_idx: int | None) -> None:
    """Repeated indices add up and the padding row gets nothing."""
    torch.manual_seed(0)
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    indices = torch.randint(0, 6, shape)
    output = F.embedding(indices, table, padding_idx=padding_idx)
    gradient = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, table, gradient)
    found = embedding_dense_backward(
        gradient, indices, 6, -1 if padding_idx is None else padding_idx, False
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_scaling_by_frequency_is_refused_with_a_rewrite() -> None:
    """What has no exact counterpart is named, not approximated."""
    with pytest.raises(UnsupportedModelError, match="scale_grad_by_freq=False"):
        embedding_dense_backward(torch.zeros(2, 3), torch.tensor([0, 1]), 4, -1, True)
