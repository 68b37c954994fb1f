"""ExecuTorch without torch: the suite of all runtimes, and the bits of the wheel's own bindings."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
from pocketfl.errors import RuntimeUnavailableError
from pocketfl.plan import Plan
from pocketfl.runtimes import executorch_build, executorch_native, open_runtime
from pocketfl.runtimes.executorch import ExecutorchRuntime
from pocketfl.runtimes.executorch_build import LIBRARY_VARIABLE, build_library, find_library
from pocketfl.runtimes.executorch_native import NativeExecutorchRuntime

from .conftest import BATCH, Case
from .test_android import train
from .test_isolation import run_alone

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "plans" / "schema_2.pocketfl"
SUITE = ("test_conformance.py", "test_opening.py", "test_cancel.py")
# What test_opening.py asks of the Python packages alone.
OF_PACKAGES = "missing_says"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def library(cache: Path) -> Path:
    """Built by the command that a person types."""
    result = CliRunner().invoke(
        build_app("runtimes"), ["runtimes", "build-executorch"], env={"XDG_CACHE_HOME": str(cache)}
    )
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.fixture
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    yield library
    executorch_native.load_library.cache_clear()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_passes_the_suite_of_all_runtimes(chosen: Path) -> None:
    """Unchanged, in a process where it is what a plan opens in."""
    files = [f"tests/sdk/runtimes/{name}" for name in SUITE]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-k", f"executorch and not ({OF_PACKAGES})", *files],
        cwd=ROOT,
        env={**os.environ, LIBRARY_VARIABLE: str(chosen)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_results_are_the_same_bits_as_those_of_the_bindings(case: Case, chosen: Path) -> None:
    """Losses, norms, parameters and outputs of 25 steps equal those through torch exactly."""
    native, bindings = open_runtime(case.plan, "executorch"), ExecutorchRuntime(case.plan)
    assert isinstance(native, NativeExecutorchRuntime)
    assert train(native, case) == train(bindings, case)
    native.close()
    bindings.close()


@pytest.mark.slow
def test_it_trains_without_torch_and_leaves_nothing(
    chosen: Path, plan_file: tuple[Path, str], tmp_path: Path
) -> None:
    """No torch in the process, no file written, no socket opened, nothing printed."""
    report, printed = run_alone("executorch", plan_file, tmp_path)
    assert report["torch"] is False
    assert report["losses"][-1] < report["losses"][0]
    assert (report["events"], report["sockets"], printed) == ([], [], "")
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.slow
def test_other_threads_go_on_during_a_step(image_case: Case, chosen: Path) -> None:
    """A thread of Python counts while the library is in its call, so an app's screen stays alive."""
    runtime = open_runtime(image_case.plan, "executorch")
    batch = image_case.draw(BATCH, 0)
    runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    running = counted = 0
    over = threading.Event()

    def count() -> None:
        nonlocal counted
        while not over.is_set():
            counted += running

    method = runtime._graphs["train"]
    real = method._library

    class Marked:
        def pocketfl_run(self, *arguments: object) -> int:
            nonlocal running
            running = 1
            code = real.pocketfl_run(*arguments)
            running = 0
            return code

    method._library = Marked()
    counter = threading.Thread(target=count)
    counter.start()
    try:
        for _ in range(2000):
            runtime.train_step(batch, learning_rate=0.0, clip_norm=1.0)
            if counted > 100:
                break
    finally:
        over.set()
        counter.join()
    assert counted > 100
    runtime.close()


@pytest.mark.slow
def test_a_library_for_another_version_is_refused(
    image_case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a file that is none; both say what to do."""
    other = build_library(tmp_path / "other.so", version="1.4.1")
    no_library = tmp_path / "no_library.so"
    no_library.write_bytes(b"no library")
    for path, said in ((other, r"built for executorch 1\.4\.1"), (no_library, "cannot be loaded")):
        monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
        with pytest.raises(RuntimeUnavailableError, match=f"(?s){said}.*build-executorch"):
            open_runtime(image_case.plan, "executorch")


def test_without_the_library_the_bindings_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built unasked; an empty variable means none even if there is one."""
    key = (GOLDEN.with_suffix(".pub")).read_text().strip()
    plan = Plan.load(GOLDEN, trusted_keys=[key])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_library() is None
    place = executorch_build.built_library()
    place.parent.mkdir(parents=True)
    place.touch()
    assert find_library() == place
    monkeypatch.setenv(LIBRARY_VARIABLE, "")
    assert find_library() is None
    runtime = open_runtime(plan, "executorch")
    assert isinstance(runtime, ExecutorchRuntime)
    runtime.close()


def test_a_missing_or_failing_compiler_is_named(tmp_path: Path) -> None:
    """The message says what to install, or quotes the compiler; no file is left."""
    with pytest.raises(RuntimeUnavailableError, match=r"no g\+\+-of-nobody: install"):
        build_library(tmp_path / "a.so", compiler="g++-of-nobody")
    failing = tmp_path / "compiler"
    failing.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    failing.chmod(0o700)
    with pytest.raises(RuntimeUnavailableError, match="no such header"):
        build_library(tmp_path / "a.so", compiler=str(failing))
    assert [path.name for path in tmp_path.iterdir()] == ["compiler"]
