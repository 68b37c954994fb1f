"""The harness, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .jvm.harness import build_harness


@pytest.fixture(scope="session")
def android(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Where the real AARs are unpacked, and the environment of processes that run them."""
    folder = tmp_path_factory.mktemp("android")
    return folder, build_harness(folder)
