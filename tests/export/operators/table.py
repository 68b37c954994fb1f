"""The operator table: measured by the gate, written and read as markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from pocketfl_export import check_model

from .cases import CASES, Case

RUNTIMES = ("onnxruntime", "executorch")
PATH = Path(__file__).parents[3] / "docs" / "operators.md"
STEPS = 8
NOT_MEASURED = "not measured"

_HEAD = """# Operators

What a model may be made of, and how exactly each runtime trains it. Written by the tests, not by hand
(CI runs them and compares with this page):

```console
POCKETFL_WRITE_OPERATORS=1 pytest -m slow tests/export/operators
```

Every row is a small model around one operator, with something to train on both sides of it. A figure
is the largest difference of any parameter from eager torch after a training step, over at least {steps}
steps that each start from torch's own parameters; evaluation and prediction were compared too. What
would differ by more than 1e-5 is refused: a refusal names the operator and, in the error, a rewrite.
With `POCKETFL_WRITE_OPERATORS=new` only rows that are not in the table yet are measured. Optimizers,
clipping and dropout are in [export.md](export.md).
"""
_ROW = re.compile(r"\| `?(?P<name>.*?)`? \| (?P<cells>.*) \|")


@dataclass(frozen=True)
class Cell:
    """How one runtime does on one problem.

    Attributes
    ----------
    error : float or None
        Largest difference of a parameter; None where it is refused.
    refusal : str
        The operator at fault and why.
    """

    error: float | None
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.error:.1e}" if self.error is not None else f"refused: {self.refusal}"


def measure(case: Case, runtime: str) -> Cell:
    """Run one problem through the gate."""
    torch.manual_seed(0)
    report = check_model(
        case.make(), case.loss, case.inputs, case.target, runtimes=[runtime], steps=STEPS
    )
    if report.ok:
        return Cell(report.runtimes[runtime].max_parameter_error)
    refusal = report.refused[0]
    assert refusal.rewrite, "a refusal without a rewrite"
    # Figures of a difference vary with the processor.
    reason = re.sub(r" \(.*|: .*|;.*|\d\.\d+e[-+]\d+.*", "", refusal.reason.replace("\n", " "))
    return Cell(None, f"{refusal.operator}; {reason}"[:120].replace("|", "/"))


def render(cells: Mapping[str, Mapping[str, Cell | str]]) -> str:
    """Return the document; a problem without a cell was not measured on that runtime."""
    lines = [_HEAD.format(steps=STEPS)]
    for section, cases in groupby(CASES, key=lambda case: case.section):
        lines += [
            f"## {section}",
            "",
            "| operator | ONNX Runtime | ExecuTorch |",
            "| --- | --- | --- |",
        ]
        for case in cases:
            found = cells.get(key(case), {})
            shown = " | ".join(str(found.get(runtime, NOT_MEASURED)) for runtime in RUNTIMES)
            lines.append(f"| `{case.name}` | {shown} |")
        lines.append("")
    return "\n".join(lines)


def read(text: str) -> dict[str, dict[str, str]]:
    """Return what a document says, by the problem's key and the runtime."""
    result: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        match = _ROW.fullmatch(line)
        if match and section and match["name"] not in ("operator", "---"):
            values = match["cells"].split(" | ")
            result[f"{section}/{match['name']}"] = dict(zip(RUNTIMES, values, strict=True))
    return result


def key(case: Case) -> str:
    """Return what a problem is called in all sections."""
    return f"{case.section}/{case.name}"


def problems(keys: Iterable[str] | None = None) -> list[Case]:
    """Return some problems, or all."""
    wanted = None if keys is None else set(keys)
    return [case for case in CASES if wanted is None or key(case) in wanted]
