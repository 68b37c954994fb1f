"""``pocketfl simulate`` and ``pocketfl tune`` as they are typed: tables, JSON, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from tests.simulation.visits import DEVICES, examples_of
from typer.testing import CliRunner

from pocketfl_simulation.behaviours import read_fleet
from pocketfl_simulation.commands import simulate, tune
from pocketfl_simulation.errors import SimulationError

TASK = "tests.simulation.visits:simulated"
ROOT = Path(__file__).parents[2]

app = typer.Typer()
app.command()(simulate)
app.command()(tune)

FLEET = """
start_hour = 22
deadline_hours = 6
least_version = "2.0"

[versions]
"2.10" = 0.6
"2.0" = 0.2
"1.9" = 0.2

[behaviour]
check_ins_per_day = 200
eligible_share = 1.0
drop_out = 0.1
speed_spread = 1.0
by_hour = [4, 4, 4, 4, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4]
"""
ASYNCHRONOUS = """
[asynchronous]
reports_per_release = 12
at_once = 30
max_staleness = 4
min_separation = 5
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "visits.csv"
    rows = [{"user": f"user{n:02}", **row} for n in range(DEVICES) for row in examples_of(n)]
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.stdout


def test_rounds_are_a_table_or_one_json_object(data: str) -> None:
    """With what they cost, what they are worth, and what the process needed."""
    common = ("simulate", TASK, "--data", data, "--rounds", "2", "--evaluate-every", "2")
    common += ("--holdout", "0.3", "--threads", "1", "--engine", "onnxruntime")
    table = run(*common).splitlines()
    assert table[0].split()[:3] == ["round", "cohort", "reports"]
    assert "AUC" in table[2]
    figures = json.loads(run(*common, "--json"))
    assert [line["round"] for line in figures["rounds"]] == [1, 2]
    assert figures["rounds"][0]["quality"] is None
    assert figures["rounds"][1]["quality"]["auc"] > 0
    assert figures["epsilon"] > 0
    assert 0 < figures["peak_rss_mb"] < 20_000
    assert figures["fleet"] is None


def test_a_fleet_s_file_decides_who_reports_and_when(data: str, tmp_path: Path) -> None:
    """Hours, losses by reason, and when a quality was reached; synchronous and asynchronous alike."""
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    common = ("simulate", TASK, "--data", data, "--devices", "60", "--cohort", "30")
    common += ("--rounds", "3", "--evaluate-every", "1", "--holdout", "0.3", "--threads", "1")
    common += ("--engine", "onnxruntime", "--fleet", str(path), "--target", "0.01")
    waiting = json.loads(run(*common, "--json"))
    for line in waiting["rounds"]:
        assert line["reports"] + sum(line["lost"].values()) == line["cohort"]
    assert [line["hours"] for line in waiting["rounds"]] == pytest.approx([6, 12, 18])
    assert waiting["fleet"]["hours_to_target"] == pytest.approx(6)
    assert waiting["fleet"]["lost"]["old"] > 0
    table = run(*common)
    assert "away  dropped   late" in table
    assert "was reached after 6.0 h" in table
    path.write_text(FLEET + ASYNCHRONOUS)
    buffered = json.loads(run(*common, "--json"))
    hours = [line["hours"] for line in buffered["rounds"]]
    assert hours == sorted(hours)
    assert hours[-1] < 6
    assert [line["reports"] for line in buffered["rounds"]] == [12, 12, 12]
    assert buffered["rounds"][0]["staleness"] == 0
    assert max(line["staleness"] for line in buffered["rounds"]) <= 4
    assert buffered["epsilon"] > 0
    assert "staleness" in run(*common)


def test_releases_that_cannot_come_are_given_up(data: str, tmp_path: Path) -> None:
    """Twelve devices that stay away for many releases cannot make ten of ten reports."""
    path = tmp_path / "fleet.toml"
    path.write_text(
        "[behaviour]\ncheck_ins_per_day = 50\neligible_share = 1.0\n"
        "[asynchronous]\nreports_per_release = 6\nat_once = 9\nmin_separation = 50\n"
    )
    arguments = ["simulate", TASK, "--data", data, "--holdout", "0.3", "--rounds", "9"]
    arguments += ["--threads", "1", "--engine", "onnxruntime", "--fleet", str(path)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, SimulationError)
    assert "after 30 days" in str(done.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start_hour = 25", "start_hour"),
        ("[behaviour]\ndrop_out = 1.5", "drop_out"),
        ("[behaviour]\nbattery = 3", "battery"),
        ("[behaviour]\nby_hour = [1, 2]", "24 numbers"),
        ("[versions]\n'1.0' = 1", "go together"),
        ("least_version = 'x'\n[versions]\n'1.0' = 1", "no version such as"),
        ("[asynchronous]\nreports_per_release = 0\nat_once = 4", "at least 1"),
        (
            "[asynchronous]\nreports_per_release = 3\nat_once = 4\nmax_staleness = 9",
            "min_separation",
        ),
        ("start_hour = ", "cannot read"),
        ("start_hour = 'noon'", "start_hour"),
    ],
)
def test_a_file_that_is_no_fleet_is_named(text: str, message: str, tmp_path: Path) -> None:
    """With the field that is wrong."""
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(SimulationError, match=message):
        read_fleet(path)


def test_versions_are_compared_as_numbers(tmp_path: Path) -> None:
    """2.10 is newer than 2.9, and shares need not add up to one."""
    path = tmp_path / "fleet.toml"
    path.write_text("least_version = '2.9'\n[versions]\n'2.10' = 3\n'2.9' = 3\n'2.8.7' = 2\n")
    assert read_fleet(path).behaviour.old_share == 0.25


def test_a_study_goes_on_where_it_stopped(data: str, tmp_path: Path) -> None:
    """From the command line too: trials count over all runs, and each shows its epsilon."""
    common = ("tune", TASK, "--data", data, "--study", str(tmp_path / "study.db"), "--rounds", "2")
    common += ("--learning-rate", "0.1:0.5", "--holdout", "0.3", "--threads", "1")
    common += ("--engine", "onnxruntime", "--json")
    first = json.loads(run(*common, "--trials", "1"))
    both = json.loads(run(*common, "--trials", "2"))
    assert [trial["number"] for trial in first] == [0]
    assert sorted(trial["number"] for trial in both) == [0, 1]
    assert all(trial["epsilon"] > 0 for trial in both)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "abacus"), "engine is one of auto"),
        (("--holdout", "1"), "holdout is a share"),
        (("--cohort", "500"), "does not fit a fleet"),
        (("--fleet", "none.toml"), "cannot read none.toml"),
        (("--server-optimizer", "lion"), "sgd or adam"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    arguments: tuple[str, ...], message: str, data: str
) -> None:
    """Before anything is trained, with what is wrong."""
    done = CliRunner().invoke(app, ["simulate", TASK, "--data", data, *arguments])
    assert done.exit_code != 0
    assert message in f"{done.output}{done.exception}"


@pytest.mark.slow
def test_memory_grows_with_the_cohort_and_not_with_the_fleet(tmp_path: Path) -> None:
    """A million devices with a thousand in a round stay below 2 GB."""
    program = (ROOT / "docs" / "simulate.md").read_text().split("# steps.py\n")[1].split("```")[0]
    (tmp_path / "steps.py").write_text(program)
    command = [str(Path(sys.executable).parent / "pocketfl"), "simulate", "steps:model"]
    command += ["--data", "steps:People", "--cohort", "1000", "--rounds", "1", "--holdout", "0.001"]
    done = subprocess.run(
        [*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["devices"] > 990_000
    assert figures["rounds"][0]["reports"] > 850
    assert figures["peak_rss_mb"] < 2000
