"""What a plan says: everything that a modeller can tune, as data.

A manifest is signed, so a device may believe it; it is still checked in full, because a signature says
who wrote a plan and not that it is sensible. Every record checks itself when it is made, so an invalid
one cannot exist; a field that this version does not know is a refusal, never a guess.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Final, Literal

from pocketfl.budgets.limits import Budgets
from pocketfl.checks import require
from pocketfl.conditions.spec import ConditionSpec
from pocketfl.decoding import decode, encode_json, parse_json
from pocketfl.encoding.spec import padded_length
from pocketfl.errors import PlanError
from pocketfl.features.transforms import FeatureSpec
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.plan.aggregation import NAME, AggregationSpec, BudgetSpec, DifferentialPrivacySpec
from pocketfl.plan.inference import InferenceSpec
from pocketfl.plan.models import (
    ModelSpec,
    element_count,
)
from pocketfl.plan.schemas import READABLE_SCHEMAS, check_schema
from pocketfl.plan.storage import part_name
from pocketfl.plan.training import TrainingSpec
from pocketfl.queries import QuerySet
from pocketfl.tree_noise import squared_sensitivity

MANIFEST_LIMIT: Final = 4 * 2**20
"""Largest manifest in bytes: vocabularies live in it, weights do not."""
MAX_PART_BYTES: Final = 256 * 2**20
MAX_PARTS: Final = 32
PLAIN_BITS: Final = 16
"""Of each coordinate of a report without an encoding."""
MAX_WINDOWS: Final = 8

RuntimeName = Literal["onnxruntime", "executorch"]
RUNTIME_NAMES: Final[tuple[RuntimeName, ...]] = ("onnxruntime", "executorch")
Privacy = Literal["gaussian", "none"]
Kind = Literal["training", "analytics", "evaluation"]

PARAMETERS_PART: Final = part_name("float32")
"""Initial parameters of most plans: one flat vector of little-endian float32."""

_PART_NAME = re.compile(r"[a-z0-9_]{1,32}(/[a-z0-9_]{1,32})?\.[a-z0-9]{1,8}\Z")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class EligibilitySpec:
    """What a device must have to take part; decided on the device, never by the server.

    Attributes
    ----------
    min_examples : int
        Fewest examples in the collection. A device with fewer does not train; where a plan asks
        queries, it takes part all the same and answers with zeros.
    conditions : ConditionSpec
        The state that the device must be in, before training and during it.
    budgets : Budgets
        What a device spends on the task at most; only makes the device's own budgets tighter.
    """

    min_examples: int = 1
    conditions: ConditionSpec = field(default_factory=ConditionSpec)
    budgets: Budgets = field(default_factory=Budgets)

    def __post_init__(self) -> None:
        require(1 <= self.min_examples <= 1_000_000, "min_examples must be 1 to 1,000,000")
        require(
            len(self.conditions.windows) <= MAX_WINDOWS,
            f"{len(self.conditions.windows)} windows of hours; {MAX_WINDOWS} at most",
        )


@dataclass(frozen=True, kw_only=True)
class PartSpec:
    """One file of the plan's archive."""

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        require(bool(_PART_NAME.match(self.name)), f"{self.name!r} is not a part name")
        require(bool(_HEX_DIGEST.match(self.sha256)), f"{self.name}: sha256 is not 64 hex digits")
        require(0 < self.size <= MAX_PART_BYTES, f"{self.name}: {self.size} bytes is out of bounds")


@dataclass(frozen=True, kw_only=True)
class RuntimeSpec:
    """The parts for one runtime and what they need of it.

    Attributes
    ----------
    train : str or None
        Name of a part; None in a plan that does not train.
    evaluate, predict : str
        Names of parts.
    minimum_version : str
        Oldest version of the runtime that the parts were checked against.
    opset : int or None
        ONNX operator set, for ONNX Runtime.
    inference : tuple of InferenceSpec or None
        Ways to predict, best first; None where ``predict`` is the only one.
    """

    train: str | None = None
    evaluate: str
    predict: str
    minimum_version: str
    opset: int | None = None
    inference: tuple[InferenceSpec, ...] | None = None

    def __post_init__(self) -> None:
        if self.inference is not None:
            kinds = [way.precision for way in self.inference]
            require(
                len(set(kinds)) == len(kinds) and "float32" in kinds,
                "the ways to predict need 'float32', and each precision once at most",
            )
            (plain,) = (way for way in self.inference if way.precision == "float32")
            require(plain.part == self.predict, f"the part of 'float32' has to be {self.predict!r}")
        require(
            bool(re.match(r"\d{1,4}(\.\d{1,4}){1,3}\Z", self.minimum_version)),
            f"minimum_version {self.minimum_version!r} is not a version such as 1.22.0",
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a plan says.

    Attributes
    ----------
    schema : int
        Version of this format.
    name, version : str
        The modeller's name for the plan.
    kind : {"training", "analytics", "evaluation"}
        What comes back from a device: an update of a model, answers to queries about its examples, or
        answers to queries about how a model does on them.
    privacy : {"gaussian", "none"}
        ``none`` labels every model that comes of it, for life.
    model : ModelSpec or None
        None for ``analytics``.
    training : TrainingSpec or None
        For ``training`` only.
    features : FeatureSpec
        What is read; for ``analytics`` fields alone will do.
    queries : QuerySet or None
        For ``analytics`` and ``evaluation``.
    aggregation : AggregationSpec
        Bounds of reports and rounds; the ``clip_norm`` of answers to queries is 1.
    dp : DifferentialPrivacySpec or None
        Present exactly when ``privacy`` is not ``none``.
    budget : BudgetSpec or None
        The account that is shared with other tasks, besides the plan's own budget in ``dp``.
    acceptance : AcceptanceSpec or None
        What a device's own examples may say against a new version; None for the defaults.
    runtimes : dict of str to RuntimeSpec
        By name; none for ``analytics``.
    parts : tuple of PartSpec
        A plan of the kind ``evaluation`` may come without parameters: those of the model version that
        its task is seeded with are evaluated.
    """

    schema: int
    name: str
    version: str
    kind: Kind = "training"
    privacy: Privacy
    model: ModelSpec | None = None
    training: TrainingSpec | None = None
    features: FeatureSpec
    queries: QuerySet | None = None
    aggregation: AggregationSpec
    dp: DifferentialPrivacySpec | None = None
    budget: BudgetSpec | None = None
    eligibility: EligibilitySpec = field(default_factory=EligibilitySpec)
    acceptance: AcceptanceSpec | None = None
    runtimes: dict[str, RuntimeSpec] = field(default_factory=dict)
    parts: tuple[PartSpec, ...] = ()

    def __post_init__(self) -> None:
        require(
            self.schema in READABLE_SCHEMAS,
            f"plan schema {self.schema}; this pocketfl reads schemas "
            f"{', '.join(map(str, READABLE_SCHEMAS))}",
        )
        if self.schema == 1:
            aggregation = self.aggregation
            newer = (
                self.queries,
                self.budget,
                aggregation.encoding,
                aggregation.adaptive,
                self.acceptance,
                aggregation.asynchronous,
            )
            require(
                self.kind == "training" and not any(newer),
                "a plan of schema 1 trains, and has no queries, no shared budget, no encoding, one "
                "clip norm, synchronous rounds and no acceptance",
            )
            require(
                all(runtime.inference is None for runtime in self.runtimes.values()),
                "a plan of schema 1 has one way to predict",
            )
            plain = self.training is None or self.training == replace(
                self.training, clipping=None, optimizer=None
            )
            require(
                plain and (self.model is None or self.model.random_numbers is None),
                "a plan of schema 1 trains by plain SGD without dropout",
            )
            require(
                self.model is None or self.model.storage is None,
                "a plan of schema 1 stores float32",
            )
        for label, text in (("name", self.name), ("version", self.version)):
            require(
                bool(NAME.match(text)), f"{label} {text!r} needs letters, digits, '.', '_', '-'"
            )
        require(
            (self.dp is None) == (self.privacy == "none"),
            "dp bounds go with privacy 'gaussian', and only with it",
        )
        require(
            self.dp is None or self.dp.tree is None or self.kind == "training",
            "a tree's noise is for training: other tasks are released once",
        )
        require(
            self.acceptance is None or self.kind == "training",
            "acceptance is of new versions of a model, so it goes with the kind 'training'",
        )
        self._check_kind()
        self._check_parts()
        self._check_budget()
        self._check_encoding()
        self._check_adaptive()
        self._check_asynchronous()

    def _check_kind(self) -> None:
        kind = self.kind
        for what, value, wanted in (
            ("a model", self.model, kind != "analytics"),
            ("training", self.training, kind == "training"),
            ("queries", self.queries, kind != "training"),
            ("runtimes", self.runtimes or None, kind != "analytics"),
        ):
            require(
                (value is not None) == wanted,
                f"a plan of kind {kind!r} {'needs' if wanted else 'has no'} {what}",
            )
        made, taken = set(self.features.tensor_names), set[str]()
        if self.model is not None:
            taken = {tensor.name for tensor in self.model.inputs}
            require(self.features.label is not None, f"a plan of kind {kind!r} needs a label")
        require(
            made == taken,
            f"features make the tensors {sorted(made)}, the model takes {sorted(taken)}",
        )
        self._check_balancing()
        if self.queries is not None:
            require(
                self.aggregation.clip_norm == 1.0,
                "queries share a norm of 1, so clip_norm has to be 1",
            )
            outputs = None
            if self.model is not None:
                outputs = {spec.name: element_count(spec.shape) for spec in self.model.outputs}
            self.queries.check(self.features, outputs=outputs)

    def _check_balancing(self) -> None:
        label = self.features.label
        if label is None or label.balancing is None or self.model is None:
            return
        balancing = label.balancing
        sizes = {spec.name: element_count(spec.shape) for spec in self.model.outputs}
        size = sizes.get(balancing.output)
        require(
            size is not None,
            f"balancing corrects the output {balancing.output!r}, the model has {sorted(sizes)}",
        )
        require(
            size == balancing.classes or (size == 1 and balancing.classes == 2),
            f"balancing of {balancing.classes} classes cannot correct output {balancing.output!r}, "
            f"which has {size} numbers per example",
        )

    def _check_parts(self) -> None:
        sizes = {part.name: part.size for part in self.parts}
        require(len(sizes) == len(self.parts), "two parts have the same name")
        least = 0 if self.model is None else 1
        require(
            least <= len(sizes) <= MAX_PARTS,
            f"a plan of kind {self.kind!r} has {least} to {MAX_PARTS} parts",
        )
        if self.model is not None:
            part, expected = self.model.parameters_part, self.model.parameter_bytes
            require(self.kind != "training" or part in sizes, f"the part {part} is missing")
            size = sizes.get(part, expected)
            require(size == expected, f"{part} has {size} bytes, not {expected}")
        for name, runtime in self.runtimes.items():
            require(name in RUNTIME_NAMES, f"unknown runtime {name!r}; known: {RUNTIME_NAMES}")
            needed = [runtime.evaluate, runtime.predict]
            needed += [way.part for way in runtime.inference or ()]
            if runtime.train is not None:
                needed.append(runtime.train)
            require(
                (runtime.train is not None) == (self.kind == "training"),
                f"runtime {name}: a part to train goes with the kind 'training', and only with it",
            )
            for part in needed:
                require(part in sizes, f"runtime {name}: the part {part!r} is missing")

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        require(self.dp is not None, "a shared budget goes with privacy 'gaussian'")
        require(
            self.is_daily == (self.queries is not None and self.queries.daily),
            "the unit 'device-day' goes with queries of the kind 'funnel' alone, and they with it",
        )

    def _check_encoding(self) -> None:
        encoding = self.aggregation.encoding
        if encoding is None:
            return
        require(
            self.kind == "training", "an encoding goes with a plan that trains, and only with it"
        )
        least, most = encoding.norm_bounds(self.summed_length)
        require(
            least <= self.aggregation.norm_bound <= most,
            f"norm_bound must be {least} to {most} for {self.summed_length} coordinates of "
            f"{encoding.bits} bits, not {self.aggregation.norm_bound}; AggregationSpec.encoded() "
            "chooses one",
        )

    def _check_adaptive(self) -> None:
        if self.aggregation.adaptive is None:
            return
        require(
            self.kind == "training",
            "a clip norm that adapts goes with a plan that trains: the norm of queries is known",
        )
        require(
            self.dp is None or self.dp.tree is None,
            "releases that share a tree's noise need one clip norm for all",
        )

    def _check_asynchronous(self) -> None:
        if self.aggregation.asynchronous is None:
            return
        require(self.kind == "training", "asynchronous rounds go with a plan that trains")
        require(
            self.dp is None or self.dp.tree is None,
            "the releases of asynchronous rounds have noise of their own, not a tree's",
        )

    @property
    def min_separation(self) -> int:
        """Fewest rounds from one participation of a device to its next; 1 is every round."""
        if self.aggregation.asynchronous is not None:
            return self.aggregation.asynchronous.min_separation
        return 1 if self.dp is None or self.dp.tree is None else self.dp.tree.min_separation

    @property
    def counts_rounds(self) -> bool:
        """Whether privacy is spent by a round's number, and not by how many were released."""
        has_tree = self.dp is not None and self.dp.tree is not None
        return has_tree or self.aggregation.asynchronous is not None

    def rotation_round(self, number: int) -> int:
        """Return the round whose rotation reports of a round have: reports that are added share one."""
        return number if self.aggregation.asynchronous is None else 1

    @property
    def is_daily(self) -> bool:
        """Whether the unit of privacy is one day of a device's log, and not the device."""
        return self.budget is not None and self.budget.unit == "device-day"

    @property
    def required_model(self) -> ModelSpec:
        """The model, where there has to be one; else :class:`~pocketfl.errors.PlanError`."""
        if self.model is None:
            raise PlanError(f"the plan {self.name!r} is of kind {self.kind!r}: it has no model")
        return self.model

    @property
    def has_parameters(self) -> bool:
        """Whether the plan comes with initial parameters."""
        names = {part.name for part in self.parts}
        return self.model is not None and self.model.parameters_part in names

    @property
    def required_training(self) -> TrainingSpec:
        """How to train, where that has to be known; else :class:`~pocketfl.errors.PlanError`."""
        if self.training is None:
            raise PlanError(f"the plan {self.name!r} is of kind {self.kind!r}: it trains nothing")
        return self.training

    @property
    def required_queries(self) -> QuerySet:
        """The queries, where there have to be some; else :class:`~pocketfl.errors.PlanError`."""
        if self.queries is None:
            raise PlanError(f"the plan {self.name!r} is of kind {self.kind!r}: it asks nothing")
        return self.queries

    @property
    def vector_length(self) -> int:
        """Number of coordinates that a device adds to: parameters of the model, or of the queries."""
        if self.queries is not None:
            return self.queries.length
        return self.required_model.parameter_count

    @property
    def summed_length(self) -> int:
        """The same with the one that says whether an update was clipped, where there is one."""
        return self.vector_length + (self.aggregation.adaptive is not None)

    @property
    def report_length(self) -> int:
        """Number of coordinates of a report and of a release: an encoding may add some."""
        if self.aggregation.encoding is None:
            return self.summed_length
        return padded_length(self.summed_length)

    @property
    def report_bits(self) -> int:
        """Bits of a report for each coordinate."""
        encoding = self.aggregation.encoding
        return PLAIN_BITS if encoding is None else encoding.bits

    @property
    def contribution_noise_multiplier(self) -> float | None:
        """Noise multiplier that one contribution counts with, as if each release had its own noise.

        With a tree, the price of all of a device's participations is shared out among them: what a
        tree's contributions cost together grows faster than their number.
        """
        if self.dp is None:
            return None
        if self.dp.tree is None:
            return self.dp.noise_multiplier
        bound = squared_sensitivity(
            rounds=self.aggregation.max_rounds,
            participations=self.aggregation.max_participations,
            separation=self.dp.tree.min_separation,
        )
        share = max(1.0, bound / self.aggregation.max_participations)
        return self.dp.noise_multiplier / math.sqrt(share)

    @cached_property
    def policy_hash(self) -> str:
        """SHA-256 (hex) of what bounds privacy: the trusted tier's key is bound to it."""
        policy: dict[str, object] = {
            "privacy": self.privacy,
            "aggregation": self.aggregation,
            "dp": self.dp,
        }
        if self.budget is not None:
            policy["budget"] = self.budget
        return sha256(encode_json(policy)).hexdigest()

    def to_json(self) -> bytes:
        """Return the canonical bytes that get signed."""
        return encode_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Decode a manifest.

        Raises
        ------
        DecodeError
            Naming the field that is missing, unknown or out of bounds.
        PlanUnsupportedError
            If it has a version of the format that is not read here.
        """
        value = parse_json(data, what="manifest", limit=MANIFEST_LIMIT)
        check_schema(value)
        return decode(cls, value, what="manifest")
