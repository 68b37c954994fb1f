"""``pocketfl bench app``: what keeps it from measuring is said, and not thrown at whoever asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pocketfl_app import bundle
from pocketfl_benchmarks.digits import speed


def test_an_app_that_was_not_built_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fresh clone there is no bundle, and nothing is started."""
    monkeypatch.setattr(bundle.load_bundle, "__defaults__", (tmp_path,))
    monkeypatch.setattr(speed, "measure", None)
    with pytest.raises(bundle.BundleError, match="run 'pocketfl app build' first"):
        speed.app(starts=1, seconds=1.0)


def test_an_app_that_ends_early_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words, not a traceback of the benchmark's."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no window here >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(speed.AppFailedError, match=r"status 3; it wrote last: no window here"):
        speed.measure(seconds=1.0)
