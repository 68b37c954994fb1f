"""A small client for the operator's routes, for drivers of fleets and for scripts."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import urllib3

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, TransportError
from pocketfl.plan.models import MAX_PARAMETERS
from pocketfl.plan.storage import byte_length, decode_parameters
from pocketfl.protocol import FEATURES_LIMIT, FeatureRow, Problem, RoundNotice
from pocketfl.runtimes.interface import FloatVector
from pocketfl_server.analytics.records import ResultList, ResultSummary, TaskResult
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.records import (
    AccessToken,
    AccessTokenList,
    AuditEntry,
    AuditPage,
    Concurrency,
    CreateAccessToken,
    CreateTask,
    FeaturesStored,
    Funnel,
    ModelList,
    ModelReference,
    ModelVersion,
    NewAccessToken,
    OpenRound,
    PauseList,
    PauseRecord,
    PauseRequest,
    PlanStored,
    Role,
    RolloutList,
    RolloutRecord,
    RoundList,
    RoundResult,
    Schedule,
    ScheduleRecord,
    TaskList,
    TaskRecord,
)
from pocketfl_server.trusted.messages import TaskDescription
from pocketfl_server.user_features import encode_put

T = TypeVar("T")

ANSWER_LIMIT: Final = 64 * 2**20
FEATURES_BATCH: Final = 5_000
"""Rows of features that one request carries, unless one user has more."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class OperatorClient:
    """Asks a back end what its operator may ask; every method raises ``TransportError`` on a refusal.

    Parameters
    ----------
    url : str
        Where the back end is. Plain ``http`` is accepted for this very machine only.
    operator_key : str
        The operator's secret.
    timeout : float
        Seconds to wait for an answer; closing a round includes the trusted tier's work.
    ca_file : str or Path, optional
        PEM file of the authority that signed its certificate, unless the system knows it.
    """

    def __init__(
        self,
        url: str,
        operator_key: str,
        *,
        timeout: float = 600.0,
        ca_file: str | Path | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http or https URL")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{url!r} would send the operator key unencrypted; use https")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {operator_key}"}
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10.0, read=timeout),
            retries=False,
            ca_certs=None if ca_file is None else str(ca_file),
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def create_task(
        self,
        name: str,
        plan_data: bytes,
        *,
        optimizer: OptimizerSpec | None = None,
        seed_model: tuple[str, int] | None = None,
        concurrency: Concurrency | None = None,
        rounds_per_token: int | None = None,
    ) -> TaskRecord:
        """Upload a plan and make a task of it; repeating the same changes nothing."""
        digest = sha256(plan_data).hexdigest()
        self._ask(
            PlanStored,
            "PUT",
            f"/plans/{digest}",
            body=plan_data,
            media_type="application/octet-stream",
        )
        seed = None
        if seed_model is not None:
            seed = ModelReference(task=seed_model[0], version=seed_model[1])
        wanted = CreateTask(
            name=name,
            plan_sha256=digest,
            optimizer=optimizer,
            seed_model=seed,
            concurrency=concurrency,
            rounds_per_token=rounds_per_token,
        )
        return self._ask(TaskRecord, "POST", "/tasks", record=wanted)

    def tasks(self) -> tuple[TaskRecord, ...]:
        """Return every task."""
        return self._ask(TaskList, "GET", "/tasks").tasks

    def task(self, name: str) -> TaskRecord:
        """Return a task; its ``aggregator.public_key`` is what an app pins."""
        return self._ask(TaskRecord, "GET", _task(name))

    def privacy(self, task: str) -> TaskDescription:
        """Return what the trusted tier says about planned and spent privacy."""
        return self._ask(TaskDescription, "GET", _task(task) + "/privacy")

    def models(self, task: str) -> tuple[ModelVersion, ...]:
        """Return every version of a task's model, oldest first."""
        return self._ask(ModelList, "GET", _task(task) + "/models").models

    def model(self, task: str, version: int) -> ModelVersion:
        """Return one version of a task's model."""
        return self._ask(ModelVersion, "GET", f"{_task(task)}/models/{version}")

    def model_parameters(self, task: str, version: int) -> FloatVector:
        """Download one version's parameters, float32 of shape (P,), and check their hash."""
        model = self.model(task, version)
        digest = model.parameters_sha256
        data = self._request("GET", f"/v1/parameters/{digest}", limit=4 * MAX_PARAMETERS)
        if sha256(data).hexdigest() != digest:
            raise TransportError("the parameters are not those of their hash", code="wrong_content")
        count = len(data) // byte_length(1, model.storage)
        return decode_parameters(data, count=count, storage=model.storage)

    def open_round(self, task: str, *, seconds: float, number: int | None = None) -> RoundNotice:
        """Open a task's next round, or the one of a number where shards count theirs together."""
        wanted = OpenRound(seconds=seconds, number=number)
        return self._ask(RoundNotice, "POST", _task(task) + "/rounds", record=wanted)

    def adopt_release(self, task: str, round: int) -> ModelVersion:
        """Take the root's release of a round, which the shard's trusted tier has, into its model."""
        return self._ask(ModelVersion, "POST", f"{_task(task)}/rounds/{round}/adopt")

    def start(self, task: str, schedule: Schedule) -> ScheduleRecord:
        """Have a task's rounds opened from now on; the same again changes nothing while it runs."""
        return self._ask(ScheduleRecord, "PUT", _task(task) + "/schedule", record=schedule)

    def stop(self, task: str) -> ScheduleRecord:
        """Have no further round opened; one that is under way goes on until it is closed."""
        return self._ask(ScheduleRecord, "DELETE", _task(task) + "/schedule")

    def schedule(self, task: str) -> ScheduleRecord:
        """Return how a task's rounds follow one another, and what happens next."""
        return self._ask(ScheduleRecord, "GET", _task(task) + "/schedule")

    def close_round(self, task: str, round: int) -> RoundResult:
        """Close a round; repeating returns the same result."""
        return self._ask(RoundResult, "POST", f"{_task(task)}/rounds/{round}/close")

    def abort_round(self, task: str, round: int) -> RoundResult:
        """End a round without a new version."""
        return self._ask(RoundResult, "POST", f"{_task(task)}/rounds/{round}/abort")

    def pause(
        self,
        task: str | None,
        *,
        reason: str,
        min_seconds: float = 1800.0,
        max_seconds: float = 5400.0,
    ) -> PauseRecord:
        """Keep devices away from a task, or with None from all.

        Parameters
        ----------
        task : str or None
            Which.
        reason : str
            A few words, which devices show their users.
        min_seconds, max_seconds : float
            Each device looks again at a random time within this window.
        """
        wanted = PauseRequest(reason=reason, min_seconds=min_seconds, max_seconds=max_seconds)
        path = "" if task is None else _task(task)
        return self._ask(PauseRecord, "POST", path + "/pause", record=wanted)

    def resume(self, task: str | None) -> tuple[PauseRecord, ...]:
        """End the pause of a task, or with None that of all; returns those that still hold."""
        path = "" if task is None else _task(task)
        return self._ask(PauseList, "POST", path + "/resume").pauses

    def pauses(self) -> tuple[PauseRecord, ...]:
        """Return every pause, that of all tasks first."""
        return self._ask(PauseList, "GET", "/pauses").pauses

    def publish_rollout(self, task: str, document: bytes) -> RolloutRecord:
        """Publish a signed rollout document; the same one again changes nothing."""
        return self._ask(
            RolloutRecord,
            "PUT",
            _task(task) + "/rollout",
            body=document,
            media_type="application/octet-stream",
        )

    def rollouts(self, task: str) -> tuple[RolloutRecord, ...]:
        """Return every rollout document of a task, oldest first."""
        return self._ask(RolloutList, "GET", _task(task) + "/rollout").rollouts

    def round(self, task: str, round: int) -> RoundResult:
        """Return a round."""
        return self._ask(RoundResult, "GET", f"{_task(task)}/rounds/{round}")

    def rounds(self, task: str) -> tuple[RoundResult, ...]:
        """Return every round of a task, oldest first."""
        return self._ask(RoundList, "GET", _task(task) + "/rounds").rounds

    def funnel(self, task: str, round: int) -> Funnel:
        """Return how many devices got how far in a round."""
        return self._ask(Funnel, "GET", f"{_task(task)}/rounds/{round}/funnel")

    def results(self, task: str) -> tuple[ResultSummary, ...]:
        """Return every release of a task that asks queries, oldest first, without its values."""
        return self._ask(ResultList, "GET", _task(task) + "/results").results

    def result(self, task: str, round: int) -> TaskResult:
        """Return one release of a task that asks queries, in natural units."""
        return self._ask(TaskResult, "GET", f"{_task(task)}/results/{round}")

    def create_token(self, name: str, role: Role) -> NewAccessToken:
        """Give somebody a token with a role; it is told this once."""
        wanted = CreateAccessToken(name=name, role=role)
        return self._ask(NewAccessToken, "POST", "/tokens", record=wanted)

    def tokens(self) -> tuple[AccessToken, ...]:
        """Return who has a token."""
        return self._ask(AccessTokenList, "GET", "/tokens").tokens

    def revoke_token(self, name: str) -> None:
        """Make somebody's token worthless at once."""
        self._ask(AccessTokenList, "DELETE", f"/tokens/{quote(name, safe='')}")

    def audit(self, *, after: int = 0) -> Iterator[AuditEntry]:
        """Yield what operators did and what was released, oldest first, above a sequence number."""
        while entries := self._ask(AuditPage, "GET", f"/audit?after={after}").entries:
            yield from entries
            after = entries[-1].sequence

    def put_features(self, table: str, rows_of_users: Mapping[str, Iterable[FeatureRow]]) -> int:
        """Store rows of users' features, many users to a request; returns how many rows.

        One user's rows go in one request, so that they are stored together or not at all.
        """
        stored = 0
        batch: dict[str, list[FeatureRow]] = {}
        count = 0
        for user, rows in rows_of_users.items():
            batch[user] = list(rows)
            count += len(batch[user])
            if count >= FEATURES_BATCH:
                stored += self._put_batch(table, batch)
                batch, count = {}, 0
        return stored + (self._put_batch(table, batch) if batch else 0)

    def _put_batch(self, table: str, batch: dict[str, list[FeatureRow]]) -> int:
        body = encode_put(batch)
        if len(body) > FEATURES_LIMIT and len(batch) > 1:
            users = list(batch)
            halves = (users[: len(users) // 2], users[len(users) // 2 :])
            return sum(self._put_batch(table, {user: batch[user] for user in h}) for h in halves)
        path = f"/features/{quote(table, safe='')}"
        return self._ask(FeaturesStored, "PUT", path, body=body).rows

    def _ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        record: object = None,
        body: bytes | None = None,
        media_type: str = "application/json",
    ) -> T:
        if record is not None:
            body = encode_json(record)
        answer = self._request(method, "/v1/operator" + path, body=body, media_type=media_type)
        try:
            return decode_json(kind, answer, what="answer", limit=ANSWER_LIMIT)
        except DecodeError as error:
            raise TransportError(f"{self._url} is no back end that we know: {error}") from None

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        media_type: str = "application/json",
        limit: int = ANSWER_LIMIT,
    ) -> bytes:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = media_type
        try:
            response = self._pool.request(
                method,
                self._url + path,
                body=body,
                headers=headers,
                preload_content=False,
                redirect=False,
            )
            try:
                data: bytes = response.read(limit + 1, decode_content=False)
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            reason = str(error)
            if isinstance(error, urllib3.exceptions.NewConnectionError):
                reason = f"{reason.rpartition(': ')[2]}; does the back end run there?"
            raise TransportError(
                f"{self._url} cannot be reached: {reason}", retryable=True
            ) from None
        if len(data) > limit:
            raise TransportError(f"{self._url} answered with more than {limit} bytes")
        if not 200 <= response.status < 300:
            raise _refused(response.status, data)
        return data


def _refused(status: int, data: bytes) -> TransportError:
    try:
        problem = decode_json(Problem, data, what="problem", limit=ANSWER_LIMIT)
    except DecodeError:
        return TransportError(f"the back end answered with status {status}", status=status)
    return TransportError(
        problem.message, status=status, code=problem.code, retryable=status == 503
    )


def _task(name: str) -> str:
    return f"/tasks/{quote(name, safe='')}"
