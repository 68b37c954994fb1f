"""The modeller's part of the demo: model, features, privacy, and the signed plan.

Every range and vocabulary here is public knowledge: which carriers and airports there were is published
by the Department of Transportation, what weather can be is physics, how big an aeroplane gets is in its
brochure. What is a statistic of the flights that the devices hold comes from the private release that
:mod:`.statistics` reads, and replaces these ranges.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from pocketfl.features.transforms import (
    Cyclic,
    FeatureSpec,
    FieldSpec,
    InputSpec,
    LabelSpec,
    OneHot,
    Scale,
    ServerTable,
    Transform,
)
from pocketfl.plan import EncodingSpec, Plan, build_plan
from pocketfl.plan.aggregation import AggregationSpec, BudgetSpec, DifferentialPrivacySpec
from pocketfl.plan.manifest import EligibilitySpec, RuntimeName
from pocketfl.plan.storage import encode_parameters
from pocketfl.plan.training import TrainingSpec
from pocketfl_benchmarks.flights.data import WEATHER_FIELDS
from pocketfl_benchmarks.flights.statistics import NOISE_MULTIPLIER, Learned
from pocketfl_benchmarks.flights.stores import COLLECTION, TABLE
from pocketfl_export.plans import export_plan
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.trusted.accounting import SAMPLED_ORDERS
from pocketfl_server.trusted.curves import release_event

LATE_MINUTES: Final = 30.0
MIN_FLIGHTS: Final = 1
"""Every aircraft with a recorded arrival is a device."""

CARRIERS: Final = (
    *("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL"),
    *("HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"),
)
"""Reporting carriers that served New York in 2013, by IATA code."""
NEW_YORK_AIRPORTS: Final = ("EWR", "JFK", "LGA")
DESTINATIONS: Final = (
    *("ABQ", "ACK", "ALB", "ANC", "ATL", "AUS", "AVL", "BDL", "BGR", "BHM", "BNA", "BOS"),
    *("BQN", "BTV", "BUF", "BUR", "BWI", "BZN", "CAE", "CAK", "CHO", "CHS", "CLE", "CLT"),
    *("CMH", "CRW", "CVG", "DAY", "DCA", "DEN", "DFW", "DSM", "DTW", "EGE", "EYW", "FLL"),
    *("GRR", "GSO", "GSP", "HDN", "HNL", "HOU", "IAD", "IAH", "ILM", "IND", "JAC", "JAX"),
    *("LAS", "LAX", "LEX", "LGA", "LGB", "MCI", "MCO", "MDW", "MEM", "MHT", "MIA", "MKE"),
    *("MSN", "MSP", "MSY", "MTJ", "MVY", "MYR", "OAK", "OKC", "OMA", "ORD", "ORF", "PBI"),
    *("PDX", "PHL", "PHX", "PIT", "PSE", "PSP", "PVD", "PWM", "RDU", "RIC", "ROC", "RSW"),
    *("SAN", "SAT", "SAV", "SBN", "SDF", "SEA", "SFO", "SJC", "SJU", "SLC", "SMF", "SNA"),
    *("SRQ", "STL", "STT", "SYR", "TPA", "TUL", "TVC", "TYS", "XNA"),
)
"""Airports with scheduled service from New York in 2013, by IATA code."""

DEVICE_COLUMNS: Final[tuple[Transform, ...]] = (
    OneHot(field="carrier", vocabulary=CARRIERS),
    OneHot(field="hour", vocabulary=tuple(range(5, 24))),
    OneHot(field="weekday", vocabulary=tuple(range(7))),
    Scale(field="hour", low=5, high=23),
    Scale(field="minute", low=0, high=60),
    Scale(field="distance", low=0, high=3000),
    Scale(field="built", low=1985, high=2013),
    Scale(field="seats", low=0, high=400),
    Scale(field="engines", low=1, high=4),
)
"""What only the aircraft knows."""

# Temperatures in degrees Fahrenheit, speeds in miles per hour, rain in inches, pressure in millibars,
# visibility in miles.
SERVER_COLUMNS: Final[tuple[Transform, ...]] = (
    OneHot(field="origin", vocabulary=NEW_YORK_AIRPORTS, source="server"),
    OneHot(field="dest", vocabulary=DESTINATIONS, source="server"),
    OneHot(field="month", vocabulary=tuple(range(1, 13)), source="server"),
    Cyclic(field="wind_dir", period=360, source="server"),
    Scale(field="temp", low=0, high=100, source="server"),
    Scale(field="dewp", low=-10, high=80, source="server"),
    Scale(field="humid", low=0, high=100, source="server"),
    Scale(field="wind_speed", low=0, high=40, source="server"),
    Scale(field="wind_gust", low=10, high=60, source="server"),
    Scale(field="precip", low=0, high=0.5, source="server"),
    Scale(field="pressure", low=990, high=1040, source="server"),
    Scale(field="visib", low=0, high=10, source="server"),
)
"""What the back end knows of the flight without asking the aircraft."""

FEATURES: Final = FeatureSpec(
    collection=COLLECTION.name,
    fields=tuple(
        FieldSpec(name=name, type=field.type, optional=field.optional)
        for name, field in COLLECTION.fields.items()
    ),
    inputs=(InputSpec(tensor="features", columns=(*DEVICE_COLUMNS, *SERVER_COLUMNS)),),
    label=LabelSpec(field="arrival_delay", above=LATE_MINUTES),
    server_table=ServerTable(
        name=TABLE,
        key_field="leg",
        fields=(
            FieldSpec(name="origin", type="str"),
            FieldSpec(name="dest", type="str"),
            FieldSpec(name="month", type="int"),
            *(FieldSpec(name=name, type="float", optional=True) for name in WEATHER_FIELDS),
        ),
    ),
)
"""How a flight becomes the model's input."""


def column_width(column: Transform) -> int:
    """Return how many numbers a column of :data:`FEATURES` makes."""
    match column:
        case OneHot():
            return len(column.vocabulary) + 1
        case Cyclic():
            return 2
        case _:
            return 1


DEVICE_WIDTH: Final = sum(map(column_width, DEVICE_COLUMNS))
SERVER_WIDTH: Final = sum(map(column_width, SERVER_COLUMNS))

HIDDEN_UNITS: Final = 32
BATCH_SIZE: Final = 16
OUTPUT_BIAS: Final = "output.bias"
# Where the output starts: about one flight in six arrives this late, as the Department of
# Transportation publishes every month. Starting at one half spends the first rounds on learning that.
INITIAL_BIAS: Final = -1.7


class LatenessModel(nn.Module):
    """One hidden layer: the logit of arriving more than half an hour late.

    Parameters
    ----------
    width : int
        Number of input columns.
    bias : float
        Where the output starts.
    """

    def __init__(
        self, width: int = DEVICE_WIDTH + SERVER_WIDTH, *, bias: float = INITIAL_BIAS
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, HIDDEN_UNITS)
        self.output = nn.Linear(HIDDEN_UNITS, 1)
        nn.init.zeros_(self.hidden.bias)
        nn.init.constant_(self.output.bias, bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (rows,), for features of shape (rows, width)."""
        logit: torch.Tensor = self.output(torch.relu(self.hidden(features)))
        return logit.squeeze(-1)


def lateness_loss(logit: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean logistic loss of a batch."""
    return nn.functional.binary_cross_entropy_with_logits(logit, target)


# Chosen by vectorised simulation on the training aircraft's round schedule, two seeds each, AUC of the
# private model after about 12,000 device-rounds (each costs some milliseconds, so fewer is better).
# Compared: at most 96, 192, 256 or 320 flights a round (96 is worse by 0.004, beyond 192 nothing
# changes); local rates 0.2 to 1; batches of 8, 16, 32; one epoch or two (two is worse by 0.006); clip
# norms 0.13 to 0.6 (a median update has norm 0.2, and bounds well above that only add noise); hidden
# units 16 to 64 (16 is worse by 0.006); Adam with beta1 0.5 to 0.95 and rates 0.03 to 0.1 against SGD
# with momentum (within 0.002); 240 to 640 reports a round. Buckets for the weather raise all four
# AUCs by about 0.005 to 0.02, the server-only one most of all; they are left out to keep the model
# small.
TRAINING: Final = TrainingSpec(
    epochs=1, max_examples=192, learning_rate=0.4, max_gradient_norm=1000.0
)
CLIP_NORM: Final = 0.2
OPTIMIZER: Final = OptimizerSpec(
    kind="adam", learning_rate=0.1, beta1=0.6, beta2=0.99, epsilon=1e-3, bias_correction=True
)
ROUNDS: Final = 22
COHORT: Final = 400

EPSILON: Final = 8.0
DELTA: Final = 1e-5
BUDGET: Final = BudgetSpec(name="flights", epsilon=EPSILON, delta=DELTA)
"""One account for statistics and rounds together."""
COMPLETION_RATE: Final = 1.0
"""Share of sampled devices that finish: no aircraft of the demo runs out of battery."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how widely to train.

    Attributes
    ----------
    rounds : int
        Number of releases.
    cohort : int
        Expected number of reports in a round.
    population : int
        Number of devices that toss the coin.
    """

    rounds: int = ROUNDS
    cohort: int = COHORT
    population: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("a run needs at least 1 round")
        if not 1 <= self.cohort <= self.population:
            raise ValueError(
                f"the cohort must be 1 to {self.population}, the number of training devices, "
                f"not {self.cohort}"
            )

    @property
    def sampling_probability(self) -> float:
        """Probability of each device's coin: target / (population x completion rate)."""
        return min(1.0, round(self.cohort / (self.population * COMPLETION_RATE), 6))

    @property
    def max_participations(self) -> int:
        """Cap that one coin in a hundred exceeds: few reports fewer, a firm bound for the back end."""
        from scipy.stats import binom

        if self.sampling_probability == 1.0:
            return self.rounds
        return max(1, int(binom.isf(0.01, self.rounds, self.sampling_probability)))

    def aggregation(self) -> AggregationSpec:
        """Return the bounds of reports and rounds."""
        expected = self.population * self.sampling_probability
        floor = max(1, math.floor(expected - 6 * math.sqrt(expected)))
        return AggregationSpec(
            clip_norm=CLIP_NORM,
            sampling_probability=self.sampling_probability,
            population=self.population,
            cohort_floor=floor,
            max_rounds=self.rounds,
            max_participations=self.max_participations,
        )

    def privacy(self, *, beside: float | None = None) -> DifferentialPrivacySpec:
        """Return the least noise that keeps all rounds within the budget.

        Parameters
        ----------
        beside : float, optional
            Noise multiplier of one release of all devices that has to fit in as well.
        """
        import dp_accounting
        from dp_accounting import rdp

        def events(noise_multiplier: float) -> dp_accounting.DpEvent:
            rounds = dp_accounting.SelfComposedDpEvent(
                release_event(self.sampling_probability, noise_multiplier), self.rounds
            )
            if beside is None:
                return rounds
            return dp_accounting.ComposedDpEvent([release_event(1.0, beside), rounds])

        found = dp_accounting.calibrate_dp_mechanism(
            lambda: rdp.RdpAccountant(
                SAMPLED_ORDERS, dp_accounting.NeighboringRelation.REPLACE_SPECIAL
            ),
            events,
            EPSILON,
            DELTA,
            dp_accounting.ExplicitBracketInterval(0.2, 100.0),
            tol=1e-3,
        )
        # Rounded upward: three digits read better in a plan, and more noise is never less private.
        return DifferentialPrivacySpec(
            noise_multiplier=math.ceil(found * 1000) / 1000, epsilon=EPSILON, delta=DELTA
        )


def export_task(
    path: Path,
    *,
    schedule: Schedule,
    signing_key: bytes,
    seed: int,
    encoding: EncodingSpec | None,
    runtimes: Sequence[RuntimeName],
    asks: bool,
) -> bytes:
    """Export the model into the signed plan of the private run, with public ranges.

    Takes and returns what can be sent to another process and back.

    Parameters
    ----------
    path : Path
        Where to write it.
    schedule : Schedule
        Rounds and cohort; they decide sampling, floor, cap and noise.
    signing_key : bytes
        The modeller's raw private key.
    seed : int
        Of the initial parameters.
    encoding : EncodingSpec or None
        Of reports.
    runtimes : sequence of str
        What to export for.
    asks : bool
        Whether the fleet's own statistics share the budget.

    Returns
    -------
    bytes
        The plan, parity-checked on every runtime.
    """
    # Beside the rounds, torch is to keep to one core.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = LatenessModel()
    generator = torch.Generator().manual_seed(seed)
    example = torch.rand((BATCH_SIZE, DEVICE_WIDTH + SERVER_WIDTH), generator=generator)
    target = (torch.rand(BATCH_SIZE, generator=generator) < 0.5).float()
    plan = export_plan(
        model,
        lateness_loss,
        (example,),
        target,
        path,
        name="flights",
        version="1",
        signing_key=Ed25519PrivateKey.from_private_bytes(signing_key),
        aggregation=schedule.aggregation(),
        encoding=encoding,
        dp=schedule.privacy(beside=NOISE_MULTIPLIER if asks else None),
        budget=BUDGET if asks else None,
        training=TRAINING,
        features=FEATURES,
        eligibility=EligibilitySpec(min_examples=MIN_FLIGHTS),
        runtimes=runtimes,
    )
    return plan.data


def with_learned(plan: Plan, learned: Learned, *, signing_key: Ed25519PrivateKey) -> Plan:
    """Sign the task again with the ranges, the balancing and the starting point that were learned.

    The graphs stay: they take ranges in as inputs that are already scaled, and parameters as they come.
    """
    manifest = plan.manifest
    model = manifest.required_model
    parts = {part.name: plan.part(part.name) for part in manifest.parts}
    start = learned.starting_logit
    if start is not None:
        parameters = plan.initial_parameters().copy()
        bias = next(spec for spec in model.parameters if spec.name == OUTPUT_BIAS)
        parameters[bias.offset] = start
        parts[model.parameters_part] = encode_parameters(parameters, model.stored_as)
    return build_plan(
        name=manifest.name,
        version=manifest.version,
        privacy=manifest.privacy,
        model=model,
        training=manifest.training,
        features=learned.apply(manifest.features),
        aggregation=manifest.aggregation,
        dp=manifest.dp,
        budget=manifest.budget,
        eligibility=manifest.eligibility,
        runtimes=manifest.runtimes,
        parts=parts,
        signing_key=signing_key,
    )


def without_privacy(plan: Plan, *, signing_key: Ed25519PrivateKey) -> Plan:
    """Sign the same task again with ``privacy: none``, for the comparison without noise.

    Graphs, parameters, features, clipping and sampling stay as they are, so that noise is the only
    difference; every model that comes of it is labelled for life.
    """
    return _sign_unprotected(
        plan, "flights-unprotected", plan.manifest.aggregation, signing_key=signing_key
    )


def for_one_device(plan: Plan, *, signing_key: Ed25519PrivateKey) -> Plan:
    """Sign the task for a fleet of one device that always takes part: to measure what a round takes."""
    alone = dataclasses.replace(
        plan.manifest.aggregation,
        sampling_probability=1.0,
        population=1,
        cohort_floor=1,
        max_rounds=1,
        max_participations=1,
    )
    return _sign_unprotected(plan, "flights-footprint", alone, signing_key=signing_key)


def _sign_unprotected(
    plan: Plan, name: str, aggregation: AggregationSpec, *, signing_key: Ed25519PrivateKey
) -> Plan:
    manifest = plan.manifest
    return build_plan(
        name=name,
        version=manifest.version,
        privacy="none",
        model=manifest.model,
        training=manifest.training,
        features=manifest.features,
        aggregation=aggregation,
        dp=None,
        eligibility=manifest.eligibility,
        runtimes=manifest.runtimes,
        parts={part.name: plan.part(part.name) for part in manifest.parts},
        signing_key=signing_key,
    )
