"""The ASGI application: all routes over one back end, and the clock that ends and opens rounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastapi import FastAPI

from pocketfl import __version__
from pocketfl.protocol import (
    CheckIn,
    CheckInReply,
    Enrolment,
    EnrolmentRequest,
    FeaturePage,
    Notices,
    Problem,
    ReportReceipt,
    RoundNotice,
    TokenKeys,
)
from pocketfl_server import records
from pocketfl_server.access import Access
from pocketfl_server.analytics.records import ResultList, TaskResult
from pocketfl_server.api.administration import administration_router, metrics_router
from pocketfl_server.api.authorisation import OPERATOR_KEY
from pocketfl_server.api.device import DEVICE_TOKEN, ENROLMENT_KEY, device_router
from pocketfl_server.api.fast_routes import FastRoutesApp
from pocketfl_server.api.operator import operator_router
from pocketfl_server.api.routes import document, handle_unrouted, in_thread
from pocketfl_server.back_end import BackEnd
from pocketfl_server.dashboard.pages import dashboard_router
from pocketfl_server.group_commit import GroupCommit
from pocketfl_server.observability.metrics import Metrics
from pocketfl_server.trusted.messages import TaskDescription

OPENAPI_PATH: Final = "/v1/openapi.json"

_RECORDS: Final = (
    CheckIn,
    CheckInReply,
    Enrolment,
    EnrolmentRequest,
    FeaturePage,
    Notices,
    Problem,
    ReportReceipt,
    ResultList,
    RoundNotice,
    TaskDescription,
    TaskResult,
    TokenKeys,
    records.AccessTokenList,
    records.AuditPage,
    records.CreateAccessToken,
    records.CreateTask,
    records.FeaturesStored,
    records.Funnel,
    records.Health,
    records.ModelList,
    records.ModelVersion,
    records.NewAccessToken,
    records.OpenRound,
    records.PauseList,
    records.PauseRecord,
    records.PauseRequest,
    records.PlanStored,
    records.PutFeatures,
    records.RolloutList,
    records.RolloutRecord,
    records.RoundList,
    records.RoundResult,
    records.Schedule,
    records.ScheduleRecord,
    records.TaskList,
    records.TaskRecord,
)


def create_app(
    back_end: BackEnd,
    *,
    operator_key: str,
    end_rounds_every: float | None = 1.0,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Put HTTP in front of a back end.

    Parameters
    ----------
    back_end : BackEnd
        Owned by the caller, who also closes it.
    operator_key : str
        The administrator's bearer token for the operator's routes, at least 16 characters; others have
        tokens of their own.
    end_rounds_every : float, optional
        Seconds between two looks for rounds whose deadline has passed, and for such as are to open;
        None leaves that to another process.
    metrics : Metrics, optional
        What ``/metrics`` shows; by default where tasks stand, and no counts of requests.

    Returns
    -------
    FastAPI
        Documented by ``/v1/openapi.json``. There is no interactive page, because it would load
        scripts from other people's servers.
    """
    group = GroupCommit(back_end.database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        turning = None
        if end_rounds_every is not None:
            turning = asyncio.create_task(_turn_rounds(back_end, end_rounds_every))
        try:
            yield
        finally:
            if turning is not None:
                turning.cancel()
                with suppress(asyncio.CancelledError):
                    await turning
            await in_thread(group.close)

    app = FastRoutesApp(
        title="PocketFL back end",
        version=__version__,
        summary="Federated rounds for devices, and what their operator needs.",
        openapi_url=OPENAPI_PATH,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.include_router(device_router(back_end, group, app.fast_routes))
    access = Access(back_end.database, operator_key=operator_key)
    app.include_router(operator_router(back_end, access))
    app.include_router(administration_router(back_end, access))
    app.include_router(metrics_router(metrics or Metrics(back_end), back_end, access))
    app.include_router(dashboard_router(back_end, access, operator_key=operator_key))
    handle_unrouted(app)
    document(
        app,
        _RECORDS,
        {
            ENROLMENT_KEY: "The secret that an app was built with",
            DEVICE_TOKEN: "What enrolment returned; never shown after a check-in",
            OPERATOR_KEY: "The operator key, or a token with a role",
        },
    )
    return app


async def _turn_rounds(back_end: BackEnd, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        await in_thread(back_end.turn_rounds)
