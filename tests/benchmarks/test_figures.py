"""The documents' figures are those of the committed JSON."""

from __future__ import annotations

import re
from pathlib import Path

from pocketfl_benchmarks.figures import IMAGES, ZOO, draw_all, write_zoo
from pocketfl_benchmarks.zoo.document import BEGIN, END, write_tables

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
    """Written anew, the document is the same; without the JSON it states no figure."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    again = tmp_path / "zoo.md"
    again.write_text(ZOO.read_text())
    if not write_zoo(again):
        assert not again.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert again.read_text() == ZOO.read_text()


def test_the_zoos_tables_have_every_model_and_what_it_learnt(tmp_path: Path) -> None:
    """Between the marks, and only there: a row for each model and runtime, refusals too."""
    document = tmp_path / "zoo.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(
        {
            "machine": {
                **{"processor": "a", "cores": 2, "load_average": 0.1, "system": "b"},
                "libraries": {},
            },
            "wall_seconds": 1.0,
            "models": {
                "tiny": {
                    **{"parameters": 10, "torch_quality": 0.9, "quality_of": "flowers"},
                    **{"quality_steps": 300, "quality_metric": "accuracy"},
                    "executorch": {"refused": "no kernel"},
                }
            },
        },
        document,
    )
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| tiny | executorch | refused |" in text
    assert "| tiny | flowers | 300 | accuracy | 0.9000 | - | - |" in text
