"""Logs of a process: lines for people, or JSON lines for programs; on standard error.

There is no access log in either form, because it would hold addresses beside leases.
"""

from __future__ import annotations

import logging
from typing import Final, Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# Libraries whose own debugging would write bodies, addresses and tokens.
_NEVER_BELOW_WARNING: Final = ("uvicorn", "urllib3", "sqlalchemy", "asyncio", "alembic")


def configure_logs(*, process: str, form: LogFormat, level: LogLevel) -> None:
    """Set up the root logger of this process.

    Parameters
    ----------
    process : str
        Goes into every line: ``trusted`` or ``gateway``.
    form : {"text", "json"}
        JSON lines have ``time``, ``level``, ``process``, ``logger`` and ``message``.
    level : {"debug", "info", "warning", "error"}
        Of this project's own loggers.
    """
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                datefmt="%Y-%m-%dT%H:%M:%S%z",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                static_fields={"process": process},
            )
        )
    else:
        line = f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(line))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _NEVER_BELOW_WARNING:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
