"""``pocketfl bench zoo`` says what it measured, in the agreed form, and invents nothing."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.datasets.motion import parse_motion
from pocketfl_benchmarks.energy import find_energy_counter
from pocketfl_benchmarks.packages import ArchiveError
from pocketfl_benchmarks.zoo.comparison import COMPARED
from pocketfl_benchmarks.zoo.models import ZOO
from pocketfl_benchmarks.zoo.page import render_page
from pocketfl_benchmarks.zoo.round_cost import round_cost
from pocketfl_benchmarks.zoo.table import figure_rows

CONTRACT = {
    *("ms", "p95_ms", "ratio", "peak_rss_mb", "session_ms", "step_bytes"),
    *("inference_bytes", "inference_int8_bytes", "int8_agreement", "joules"),
}


def figures() -> dict[str, object]:
    """Figures of one model, as the command would print them."""
    times = {"ms": 1.0, "p95_ms": 2.0, "min_ms": 0.9, "ratio": 0.5, "torch_ms": 2.0}
    cost = round_cost(
        step_seconds=0.001, cpu_seconds=0.001, batch_size=16, parameters=10, plan_bytes=2000
    )
    runtime = {
        **times,
        "examples_per_second": 16_000.0,
        "peak_rss_mb": 70.0,
        "session_ms": 10.0,
        "joules": None,
        "step_bytes": 3000,
        "inference_bytes": 1000,
        "inference_int8_bytes": None,
        "int8_agreement": None,
        "round": cost.to_json(),
        "by_batch_size": {"16": {**times, "examples_per_second": 16_000.0}},
        "notes": ["int8_static: <b>"],
    }
    machine = {
        "processor": "a",
        "cores": 2,
        "load_average": 0.1,
        "system": "b",
        "libraries": {"torch": "2"},
    }
    model = {
        "about": "tiny",
        "parameters": 10,
        "batch_size": 16,
        "onnxruntime": runtime,
        "executorch": {"refused": "no kernel"},
    }
    return {"machine": machine, "wall_seconds": 1.0, "models": {"tiny": model}}


def test_the_zoo_has_the_ten_kinds_of_models() -> None:
    """Names are what files of figures are compared by."""
    assert list(ZOO) == [
        *("logistic_regression", "mlp", "click", "keyword_ds_cnn", "har_conv1d", "har_gru"),
        *("lenet", "mobilenet", "transformer", "autoencoder"),
    ]


def test_a_table_that_would_run_code_is_refused() -> None:
    """The activities' archive holds a pickle: of that, arrays are made and nothing is called."""

    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("called",)

    packed = gzip.compress(pickle.dumps({1: [Harmful()]}))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("data/HAPT.pkl.gz")
        member.size = len(packed)
        tar.addfile(member, io.BytesIO(packed))
    with pytest.raises(ArchiveError, match=r"builtins\.print"):
        parse_motion(buffer.getvalue())


@pytest.mark.slow
def test_the_json_has_the_agreed_keys(tmp_path: Path) -> None:
    """Every contract key is there for a real model; joules are null where nothing counts them."""
    page = tmp_path / "zoo.html"
    result = CliRunner().invoke(
        bench,
        [
            *("zoo", "--json", "--model", "logistic_regression", "--repeats", "3"),
            *("--html", str(page), "--batch-size", "8", "--batch-size", "4"),
        ],
    )
    assert result.exit_code == 0, result.output
    model = json.loads(result.stdout)["models"]["logistic_regression"]
    for runtime in ("onnxruntime", "executorch"):
        values = model[runtime]
        assert set(values) >= CONTRACT
        assert set(values["by_batch_size"]) == {"8", "4"}
        assert 0 < values["step_bytes"] <= 64 * 1024
        assert values["inference_bytes"] > 4 * model["parameters"]
        assert 0.9 <= values["int8_agreement"] <= 1
        assert values["peak_rss_mb"] > 20
        assert (values["joules"] is None) == (find_energy_counter() is None)
        assert values["round"]["fits"] is True
        # Eight in ten after 300 steps, of people who are not in the training data.
        assert values["quality"] > 0.7
        assert values["quality"] == pytest.approx(model["torch_quality"], abs=0.01)
    assert "logistic_regression" in page.read_text()


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    """A typing mistake costs no measurement."""
    result = CliRunner().invoke(bench, ["zoo", "--model", "lenett"])
    assert result.exit_code == 2
    assert "mobilenet" in result.output


def test_a_budget_verdict_names_what_does_not_fit() -> None:
    """Time, bytes and energy of a round each have their own limit."""
    fits = {"step_seconds": 0.1, "cpu_seconds": 0.1, "batch_size": 16, "parameters": 1000}
    assert round_cost(**fits, plan_bytes=10_000).fits
    slow = round_cost(**{**fits, "step_seconds": 4.0}, plan_bytes=10_000)
    assert (slow.fits_time, slow.fits_bytes, slow.fits_battery, slow.fits) == (0, 1, 1, 0)
    large = round_cost(**{**fits, "parameters": 10_000_000}, plan_bytes=10_000)
    assert (large.fits_time, large.fits_bytes, large.fits) == (1, 0, 0)
    hungry = round_cost(**{**fits, "cpu_seconds": 4.0}, plan_bytes=10_000)
    assert (hungry.fits_battery, hungry.fits) == (0, 0)


def test_nothing_measured_is_said_so_in_table_and_page() -> None:
    """A missing figure is no zero, a refusal stands with its reason, and texts are escaped."""
    rows = list(figure_rows(figures()))
    assert "not measured" in rows[0]
    assert "refused" in rows[1]
    page = render_page(figures())
    assert "not measured" in page
    assert "no kernel" in page
    assert "<b>" not in page.split("Refused")[1]


def test_joules_come_from_a_counter_or_not_at_all(tmp_path: Path) -> None:
    """Package counters are added up; one that wrapped around tells nothing."""
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("1000000\n")
    counter = find_energy_counter(tmp_path)
    assert counter is not None

    def spend(first: int, second: int) -> None:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(first))
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("9000000")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text(str(second))

    assert counter.used(lambda: spend(3_000_000, 1_500_000)) == pytest.approx(2.5)
    assert counter.used(lambda: spend(10, 1_500_000)) is None


def test_compare_shows_what_changed(tmp_path: Path) -> None:
    """Every contract figure of every runtime, with the factor where there is one."""
    before, after = figures(), copy.deepcopy(figures())
    after["models"]["tiny"]["onnxruntime"].update(ratio=0.25, joules=0.5)  # type: ignore[index]
    for name, content in (("a", before), ("b", after)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    result = CliRunner().invoke(bench, ["compare", *files, "--json"])
    assert result.exit_code == 0, result.output
    changes = {(c["runtime"], c["figure"]): c for c in json.loads(result.stdout)}
    assert {figure for _, figure in changes} == set(COMPARED) == CONTRACT
    assert changes["onnxruntime", "ratio"]["factor"] == 0.5
    assert changes["onnxruntime", "joules"]["before"] is None
    assert changes["executorch", "ms"]["factor"] is None
    assert "-50 %" in CliRunner().invoke(bench, ["compare", *files]).stdout


def test_compare_refuses_what_are_no_figures(tmp_path: Path) -> None:
    """The file is named, and how to make a right one."""
    wrong = tmp_path / "wrong.json"
    for content in ("{", "[]", '{"models": 3}'):
        wrong.write_text(content)
        result = CliRunner().invoke(bench, ["compare", str(wrong), str(wrong)])
        assert result.exit_code != 0
        assert "wrong.json" in str(result.exception)
