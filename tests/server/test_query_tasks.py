"""Tasks that ask queries: their releases become results, and never a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.server.conftest import OPERATOR_KEY, SIGNING_KEY, Fleet
from typer.testing import CliRunner

from pocketfl.features.transforms import FieldSpec
from pocketfl.plan import AggregationSpec, BudgetSpec, DifferentialPrivacySpec, Plan
from pocketfl.protocol import Assignment, CheckIn
from pocketfl.queries import Count, Histogram, QuerySet, ScoreHistogram, Sum
from pocketfl.queries.plans import write_analytics_plan, write_evaluation_plan
from pocketfl_server.back_end import BackEnd
from pocketfl_server.commands.task import app
from pocketfl_server.errors import Conflict, Malformed, NotFound
from pocketfl_server.optimizers import OptimizerSpec

AGGREGATION = AggregationSpec(
    clip_norm=1.0, population=4, cohort_floor=2, max_rounds=2, max_participations=2
)
QUERIES = QuerySet(
    queries=(
        Sum(name="y", share=0.6, field="y", low=0.0, high=10.0),
        Histogram(name="high", share=0.8, field="y", boundaries=(5.0,)),
    )
)
AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)


@pytest.fixture
def make_questions(tmp_path: Path) -> Callable[..., Plan]:
    """Writes plans that ask."""

    def make(**changes: object) -> Plan:
        arguments: dict[str, object] = {
            "name": "questions",
            "version": "1",
            "collection": "examples",
            "fields": [FieldSpec(name="y", type="float")],
            "queries": QUERIES,
            "aggregation": AGGREGATION,
            "dp": DifferentialPrivacySpec(noise_multiplier=1.0, epsilon=900.0, delta=1e-5),
            "signing_key": SIGNING_KEY,
        }
        return write_analytics_plan(tmp_path / "plan", **{**arguments, **changes})  # type: ignore[arg-type]

    return make


def test_a_release_becomes_a_result_in_natural_units(
    open_back_end: Callable[..., BackEnd], make_questions: Callable[..., Plan]
) -> None:
    """Values are the devices' sum plus noise of the stated size, durable, and no model is made of them.

    Each of three values leaves six standard deviations less than once in 10**8 runs.
    """
    back_end = open_back_end()
    plan = make_questions(budget=BudgetSpec(name="all", epsilon=900.0, delta=1e-5))
    task = back_end.create_task("questions", plan.data)
    assert (task.kind, task.optimizer) == ("analytics", None)
    back_end.open_round("questions", seconds=600)
    answer = np.array([0.6 * 0.7, 0.8 * 0.25, 0.8 * 0.75])
    Fleet(back_end).reports(3, "questions", 1, answer, plan)
    closed = back_end.close_round("questions", 1)
    assert (closed.state, closed.new_version) == ("finished", None)
    assert back_end.models("questions") == ()
    result = open_back_end().result("questions", 1)
    assert (result.reports, result.kind, result.privacy) == (3, "analytics", "gaussian")
    assert result.epsilon is not None
    assert result.budget is not None and result.budget.releases == {"questions": 1}
    found, high = result.find("y"), result.find("high")
    assert (found.noise_std, high.noise_std) == pytest.approx((10 / 0.6, 1 / 0.8))
    assert abs(found.values[0] - 21) < 6 * found.noise_std + 0.1
    assert np.abs(np.array(high.values) - [0.75, 2.25]).max() < 6 * high.noise_std + 0.1
    with pytest.raises(NotFound, match="no result of round 2"):
        back_end.result("questions", 2)
    with pytest.raises(KeyError, match="there are: y, high"):
        result.find("nothing")


def test_without_noise_the_sum_is_exact_and_the_last_round_ends_the_task(
    back_end: BackEnd, fleet: Fleet, make_questions: Callable[..., Plan]
) -> None:
    """What is released without noise is what devices said, to a part in a thousand of the grid."""
    plan = make_questions(dp=None)
    back_end.create_task("questions", plan.data)
    for number in (1, 2):
        back_end.open_round("questions", seconds=600)
        fleet.reports(4, "questions", number, np.array([0.3, 0.0, 0.8]), plan)
        back_end.close_round("questions", number)
        result = back_end.result("questions", number)
        assert result.find("y").values == pytest.approx((4 * 5.0,), abs=0.01)
        assert result.find("high").values == pytest.approx((0.0, 4.0), abs=0.01)
        assert (result.find("y").noise_std, result.epsilon) == (0.0, None)
    task = back_end.task("questions")
    assert (task.state, task.finished_reason) == ("finished", "max_rounds_reached")
    assert [summary.round for summary in back_end.results("questions")] == [1, 2]


def test_an_evaluation_is_of_the_version_that_it_is_seeded_with(
    back_end: BackEnd,
    fleet: Fleet,
    make_plan: Callable[..., Plan],
    tmp_path: Path,
) -> None:
    """Devices are given that version's parameters; nothing can be trained from an evaluation task."""
    trained = make_plan(initial=np.arange(5.0), privacy="none")
    back_end.create_task("tiny", trained.data, optimizer=AVERAGING)
    plan = write_evaluation_plan(
        tmp_path / "plan",
        trained_by=trained,
        name="evaluation",
        version="1",
        queries=QuerySet(queries=(ScoreHistogram(name="scores", output="output", bins=2),)),
        aggregation=AGGREGATION,
        dp=DifferentialPrivacySpec(noise_multiplier=1.0, epsilon=900.0, delta=1e-5),
        signing_key=SIGNING_KEY,
    )
    assert {part.name for part in plan.manifest.parts} == {
        "onnxruntime/evaluate.onnx",
        "onnxruntime/predict.onnx",
    }
    with pytest.raises(Malformed, match="seed_model"):
        back_end.create_task("evaluation", plan.data)
    back_end.create_task("evaluation", plan.data, seed_model=("tiny", 0))
    notice = back_end.open_round("evaluation", seconds=600)
    assert notice.parameters_sha256 == back_end.model("tiny", 0).parameters_sha256
    # The label of a model that is looked at stays what it is.
    assert back_end.model("evaluation", 0).privacy == "none"
    other = make_plan(name="other")
    with pytest.raises(Conflict, match="trains no model"):
        back_end.create_task("o", other.data, optimizer=AVERAGING, seed_model=("evaluation", 0))
    fleet.reports(2, "evaluation", 1, np.array([0.5, 0.0, 0.0, 0.5]), plan)
    back_end.close_round("evaluation", 1)
    assert len(back_end.result("evaluation", 1).find("scores").values) == 4


def test_settings_that_a_kind_cannot_use_are_refused(
    back_end: BackEnd, make_questions: Callable[..., Plan], make_plan: Callable[..., Plan]
) -> None:
    """A task that trains has an optimizer, and no other has one."""
    with pytest.raises(Malformed, match="takes no optimizer"):
        back_end.create_task("questions", make_questions().data, optimizer=AVERAGING)
    with pytest.raises(Malformed, match="no model to seed"):
        back_end.create_task("questions", make_questions().data, seed_model=("tiny", 0))
    with pytest.raises(Malformed, match="needs an optimizer"):
        back_end.create_task("tiny", make_plan().data)
    assert back_end.tasks() == ()


def test_a_device_that_knows_schema_1_alone_is_turned_away(
    back_end: BackEnd, fleet: Fleet, make_questions: Callable[..., Plan]
) -> None:
    """The server offers what a device can do; any runtime will do where no model runs."""
    back_end.create_task("questions", make_questions().data)
    back_end.open_round("questions", seconds=600)
    old = CheckIn(sdk="0.1.0", plan_schemas=(1,), runtimes=("onnxruntime",))
    answer = back_end.check_in(fleet.token("old"), "questions", 1, old)
    assert answer.reason == "plan_schema_unsupported"
    bare = CheckIn(sdk="0.1.0", plan_schemas=(2,), runtimes=())
    assert isinstance(back_end.check_in(fleet.token("bare"), "questions", 1, bare), Assignment)


def test_results_are_listed_and_printed(
    served: SimpleNamespace,
    fleet: Fleet,
    make_questions: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The operator reads a result over HTTP: as a table, or as JSON for a notebook."""
    plan = make_questions(queries=QuerySet(queries=(Count(name="devices"),)), dp=None)
    served.back_end.create_task("questions", plan.data)
    served.back_end.open_round("questions", seconds=600)
    fleet.reports(2, "questions", 1, np.array([1.0]), plan)
    served.back_end.close_round("questions", 1)
    monkeypatch.setenv("POCKETFL_OPERATOR_KEY", OPERATOR_KEY)
    said = CliRunner().invoke(app, ["results", "questions", "--url", served.url, "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["queries"][0]["values"] == pytest.approx([2.0], abs=0.01)
    said = CliRunner().invoke(app, ["results", "questions", "--url", served.url])
    assert "devices" in said.stdout and "2 reports" in said.stdout
