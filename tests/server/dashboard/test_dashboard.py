"""The dashboard as a person sees it: in a real browser, live, for those with the token only."""

from __future__ import annotations

import os
import shutil
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.server.conftest import ENROLMENT_KEY, OPERATOR_KEY, Clock, Fleet, Served, serve

from pocketfl_server.access import Access
from pocketfl_server.back_end import BackEnd
from pocketfl_server.dashboard.charts import HEIGHT, WIDTH, Value, draw_chart
from pocketfl_server.dashboard.sessions import SESSION_SECONDS, Sessions
from pocketfl_server.trusted.aggregator import Aggregator

from .fleet import evaluate, roll_out, train

needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs chromium and chromedriver; .ci/run installs them",
)


@pytest.fixture
def running(tmp_path: Path, plan_keys: list[str]) -> Iterator[tuple[Served, Clock]]:
    clock = Clock(time.time())
    with (
        Aggregator(tmp_path / "ledger.db", plan_keys=plan_keys) as trusted,
        BackEnd(
            f"sqlite:///{tmp_path / 'back_end.db'}",
            trusted=trusted,
            plan_keys=plan_keys,
            enrolment_key=ENROLMENT_KEY,
            clock=clock,
        ) as back_end,
        serve(back_end) as served,
    ):
        yield served, clock


@contextmanager
def browser(folder: Path, *, width: int, height: int, dark: bool = False):
    """Debian's Chromium, without a network and without a profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={folder}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        look(driver, width=width, height=height, dark=dark)
        yield driver
    finally:
        driver.quit()


def look(driver, *, width: int, height: int, dark: bool) -> None:
    """Look at the page on another screen."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
    )


def keep_screenshot(driver, name: str) -> None:
    """Keep a picture in the folder that ``POCKETFL_SCREENSHOTS`` names, if it names one."""
    folder = os.environ.get("POCKETFL_SCREENSHOTS")
    if folder is None:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {})
    (Path(folder) / f"{name}.png").write_bytes(b64decode(shot["data"]))


def wait_for(condition, *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the page did not come to show it"
        time.sleep(0.1)


def text_of(driver) -> str:
    return driver.execute_script("return document.getElementById('live').innerText")


@needs_browser
@pytest.mark.slow
def test_an_operator_watches_a_fleet_in_a_browser(running, tmp_path: Path) -> None:
    """Log in, see all of it, see it change without a click, on a desktop and on a phone."""
    served, clock = running
    back_end, fleet = served.back_end, Fleet(served.back_end)
    plan = train(back_end, fleet, clock, rounds=4)
    for version in (1, 2, 3, 4):
        evaluate(back_end, fleet, tmp_path, plan, version=version)
    roll_out(back_end, sequence=1, stable=3, canary=4)
    with browser(tmp_path / "profile", width=1280, height=1000) as driver:
        driver.get(served.url + "/dashboard")
        field = driver.find_element("id", "token")
        field.send_keys("not the operator's token" + "\n")
        wait_for(lambda: "This token is wrong" in driver.page_source)
        assert driver.find_elements("id", "live") == []
        keep_screenshot(driver, "dashboard-login")
        driver.find_element("id", "token").send_keys(OPERATOR_KEY + "\n")
        wait_for(lambda: driver.find_elements("id", "live"))
        shown = text_of(driver)
        for expected in (
            "clicks", "Rounds", "Funnel of round 6", "operator", "ROC-AUC by version",
            "normalised entropy by version", "of 6 spent", "4 releases of at most 20",
            "canary", "10 %", "Document 1", "30 enrolled", "0.1.0",
            "Next: round 6 is open until", "the next one opens at", "10 min, 5 min apart; 1 opened",
            "Plan clicks 1, model version 3", "schema 2", "Fleet of round 4",
        ):  # fmt: skip
            assert expected in shown, (expected, shown)
        band = driver.find_element("css selector", ".band").get_attribute("d")
        assert band.count("L") == 7
        charts = driver.find_elements("css selector", "svg[role=img]")
        assert "95 % interval" in charts[0].get_attribute("aria-label")
        keep_screenshot(driver, "dashboard-light")
        look(driver, width=1280, height=1000, dark=True)
        keep_screenshot(driver, "dashboard-dark")
        look(driver, width=390, height=1700, dark=False)
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert driver.execute_script(overflow) <= 0
        keep_screenshot(driver, "dashboard-phone")
        # Nobody touches the browser from here on.
        back_end.abort_round("clicks", 6)
        roll_out(back_end, sequence=2, stable=4, canary=None)
        wait_for(lambda: "Document 2" in text_of(driver))
        assert "canary" not in text_of(driver)
        asked = driver.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert asked and all(address.startswith(served.url) for address in asked)
        # The policy forbids nothing that the page does; the refused login is the only complaint.
        complaints = [e["message"] for e in driver.get_log("browser")]
        assert [c for c in complaints if "401" not in c] == []
        (button,) = driver.find_elements("css selector", "button.quiet")
        button.click()
        wait_for(lambda: driver.find_elements("id", "token"))
        assert driver.get_cookies() == []


def test_nobody_sees_a_thing_without_the_token(running) -> None:
    """Neither page nor fragment, whatever cookie is shown; and nothing may frame or extend the page."""
    served, clock = running
    access = Access(served.back_end.database, operator_key=OPERATOR_KEY)
    sessions = Sessions(access, operator_key=OPERATOR_KEY)
    forged = Sessions(access, operator_key="another-operator-key-x").begin(
        OPERATOR_KEY, now=clock.now
    )
    over = sessions.begin(OPERATOR_KEY, now=clock.now - SESSION_SECONDS - 1)
    viewer = access.create("vera", "viewer", now=clock.now).token
    taken_back = sessions.begin(viewer, now=clock.now)
    assert sessions.is_valid(taken_back, now=clock.now)
    access.revoke("vera")
    access.create("vera", "administrator", now=clock.now + 1)
    assert forged is not None
    for cookie in (
        "",
        "x",
        "9" * 13 + ".00",
        forged,
        over,
        taken_back,
        forged.split(".")[0] + ".é.x",
    ):
        sent = {"Cookie": f"pocketfl_dashboard={cookie}".encode().decode("latin-1")}
        for path in ("/dashboard", "/dashboard/live"):
            answer = served("GET", path, headers=sent)
            assert answer.status == 401
            assert b"Rounds" not in answer.data and b'id="live"' not in answer.data
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'") and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
    form = "application/x-www-form-urlencoded"
    wrong = served("POST", "/dashboard/login", body=b"token=wrong", media_type=form)
    assert wrong.status == 401 and "Set-Cookie" not in wrong.headers
    assert served("POST", "/dashboard/login", body=b"x" * 5000, media_type=form).status == 413
    token = f"token={OPERATOR_KEY}".encode()
    right = served("POST", "/dashboard/login", body=token, media_type=form)
    cookie = right.headers["Set-Cookie"]
    assert right.status == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert OPERATOR_KEY not in cookie
    page = served("GET", "/dashboard", headers={"Cookie": cookie.split(";")[0]})
    assert page.status == 200 and b"No task yet" in page.data
    assert b"<script>" not in page.data and b"style=" not in page.data


def test_names_are_text_and_never_markup(running) -> None:
    """What operators and devices write is escaped."""
    served, clock = running
    from pocketfl.protocol import EnrolmentRequest
    from pocketfl_server.records import PauseRequest

    train(served.back_end, Fleet(served.back_end), clock, rounds=1)
    served.back_end.pause("clicks", PauseRequest(reason="<script>alert(1)</script>"))
    served.back_end.enrol(ENROLMENT_KEY, EnrolmentRequest(user="u", sdk="<img src=x>"))
    access = Access(served.back_end.database, operator_key=OPERATOR_KEY)
    session = Sessions(access, operator_key=OPERATOR_KEY).begin(OPERATOR_KEY, now=time.time())
    sent = {"Cookie": f"pocketfl_dashboard={session}"}
    page = served("GET", "/dashboard/live", headers=sent).data.decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "<img" not in page and "&lt;img src=x&gt;" in page


@pytest.mark.parametrize(
    "values",
    [
        [Value(at=3, value=0.5, low=0.5, high=0.5)],
        [Value(at=n, value=0.0, low=0.0, high=0.0) for n in (1, 2)],
        [Value(at=n, value=n, low=n - 2.0, high=n + 2.0) for n in range(40)],
    ],
    ids=["one", "flat", "many"],
)
def test_everything_of_a_chart_lies_within_its_box(values: list[Value]) -> None:
    """Also one value alone, and values that are all the same."""
    chart = draw_chart(values, name="x", axis="version", limit=50.0)
    assert chart is not None and len(chart.across) <= 6
    for mark in chart.marks:
        assert 0 <= mark.x <= WIDTH
        assert 0 <= mark.high <= mark.y <= mark.low <= HEIGHT
    assert chart.limit is not None and 0 <= chart.limit <= HEIGHT
