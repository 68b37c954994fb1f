"""``pocketfl bench step`` says what it measured, in the agreed form; how fast it is, is no test."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typer.testing import CliRunner

import pocketfl_benchmarks.models as models_module
from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.machine import describe_machine
from pocketfl_benchmarks.step import time_in_turns


class Noisy(nn.Module):
    """Draws random numbers, which no exported graph can repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.rand_like(x)).squeeze(1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze(1)


def problem(model: nn.Module):
    generator = torch.Generator().manual_seed(0)
    inputs = {"x": torch.randn(4, 3, generator=generator)}
    return model, F.mse_loss, inputs, torch.randn(4, generator=generator)


@pytest.fixture
def two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = {"small": lambda: problem(Small()), "noisy": lambda: problem(Noisy())}
    monkeypatch.setattr(models_module, "MODELS", zoo)


@pytest.mark.usefixtures("two_models")
def test_the_json_has_the_agreed_keys() -> None:
    """Times and ratios where a runtime trains the model, the reason where it does not."""
    result = CliRunner().invoke(bench, ["step", "--json", "--repeats", "3"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert set(figures) == {"machine", "models"}
    assert list(figures["models"]) == ["small", "noisy"]
    small = figures["models"]["small"]
    assert small["torch_ms"] > 0
    for runtime in ("onnxruntime", "executorch"):
        assert small[runtime]["ms"] >= small[runtime]["min_ms"] > 0
        assert small[runtime]["ratio"] == pytest.approx(small[runtime]["ms"] / small["torch_ms"])
        refused = figures["models"]["noisy"][runtime]
        assert set(refused) == {"refused"}
        assert "rand" in refused["refused"]


@pytest.mark.usefixtures("two_models")
def test_a_refusal_shows_in_the_table_too() -> None:
    """Without ``--json`` the same run is a table, and the reason stands below it."""
    result = CliRunner().invoke(bench, ["step", "--model", "noisy", "--repeats", "3"])
    assert result.exit_code == 0, result.output
    assert "refused" in result.stdout
    assert "rand" in result.stdout


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    """A typing mistake costs no measurement."""
    result = CliRunner().invoke(bench, ["step", "--model", "mpl"])
    assert result.exit_code == 2
    assert "mlp" in result.output
    assert "cnn_strided" in result.output


def test_functions_take_turns() -> None:
    """Each repetition runs every function once before any runs again."""
    calls: list[str] = []
    times = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4
    )
    assert {name: len(blocks) for name, blocks in times.items()} == {"a": 4, "b": 4}
    changes = "".join(name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name)
    assert changes == "ab" * 5  # Once to find the length of a block, then four times.


def test_the_machine_is_described_in_json_values() -> None:
    """A figure without its machine says nothing."""
    machine = json.loads(json.dumps(describe_machine()))
    assert machine["cores"] >= 1
    assert machine["processor"]
    assert machine["libraries"]["torch"] == torch.__version__
