"""What cannot be trained exactly is refused, with the operator and a rewrite."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_export import ParityError, check_model
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.gate import check_model as gate

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def dense(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.Linear(8, 3))


class Forward(nn.Module):
    """A linear layer whose output goes through a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Counter(nn.Module):
    """Keeps a count in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) / self.calls


def branch(y: Tensor) -> Tensor:
    return y if y.sum() > 0 else -y


def weighted_cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, weight=torch.tensor([1.0, 2.0, 5.0]))


def batch_variance(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target) + outputs.mean(1).std()


def summed(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, reduction="sum")


def unreduced(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, reduction="none")


REFUSALS = {
    "batch norm in train mode": (
        dense(nn.BatchNorm1d(8)),
        F.cross_entropy,
        "BatchNorm1d '1' in train mode",
        "GroupNorm",
    ),
    "dropout that is always on": (
        Forward(lambda y: F.dropout(y, 0.5, training=True)),
        F.cross_entropy,
        "random numbers in eval mode",
        r"self\.training",
    ),
    "mask that rows share": (
        Forward(lambda y: y * F.dropout(torch.ones(3), 0.5)),
        F.cross_entropy,
        "random numbers",
        "batch as its first axis",
    ),
    "noise": (
        Forward(lambda y: y + 0.1 * torch.randn_like(y)),
        F.cross_entropy,
        "random numbers",
        "as one of its inputs",
    ),
    "branch on data": (Forward(branch), F.cross_entropy, "control flow", "torch.where"),
    "number taken out": (
        Forward(lambda y: y * y.max().item()),
        F.cross_entropy,
        "control flow|across the batch",
        "torch.where|LayerNorm",
    ),
    "state in a buffer": (Counter(), F.cross_entropy, "buffer 'calls'", "from the inputs"),
    "statistics of the batch": (
        Forward(lambda y: y - y.mean(0)),
        F.cross_entropy,
        "across the batch axis",
        "LayerNorm",
    ),
    "fixed batch size": (
        Forward(lambda y: y.reshape(8, 3)),
        F.cross_entropy,
        "fixed batch size",
        r"x\.flatten\(1\)",
    ),
    "class weights": (dense(), weighted_cross_entropy, "not a mean over examples", "mean"),
    "term across examples": (dense(), batch_variance, "loss", "mean|one example"),
    "sum instead of mean": (dense(), summed, "not a mean over examples", "reduction='mean'"),
    "no reduction": (dense(), unreduced, "loss", "reduction='mean'"),
    "operator without translation": (
        Forward(lambda y: torch.cummax(y, 1).values),
        F.cross_entropy,
        "aten.cummax",
        "cumsum",
    ),
    "product of elements": (
        Forward(lambda y: y * y.prod(1, keepdim=True)),
        F.cross_entropy,
        "cumprod",
        "logarithms",
    ),
    "operator of linear algebra": (
        Forward(lambda y: y @ torch.linalg.inv(torch.eye(3) + y.t() @ y * 0)),
        F.cross_entropy,
        "inv|linalg",
        "products",
    ),
}


@pytest.mark.parametrize(
    ("model", "loss", "operator", "rewrite"), REFUSALS.values(), ids=REFUSALS.keys()
)
def test_refused_with_operator_and_rewrite(
    model: nn.Module, loss: Callable, operator: str, rewrite: str
) -> None:
    """The report names what is at fault and what to write instead."""
    report = check_model(model, loss, X, Y, runtimes=["onnxruntime"], steps=5)

    assert not report.ok
    assert report.runtimes["onnxruntime"].ok is False
    with pytest.raises(ParityError, match=operator):
        report.require()
    refusal = report.refused[0]
    assert refusal.runtime == "onnxruntime"
    with pytest.raises(AssertionError, match=rewrite):
        raise AssertionError(refusal.rewrite)


ACCEPTED = {
    "frozen batch norm": lambda: dense(nn.BatchNorm1d(8).eval()),
    "group norm": lambda: dense(nn.GroupNorm(2, 8)),
    "dropout in eval mode": lambda: dense(nn.Dropout(0.5).eval()),
    "dropout": lambda: dense(nn.Dropout(0.5)),
    "instance statistics": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True), nn.Flatten(), nn.Linear(6, 3)
    ),
    "choice by where": lambda: Forward(lambda y: torch.where(y > 0, y, 0.1 * y)),
    "one-hot inside": lambda: Forward(lambda y: y + F.one_hot(y.argmax(1), 3)),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_the_rewrites_that_refusals_name_pass(make: Callable[[], nn.Module]) -> None:
    """A rewrite is no use unless it is accepted."""
    report = gate(make(), F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=10)
    assert report.ok, report.refused


def test_every_runtime_is_named_when_none_could_take_the_model() -> None:
    """A refusal that concerns the model itself is listed for each runtime asked for."""
    report = check_model(dense(nn.BatchNorm1d(8)), F.cross_entropy, X, Y, steps=1)
    assert [r.runtime for r in report.refused] == ["onnxruntime", "executorch"]
    assert {r["runtime"] for r in report.to_json()["refused"]} == {"onnxruntime", "executorch"}


def test_the_error_says_everything_at_once() -> None:
    """Operator, runtime, reason and rewrite are in the message."""
    error = UnsupportedModelError(
        operator="aten.x", rewrite="write y", reason="it has no z", runtime="onnxruntime"
    )
    assert str(error) == "aten.x (onnxruntime): it has no z. Rewrite: write y"
