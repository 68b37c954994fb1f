"""Sums in stages against one sum in double precision."""

import pytest
import torch

from pocketfl_export.decompositions.sums import SHORT, sum_in_stages


@pytest.mark.parametrize("length", [SHORT * 20, SHORT * 20 + 1, 67_316])
def test_a_long_sum_equals_the_sum(length: int) -> None:
    """No element is lost or counted twice, whatever the remainder."""
    x = torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sum_in_stages(x, None), x.sum(), rtol=1e-12, atol=1e-12)


def test_other_sums_are_left_alone() -> None:
    """Short vectors, matrices, whole numbers and kept axes."""
    assert sum_in_stages(torch.ones(8), None) is NotImplemented
    assert sum_in_stages(torch.ones(99, 99), None) is NotImplemented
    assert sum_in_stages(torch.ones(9999, dtype=torch.int64), None) is NotImplemented
    assert sum_in_stages(torch.ones(9999), [0], True) is NotImplemented
