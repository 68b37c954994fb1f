"""What a run found, and what many runs found."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Verdict:
    """What was wrong in one run; all zero is as it should be.

    Attributes
    ----------
    examples_lost : int
        Examples that the store had acknowledged and has no more.
    double_counted : int
        Contributions, or examples of one, that are in the sum more than once.
    half_reports : int
        Contributions in the sum that are not all of their training.
    budget_overspends : int
        Budgets overspent by more than one batch.
    unrecovered : int
        Runs after which the device did not know how its contribution ended, knew it wrong, or could
        not take part in the next round.
    killed_at : Counter
        Kills by where they were meant to be.
    servers_killed : Counter
        Kills of the back end's processes, by process.
    budgets : Counter
        Runs in which a budget was watched, by what it measures.
    notes : list of str
        What exactly.
    """

    examples_lost: int = 0
    double_counted: int = 0
    half_reports: int = 0
    budget_overspends: int = 0
    unrecovered: int = 0
    killed_at: Counter[str] = field(default_factory=Counter)
    servers_killed: Counter[str] = field(default_factory=Counter)
    budgets: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    notes: list[str] = field(default_factory=list)

    COUNTS = (
        "examples_lost",
        "double_counted",
        "half_reports",
        "budget_overspends",
        "unrecovered",
    )

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong."""
        return not any(getattr(self, name) for name in self.COUNTS)

    def add(self, other: Verdict) -> None:
        """Add what another run found."""
        for name in (*self.COUNTS, "runs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.killed_at += other.killed_at
        self.servers_killed += other.servers_killed
        self.budgets += other.budgets
        self.families += other.families
        self.counted += other.counted
        self.notes += other.notes

    def figures(self) -> dict[str, object]:
        """Return the figures of the contract."""
        return {
            "runs": self.runs,
            "killed_at": dict(sorted(self.killed_at.items())),
            **{name: getattr(self, name) for name in self.COUNTS},
            "servers_killed": dict(sorted(self.servers_killed.items())),
            "budgets": dict(sorted(self.budgets.items())),
            "families": dict(sorted(self.families.items())),
        }

    def write(self, path: Path) -> None:
        """Write the figures as JSON."""
        path.write_text(json.dumps(self.figures(), indent=2) + "\n")
