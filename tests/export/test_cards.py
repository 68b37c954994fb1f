"""A plan's card: what the modeller says, what is counted, and how a person sees it."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
from pocketfl.decoding import decode
from pocketfl.errors import DecodeError
from pocketfl.plan import AggregationSpec, ModelCard, Plan, generate_signing_key
from pocketfl.plan.archive import read_signer
from pocketfl.plan.card import BatchCost, PlanCard, read_card
from pocketfl_export import ParitySettings, export_plan
from pocketfl_export.costs import batch_costs, graph_cost
from pocketfl_export.decompositions import onnx_table
from pocketfl_export.problem import make_problem
from pocketfl_export.tracing import trace_problem

TEXT = ModelCard(
    predicts="which of three things it is",
    data="made up",
    metrics={"accuracy": 0.75},
    limits="none of it is real",
    licence="CC0-1.0",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("card") / "a.pocketfl"
    export_plan(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        F.cross_entropy,
        torch.randn(8, 6),
        torch.arange(8) % 3,
        file,
        name="digits",
        version="1",
        signing_key=generate_signing_key(),
        aggregation=AggregationSpec(
            clip_norm=1.0, population=1, cohort_floor=1, max_rounds=1, max_participations=1
        ),
        privacy="none",
        parity=ParitySettings(steps=2),
        card=TEXT,
    )
    return file


def test_show_prints_the_text_and_what_was_counted(path: Path) -> None:
    """Everything that the card holds is on the screen or in the JSON."""
    shown = CliRunner().invoke(build_app(), ["plan", "show", str(path)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for text in (
        "which of three",
        "metric: accuracy",
        "CC0-1.0",
        "Gemm",
        "XnnpackBackend",
        "batch",
    ):
        assert text in shown.stdout
    card = json.loads(
        CliRunner().invoke(build_app(), ["plan", "show", str(path), "--json"]).stdout
    )["card"]
    assert card["text"]["metrics"] == {"accuracy": 0.75}
    assert set(card["costs"]) == {"train", "evaluate", "predict"}
    assert [cost["batch_size"] for cost in card["costs"]["train"]] == [1, 8, 16, 32, 64, 128]
    assert set(card["operators"]) == {
        f"{runtime}/{part}.{suffix}"
        for runtime, suffix in (("onnxruntime", "onnx"), ("executorch", "pte"))
        for part in ("train", "evaluate", "predict")
    }
    assert all(0 <= error <= 1e-5 for error in card["differences"].values())


def test_costs_are_those_that_one_counts_by_hand() -> None:
    """Two matrix products and their element-wise rest, at a traced size and between two of them."""
    problem = make_problem(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        F.mse_loss,
        torch.randn(4, 6),
        torch.randn(4, 3),
    )
    traced = trace_problem(problem, decompositions=onnx_table())
    costs = {cost.batch_size: cost for cost in batch_costs(traced, onnx_table())["predict"]}
    for rows in (1, 4, 16):
        products = 2 * rows * (6 * 8 + 8 * 3)
        assert costs[rows].flops == products + rows * 8  # ReLU; addmm's bias is in its product.
    parameters = 4 * (6 * 8 + 8 + 8 * 3 + 3)
    # The vector and its pieces, the input, and the first layer before and after its ReLU.
    assert costs[4].memory_bytes == 2 * parameters + 4 * 4 * (6 + 8 + 8)


def test_what_is_estimated_for_another_batch_is_what_is_counted_there() -> None:
    """The straight line through two sizes goes through a third."""
    model, loss = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(24, 3)), F.cross_entropy
    table = onnx_table()
    small, large = (
        trace_problem(
            make_problem(model, loss, torch.randn(rows, 2, 8), torch.arange(rows) % 3),
            decompositions=table,
        )
        for rows in (4, 64)
    )
    (estimated,) = (c for c in batch_costs(small, table)["train"] if c.batch_size == 64)
    counted = graph_cost(large.train, 64)
    assert estimated.flops == counted.flops
    assert estimated.memory_bytes == pytest.approx(counted.memory_bytes, rel=0.05)


def test_a_card_is_checked_like_everything_else(path: Path) -> None:
    """Empty texts, negative costs and unknown fields are refused; a plan without a card has none."""
    with pytest.raises(ValueError, match="predicts"):
        ModelCard(predicts=" ")
    with pytest.raises(ValueError, match="at least 0"):
        BatchCost(batch_size=1, flops=-1, memory_bytes=0)
    plan = Plan.load(path, trusted_keys=[read_signer(path)])
    card = read_card(plan)
    assert card is not None
    assert card.text == TEXT
    with pytest.raises(DecodeError, match="surprise"):
        decode(PlanCard, {"surprise": 1}, what="model card")
