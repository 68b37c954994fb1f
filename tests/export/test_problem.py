"""Arguments are checked and named before anything is traced."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.errors import ExportError
from pocketfl_export.problem import flatten_outputs, make_problem, unflatten


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(
        self, dense: Tensor, scale: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        y = self.layer(dense) * scale.unsqueeze(1)
        return {"score": y if bias is None else y + bias, "norm": y.norm(dim=1)}


class Anonymous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layer(inputs[0])


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean()


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, weight: Tensor) -> Tensor:
        return self.layer(weight)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.layer(x), "hello"


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(outputs, target)


DENSE, SCALE, TARGET = torch.randn(4, 3), torch.randn(4), torch.tensor([0, 1, 1, 0])


def loss(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(outputs["score"], target)


@pytest.mark.parametrize(
    "inputs", [(DENSE, SCALE), [DENSE, SCALE], {"scale": SCALE, "dense": DENSE}]
)
def test_inputs_take_the_names_and_order_of_forward(inputs: Any) -> None:
    """A sequence by position, a mapping by name, in any order."""
    problem = make_problem(TwoInputs(), loss, inputs, TARGET)
    assert [(s.name, s.dtype, s.shape) for s in problem.spec.inputs] == [
        ("dense", "float32", (3,)),
        ("scale", "float32", ()),
    ]
    assert [s.name for s in problem.spec.outputs] == ["score", "norm"]
    assert problem.spec.target.dtype == "int64"
    assert problem.spec.batch_size == 4


def test_parameters_are_laid_out_as_named_parameters() -> None:
    """The flat vector and its cut are each other's inverse, and frozen parameters are not in it."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    problem = make_problem(model, F.cross_entropy, DENSE, TARGET)
    assert [p.name for p in problem.spec.parameters] == ["0.weight", "1.weight", "1.bias"]
    pieces = unflatten(problem.initial_parameters(), problem.spec)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(pieces[name], parameter.detach(), rtol=0, atol=0)


def test_the_modellers_model_is_left_alone() -> None:
    """Mode, gradients and values stay; later changes do not reach the problem."""
    model = nn.Sequential(nn.Linear(3, 2))
    before = model[0].weight.detach().clone()
    problem = make_problem(model, F.cross_entropy, DENSE, TARGET)
    model[0].weight.data.zero_()
    assert model.training
    assert model[0].weight.grad is None
    torch.testing.assert_close(problem.model[0].weight.detach(), before)
    assert not problem.evaluation_model.training


LINEAR = nn.Linear(3, 2)
BAD = {
    "no module": ((lambda x: x, F.cross_entropy, DENSE, TARGET), "torch.nn.Module"),
    "no loss": ((LINEAR, 3, DENSE, TARGET), "callable"),
    "target no tensor": ((LINEAR, F.cross_entropy, DENSE, [0, 1]), "target is list"),
    "input no tensor": ((LINEAR, F.cross_entropy, ([1.0],), TARGET), "'input' is list"),
    "too many inputs": ((LINEAR, F.cross_entropy, (DENSE, DENSE), TARGET), "2 example inputs"),
    "unknown input": ((LINEAR, F.cross_entropy, {"x": DENSE}, TARGET), "no parameter 'x'"),
    "missing input": ((TwoInputs(), loss, (DENSE,), TARGET), "lack forward's parameter 'scale'"),
    "no input": ((LINEAR, F.cross_entropy, {}, TARGET), "lack forward's parameter 'input'"),
    "anonymous": ((Anonymous(), F.cross_entropy, DENSE, TARGET), "without names"),
    "reserved name": ((Weight(), F.cross_entropy, DENSE, TARGET), "'weight' has a name"),
    "scalar": ((LINEAR, F.cross_entropy, torch.tensor(1.0), TARGET), "is a scalar"),
    "rows differ": ((LINEAR, F.cross_entropy, DENSE, TARGET[:3]), "one number of rows"),
    "no rows": ((LINEAR, F.cross_entropy, DENSE[:0], TARGET[:0]), "one number of rows"),
    "not finite": ((LINEAR, F.cross_entropy, DENSE / 0, TARGET), "not finite"),
    "wrong dtype": (
        (nn.Linear(3, 2).double(), F.cross_entropy, DENSE.double(), TARGET),
        "devices train float32",
    ),
    "integer input": (
        (nn.Embedding(5, 2), F.cross_entropy, torch.zeros(4, dtype=torch.int32), TARGET),
        "torch.int32",
    ),
    "forward fails": (
        (nn.Linear(5, 2), F.cross_entropy, DENSE, TARGET),
        "forward fails on the example",
    ),
    "loss with parameters": (
        (LINEAR, Learned(), DENSE, TARGET),
        "parameters of its own",
    ),
    "nothing to train": (
        (nn.Linear(3, 2).requires_grad_(False), F.cross_entropy, DENSE, TARGET),
        "nothing to train",
    ),
    "scalar output": ((Scalar(), lambda o, t: o, DENSE, TARGET), "must be the batch axis"),
    "output no tensor": ((Words(), F.cross_entropy, DENSE, TARGET), "'output_1' is str"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    """Each error says which argument and what it should be."""
    with pytest.raises(ExportError, match=message):
        make_problem(*arguments)


def test_outputs_of_every_form_get_names() -> None:
    """A tensor, a tuple and a mapping."""
    assert list(flatten_outputs(DENSE)) == ["output"]
    assert list(flatten_outputs((DENSE, SCALE))) == ["output_0", "output_1"]
    assert list(flatten_outputs({"b": DENSE, "a": SCALE})) == ["b", "a"]
