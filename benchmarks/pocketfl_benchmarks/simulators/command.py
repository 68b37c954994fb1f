"""The command line of ``python -m benchmarks.simulators``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def simulators(
    *,
    kinds: Annotated[
        list[str] | None, typer.Option("--work", help="mlp or cnn; both by default.")
    ] = None,
    cohort: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Devices of a round, on all programs.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds that are timed, on all programs.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="That one program may take at most.")
    ] = 300.0,
    peers: Annotated[bool, typer.Option(help="Run the peers too, not only PocketFL.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure devices a second of PocketFL's simulation, pfl-research and Flower on the same work."""
    from pocketfl_benchmarks.machine import describe_machine
    from pocketfl_benchmarks.simulators.comparison import compare
    from pocketfl_benchmarks.simulators.work import WORKS, resized

    unknown = sorted(set(kinds or ()) - set(WORKS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is no work: {', '.join(WORKS)}")
    figures: dict[str, Any] = {}
    for kind, settings in WORKS.items():
        if not kinds or kind in kinds:
            figures[kind] = compare(
                resized(settings, cohort=cohort, rounds=rounds),
                seconds=seconds,
                with_peers=peers,
                progress=lambda line: typer.echo(line, err=True),
            )
    if as_json:
        typer.echo(json.dumps({**figures, "machine": describe_machine()}, indent=2))
        return
    for kind, found in figures.items():
        typer.echo(f"{kind}: {_sentence(found)}")


def _sentence(found: dict[str, Any]) -> str:
    text = f"PocketFL {found['pocketfl_devices_per_second']:.1f} devices/s"
    for peer in ("pfl", "flower"):
        if (pace := found[f"{peer}_devices_per_second"]) is not None:
            text += f", {peer} {pace:.1f} ({found[f'ratio_{peer}']:.1f}x)"
    return text


def run() -> None:
    """Run the command line; an error that says what to do needs no traceback."""
    from pocketfl.errors import PocketFLError

    try:
        typer.run(simulators)
    except PocketFLError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
