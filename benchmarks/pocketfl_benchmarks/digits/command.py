"""``pocketfl app`` and ``pocketfl demo --app``."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pocketfl_benchmarks.flights.cache import CACHE_VARIABLE, cache_directory

app = typer.Typer(help="Build and start the app on this machine.", no_args_is_help=True)

_DataOption = Annotated[
    Path | None, typer.Option(help="Local copy of the digits' archive, for lack of a network.")
]
_CacheOption = Annotated[Path | None, typer.Option(help="Cache folder.", envvar=CACHE_VARIABLE)]


@app.command()
def build(
    *,
    data: _DataOption = None,
    cache: _CacheOption = None,
    again: Annotated[bool, typer.Option("--again", help="Also if it was built before.")] = False,
) -> None:
    """Train the bundled model on public digits, export its plan, and put both into the app."""
    _build(Console(), data=data, cache=cache_directory(cache), again=again)


@app.command()
def run(
    *,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="The app's private files.")
    ] = None,
) -> None:
    """Open the app's window."""
    from pocketfl_benchmarks.digits.demo import MAIN

    options = [] if folder is None else ["--data", str(folder)]
    done = subprocess.run([sys.executable, str(MAIN), *options], check=False)  # noqa: S603
    raise typer.Exit(done.returncode)


@app.command()
def invite(
    out: Annotated[Path, typer.Argument(help="Where the picture (PNG) of the QR code goes.")],
    *,
    server: Annotated[str, typer.Option(help="URL of the back end.")],
    aggregator: Annotated[str, typer.Option(help="Public key of the task's trusted tier, hex.")],
    enrolment_key_file: Annotated[Path, typer.Option(help="Holds the app's enrolment key.")],
    plan_key: Annotated[
        str | None, typer.Option(help="Of a modeller whom the app does not know, hex.")
    ] = None,
) -> None:
    """Write the invitation to a server: as text for pasting, and as a QR code."""
    from pocketfl_app.enrolment import EnrolmentTextError, Site
    from pocketfl_app.pictures import write_picture

    try:
        enrolment = enrolment_key_file.read_text().strip()
    except OSError as error:
        raise EnrolmentTextError(f"cannot read {enrolment_key_file}: {error.strerror}") from None
    site = Site(server=server, aggregator=aggregator, enrolment=enrolment, plan_key=plan_key)
    write_picture(site, out)
    typer.echo(site.to_text())


def demo_app(
    *,
    app_flag: Annotated[bool, typer.Option("--app", help="The app takes part.")] = True,
    writers: Annotated[int, typer.Option(min=5, max=50, help="Simulated writers.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Rounds at most.")] = 20,
    round_seconds: Annotated[
        float, typer.Option(min=1, help="How long each round is open.")
    ] = 20.0,
    drawings: Annotated[
        int, typer.Option(min=0, max=500, help="Digits of one more writer, put into the app.")
    ] = 0,
    headless: Annotated[
        bool, typer.Option("--headless", help="No window; ends after the last round.")
    ] = False,
    data: _DataOption = None,
    cache: _CacheOption = None,
) -> None:
    """Start a local server and a fleet of writers, and the app as one device more."""
    del app_flag
    from pocketfl_app.bundle import ASSETS, load_bundle
    from pocketfl_app.home import Home
    from pocketfl_benchmarks.digits.data import load_digits
    from pocketfl_benchmarks.digits.demo import (
        one_more_writer,
        open_task,
        prepare_app,
        run_rounds,
        start_app,
    )
    from pocketfl_benchmarks.digits.task import WRITERS, split_digits
    from pocketfl_benchmarks.digits.writers import Writers, deal
    from pocketfl_server.local import LocalDeployment

    console = Console()
    if writers * 5 < 4 * WRITERS:
        raise typer.BadParameter(
            f"the plan's cohort floor is four in five of {WRITERS + 1} devices: "
            f"at least {WRITERS * 4 // 5} writers are needed"
        )
    folder = cache_directory(cache)
    _build(console, data=data, cache=folder, again=False)
    bundle = load_bundle(ASSETS)
    _, unseen = split_digits(load_digits(folder, local=data))
    parts, measured = deal(unseen, writers=writers)
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pocketfl-app-")))
        deployment = stack.enter_context(
            LocalDeployment(place / "server", plan_keys=bundle.trust.plan_keys)
        )
        site = open_task(deployment, bundle.plan.data)
        fleet = stack.enter_context(
            Writers(
                place,
                parts,
                site=site,
                plan_key=bundle.plan.signed_by,
                runtime="onnxruntime",
            )
        )
        home = Home(data=place / "app", demo=True)
        extra = one_more_writer(measured, drawings) if drawings else None
        prepare_app(home, site, drawings=extra)
        process = start_app(home, headless=headless)
        stack.callback(_end, process)
        console.print(f"server: {site.server}, {writers} writers")
        console.print("to join from another window of the app, paste this in Settings:")
        console.print(site.to_text(), soft_wrap=True, highlight=False)
        console.print("round  reports  with the app  accuracy  epsilon")
        run_rounds(
            deployment,
            fleet,
            assets=ASSETS,
            measured=measured,
            rounds=rounds,
            round_seconds=round_seconds,
            tell=lambda line: console.print(
                f"{line.round:5}  {line.reports:7}  {'yes' if line.app else 'no':>12}  "
                f"{100 * line.accuracy:6.1f} %  {line.epsilon:7.2f}",
                highlight=False,
            ),
            stopped=lambda: process.poll() is not None,
        )
        if not headless and process.poll() is None:
            console.print("all rounds are over; close the app's window to end")
            process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _build(console: Console, *, data: Path | None, cache: Path, again: bool) -> None:
    from pocketfl_app.bundle import ASSETS
    from pocketfl_benchmarks.digits.build import KEY_FILE, build_app, is_built
    from pocketfl_benchmarks.digits.data import load_digits

    if is_built(ASSETS) and not again:
        return
    with console.status("train on public digits, export and check the plan (about a minute)"):
        result = build_app(ASSETS, digits=load_digits(cache, local=data), key_file=cache / KEY_FILE)
    table = Table(title="The app's plan", title_justify="left", show_header=False)
    table.add_row("plan", f"{result.plan.manifest.name} {result.plan.manifest.version}")
    table.add_row("size", f"{len(result.plan.data) / 1e6:.2f} MB")
    table.add_row("runtimes", ", ".join(result.plan.manifest.runtimes))
    table.add_row(
        "trained on devices", f"{result.plan.manifest.required_model.parameter_count} numbers"
    )
    table.add_row(
        "accuracy", f"{100 * result.accuracy:.1f} % of {result.examples} digits it has not seen"
    )
    table.add_row("in", str(ASSETS))
    console.print(table)
