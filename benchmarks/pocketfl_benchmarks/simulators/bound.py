"""What no simulator can beat on this machine: the multiplications of training at the pace of a GEMM."""

from __future__ import annotations

import time
from typing import Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pocketfl_benchmarks.simulators.models import loss_of, make_model

_SIZE: Final = 1024
_REPEATS: Final = 10


def operations(kind: str, features: Tensor, target: Tensor) -> float:
    """Return floating-point operations of loss and gradient for an example, by torch's own counter.

    Parameters
    ----------
    kind : str
        Of work.
    features, target : Tensor
        A batch.
    """
    model = make_model(kind)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(loss_of(kind, model(features), target))
    return float(counter.get_total_flops()) / len(target)


def peak_operations_per_second(threads: int) -> float:
    """Return what products of large float32 matrices reach, the best of some."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left, right = torch.rand(_SIZE, _SIZE), torch.rand(_SIZE, _SIZE)
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(before)
    return 2 * _SIZE**3 / best
