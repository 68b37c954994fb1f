"""Real databases, a real trusted tier in process, and devices that seal what they send."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path

import numpy as np
import pytest
import urllib3
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool
from tests.server.tiny_plan import tiny_plan

from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    Plan,
    generate_signing_key,
    public_key_hex,
)
from pocketfl.protocol import Assignment, CheckIn, EnrolmentRequest
from pocketfl.reports import SealedReport, make_report
from pocketfl.sealing import ReportContext
from pocketfl_server.api import create_app
from pocketfl_server.back_end import BackEnd
from pocketfl_server.database import metadata
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.client import TrustedTier

SIGNING_KEY = generate_signing_key()
ENROLMENT_KEY = "an-enrolment-key-of-the-app"
OPERATOR_KEY = "an-operator-key-of-this-test"
AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
CHECK_IN = CheckIn(sdk="0.1.0", plan_schemas=(1, 2), runtimes=("onnxruntime",))

POSTGRESQL_URL = os.environ.get("POCKETFL_TEST_DATABASE_URL")
POSTGRESQL_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def build(
    *,
    parameters: int = 5,
    privacy: str = "gaussian",
    noise_multiplier: float = 0.5,
    epsilon: float = 900.0,
    name: str = "tiny",
    initial: np.ndarray | None = None,
    signing_key: Ed25519PrivateKey = SIGNING_KEY,
    **aggregation: object,
) -> Plan:
    """A signed plan of a model with so many parameters; keywords go to its AggregationSpec."""
    spec = {
        "clip_norm": 2.0,
        "norm_bound": 1000,
        "population": 4,
        "cohort_floor": 2,
        "max_rounds": 8,
        "max_participations": 8,
        **aggregation,
    }
    return tiny_plan(
        parameters=parameters,
        name=name,
        signing_key=signing_key,
        aggregation=AggregationSpec(**spec),
        dp=None
        if privacy == "none"
        else DifferentialPrivacySpec(
            noise_multiplier=noise_multiplier, epsilon=epsilon, delta=1e-5
        ),
        initial=initial,
    )


def seal_update(update: np.ndarray, assignment: Assignment, plan: Plan) -> SealedReport:
    """What a device would upload for this update under this assignment."""
    context = ReportContext(
        key_id=assignment.aggregator.key_id,
        policy_hash=plan.manifest.policy_hash,
        plan_sha256=plan.sha256,
        task=assignment.task,
        round=assignment.round,
        model_version=assignment.model_version,
        lease=assignment.lease,
    )
    public_key = bytes.fromhex(assignment.aggregator.public_key)
    return make_report(update, plan=plan, context=context, public_key=public_key)


@dataclass
class Clock:
    """Unix time that moves only when told to."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fleet:
    """Devices of one back end, spoken for by name."""

    back_end: BackEnd
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, name: str) -> str:
        if name not in self.tokens:
            request = EnrolmentRequest(user=name, sdk="0.1.0")
            self.tokens[name] = self.back_end.enrol(ENROLMENT_KEY, request).token
        return self.tokens[name]

    def check_in(self, name: str, task: str, round: int) -> Assignment:
        answer = self.back_end.check_in(self.token(name), task, round, CHECK_IN)
        assert isinstance(answer, Assignment), answer
        return answer

    def report(self, name: str, task: str, round: int, update: np.ndarray, plan: Plan) -> None:
        assignment = self.check_in(name, task, round)
        self.back_end.upload(assignment.lease, seal_update(update, assignment, plan).data)

    def reports(self, count: int, task: str, round: int, update: np.ndarray, plan: Plan) -> None:
        for index in range(count):
            self.report(f"device-{index}", task, round, update, plan)


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """Builds signed plans."""
    return build


@pytest.fixture(scope="session")
def plan_keys() -> list[str]:
    """The modeller's public key."""
    return [public_key_hex(SIGNING_KEY)]


@pytest.fixture
def clock() -> Clock:
    """A clock that the test moves."""
    return Clock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server: the one that the environment names, or a private one."""
    if POSTGRESQL_URL:
        yield POSTGRESQL_URL
        return
    programs = POSTGRESQL_PROGRAMS[-1].parent
    # The server refuses to run as root; a socket in its own directory keeps it private.
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pocketfl-pg-") as name:
        directory = Path(name)
        if user is not None:
            shutil.chown(directory, user)
        data = directory / "data"

        def run(program: str, *arguments: str | Path) -> None:
            command = [programs / program, *arguments]
            subprocess.run(command, user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)

        initial = ["-A", "trust", "-U", "pocketfl", "--no-sync", "-E", "UTF8", "--locale=C"]
        run("initdb", "-D", data, *initial)
        options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "-D", data, "-l", directory / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://pocketfl@/postgres?host={directory}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database; a test that asks for it runs once for each kind that there is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'back_end.db'}"
        return
    server = request.getfixturevalue("postgresql")
    # A schema of its own serves as a database, and takes milliseconds where a database takes seconds.
    name = f"test_{secrets.token_hex(8)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    url = make_url(server).update_query_dict({"options": f"-csearch_path={name}"})
    yield url.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames:
        several = metafunc.definition.get_closest_marker("several_gateways") is not None
        kinds = [] if several else ["sqlite"]
        if POSTGRESQL_URL or POSTGRESQL_PROGRAMS:
            kinds.append("postgresql")
        metafunc.parametrize("database_url", kinds, indirect=True)


@pytest.fixture
def trusted(tmp_path: Path, plan_keys: list[str]) -> Iterator[Aggregator]:
    """The trusted tier, in process."""
    with Aggregator(tmp_path / "ledger.db", plan_keys=plan_keys) as aggregator:
        yield aggregator


@pytest.fixture
def open_back_end(
    database_url: str, trusted: Aggregator, plan_keys: list[str], clock: Clock
) -> Iterator[Callable[..., BackEnd]]:
    """Opens back ends over the test's one database, as several gateways or restarts would."""
    opened: list[BackEnd] = []

    def open_one(
        *,
        trusted_tier: TrustedTier = trusted,
        keys: list[str] = plan_keys,
        anonymous_only: bool = False,
    ) -> BackEnd:
        back_end = BackEnd(
            database_url,
            trusted=trusted_tier,
            plan_keys=keys,
            enrolment_key=ENROLMENT_KEY,
            anonymous_only=anonymous_only,
            clock=clock,
        )
        opened.append(back_end)
        return back_end

    yield open_one
    for back_end in opened:
        back_end.close()


@pytest.fixture
def back_end(open_back_end: Callable[..., BackEnd]) -> BackEnd:
    """A back end without tasks."""
    return open_back_end()


@pytest.fixture
def fleet(back_end: BackEnd) -> Fleet:
    """Devices of the back end."""
    return Fleet(back_end)


def everything_in(back_end: BackEnd) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, sorted: what must not change when a request is refused."""
    with back_end.database.reading() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(table.select()))
            if table.name not in ("models", "rounds", "tasks")
            else sorted(map(repr, connection.execute(table.select())))
            for table in metadata.sorted_tables
            if table.name != "audit_log"  # which says that something was refused
        }


@dataclass
class Served:
    """A back end behind real HTTP."""

    url: str
    back_end: BackEnd
    pool: urllib3.PoolManager

    def __call__(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        media_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request as it is, without retries or redirects."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if json is not None:
            body = dumps(json).encode()
            media_type = media_type or "application/json"
        if media_type is not None:
            sent["Content-Type"] = media_type
        return self.pool.request(
            method, self.url + path, body=body, headers=sent, retries=False, redirect=False
        )


class ServerInThread(uvicorn.Server):
    """Uvicorn that leaves signals to the test runner."""

    def install_signal_handlers(self) -> None:
        """Install none."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def serve(back_end: BackEnd, **settings: object) -> Iterator[Served]:
    """Serve a back end on a free port of loopback, in a thread of this process."""
    app = create_app(back_end, operator_key=OPERATOR_KEY, end_rounds_every=None)
    config = uvicorn.Config(app, log_level="warning", access_log=False, **settings)
    server = ServerInThread(config)
    with socket.create_server(("127.0.0.1", 0)) as listener, urllib3.PoolManager() as pool:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            port = listener.getsockname()[1]
            yield Served(url=f"http://127.0.0.1:{port}", back_end=back_end, pool=pool)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def served(back_end: BackEnd) -> Iterator[Served]:
    """The back end behind real HTTP."""
    with serve(back_end) as running:
        yield running
