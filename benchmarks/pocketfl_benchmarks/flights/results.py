"""What a run of the demo found, as values; and the figures that scripts read."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pocketfl.features.transforms import Scale
from pocketfl.plan.aggregation import AggregationSpec
from pocketfl.plan.manifest import PLAIN_BITS
from pocketfl.runtimes import FloatVector
from pocketfl_benchmarks.flights.bought import SimulatedArm
from pocketfl_benchmarks.flights.fleet import FleetRound
from pocketfl_benchmarks.flights.footprint import Footprint
from pocketfl_benchmarks.flights.statistics import Learned
from pocketfl_server.trusted.messages import PrivacyStatement
from pocketfl_server.trusted.releases import BudgetStatement

NO_PRIVACY = "no differential privacy"
"""Goes wherever the arm without noise appears."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One federated training run.

    Attributes
    ----------
    rounds : list of FleetRound
        In order.
    versions : list of ndarray of float32, shape (P,)
        Parameters of every version, version 0 first.
    spent : PrivacyStatement
        By the trusted tier, after the last round.
    budget : BudgetStatement or None
        The account that statistics and rounds share, likewise.
    transport : str
        How devices reached the back end.
    wall_seconds : float
        Of all rounds.
    quiet_rounds : int
        How many rounds, from the first on, had the machine for themselves. Times are theirs alone.
    """

    rounds: list[FleetRound]
    versions: list[FloatVector]
    spent: PrivacyStatement
    transport: str
    wall_seconds: float
    quiet_rounds: int
    budget: BudgetStatement | None = None

    @property
    def epsilon(self) -> float | None:
        """Of everything that was released, against someone who sees it."""
        return self.spent.epsilon if self.budget is None else self.budget.spent

    @property
    def epsilon_against_back_end(self) -> float | None:
        """The same against the back end, which also sees who takes part."""
        if self.budget is None:
            return self.spent.epsilon_against_back_end
        return self.budget.spent_against_back_end

    @property
    def protected(self) -> bool:
        """Whether differential privacy is claimed."""
        return self.spent.privacy != "none"

    def mean_bytes(self, name: str) -> float:
        """Return the mean over all reports of a field of the rounds that counts bytes."""
        return _mean([(getattr(r, name), r) for r in self.rounds])

    def mean_seconds(self, name: str) -> float:
        """Return the mean over all reports of quiet rounds of a field that is a time."""
        return _mean([(getattr(r, name), r) for r in self._quiet])

    def phases(self) -> dict[str, float]:
        """Return mean seconds by phase of a device's round, over all reports of quiet rounds."""
        return {
            name: _mean([(r.phases[name], r) for r in self._quiet])
            for name in self.rounds[0].phases
        }

    @property
    def _quiet(self) -> list[FleetRound]:
        return self.rounds[: self.quiet_rounds]


def _mean(values: list[tuple[float, FleetRound]]) -> float:
    """Return the mean over all reports of what is a mean of each round's."""
    return float(
        np.average(
            [value for value, _ in values], weights=[r.turns["completed"] for _, r in values]
        )
    )


@dataclass(frozen=True, kw_only=True)
class JudgedArm:
    """A run with the quality of its models.

    Attributes
    ----------
    arm : Arm
        The run.
    auc : float
        Of the last version, on the held-out devices and the mobile runtime.
    curve : list of float
        AUC of every version, version 0 first.
    """

    arm: Arm
    auc: float
    curve: list[float]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything that the table, the report and the JSON say.

    Attributes
    ----------
    runtime : str
        Which mobile runtime trained and scored.
    seed : int
        Of everything that may be seeded.
    training_devices, held_out_devices, training_flights, held_out_flights : int
        The fleet.
    late_share : float
        Share of flights with a positive label.
    aggregation : AggregationSpec
        Of the plan.
    private, federated : JudgedArm or None
        With and without noise; None if not asked for.
    server_only, server_trained : float
        AUC of the centralised models.
    footprint : Footprint
        Memory of one device.
    parameters : int
        Of the model.
    plan_bytes : int
        Of the signed plan.
    wall_seconds : float
        Of the whole demo.
    learned : Learned or None
        From the fleet's statistics; None for a run without privacy.
    bought : list of SimulatedArm
        What that changed; empty if no comparison was asked for.
    """

    runtime: str
    seed: int
    training_devices: int
    held_out_devices: int
    training_flights: int
    held_out_flights: int
    late_share: float
    aggregation: AggregationSpec
    private: JudgedArm | None
    federated: JudgedArm | None
    server_only: float
    server_trained: float
    footprint: Footprint
    parameters: int
    plan_bytes: int
    wall_seconds: float
    learned: Learned | None = None
    bought: list[SimulatedArm] = field(default_factory=list)

    @property
    def main(self) -> JudgedArm:
        """The arm that went over HTTP: the private one unless there is none."""
        judged = self.private or self.federated
        if judged is None:
            raise ValueError("a demo has at least one federated arm")
        return judged

    def _learned(self) -> dict[str, Any] | None:
        if self.learned is None:
            return None
        bundle, balancing = self.learned.bundle, self.learned.balancing
        return {
            "ranges": {}
            if bundle is None
            else {
                made.field: [made.low, made.high]
                for made in bundle.transforms
                if isinstance(made, Scale)
            },
            "class_shares": None if balancing is None else list(balancing.class_shares),
            "hidden_by_noise": list(self.learned.hidden),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the figures under the names that scripts rely on; times in seconds."""
        arm = self.main.arm
        encoding = self.aggregation.encoding
        return {
            "auc": {
                "server_only": self.server_only,
                "server_trained": self.server_trained,
                "federated": self.federated.auc if self.federated else None,
                "private": self.private.auc if self.private else None,
            },
            "epsilon": arm.epsilon,
            "epsilon_against_back_end": arm.epsilon_against_back_end,
            "delta": arm.spent.delta,
            "privacy": "differential privacy" if arm.protected else NO_PRIVACY,
            "rounds": len(arm.rounds),
            "cohort": round(self.aggregation.expected_cohort),
            "devices": self.training_devices,
            "held_out_devices": self.held_out_devices,
            "bytes_up_per_report": arm.mean_bytes("bytes_up"),
            "bytes_down_per_round": arm.mean_bytes("bytes_down"),
            "device_seconds_per_round": arm.mean_seconds("device_seconds"),
            "overhead_ms_per_device_round": 1e3 * arm.mean_seconds("overhead_seconds"),
            "phase_seconds": arm.phases(),
            "peak_memory_mb": self.footprint.peak_memory_mb,
            "process_memory_mb": self.footprint.device_mb,
            "bare_python_memory_mb": self.footprint.bare_mb,
            "wall_seconds": self.wall_seconds,
            "arm_seconds": arm.wall_seconds,
            "runtime": self.runtime,
            "model_versions": len(arm.versions),
            "noise_multiplier": arm.spent.noise_multiplier,
            "sampling_probability": self.aggregation.sampling_probability,
            "cohort_floor": self.aggregation.cohort_floor,
            "max_participations": self.aggregation.max_participations,
            "auc_by_round": {
                "federated": self.federated.curve if self.federated else None,
                "private": self.private.curve if self.private else None,
            },
            "learned": self._learned(),
            "bought": [asdict(entry) for entry in self.bought],
            "parameters": self.parameters,
            "bits_per_coordinate": PLAIN_BITS if encoding is None else encoding.bits,
            "plan_bytes": self.plan_bytes,
            "seed": self.seed,
            "machine": {
                "platform": platform.platform(),
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            },
        }
