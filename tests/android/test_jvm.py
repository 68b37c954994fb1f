"""Android's own runtimes on a desktop's Java machine, through the code that a phone runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from .jvm.harness import run_pytest

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
