"""The operator's routes: tasks, rounds, pauses, models, counts, server-side features."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pocketfl.plan.archive import PLAN_LIMIT
from pocketfl.protocol import FEATURES_LIMIT, ROLLOUT_LIMIT, RoundNotice
from pocketfl_server import user_features
from pocketfl_server.access import MODELLERS, Access
from pocketfl_server.analytics.records import ResultList, TaskResult
from pocketfl_server.api.authorisation import PREFIX, guarded_route, of_operator
from pocketfl_server.api.requests import number, read_body, read_record
from pocketfl_server.api.routes import Endpoint, in_thread, json_answer
from pocketfl_server.back_end import BackEnd
from pocketfl_server.errors import Malformed
from pocketfl_server.records import (
    CreateTask,
    FeaturesStored,
    Funnel,
    ModelList,
    ModelVersion,
    OpenRound,
    PauseList,
    PauseRecord,
    PauseRequest,
    PlanStored,
    PutFeatures,
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

RECORD_LIMIT: Final = 64 * 2**10

_TASK: Final = "/tasks/{task}"
_ROUND: Final = "/tasks/{task}/rounds/{round}"
_ENDING: Final = (401, 404, 409, 502, 503)


def operator_router(back_end: BackEnd, access: Access) -> APIRouter:
    """Return the operator's routes.

    Parameters
    ----------
    back_end : BackEnd
        What answers.
    access : Access
        Knows who asks.
    """
    router = APIRouter(
        route_class=guarded_route(back_end, access), prefix=PREFIX, tags=["operator"]
    )

    @router.put(
        **of_operator(
            "/plans/{sha256}",
            roles=MODELLERS,
            takes="application/octet-stream",
            answers=PlanStored,
            refusals=(401, 408, 413, 415, 422),
        ),
        summary="Upload a plan",
    )
    async def put_plan(request: Request) -> Response:
        """Verify a signed plan and keep it; the path names its hash."""
        data = await read_body(request, limit=PLAN_LIMIT, media_type="application/octet-stream")
        if sha256(data).hexdigest() != request.path_params["sha256"]:
            raise Malformed("the body's SHA-256 is not the one in the path", code="digest_mismatch")
        plan = await in_thread(back_end.add_plan, data)
        stored = PlanStored(
            sha256=plan.sha256,
            name=plan.manifest.name,
            version=plan.manifest.version,
            privacy=plan.manifest.privacy,
        )
        return json_answer(stored)

    @router.post(
        **of_operator(
            "/tasks",
            roles=MODELLERS,
            takes=CreateTask,
            answers=TaskRecord,
            status=201,
            refusals=(401, 404, 408, 409, 413, 415, 422, 502, 503),
        ),
        summary="Create a task",
    )
    async def create_task(request: Request) -> Response:
        """Make a task of an uploaded plan; the same request again returns the same task."""
        wanted = await read_record(request, CreateTask, limit=RECORD_LIMIT)
        seed = wanted.seed_model

        def create() -> TaskRecord:
            return back_end.create_task(
                wanted.name,
                back_end.plan(wanted.plan_sha256),
                optimizer=wanted.optimizer,
                seed_model=None if seed is None else (seed.task, seed.version),
                concurrency=wanted.concurrency,
                rounds_per_token=wanted.rounds_per_token,
            )

        return json_answer(await in_thread(create), status=201)

    @router.get(**of_operator("/tasks", answers=TaskList, refusals=(401,)), summary="All tasks")
    async def tasks(request: Request) -> Response:
        """List every task."""
        del request
        return json_answer(TaskList(tasks=await in_thread(back_end.tasks)))

    @router.get(**of_operator(_TASK, answers=TaskRecord, refusals=(401, 404)), summary="A task")
    async def task(request: Request) -> Response:
        """Say where a task stands, and the public key of its trusted tier."""
        return json_answer(await in_thread(back_end.task, request.path_params["task"]))

    @router.get(
        **of_operator(_TASK + "/privacy", answers=TaskDescription, refusals=(401, 404, 502, 503)),
        summary="A task's privacy",
    )
    async def privacy(request: Request) -> Response:
        """Relay what the trusted tier says about planned and spent privacy."""
        return json_answer(await in_thread(back_end.privacy, request.path_params["task"]))

    @router.get(
        **of_operator(_TASK + "/models", answers=ModelList, refusals=(401, 404)),
        summary="A task's models",
    )
    async def models(request: Request) -> Response:
        """List every version of a task's model, oldest first."""
        found = await in_thread(back_end.models, request.path_params["task"])
        return json_answer(ModelList(models=found))

    @router.get(
        **of_operator(_TASK + "/models/{version}", answers=ModelVersion, refusals=(401, 404)),
        summary="A model version",
    )
    async def model(request: Request) -> Response:
        """Return one version of a task's model."""
        name, version = request.path_params["task"], number(request, "version")
        return json_answer(await in_thread(back_end.model, name, version))

    @router.post(
        **of_operator(
            _TASK + "/rounds",
            takes=OpenRound,
            answers=RoundNotice,
            status=201,
            refusals=(401, 404, 408, 409, 413, 415, 422),
        ),
        summary="Open a round",
    )
    async def open_round(request: Request) -> Response:
        """Open the task's next round; it closes at its deadline, or when told to."""
        wanted = await read_record(request, OpenRound, limit=RECORD_LIMIT)
        name = request.path_params["task"]
        notice = await in_thread(
            back_end.open_round, name, seconds=wanted.seconds, number=wanted.number
        )
        return json_answer(notice, status=201)

    @router.get(
        **of_operator(_TASK + "/rounds", answers=RoundList, refusals=(401, 404)),
        summary="A task's rounds",
    )
    async def rounds(request: Request) -> Response:
        """List every round of a task, oldest first."""
        found = await in_thread(back_end.rounds, request.path_params["task"])
        return json_answer(RoundList(rounds=found))

    @router.put(
        **of_operator(
            _TASK + "/schedule",
            takes=Schedule,
            answers=ScheduleRecord,
            refusals=(401, 404, 408, 409, 413, 415, 422),
        ),
        summary="Start a task",
    )
    async def start_task(request: Request) -> Response:
        """Have the task's rounds opened from now on; the same again changes nothing while it runs."""
        wanted = await read_record(request, Schedule, limit=RECORD_LIMIT)
        name = request.path_params["task"]
        return json_answer(await in_thread(back_end.start_task, name, wanted))

    @router.get(
        **of_operator(_TASK + "/schedule", answers=ScheduleRecord, refusals=(401, 404)),
        summary="What happens next",
    )
    async def schedule(request: Request) -> Response:
        """Say how the task's rounds follow one another, what happens next, and when."""
        return json_answer(await in_thread(back_end.schedule, request.path_params["task"]))

    @router.delete(
        **of_operator(_TASK + "/schedule", answers=ScheduleRecord, refusals=(401, 404)),
        summary="Stop a task",
    )
    async def stop_task(request: Request) -> Response:
        """Have no further round opened; one that is under way goes on until it is closed."""
        return json_answer(await in_thread(back_end.stop_task, request.path_params["task"]))

    @router.put(
        **of_operator(
            _TASK + "/rollout",
            takes="application/octet-stream",
            answers=RolloutRecord,
            refusals=(401, 404, 408, 409, 413, 415, 422),
        ),
        summary="Publish a rollout",
    )
    async def publish_rollout(request: Request) -> Response:
        """Announce a signed rollout document; devices obey it if they trust its signer."""
        media_type = "application/octet-stream"
        data = await read_body(request, limit=ROLLOUT_LIMIT, media_type=media_type)
        name = request.path_params["task"]
        return json_answer(await in_thread(back_end.publish_rollout, name, data))

    @router.get(
        **of_operator(_TASK + "/rollout", answers=RolloutList, refusals=(401, 404)),
        summary="A task's rollouts",
    )
    async def rollouts(request: Request) -> Response:
        """List every rollout document of a task, oldest first; the last one holds."""
        found = await in_thread(back_end.rollouts, request.path_params["task"])
        return json_answer(RolloutList(rollouts=found))

    def on_round(call: Callable[[str, int], object]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            name, which = request.path_params["task"], number(request, "round")
            return json_answer(await in_thread(call, name, which))

        return endpoint

    router.add_api_route(
        **of_operator(_ROUND, answers=RoundResult, refusals=(401, 404)),
        endpoint=on_round(back_end.round),
        methods=["GET"],
        name="round",
        summary="A round",
        description="Say where a round stands.",
    )
    router.add_api_route(
        **of_operator(_ROUND + "/funnel", answers=Funnel, refusals=(401, 404)),
        endpoint=on_round(back_end.funnel),
        methods=["GET"],
        name="funnel",
        summary="A round's counts",
        description="Count how many devices got how far.",
    )

    @router.get(
        **of_operator(_TASK + "/results", answers=ResultList, refusals=(401, 404)),
        summary="A task's results",
    )
    async def results(request: Request) -> Response:
        """List every release of a task that asks queries, oldest first, without its values."""
        found = await in_thread(back_end.results, request.path_params["task"])
        return json_answer(ResultList(results=found))

    router.add_api_route(
        **of_operator(_TASK + "/results/{round}", answers=TaskResult, refusals=(401, 404)),
        endpoint=on_round(back_end.result),
        methods=["GET"],
        name="result",
        summary="A round's result",
        description="Return the released answers to the task's queries in natural units.",
    )
    router.add_api_route(
        **of_operator(_ROUND + "/close", answers=RoundResult, refusals=_ENDING),
        endpoint=on_round(back_end.close_round),
        methods=["POST"],
        name="close_round",
        summary="Close a round",
        description="Have the round's sum released and applied; repeating returns the same result.",
    )
    router.add_api_route(
        **of_operator(_ROUND + "/abort", answers=RoundResult, refusals=_ENDING),
        endpoint=on_round(back_end.abort_round),
        methods=["POST"],
        name="abort_round",
        summary="Abort a round",
        description="End the round without a new version and delete its reports.",
    )

    router.add_api_route(
        **of_operator(_ROUND + "/adopt", answers=ModelVersion, refusals=_ENDING),
        endpoint=on_round(back_end.adopt_release),
        methods=["POST"],
        name="adopt_release",
        summary="Take the root's release",
        description="Make of the root's release, which the shard's trusted tier has, the next version.",
    )

    def pausing(path: str, *, refusals: tuple[int, ...], which: str) -> None:
        """Add both routes of a pause; a path without a task is for every task."""

        async def pause(request: Request) -> Response:
            wanted = await read_record(request, PauseRequest, limit=RECORD_LIMIT)
            task = request.path_params.get("task")
            return json_answer(await in_thread(back_end.pause, task, wanted))

        async def resume(request: Request) -> Response:
            task = request.path_params.get("task")
            return json_answer(PauseList(pauses=await in_thread(back_end.resume, task)))

        router.add_api_route(
            **of_operator(
                path + "/pause",
                takes=PauseRequest,
                answers=PauseRecord,
                refusals=(*refusals, 408, 413, 415, 422),
            ),
            endpoint=pause,
            methods=["POST"],
            name=f"pause {which}",
            summary=f"Pause {which}",
            description="Keep devices away until told otherwise; reports under way are still taken.",
        )
        router.add_api_route(
            **of_operator(path + "/resume", answers=PauseList, refusals=refusals),
            endpoint=resume,
            methods=["POST"],
            name=f"resume {which}",
            summary=f"Resume {which}",
            description="End the pause and list those that still hold; repeating changes nothing.",
        )

    pausing(_TASK, refusals=(401, 404), which="a task")
    pausing("", refusals=(401,), which="every task")

    @router.get(**of_operator("/pauses", answers=PauseList, refusals=(401,)), summary="All pauses")
    async def pauses(request: Request) -> Response:
        """List what is paused, that of every task first."""
        del request
        return json_answer(PauseList(pauses=await in_thread(back_end.pauses)))

    @router.put(
        **of_operator(
            "/features/{table}",
            takes=PutFeatures,
            answers=FeaturesStored,
            refusals=(401, 408, 409, 413, 415, 422),
        ),
        summary="Store users' features",
    )
    async def put_features(request: Request) -> Response:
        """Add rows to users' tables, or replace those with the same key and time."""
        body = await read_body(request, limit=FEATURES_LIMIT, media_type="application/json")
        table = request.path_params["table"]
        stored = await in_thread(
            lambda: back_end.put_features_of_users(table, user_features.decode_put(body))
        )
        return json_answer(FeaturesStored(rows=stored))

    return router
