"""``pocketfl bench life``: a month of a fleet's conditions, budgets and pace, in under a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def life(
    *,
    devices: Annotated[int, typer.Option(min=1, help="Phones.")] = 1000,
    days: Annotated[int, typer.Option(min=1, help="Days of their lives.")] = 30,
    places: Annotated[
        int, typer.Option(min=1, help="Places per hour that the server gives away.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of habits and waits.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the month (.svg, .png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Let phones with scripted signals live a month: real schedulers, ledgers and conditions."""
    from rich.console import Console
    from rich.status import Status

    from pocketfl_benchmarks.life.counts import count_by_day, count_by_hour
    from pocketfl_benchmarks.life.simulation import MonthSettings, judge_month, run_month

    settings = MonthSettings(devices=devices, days=days, places_per_hour=places, seed=seed)
    with Status(f"{days} days of {devices} phones", console=Console(stderr=True)):
        month = run_month(settings)
    verdict = judge_month(month)
    sessions = [session for made in month.sessions.values() for session in made]
    figures: dict[str, Any] = {
        "devices": devices,
        "days": days,
        "wall_seconds": month.seconds,
        "tries": month.tries,
        "idle_wake_ups": month.idle,
        "sessions": len(sessions),
        "contributions": sum(session.sent for session in sessions),
        "refusals": dict(month.refusals.most_common()),
        "busiest_quarter_hour": max(month.admitted.values(), default=0),
        "places_per_quarter_hour": places / 4,
        "by_hour": {
            "asked": count_by_hour(month.asked),
            "admitted": count_by_hour(month.admitted),
        },
        "by_day": {
            "contributed": count_by_day(month, settings, sent=True),
            "stopped": count_by_day(month, settings, sent=False),
        },
        **verdict,
    }
    if plot is not None:
        from pocketfl_benchmarks.life.plot import draw_month

        draw_month(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)
    if verdict["over_budget"]:
        raise typer.Exit(1)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures['days']} days of {figures['devices']:,} phones")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in (
        ("tries", f"{figures['tries']:,}"),
        ("sessions", f"{figures['sessions']:,}"),
        ("contributions", f"{figures['contributions']:,}"),
        ("devices over budget", str(figures["over_budget"])),
        *((f"most used, {name}", f"{part:.0%}") for name, part in figures["highest"].items()),
        ("shortest time between two", f"{figures['shortest_separation_hours']:.1f} h"),
        ("took", f"{figures['wall_seconds']:.0f} s"),
    ):
        table.add_row(name, value)
    Console().print(table)
