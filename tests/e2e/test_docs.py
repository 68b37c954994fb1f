"""The guides do what they say: their commands and programs run, in the order in which they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from click import Context
from typer.core import TyperGroup

import pocketfl
from pocketfl import Collection, Field
from pocketfl.commands.root import build_app
from pocketfl.conditions import ScriptedSignals, Signals

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```(?P<language>\w*)\n.*?^```$", re.MULTILINE | re.DOTALL)
# One after the other in one folder: from a key to a model that is rolled out.
CHAIN = ("export", "serve", "embed", "rollout")
FILE_NAME = re.compile(r"# (\w+\.py)\n")


def blocks(page: str) -> list[tuple[str, str]]:
    found = BLOCK.findall((ROOT / "docs" / page).read_text())
    assert found, f"{page} has no code"
    return found


def script_of(page: str, folder: Path) -> str:
    """A page as one shell script.

    Files are written. The rest of the Python is one program, which the commands that come after its
    beginning are run by, so that everything happens in the order in which it stands.
    """
    commands, program = [], ""
    for language, code in blocks(page):
        name = FILE_NAME.match(code)
        if language == "sh" and program:
            run = ["bash", "-eu", "-c", code]
            program += f"import subprocess\nsubprocess.run({run}, check=True)\n"
        elif language == "sh":
            commands.append(code)
        elif language == "python" and name:
            (folder / name[1]).write_text(code)
        elif language == "python":
            program += code
    if program:
        (folder / f"{Path(page).stem}_page.py").write_text(program)
        commands.append(f"python -u {Path(page).stem}_page.py\n")
    return "".join(commands)


def without_figures(text: str) -> str:
    """A text whose numbers, which differ from run to run, are all the same, like its spaces."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*(?<=\d)", "0", text)).strip()


def run_script(script: str, folder: Path, *, seconds: float) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }
    done = subprocess.run(
        ["bash", "-c", "set -eu\n" + script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_prints(output: str, page: str) -> None:
    """Every text block of the page was printed, numbers apart, in the order of the page."""
    place, said = 0, without_figures(output)
    for language, code in blocks(page):
        if language == "text":
            found = said.find(without_figures(code), place)
            assert found >= 0, f"{page} shows this, which was not printed:\n{code}\n{output}"
            place = found


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_the_guides_run_from_key_to_closed_round(tmp_path: Path) -> None:
    """Export, serve, embed and roll out, word for word, as one person would in one folder."""
    shutil.copy(ROOT / "examples" / "embed.py", tmp_path)
    script = "trap 'kill $(jobs -p)' EXIT\n" + "".join(
        script_of(f"{page}.md", tmp_path) for page in CHAIN
    )
    output = run_script(script, tmp_path, seconds=1200)
    assert "plan tiredness 1" in output
    assert output.count("round 1: completed") == 3
    assert "round 1: finished, model version 1" in output
    assert "40 readings" in output
    assert "rollout 1, channel canary: refused" in output
    assert "published rollout 4 of tiredness, version 1 for everybody at once" in output
    assert_prints(output, "embed.md")
    # What the page says about its figures holds for this run, too.
    assert "skipped: battery 24 % < 50 %; next try in 5-7 h" in output
    assert (tmp_path / "audit.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(2100)
def test_the_tutorial_runs_from_an_empty_folder(tmp_path: Path) -> None:
    """And the guide to evaluation, which goes on where it ended."""
    output = run_script(script_of("tutorial.md", tmp_path), tmp_path, seconds=1200)
    assert_prints(output, "tutorial.md")
    output = run_script(script_of("evaluate.md", tmp_path), tmp_path, seconds=800)
    assert_prints(output, "evaluate.md")


def test_no_block_is_left_out_silently() -> None:
    """Every block runs in a test, or the paragraph before or after it says what CI does instead."""
    source = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text()
        runs = f'"{path.name}"' in source or path.stem in CHAIN
        for block in FENCED.finditer(text):
            if runs and block["language"] in ("sh", "python", "text"):
                continue
            before = text[: block.start()].rstrip().rpartition("\n\n")[2]
            after = text[block.end() :].lstrip().partition("\n\n")[0]
            said = re.search(r"\bCI\b|there is nothing to run", f"{before} {after}")
            assert said, f"{path.name}: nobody runs this, and the page does not say so:\n{block[0]}"


@pytest.mark.parametrize(
    "page",
    [
        "accounting.md",
        "android.md",
        "balancing.md",
        "budgets.md",
        "clip-and-noise.md",
        "conditions.md",
        "normalisation.md",
        "statistics.md",
        "store.md",
        pytest.param("analytics.md", marks=pytest.mark.slow),
        pytest.param("simulate.md", marks=pytest.mark.slow),
    ],
)
def test_the_programs_of_a_page_run(page: str, tmp_path: Path) -> None:
    """Pages without a server around them: what they show is what a reader can run."""
    assert_prints(run_script(script_of(page, tmp_path), tmp_path, seconds=800), page)


def test_what_an_app_pins_can_be_written_as_shown(tmp_path: Path) -> None:
    """The page about threats shows a trusted issuer that the SDK takes."""
    (tmp_path / "confidential_space_root.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    run_script(script_of("threats.md", tmp_path), tmp_path, seconds=300)


@pytest.mark.parametrize(
    "page",
    [
        "docs/balancing.md",
        "docs/benchmarks.md",
        "docs/embed.md",
        "docs/statistics.md",
        "docs/zoo.md",
        "README.md",
    ],
)
def test_commands_have_the_options_that_a_page_shows(page: str) -> None:
    """Every `pocketfl` line parses, short of being run: some take minutes."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"^(?:\.venv/bin/)?pocketfl (.+)$", text, re.MULTILINE)
    lines += re.findall(r"`pocketfl ([a-z ]+(?: --?[\w-]+| [A-Z]+)*)`", text)
    assert lines, f"{page} names no command"
    for line in lines:
        words = [word for word in shlex.split(line.split("\\")[0]) if not word.isupper()]
        command, context = typer.main.get_command(build_app()), None
        while isinstance(command, TyperGroup):
            if not words:
                break
            _, following, words = command.resolve_command(Context(command, parent=context), words)
            assert following is not None, f"{page}: pocketfl {line}"
            command = following
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        for word in words:
            assert not word.startswith("-") or word in known, f"{page}: pocketfl {line}"


def test_what_the_readme_says_of_a_device_that_takes_care_of_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its few lines run as they are printed, without a server, and with a battery that is low."""
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(device = .*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 10
    low = ScriptedSignals.always(Signals(battery_level=0.24, metered=False))
    names: dict[str, Any] = {name: getattr(pocketfl, name) for name in pocketfl.__all__}
    with pocketfl.ExampleStore(tmp_path / "app.db") as store:
        store.create_collection(Collection("readings", {"tired": Field("bool")}))
        connection = {"server": "http://127.0.0.1:9", "plan_keys": ["11" * 32], "signals": low}
        exec(code, {**names, "store": store, "connection": connection})
        assert store.collections() == ()
    printed = capsys.readouterr().out
    assert "battery 24 % < 50 %" in printed
    assert "next try in 5-7 h" in printed


PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
# Written when the site is built, which finds dead links to them.
GENERATED = {"command-line.md", "openapi.json", "plan-schema.md", "protocol.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and a heading that it has."""
    for target, heading in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        if file.name in GENERATED:
            continue
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            names = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert heading in names, f"{page.name} links to {target}#{heading}"
