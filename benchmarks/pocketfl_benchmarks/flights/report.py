"""The report of a demo run: one HTML file that asks nothing of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from pocketfl_benchmarks.flights.data import ARCHIVE, HELD_OUT_SHARE
from pocketfl_benchmarks.flights.plots import plot_auc, plot_epsilon, plot_funnel
from pocketfl_benchmarks.flights.results import NO_PRIVACY, DemoResult
from pocketfl_benchmarks.flights.task import LATE_MINUTES, MIN_FLIGHTS


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One line of the table.

    Attributes
    ----------
    name, value, note : str
        What, how much, and what it rests on.
    ends_section : bool
        Whether a rule follows.
    """

    name: str
    value: str
    note: str
    ends_section: bool = False


def summary_rows(result: DemoResult) -> list[SummaryRow]:
    """Return the one table of the demo, as the terminal and the report show it."""
    rows = [
        SummaryRow(
            name="AUC, server-only",
            value=f"{result.server_only:.4f}",
            note="centralised, without the aircraft's own features",
        ),
        SummaryRow(
            name="AUC, server-trained",
            value=f"{result.server_trained:.4f}",
            note="centralised, all features pooled",
        ),
    ]
    if result.federated is not None:
        share = result.federated.auc / result.server_trained
        rows.append(
            SummaryRow(
                name="AUC, FL",
                value=f"{result.federated.auc:.4f}",
                note=f"{share:.1%} of server-trained; {NO_PRIVACY}",
            )
        )
    if result.private is not None:
        gain = result.private.auc - result.server_only
        rows.append(
            SummaryRow(
                name="AUC, FL-DP",
                value=f"{result.private.auc:.4f}",
                note=f"{gain:+.4f} against server-only; user-level differential privacy",
            )
        )
    rows += _bought_rows(result)
    rows[-1] = SummaryRow(
        name=rows[-1].name, value=rows[-1].value, note=rows[-1].note, ends_section=True
    )
    return [*rows, *_learned_rows(result), *_privacy_rows(result), *_cost_rows(result)]


def _bought_rows(result: DemoResult) -> list[SummaryRow]:
    """Return what the fleet's statistics changed, in simulated trainings of the private arm."""
    return [
        SummaryRow(
            name=f"AUC, {arm.name}",
            value=f"{arm.auc:.4f}",
            note=f"simulated FL-DP; average precision {arm.average_precision:.4f}, normalised "
            f"entropy {arm.normalised_entropy:.3f}",
        )
        for arm in result.bought
    ]


def _learned_rows(result: DemoResult) -> list[SummaryRow]:
    learned = result.learned
    if learned is None:
        return []
    ranges = 0 if learned.bundle is None else len(learned.bundle.transforms)
    hidden = f"; hidden by noise: {', '.join(learned.hidden)}" if learned.hidden else ""
    rows = [
        SummaryRow(
            name="ranges learned",
            value=str(ranges),
            note=f"1 % to 99 % quantile of the aircraft's own features{hidden}",
            ends_section=learned.balancing is None,
        )
    ]
    if learned.balancing is not None:
        rows.append(
            SummaryRow(
                name="late flights, learned",
                value=f"{learned.balancing.class_shares[1]:.1%}",
                note="of the average aircraft; their losses are weighed "
                f"{learned.balancing.factors[1] / learned.balancing.factors[0]:.1f} times",
                ends_section=True,
            )
        )
    return rows


def _privacy_rows(result: DemoResult) -> list[SummaryRow]:
    arm = result.main.arm
    spent, epsilon, against = arm.spent, arm.epsilon, arm.epsilon_against_back_end
    if epsilon is None or against is None or spent.delta is None:
        return [SummaryRow(name="epsilon", value="none", note=NO_PRIVACY, ends_section=True)]
    return [
        SummaryRow(
            name="epsilon, all releases",
            value=_above(epsilon),
            note=f"{spent.releases} models, coin {spent.sampling_probability:.3f}, noise multiplier "
            f"{spent.noise_multiplier:g}{'; statistics in the same budget' if arm.budget else ''}",
        ),
        SummaryRow(
            name="epsilon, back end",
            value=_above(against),
            note="which also sees who takes part; each device in at most "
            f"{spent.max_participations} of them",
        ),
        SummaryRow(
            name="delta",
            value=f"{spent.delta:g}",
            note=f"for both; {spent.neighbouring_relation.split(':')[0]} of one device",
            ends_section=True,
        ),
    ]


def _cost_rows(result: DemoResult) -> list[SummaryRow]:
    arm = result.main.arm
    seconds, overhead = arm.mean_seconds("device_seconds"), arm.mean_seconds("overhead_seconds")
    return [
        SummaryRow(
            name="bytes up",
            value=f"{arm.mean_bytes('bytes_up') / 1e3:.1f} kB",
            note="per device and round that it takes part in, all of HTTP",
        ),
        SummaryRow(
            name="bytes down",
            value=f"{arm.mean_bytes('bytes_down') / 1e3:.1f} kB",
            note="likewise; the plan comes with the first",
        ),
        SummaryRow(
            name="device time",
            value=f"{seconds * 1e3:.1f} ms",
            note=f"per round, {(seconds - overhead) * 1e3:.1f} ms of it training steps "
            f"({result.runtime})",
        ),
        SummaryRow(
            name="peak memory",
            value=f"{result.footprint.peak_memory_mb:.0f} MB",
            note=f"one device with ONNX Runtime, beyond {result.footprint.bare_mb:.0f} MB "
            "of Python with numpy",
        ),
    ]


def _above(epsilon: float) -> str:
    # Rounded upward: a bound that is rounded downward is none.
    return f"{math.ceil(epsilon * 100) / 100:.2f}"


def render_report(result: DemoResult) -> str:
    """Return the report as one self-contained HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pocketfl_benchmarks.flights"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        result=result,
        arm=result.main.arm,
        rows=summary_rows(result),
        no_privacy=NO_PRIVACY,
        # Our own drawings, in which nothing comes from outside.
        auc_plot=Markup(plot_auc(result)),  # noqa: S704
        above=_above,
        epsilon_plot=Markup(plot_epsilon(result)) if result.private else None,  # noqa: S704
        funnel_plot=Markup(plot_funnel(result)),  # noqa: S704
        held_out_share=HELD_OUT_SHARE,
        late_minutes=LATE_MINUTES,
        min_flights=MIN_FLIGHTS,
        data=f"{ARCHIVE.package} {ARCHIVE.version}",
    )


def write_report(result: DemoResult, path: Path) -> None:
    """Write the report, making the folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(result), encoding="utf-8")
