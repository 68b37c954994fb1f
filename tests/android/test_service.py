"""The services' entry: what an argument makes of it, and when rounds in the background end."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketfl.device import RoundOutcome
from pocketfl.sealing import generate_key_pair
from pocketfl_app import background
from pocketfl_app.android import notification
from pocketfl_app.android.services import ROUNDS, AndroidWorker, start_rounds
from pocketfl_app.enrolment import Site
from pocketfl_app.home import Home
from pocketfl_app.settings import Settings, save_settings
from pocketfl_app.strings import tr
from pocketfl_app.worker import program

SERVICE = Path(__file__).parents[2] / "mobile_app" / "service.py"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(data=tmp_path, assets=tmp_path)


@pytest.fixture
def site() -> Site:
    return Site(
        server="https://fl.example.com",
        aggregator=generate_key_pair()[1].hex(),
        enrolment="an enrolment key",
    )


def run_service(argument: str) -> None:
    """Run the file as python-for-android does, but for the process."""
    spec = importlib.util.spec_from_file_location("service", SERVICE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(argument)


class ScriptedDevice:
    """A device whose rounds end as the test says."""

    def __init__(self, *rounds: tuple[str, ...]) -> None:
        self.left = list(rounds)

    def run_due(self) -> tuple[RoundOutcome, ...]:
        statuses = self.left.pop(0)
        return tuple(RoundOutcome(status=s, code=s, reason=f"it is {s}") for s in statuses)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the notification says, one after the other."""
    texts: list[str] = []

    class Notification:
        def __init__(self, service_id: int, *, title: str, channel: str) -> None:
            assert service_id == 2

        def show(self, text: str) -> None:
            texts.append(text)

    monkeypatch.setattr(notification, "ServiceNotification", Notification)
    return texts


def take_part(monkeypatch: pytest.MonkeyPatch, home: Home, site: Site, *rounds) -> ScriptedDevice:
    device = ScriptedDevice(*rounds)
    save_settings(home.data, replace(Settings(), automatic=True, site=site))
    monkeypatch.setattr(background, "load_bundle", lambda _: SimpleNamespace(trust=None))
    monkeypatch.setattr(background, "open_device", lambda *_: nullcontext(device))
    return device


def test_a_breach_ends_the_service(
    home: Home, site: Site, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round after the other, with a notification of each; after one that was interrupted, none."""
    device = take_part(monkeypatch, home, site, ("completed",), ("interrupted",), ("completed",))
    run_service(json.dumps({ROUNDS: str(home.data), "assets": str(home.assets)}))
    assert device.left == [("completed",)]
    working = tr("service.working")
    assert shown == [working, "it is completed", working, "it is interrupted"]


def test_the_service_ends_when_nothing_is_due(
    home: Home, site: Site, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the next round, and takes part in a bounded number in one go."""
    take_part(monkeypatch, home, site, ("completed",), ())
    assert len(background.run_rounds(home, lambda _: None)) == 1
    device = take_part(monkeypatch, home, site, *[("completed",)] * 20)
    assert len(background.run_rounds(home, lambda _: None)) == background.MOST_ROUNDS
    assert len(device.left) == 20 - background.MOST_ROUNDS


@pytest.mark.parametrize("chosen", [False, True])
def test_nothing_runs_that_was_not_chosen(home: Home, site: Site, chosen: bool) -> None:
    """Without the person's choice, or without a server, no file is opened."""
    save_settings(home.data, replace(Settings(), automatic=chosen, site=None if chosen else site))
    before = sorted(home.data.iterdir())
    assert background.run_rounds(home, lambda _: None) == ()
    assert sorted(home.data.iterdir()) == before


def test_another_argument_makes_it_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app's screens start it with goes to the worker as it is."""
    served: list[str] = []
    monkeypatch.setattr(program, "serve", served.append)
    argument = program.WorkerArgument(port=1, token="t", data="/d", assets="/a", demo=False)
    run_service(argument.to_json())
    assert served == [argument.to_json()]


class JavaException(Exception):  # noqa: N818 - pyjnius names it so
    """What pyjnius raises for every exception of Java."""


def install(monkeypatch: pytest.MonkeyPatch, start) -> None:
    """Make ``import jnius`` reach an app with these services."""
    activity = SimpleNamespace(getPackageName=lambda: "org.app")
    classes = {
        "org.kivy.android.PythonActivity": SimpleNamespace(mActivity=activity),
        "org.app.ServiceWorker": SimpleNamespace(start=start),
        "org.app.ServiceRounds": SimpleNamespace(start=start),
    }
    library = SimpleNamespace(
        JavaException=JavaException, autoclass=classes.__getitem__, cast=lambda _, value: value
    )
    monkeypatch.setitem(sys.modules, "jnius", library)


def test_the_screens_start_the_services(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words of the notification, and an argument that the entry understands."""
    started = []
    install(monkeypatch, lambda context, *rest: started.append(rest))
    AndroidWorker("an argument")
    start_rounds(home)
    words = ("", tr("app.title"), tr("service.working"))
    assert started[0] == (*words, "an argument")
    assert started[1][:3] == words
    assert json.loads(started[1][3])[ROUNDS] == str(home.data)


def test_a_service_that_android_does_not_start_is_an_error_of_the_system(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The app's worker link handles it like a worker that died; rounds wait for the next time."""

    def refuse(*_: object) -> None:
        raise JavaException("ForegroundServiceStartNotAllowedException")

    install(monkeypatch, refuse)
    with pytest.raises(OSError, match="NotAllowed"):
        AndroidWorker("an argument")
    start_rounds(home)
    assert "did not start" in caplog.text
