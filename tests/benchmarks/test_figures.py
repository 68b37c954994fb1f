"""The documents' figures are those of the committed JSON."""

from __future__ import annotations

import re
from pathlib import Path

from pocketfl_benchmarks.figures import IMAGES, ZOO, draw_all, write_zoo

TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def test_the_figures_say_what_the_committed_json_says(monkeypatch, tmp_path: Path) -> None:
    """Drawn anew, every label is the same; what differs between versions of matplotlib is the ink."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    drawn = draw_all(tmp_path)
    assert drawn
    for path in drawn:
        labels = TEXT.findall(path.read_text())
        assert labels
        assert TEXT.findall((root / IMAGES / path.name).read_text()) == labels


def test_the_zoos_tables_are_those_of_the_committed_json(monkeypatch, tmp_path: Path) -> None:
    """Written anew, the document is the same."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    again = tmp_path / "zoo.md"
    again.write_text(ZOO.read_text())
    assert write_zoo(again).read_text() == ZOO.read_text()
