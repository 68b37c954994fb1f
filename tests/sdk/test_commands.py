"""The command line of the SDK: what a person types and reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
from pocketfl.errors import PlanError
from pocketfl.plan import Plan, load_signing_key, public_key_hex, write_plan

RUNNER = CliRunner()


@pytest.fixture
def signed(tmp_path: Path, tiny_plan: Plan) -> Path:
    path = tmp_path / "tiny.pocketfl"
    write_plan(tiny_plan, path)
    return path


def test_keygen_prints_the_public_half(tmp_path: Path) -> None:
    """What it prints is what a device is told to trust."""
    result = RUNNER.invoke(build_app(), ["plan", "keygen", str(tmp_path / "key.pem")])
    assert result.exit_code == 0
    key = load_signing_key(tmp_path / "key.pem")
    assert result.stdout.strip() == public_key_hex(key)
    shown = RUNNER.invoke(build_app(), ["plan", "public", str(tmp_path / "key.pem")])
    assert shown.stdout.strip() == public_key_hex(key)


def test_show_prints_the_manifest(signed: Path, tiny_plan: Plan) -> None:
    """The table names bounds and parts; --json is the manifest itself."""
    table = RUNNER.invoke(build_app(), ["plan", "show", str(signed)], env={"COLUMNS": "200"})
    assert table.exit_code == 0
    assert "not judged" in table.stdout
    assert "onnxruntime/train.onnx" in table.stdout
    as_json = RUNNER.invoke(build_app(), ["plan", "show", str(signed), "--json"])
    assert json.loads(as_json.stdout) == json.loads(tiny_plan.manifest.to_json())


def test_verify_accepts_the_right_key_as_digits_or_file(
    signed: Path, tiny_plan: Plan, tmp_path: Path
) -> None:
    """A key may be typed or kept in a file."""
    (tmp_path / "modeller.pub").write_text(tiny_plan.signed_by + "\n")
    for key in (tiny_plan.signed_by, str(tmp_path / "modeller.pub")):
        result = RUNNER.invoke(build_app(), ["plan", "verify", str(signed), "--key", key])
        assert result.exit_code == 0, result.output
        assert tiny_plan.sha256 in result.stdout


def test_verify_refuses_a_strange_key_and_a_cut_file(signed: Path, tiny_plan: Plan) -> None:
    """Both end in the SDK's own error, which the program turns into one line and status 1."""
    result = RUNNER.invoke(build_app(), ["plan", "verify", str(signed), "--key", "00" * 32])
    assert isinstance(result.exception, PlanError)
    signed.write_bytes(signed.read_bytes()[:-30])
    result = RUNNER.invoke(
        build_app(), ["plan", "verify", str(signed), "--key", tiny_plan.signed_by]
    )
    assert isinstance(result.exception, PlanError)


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    """A person sees what was wrong, not our stack."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pocketfl.commands.main import run; run()",
            "plan",
            "show",
            str(tmp_path / "none.pocketfl"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"error: cannot read the plan {tmp_path / 'none.pocketfl'}: No such file or directory"
    ]
