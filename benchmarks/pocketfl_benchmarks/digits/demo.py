"""``pocketfl demo --app``: a local server, a fleet of writers, and the app as one device more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.errors import PocketFLError
from pocketfl.plan import public_key_hex
from pocketfl.plan.signing import load_signing_key
from pocketfl.store import ExampleStore
from pocketfl_app.bundle import load_bundle
from pocketfl_app.device.drawings import Drawings
from pocketfl_app.enrolment import Site
from pocketfl_app.home import Home
from pocketfl_app.settings import Settings, save_settings
from pocketfl_benchmarks.digits.build import accuracy_of
from pocketfl_benchmarks.digits.data import Digits
from pocketfl_benchmarks.digits.task import OPTIMIZER, TASK
from pocketfl_benchmarks.digits.writers import Writers, hands, write_in_hand
from pocketfl_server.local import LocalDeployment

MAIN: Final = Path(__file__).resolve().parents[3] / "mobile_app" / "main.py"


class AppDemoError(PocketFLError):
    """A round of the demo did not end as it should."""


@dataclass(frozen=True, kw_only=True)
class RoundLine:
    """One line of what the demo prints.

    Attributes
    ----------
    round : int
        0 for the bundled model.
    reports : int
        Devices that reported, the app included.
    app : bool
        Whether the app was one of them.
    accuracy : float
        Of the model after the round, on digits of the writers' hands that no device has.
    epsilon : float
        Spent so far.
    """

    round: int
    reports: int
    app: bool
    accuracy: float
    epsilon: float


def open_task(deployment: LocalDeployment, plan_data: bytes) -> Site:
    """Make a task of the app's plan and return what a device needs to join."""
    task = deployment.operator.create_task(TASK, plan_data, optimizer=OPTIMIZER)
    return Site(
        server=deployment.url,
        aggregator=task.aggregator.public_key,
        enrolment=deployment.enrolment_key,
    )


def run_rounds(
    deployment: LocalDeployment,
    writers: Writers,
    *,
    assets: Path,
    measured: Digits,
    rounds: int,
    round_seconds: float,
    tell: Callable[[RoundLine], None],
    stopped: Callable[[], bool],
) -> None:
    """Open rounds one after the other; each stays open for its whole time, whoever has reported.

    Parameters
    ----------
    deployment : LocalDeployment
        With the task.
    writers : Writers
        They take their turn at the beginning of each round.
    assets : Path
        What the app was built with.
    measured : Digits
        To measure the model on.
    rounds : int
        How many, at most the plan's.
    round_seconds : float
        How long a round is open.
    tell : callable
        Told of every round, and of the bundled model first.
    stopped : callable
        Asked now and then; ends the demo.

    Raises
    ------
    AppDemoError
        If a writer fails or a round makes no model.
    """
    bundle = load_bundle(assets)
    accuracy = accuracy_of(bundle.plan, measured)
    tell(RoundLine(round=0, reports=0, app=False, accuracy=accuracy, epsilon=0.0))
    for _ in range(rounds):
        notice = deployment.operator.open_round(TASK, seconds=3600)
        ends = time.monotonic() + round_seconds
        outcomes = writers.take_part()
        failed = next((o for o in outcomes if o.status != "completed"), None)
        if failed is not None:
            raise AppDemoError(f"a writer's turn ended as {failed.status!r}: {failed.reason}")
        while time.monotonic() < ends and not stopped():
            time.sleep(0.1)
        reports = deployment.operator.funnel(TASK, notice.round).uploaded
        result = deployment.operator.close_round(TASK, notice.round)
        if result.new_version is None:
            raise AppDemoError(f"round {notice.round} was {result.state} ({result.reason})")
        vector = deployment.operator.model_parameters(TASK, result.new_version)
        tell(
            RoundLine(
                round=notice.round,
                reports=reports,
                app=reports > len(writers),
                accuracy=accuracy_of(bundle.plan, measured, vector),
                epsilon=deployment.operator.privacy(TASK).spent.epsilon or 0.0,
            )
        )
        if stopped():
            return


def prepare_app(home: Home, site: Site, *, drawings: Digits | None) -> None:
    """Write the settings of an app that has joined the server, and drawings that it begins with."""
    home.data.mkdir(parents=True, exist_ok=True)
    save_settings(home.data, Settings(site=site, automatic=True, only_unmetered=False))
    if drawings is not None:
        with ExampleStore(home.store) as store:
            kept = Drawings(store)
            for image, label in zip(drawings.images, drawings.labels, strict=True):
                kept.add(image[None], int(label))


def one_more_writer(digits: Digits, count: int) -> Digits:
    """Return some digits in a hand that no simulated writer has."""
    *_, chances = hands(1000)
    rows = chances.permutation(len(digits))[:count]
    return write_in_hand(digits.take(rows), chances)


def start_app(home: Home, *, headless: bool) -> subprocess.Popen[bytes]:
    """Start the app in a process of its own."""
    environment = {**os.environ, "KIVY_NO_ARGS": "1"}
    if headless:
        environment |= {"SDL_VIDEODRIVER": "offscreen", "SDL_AUDIODRIVER": "dummy"}
    command = [sys.executable, str(MAIN), "--demo", "--data", str(home.data)]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*command, "--assets", str(home.assets)], env=environment
    )


def count_outcomes(statuses: list[str]) -> dict[str, int]:
    """Return how often each status came up."""
    return dict(Counter(statuses))


def plan_key_of(key_file: Path) -> str:
    """Return the modeller's public key."""
    return public_key_hex(load_signing_key(key_file))
