"""The table, the report and the JSON say what was found, and say plainly what carries no privacy."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pocketfl.plan.aggregation import AggregationSpec
from pocketfl_benchmarks.flights.fleet import FleetRound
from pocketfl_benchmarks.flights.footprint import Footprint
from pocketfl_benchmarks.flights.report import render_report, summary_rows, write_report
from pocketfl_benchmarks.flights.results import NO_PRIVACY, Arm, DemoResult, JudgedArm
from pocketfl_server.records import Funnel, ModelVersion, RoundResult
from pocketfl_server.trusted.messages import PrivacyStatement

REQUIRED = {
    "auc",
    "epsilon",
    "epsilon_against_back_end",
    "delta",
    "rounds",
    "cohort",
    "devices",
    "bytes_up_per_report",
    "bytes_down_per_round",
    "device_seconds_per_round",
    "wall_seconds",
    "runtime",
    "model_versions",
    "overhead_ms_per_device_round",
    "peak_memory_mb",
}


def make_round(number: int, *, protected: bool) -> FleetRound:
    return FleetRound(
        round=number,
        turns={"completed": 10 * number, "not_sampled": 90},
        funnel=Funnel(
            task="flights",
            round=number,
            checked_in=10 * number,
            turned_away={},
            leases=10 * number,
            uploaded=10 * number,
            accepted=10 * number,
        ),
        result=RoundResult(
            task="flights",
            round=number,
            state="finished",
            model_version=number - 1,
            new_version=number,
            opened_at=0.0,
            closes_at=1.0,
        ),
        version=ModelVersion(
            task="flights",
            version=number,
            parameters_sha256="0" * 64,
            privacy="gaussian" if protected else "none",
            epsilon=2.5 * number if protected else None,
            epsilon_against_back_end=4.0 * number if protected else None,
            created_at=0.0,
        ),
        device_seconds=0.01 * number,
        overhead_seconds=0.006,
        bytes_up=13_000.0,
        bytes_down=25_000.0,
        phases={"check_in": 0.002, "train": 0.004},
    )


def make_arm(*, protected: bool) -> JudgedArm:
    claims = {"epsilon": 7.981, "epsilon_against_back_end": 31.4, "delta": 1e-5}
    return JudgedArm(
        arm=Arm(
            rounds=[make_round(number, protected=protected) for number in (1, 2, 3)],
            versions=[np.zeros(4, np.float32)] * 4,
            spent=PrivacyStatement(
                privacy="gaussian" if protected else "none",
                **(claims if protected else {}),
                noise_multiplier=0.9 if protected else 0.0,
                sampling_probability=0.1,
                releases=3,
                max_rounds=3,
                max_participations=3,
                neighbouring_relation="zero-out: a <device> or zeros",
                sampling="Poisson: coins",
            ),
            transport="HTTP",
            quiet_rounds=2,
            wall_seconds=12.0,
        ),
        auc=0.77 if protected else 0.78,
        curve=[0.5, 0.6, 0.7, 0.77],
    )


@pytest.fixture
def result() -> DemoResult:
    return DemoResult(
        runtime="onnxruntime",
        seed=0,
        training_devices=100,
        held_out_devices=20,
        training_flights=1000,
        held_out_flights=200,
        late_share=0.157,
        aggregation=AggregationSpec(
            clip_norm=0.2,
            sampling_probability=0.1,
            population=1000,
            cohort_floor=30,
            max_rounds=3,
            max_participations=3,
        ),
        private=make_arm(protected=True),
        federated=make_arm(protected=False),
        server_only=0.73,
        server_trained=0.79,
        footprint=Footprint(device_mb=80.0, bare_mb=30.0),
        parameters=5953,
        plan_bytes=37_000,
        wall_seconds=300.0,
    )


class References(HTMLParser):
    """Collects everything that a browser would fetch, and ids with their uses."""

    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []
        self.ids: list[str] = []
        self.uses: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "link", "iframe", "img", "object", "embed", "base"):
            self.external.append(tag)
        for name, given in attributes:
            value = given or ""
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src", "srcset", "action", "data", "poster"):
                if value.startswith("#"):
                    self.uses.add(value[1:])
                else:
                    self.external.append(value)
            self.uses.update(re.findall(r"url\(#([^)]+)\)", value))

    def handle_data(self, data):
        self.text.append(data)


def read(page: str) -> References:
    references = References()
    references.feed(page)
    return references


def test_the_report_asks_nothing_of_the_network(result):
    """No script, no address, no style sheet: the page is one file."""
    page = render_report(result)
    assert read(page).external == []
    assert "://" not in page
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_drawings_on_one_page_do_not_share_names(result):
    """Every id is there once, and every reference finds its own."""
    references = read(render_report(result))
    assert references.ids
    assert len(set(references.ids)) == len(references.ids)
    assert references.uses <= set(references.ids)


def test_the_report_shows_all_figures(result):
    """AUCs, epsilons, delta, counts and the assumptions are in the text."""
    text = " ".join(read(render_report(result)).text)
    for figure in ("0.7300", "0.7900", "0.7800", "0.7700", "7.99", "31.40", "1e-05", "15.7"):
        assert figure in text
    assert "zero-out: a <device> or zeros" in text
    assert text.count("aircraft") > 3


def test_what_comes_from_outside_is_escaped(result):
    """Text of other processes cannot become markup."""
    assert "<device>" not in render_report(result)


def test_no_privacy_is_stamped_wherever_it_belongs(result):
    """Tiles, table, plots and text of the arm without noise all say it."""
    page = render_report(result)
    assert page.lower().count(NO_PRIVACY) >= 5
    rows = {row.name: row for row in summary_rows(result)}
    assert NO_PRIVACY in rows["AUC, FL"].note
    assert NO_PRIVACY not in rows["AUC, FL-DP"].note


def test_a_run_without_privacy_claims_none(result):
    """With --no-dp there is no epsilon anywhere, and the page says so at its top."""
    plain = dataclasses.replace(result, private=None)
    page = render_report(plain)
    assert NO_PRIVACY in page[: page.index("<table")]
    assert "7.99" not in page
    assert "privately" not in page
    figures = plain.to_json()
    assert figures["epsilon"] is figures["epsilon_against_back_end"] is figures["delta"] is None
    assert figures["auc"]["private"] is None
    assert figures["privacy"] == NO_PRIVACY


def test_a_private_run_alone_has_no_stamp(result):
    """Without the comparison nothing on the page is unprotected."""
    page = render_report(dataclasses.replace(result, federated=None))
    assert NO_PRIVACY not in page


def test_an_epsilon_is_never_rounded_down(result):
    """7.981 is shown as 7.99: a bound that is rounded downward is none."""
    rows = {row.name: row.value for row in summary_rows(result)}
    assert rows["epsilon, all releases"] == "7.99"
    assert rows["epsilon, back end"] == "31.40"


def test_the_json_has_the_names_that_scripts_rely_on(result):
    """The contract's keys, JSON through and through, and means weighted by reports."""
    figures = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert figures.keys() >= REQUIRED
    assert set(figures["auc"]) == {"server_only", "server_trained", "federated", "private"}
    assert figures["rounds"] == 3
    assert figures["cohort"] == 100
    assert figures["model_versions"] == 4
    assert figures["peak_memory_mb"] == pytest.approx(50.0)
    # Times are those of the rounds that had the machine for themselves, the first two.
    assert figures["device_seconds_per_round"] == pytest.approx((1 + 4) / 3 / 100)
    assert figures["overhead_ms_per_device_round"] == pytest.approx(6.0)


def test_the_same_result_makes_the_same_page(result):
    """Nothing on the page depends on the hour."""
    assert render_report(result) == render_report(result)


def test_the_report_goes_where_it_is_told(result, tmp_path):
    """Folders are made as needed."""
    path = tmp_path / "new" / "report.html"
    write_report(result, path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
