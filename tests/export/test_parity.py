"""The gate accepts what trains as torch does, and nothing else."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pocketfl_export.onnx.artefacts as onnx_artefacts
from pocketfl_benchmarks.models import MODELS
from pocketfl_export import ParitySettings, check_model, steps
from pocketfl_export.backends import BACK_ENDS
from pocketfl_export.decompositions import onnx_table
from pocketfl_export.gate import CandidatePlan
from pocketfl_export.parity import compare_runtime
from pocketfl_export.problem import make_problem

aten = torch.ops.aten

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_zoo_trains_as_torch_does(name: str) -> None:
    """50 steps, each from torch's parameters, within 1e-5; evaluation and prediction too."""
    report = check_model(*MODELS[name](), runtimes=["onnxruntime"])
    assert report.ok, report.refused
    figures = report.to_json()["runtimes"]["onnxruntime"]
    assert figures["steps"] == 50
    assert figures["max_parameter_error"] <= 1e-5
    assert figures["max_loss_error"] <= 1e-5
    assert 0 < figures["bytes"] < 200_000


def test_the_report_has_the_agreed_keys_and_is_json() -> None:
    """What ``pocketfl export check --json`` prints is a contract."""
    report = check_model(dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=2)
    report_json = json.loads(json.dumps(report.to_json()))
    assert set(report_json) == {"runtimes", "refused"}
    assert {"ok", "max_parameter_error", "max_loss_error", "steps", "bytes"} <= set(
        report_json["runtimes"]["onnxruntime"]
    )
    assert report_json["refused"] == []
    half = check_model(
        dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=2, storage="float16"
    )
    assert half.ok
    assert 0 < half.to_json()["rounding"] < 1e-3


def wrong_tanh(grad: Tensor, y: Tensor) -> Tensor:
    return grad * (1 - y * y) * 1.001


def wrong_softmax(grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return grad - torch.exp(output) * grad.sum(dim, keepdim=True) * 0.99


@pytest.mark.parametrize(
    ("operator", "wrong"),
    [
        (aten.tanh_backward.default, wrong_tanh),
        (aten._log_softmax_backward_data.default, wrong_softmax),
    ],
)
def test_a_slightly_wrong_gradient_does_not_pass(
    operator: object, wrong: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decomposition that is off by a thousandth is refused, though each step moves little."""
    table = {**onnx_table(), operator: wrong}
    monkeypatch.setattr(onnx_artefacts, "onnx_table", lambda: table)
    report = check_model(dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"])
    assert not report.ok
    assert "differs from torch" in report.refused[0].reason


def test_the_operator_that_the_runtime_computes_wrongly_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refusal names the first operator whose result differs, not the whole graph."""
    from pocketfl_export.onnx.registry import TRANSLATORS

    right = TRANSLATORS[aten.tanh.default]
    monkeypatch.setitem(
        TRANSLATORS,
        aten.tanh.default,
        lambda call: call.add("Mul", right(call), call.scalar(1.01)),
    )
    report = check_model(dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"])
    assert not report.ok
    assert report.refused[0].operator == "aten.tanh.default"


def test_padding_that_leaks_into_the_loss_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short batch must equal a true shorter batch; a graph that ignores weights is refused."""
    monkeypatch.setattr(steps, "weighted_mean", lambda losses, weight: losses.mean())
    report = check_model(dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"])
    assert not report.ok


def test_clipping_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second step clips, so a graph without clipping is refused."""
    original = steps.train_step

    def without_clipping(problem: object) -> Callable:
        step = original(problem)

        def never(*arguments: Tensor) -> tuple[Tensor, ...]:
            return step(*arguments[:-1], arguments[-1] * 0 + 1e6)

        return never

    monkeypatch.setattr("pocketfl_export.tracing.train_step", without_clipping)
    report = check_model(dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"])
    assert not report.ok


def test_a_wrong_gradient_norm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm is compared for itself: right parameters with a wrong norm do not pass."""
    original = steps.train_step

    def with_wrong_norm(problem: object) -> Callable:
        step = original(problem)

        def report(*arguments: Tensor) -> tuple[Tensor, ...]:
            parameters, loss, norm = step(*arguments)
            return parameters, loss, norm * 1.0001

        return report

    monkeypatch.setattr("pocketfl_export.tracing.train_step", with_wrong_norm)
    report = check_model(dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"])
    assert not report.ok


class Evaluation(nn.Module):
    """Differs between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if self.training else y * 2


def test_training_keeps_the_mode_and_evaluation_uses_eval_mode() -> None:
    """The training graph follows the model's mode, evaluation and prediction run in eval mode."""
    report = check_model(Evaluation(), F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=5)
    assert report.ok, report.refused


def test_parameters_without_gradient_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that forward does not use has gradient zero, in the graph as in torch."""
    model = dense()
    model.register_parameter("unused", nn.Parameter(torch.ones(5)))
    report = check_model(model, F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=5)
    assert report.ok, report.refused


def test_tied_and_frozen_parameters_train_as_in_torch() -> None:
    """Weight tying adds gradients up; frozen layers are constants."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    model[4].weight.requires_grad_(False)
    problem = make_problem(model, F.cross_entropy, X, Y)
    assert [p.name for p in problem.spec.parameters] == ["0.weight", "0.bias", "2.bias", "4.bias"]
    report = check_model(model, F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=10)
    assert report.ok, report.refused


class Kink(nn.Module):
    """A ReLU of the difference of one sum in two orders: rounding alone decides its side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        other_order = h.flip(1).cumsum(1)[:, -1:].detach()
        return self.second(torch.relu(h.sum(1, keepdim=True) - other_order) + h)


def test_a_miss_at_a_kink_is_settled_in_double_precision() -> None:
    """Where rounding decides the side of a ReLU, either side is right, and the report says so."""
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    report = check_model(Kink(), F.cross_entropy, x, Y[:2], runtimes=["onnxruntime"], steps=10)
    assert report.ok, report.refused
    figures = report.runtimes["onnxruntime"]
    assert figures.settled_by_float64 > 0
    assert figures.max_settled_error > 1e-5


def test_double_precision_does_not_excuse_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same kink a ReLU whose gradient is off by a hundredth is refused."""
    table = {
        **onnx_table(),
        aten.threshold_backward.default: lambda g, y, t: torch.where(y > t, g * 1.01, 0.0),
    }
    monkeypatch.setattr(onnx_artefacts, "onnx_table", lambda: table)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    report = check_model(Kink(), F.cross_entropy, x, Y[:2], runtimes=["onnxruntime"], steps=10)
    assert not report.ok


def test_parts_of_another_model_are_refused() -> None:
    """Graphs that do not fit the model are a miss with the runtime's own reason."""
    problem = make_problem(dense(), F.cross_entropy, X, Y)
    wider = make_problem(nn.Linear(6, 3), F.cross_entropy, X, Y)
    back_end = BACK_ENDS["onnxruntime"]
    parts = {back_end.part_name(part): data for part, data in back_end.export_parts(wider).items()}
    candidate = CandidatePlan(problem, back_end, parts)
    result, miss = compare_runtime(
        problem, candidate, "onnxruntime", settings=ParitySettings(steps=3)
    )
    assert not result.ok
    assert result.max_parameter_error is None
    assert "does not fit the manifest" in miss.reason


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"tolerance": 0.0}, {"tolerance": 0.5}, {"learning_rate": 2.0}]
)
def test_settings_are_bounded(bad: dict) -> None:
    """A gate that looks at nothing, or accepts anything, cannot be asked for."""
    with pytest.raises(ValueError, match="must be"):
        ParitySettings(**bad)
