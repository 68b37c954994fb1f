"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("numpy", "torch", "onnxruntime", "executorch")


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, system, load and library versions, as JSON values.

    The load is that of the last minute: a machine that others use as well makes every figure worse.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "executorch_through": executorch_through(),
    }


def executorch_through() -> str:
    """Return what plans run on ExecuTorch through: ``native`` without torch, else ``torch``."""
    from pocketfl.runtimes.executorch_build import find_library

    return "torch" if find_library() is None else "native"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
