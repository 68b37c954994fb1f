"""A process's own peak memory, as the system counts it."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """Return this process's peak resident memory in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands ru_maxrss of the parent on to a child; the high-water mark here is our own.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
