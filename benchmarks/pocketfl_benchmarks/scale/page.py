"""``docs/capacity.md``, written from the figures that are in the repository."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from pocketfl_benchmarks.scale.capacity import Habits, inferring, training_parts

TRAINING: Final = 1e6
INFERRING: Final = 1e9

_ROWS: Final = (
    ("enrolment", "enrolment"),
    ("check_in", "check-in"),
    ("report", "report, on disk"),
    ("plan_download", "plan"),
    ("parameters_download", "parameters"),
    ("notices", "notices"),
)
_ADVICE: Final = {
    "database": "More gateways do not help there: beyond one database "
    "the fleet is split into several back ends.",
    "gateway core": "Start more gateways ([several gateways](serve.md#several-gateways)).",
    "trusted-tier core": "Give the trusted tier `workers`, and beyond one machine split the fleet into "
    "several back ends.",
}


def page(figures: dict[str, Any], soak: dict[str, Any] | None) -> str:
    """Return the page's Markdown.

    Parameters
    ----------
    figures : dict
        Of ``python -m benchmarks.scale --json``.
    soak : dict or None
        Of ``python -m benchmarks.soak --json``.
    """
    habits = Habits()
    parts = training_parts(figures, devices=TRAINING, habits=habits)
    first = parts[0]
    predict = inferring(figures, devices=INFERRING, habits=habits)
    machine = figures["machine"]
    template = resources.files(__package__).joinpath("templates/capacity.md").read_text()
    return template.format(
        processor=machine["processor"],
        cores=machine["cores"],
        load=machine["load_average"],
        database=figures["database"],
        parameters=figures["parameters"],
        devices=figures["devices"],
        rates="\n".join(_rate(figures[key], title) for key, title in _ROWS),
        p99=figures["p99_ms"],
        round_end=figures["round_server_seconds"],
        round_cpu=figures["round_server_processor_seconds"],
        trusted=figures["trusted_reports_per_core_second"],
        idle=figures["idle_rss_mb"],
        database_mb=figures["database_mb_per_million_devices"],
        gateway_mb=max(0.0, figures["gateway_mb_per_million_devices"]),
        check_ins=habits.check_ins,
        reports=habits.reports,
        peak=habits.peak,
        busy=habits.busy,
        parts="\n".join(
            f"| {part.name} | {part.per_second:,.0f} | {part.capacity:,.0f} per {part.unit} | "
            f"{part.needed:.2f} | {part.largest_fleet(TRAINING):,.0f} |"
            for part in parts
        ),
        bottleneck=first.unit,
        bottleneck_part=first.name,
        bottleneck_fleet=_round_down(first.largest_fleet(TRAINING)),
        advice=_ADVICE[first.unit],
        waiting=100_000 * figures["report_bytes"] / 1e6,
        looks=habits.looks,
        looks_per_second=predict["looks_per_second"],
        inferring_cores=predict["gateway_cores"],
        version_tb=predict["terabytes_per_version"],
        plan_tb=predict["terabytes_per_plan"],
        soak=_soak(soak),
    )


def _rate(row: dict[str, float], title: str) -> str:
    return (
        f"| {title} | {row['per_second']:,.0f} | {row['per_core_second']:,.0f} | "
        f"{row['p50_ms']:.1f} | {row['p99_ms']:.1f} |"
    )


def _round_down(devices: float) -> float:
    digits = float(10 ** (len(str(int(devices))) - 2))
    return float(devices // digits) * digits


def _soak(soak: dict[str, Any] | None) -> str:
    if soak is None:
        return ""
    gateway, trusted = (
        soak["memory"][name]["slope_mb_per_hour"] for name in ("gateway", "trusted")
    )
    return (
        f"{soak['minutes']:.0f} minutes, {soak['requests']:,} requests, {soak['reports']:,} reports "
        f"in {sum(soak['rounds'].values())} rounds: {soak['errors']} errors; memory of the gateway "
        f"{gateway:+.1f} MB an hour, of the trusted tier {trusted:+.1f} MB an hour.\n\n"
        "![Memory of both processes over the half hour](images/soak.svg)"
    )
