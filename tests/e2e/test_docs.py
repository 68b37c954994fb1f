"""The guides do what they say: their commands and programs run, in the order in which they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")


def blocks(page: str) -> list[tuple[str, str]]:
    found = BLOCK.findall((ROOT / "docs" / page).read_text())
    assert found, f"{page} has no code"
    return found


def script_of(page: str, folder: Path) -> str:
    """A page as one shell script: files are written, the rest of the Python becomes one program."""
    commands, program = [], ""
    for language, code in blocks(page):
        name = FILE_NAME.match(code)
        if language == "sh":
            commands.append(code)
        elif language == "python" and name:
            (folder / name[1]).write_text(code)
        elif language == "python":
            program += code
    if program:
        (folder / f"{Path(page).stem}_page.py").write_text(program)
        commands.append(f"python {Path(page).stem}_page.py\n")
    return "".join(commands)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guides_run_from_key_to_closed_round(tmp_path: Path) -> None:
    """Export, serve and embed, word for word, as one person would follow them in one folder."""
    shutil.copy(ROOT / "examples" / "embed.py", tmp_path)
    export, serve, embed = (script_of(f"{n}.md", tmp_path) for n in ("export", "serve", "embed"))
    script = "set -eu\ntrap 'kill $(jobs -p)' EXIT\n" + export + serve + embed
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plan tiredness 1" in done.stdout
    assert done.stdout.count("round 1: completed") == 3
    assert "round 1: finished, model version 1" in done.stdout
    assert "40 readings" in done.stdout


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository."""
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
