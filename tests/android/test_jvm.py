"""Android's own runtimes on a desktop's Java machine, through the code that a phone runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .jvm.harness import HERE, java_home, run_pytest

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(1200)]

# What tests/sdk/runtimes/test_opening.py asks of the Python packages alone.
OF_PACKAGES = "missing_says or may_have_reported"


def test_android_runtimes_pass_the_conformance_suite(
    android: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """The suite that desktop runtimes pass, unchanged, and bits equal to those of the packages."""
    result = run_pytest(
        android[1],
        [
            "-k",
            f"not ({OF_PACKAGES})",
            "tests/sdk/runtimes/test_conformance.py",
            "tests/sdk/runtimes/test_opening.py",
            "tests/sdk/runtimes/test_android.py",
            "tests/sdk/runtimes/test_optimizers.py",
        ],
    )
    with capfd.disabled():
        print(f"\n{result.stdout}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout


def test_the_key_in_androids_keystore_seals_with_javas_ciphers() -> None:
    """Real ciphers through pyjnius: what was sealed opens, and what was changed does not."""
    result = subprocess.run(
        [sys.executable, str(HERE / "keystore_check.py")],
        env={**os.environ, "JAVA_HOME": java_home()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "sealed and opened 50 keys\n"
