"""A Linux process that runs the real Android runtimes on a desktop's Java machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .. import artifacts
from .bridge import build_bridge

HERE = Path(__file__).parent
LIBRARIES = (
    "libonnxruntime.so",
    "libonnxruntime4j_jni.so",
    "libexecutorch.so",
    "libfbjni.so",
    "libc++_shared.so",
)
# The library does not tell its version; programs of this exporter are what the tests run in it.
EXECUTORCH_VERSION = "1.5.1"


def build_harness(folder: Path) -> dict[str, str]:
    """Build the harness in a folder and return the environment of processes that use it."""
    unpacked = [
        artifacts.onnx_runtime(folder),
        artifacts.executorch(folder),
        artifacts.fbjni(folder),
    ]
    native = folder / "native"
    native.mkdir()
    for aar in unpacked:
        for library in (aar / "jni" / "x86_64").iterdir():
            if library.name in LIBRARIES:
                shutil.copy(library, native)
    # In a folder of its own: the libraries of Python's packages must not find Android's by name.
    bridge = folder / "bridge"
    bridge.mkdir()
    build_bridge([native / name for name in LIBRARIES], bridge)
    shims = folder / "shims"
    sources = sorted(map(str, (HERE / "shims").rglob("*.java")))
    subprocess.run(["javac", "-nowarn", "-d", str(shims), *sources], check=True)
    classes = [unpacked[0] / "classes.jar", unpacked[1] / "classes.jar", shims]
    settings = {
        "folder": str(native),
        "classes": [str(path) for path in classes],
        "executorch_version": EXECUTORCH_VERSION,
    }
    return {
        **os.environ,
        "POCKETFL_JVM": json.dumps(settings),
        "LD_LIBRARY_PATH": str(bridge),
        "PYTHONPATH": str(HERE),
        "JAVA_HOME": java_home(),
        "OMP_NUM_THREADS": "1",
        # Plugins of installed packages would meet an Android that has only the classes of the shims.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def java_home() -> str:
    """Return the folder of the Java development kit that ``javac`` belongs to."""
    found = shutil.which("javac")
    assert found is not None, "the JDK is missing: apt-get install default-jdk-headless"
    return str(Path(found).resolve().parents[1])


def run_pytest(
    environment: dict[str, str], arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run tests in a process that looks like Android."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "pytest_timeout",
            "-p",
            "android_process",
            *arguments,
        ],
        env=environment,
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
