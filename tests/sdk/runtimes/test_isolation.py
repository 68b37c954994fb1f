"""A runtime keeps to itself: no torch on the device's path, no files, no connections.

Open sockets are read from Linux's ``/proc``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, pathlib, sys

events = []
WATCHED = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen")

def watch(event, arguments):
    if event in WATCHED:
        events.append(event)
    if event == "open" and arguments[2] is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        if arguments[0] != os.devnull:
            events.append(f"open {arguments[0]} for writing")

name, plan_path, key = sys.argv[1:]
import numpy as np
from pocketfl.plan import Plan
from pocketfl.runtimes import open_runtime

plan = Plan.load(pathlib.Path(plan_path), trusted_keys=[key])
sys.addaudithook(watch)
runtime = open_runtime(plan, name)
rng = np.random.default_rng(0)
batch = {
    "image": rng.standard_normal((6, 2, 6, 6)).astype(np.float32),
    "target": rng.standard_normal(6).astype(np.float32),
}
losses = [
    runtime.train_step(batch, learning_rate=0.05, clip_norm=10.0).loss for _ in range(20)
]
runtime.evaluate(batch)
runtime.predict({"image": batch["image"]})

# What native code has open, which no hook of Python sees.
links = []
for fd in os.listdir("/proc/self/fd"):
    try:
        links.append(os.readlink(f"/proc/self/fd/{fd}"))
    except FileNotFoundError:
        pass
print(json.dumps({
    "losses": losses,
    "torch": "torch" in sys.modules,
    "events": events,
    "sockets": [link for link in links if link.startswith("socket:")],
}))
"""


def run_alone(runtime_name: str, plan_file: tuple[Path, str], home: Path) -> tuple[dict, str]:
    """Train in a fresh process whose every usual place for files is an empty folder."""
    places = {}
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        places[variable] = str(home / variable)
        (home / variable).mkdir()
    work = home / "work"
    work.mkdir()
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("XDG_", "ORT_", "COV"))
    }
    result = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, runtime_name, str(plan_file[0]), plan_file[1]],
        env={**environment, **places, "OMP_NUM_THREADS": "1"},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_a_runtime_writes_nothing_and_talks_to_nobody(
    runtime_name: str, plan_file: tuple[Path, str], tmp_path: Path
) -> None:
    """After training, evaluation and prediction every folder is empty and no socket is open."""
    report, printed = run_alone(runtime_name, plan_file, tmp_path)
    assert report["losses"][-1] < report["losses"][0]
    assert report["events"] == []
    assert report["sockets"] == []
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert printed == ""


def test_onnx_runtime_trains_without_torch(plan_file: tuple[Path, str], tmp_path: Path) -> None:
    """The device's path never imports torch; ExecuTorch's desktop bindings are the exception."""
    assert run_alone("onnxruntime", plan_file, tmp_path)[0]["torch"] is False
