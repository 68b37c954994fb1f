"""Programs are small, pure and the same every time; what cannot become one is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pocketfl.runtimes.executorch import METHOD, load_library
from pocketfl_benchmarks.models import MODELS
from pocketfl_export import check_model
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.executorch import decomposition_table, lower
from pocketfl_export.tracing import TracedGraphs, trace_graphs

from .conftest import make_graph


@pytest.fixture(scope="module")
def small() -> TracedGraphs:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    target = torch.tensor([0, 1, 2, 1])
    return trace_graphs(
        model, F.cross_entropy, torch.randn(4, 6), target, decompositions=decomposition_table()
    )


@pytest.fixture(scope="module")
def program(small: TracedGraphs) -> bytes:
    return lower(small.train)


def run(data: bytes, arguments: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    loaded = load_library()._load_program_from_buffer(data)
    return loaded.load_method(METHOD)(list(arguments))


def test_a_program_says_nothing_about_where_it_was_made(program: bytes) -> None:
    """No path, no file name, no module of the model or of the exporter, no user."""
    text = b"\n".join(re.findall(rb"[\x20-\x7e]{4,}", program)).decode()
    for word in (".py", "site-packages", "torch.nn", "pocketfl", "Sequential", "stack_trace"):
        assert word not in text
    for place in (Path.cwd(), Path.home(), Path(torch.__file__).parent):
        assert str(place) not in text
    assert not re.search(r"/\w+/\w+", text)
    assert os.environ.get("USER", "no such user") not in text


def test_a_program_holds_no_parameters(small: TracedGraphs, program: bytes) -> None:
    """The weights go in at every step; neither all of them nor one layer's are in the file."""
    parameters = small.problem.initial_parameters().numpy()
    for part in (parameters[:24], parameters[-12:]):
        assert part.tobytes() not in program


def test_the_same_graph_gives_the_same_bytes(small: TracedGraphs, program: bytes) -> None:
    """A plan's hash is a function of the model."""
    assert lower(small.train) == program


def test_portable_kernels_agree_with_the_delegate(small: TracedGraphs, program: bytes) -> None:
    """The same step with and without XNNPACK, and eager, is the same step."""
    portable = lower(small.train, delegate=False)
    assert b"XnnpackBackend" in program
    assert b"XnnpackBackend" not in portable
    found = run(program, small.train.example)
    for ours, theirs in zip(found, run(portable, small.train.example), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    for ours, theirs in zip(found, small.train.graph_module(*small.train.example), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_an_operator_without_a_kernel_is_named() -> None:
    """Before anything runs, with a rewrite, and for this runtime."""
    graph = make_graph(lambda x: (x.sort(1)[0] * 2,), [torch.randn(4, 6)])
    with pytest.raises(UnsupportedModelError) as caught:
        lower(graph)
    (refusal,) = caught.value.refusals
    assert refusal.operator == "aten.sort.default"
    assert refusal.runtime == "executorch"
    assert "amax" in refusal.rewrite


def test_the_compiler_keeps_quiet(
    small: TracedGraphs, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """An export prints nothing and warns of nothing that the modeller could not change."""
    lower(small.predict)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert len(recwarn) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_zoo_trains_as_torch_does(name: str) -> None:
    """50 steps, each from torch's parameters, within 1e-5; evaluation and prediction too."""
    report = check_model(*MODELS[name](), runtimes=["executorch"])
    assert report.ok, report.refused
    figures = report.to_json()["runtimes"]["executorch"]
    assert figures["steps"] == 50
    assert figures["max_parameter_error"] <= 1e-5
    assert figures["max_loss_error"] <= 1e-5
