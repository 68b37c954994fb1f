"""The example that an app developer copies: it runs as it is printed, with and without torch around."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMBED = ROOT / "examples" / "embed.py"
# Importing torch fails in a process that starts like this, as if it were not installed.
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
WITHOUT_TORCH += "runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`examples/serve.py`, with its round open."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "serve.py")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 240
        while not is_written(tmp_path / "example-site" / "site.json"):
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
        process.terminate()


def is_written(path: Path) -> bool:
    """Whether the file is there and whole."""
    try:
        return bool(json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finish(site: subprocess.Popen[str]) -> str:
    output, _ = site.communicate(timeout=200)
    assert site.returncode == 0, output
    return output


def test_three_devices_embed_the_sdk_and_finish_a_round(
    site: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Store, local training, prediction and a federated round, in processes without torch."""
    for user in ("ana", "ben", "cleo"):
        command = [sys.executable, "-c", WITHOUT_TORCH, str(EMBED), user]
        output = run(command, tmp_path)
        assert "round 1: completed" in output
        before, after = output.splitlines()[0].split(": ")[1].split(" -> ")
        assert float(after) < float(before)
        assert "the global model says {'output': array" in output
    assert "round 1: finished, model version 1" in finish(site)


def test_the_readme_shows_the_example_as_it_is() -> None:
    """What a reader copies is what CI runs, and it is as short as promised."""
    source = EMBED.read_text()
    assert source.rstrip() in (ROOT / "README.md").read_text()
    assert len(source.splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_device_needs_no_torch_installed(site: subprocess.Popen[str], tmp_path: Path) -> None:
    """`pip install pocketfl` into an empty environment is a whole device."""
    home = tmp_path / "device-venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", str(ROOT)], tmp_path)
    installed = {line.split("==")[0].lower() for line in run([*pip, "freeze"], tmp_path).split()}
    assert "pocketfl" in installed or any(name.startswith("pocketfl") for name in installed)
    heavy = {"torch", "executorch", "onnx", "fastapi", "sqlalchemy", "typer", "rich", "pandas"}
    assert not installed & heavy
    for user in ("ana", "ben", "cleo"):
        assert "round 1: completed" in run([python, str(EMBED), user], tmp_path)
    assert "model version 1" in finish(site)
    # The command line is an extra; without it the program says so.
    cli = subprocess.run(
        [str(home / "bin" / "pocketfl")], capture_output=True, text=True, check=False
    )
    assert cli.returncode == 1
    assert "pip install 'pocketfl[cli]'" in cli.stderr
