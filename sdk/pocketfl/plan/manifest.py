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
from pocketfl.conditions.spec import ConditionSpec
from pocketfl.decoding import decode, encode_json, parse_json
from pocketfl.encoding.spec import EncodingSpec, padded_length
from pocketfl.errors import PlanError
from pocketfl.features.transforms import FeatureSpec
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.plan.adaptive_clipping import AdaptiveClippingSpec
from pocketfl.plan.asynchronous import WHOLE_WEIGHT, AsynchronousSpec
from pocketfl.plan.inference import InferenceSpec
from pocketfl.plan.schemas import READABLE_SCHEMAS, check_schema
from pocketfl.plan.storage import Storage, byte_length, part_name
from pocketfl.plan.training import TrainingSpec
from pocketfl.queries import QuerySet
from pocketfl.tree_noise import squared_sensitivity

MANIFEST_LIMIT: Final = 4 * 2**20
"""Largest manifest in bytes: vocabularies live in it, weights do not."""
MAX_PARAMETERS: Final = 50_000_000
"""Most parameters of a model: 200 MB of float32, far beyond what a phone should train."""
MAX_PART_BYTES: Final = 256 * 2**20
MAX_PARTS: Final = 32
PLAIN_BITS: Final = 16
"""Of each coordinate of a report without an encoding."""
MAX_BATCH: Final = 4096
MAX_WINDOWS: Final = 8

RuntimeName = Literal["onnxruntime", "executorch"]
RUNTIME_NAMES: Final[tuple[RuntimeName, ...]] = ("onnxruntime", "executorch")
Dtype = Literal["float32", "int64", "bool"]
Privacy = Literal["gaussian", "none"]
Kind = Literal["training", "analytics", "evaluation"]
BudgetUnit = Literal["device", "device-day"]

PARAMETERS_PART: Final = part_name("float32")
"""Initial parameters of most plans: one flat vector of little-endian float32."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")
_PART_NAME = re.compile(r"[a-z0-9_]{1,32}(/[a-z0-9_]{1,32})?\.[a-z0-9]{1,8}\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}\Z")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def element_count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of a tensor of this shape (1 for a scalar)."""
    return math.prod(shape)


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    _require(len(shape) <= 8, f"{name} has {len(shape)} dimensions; 8 at most")
    _require(all(0 < n <= MAX_PARAMETERS for n in shape), f"{name} has an impossible shape {shape}")
    _require(element_count(shape) <= MAX_PARAMETERS, f"{name} with shape {shape} is too large")


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One parameter tensor's place in the flat vector, in ``named_parameters()`` order.

    Attributes
    ----------
    name : str
        The name torch gives it, such as ``0.weight``.
    shape : tuple of int
        Its shape; ``()`` for a scalar.
    offset : int
        Index of its first element in the flat float32 vector.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    def __post_init__(self) -> None:
        _require(0 < len(self.name) <= 256, "a parameter needs a name of 1 to 256 characters")
        _check_shape(f"parameter {self.name!r}", self.shape)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor that goes in or out of the model, without its batch axis.

    Attributes
    ----------
    name : str
        For an input, the name of ``forward``'s parameter.
    dtype : {"float32", "int64", "bool"}
        Element type.
    shape : tuple of int
        Shape of one example; ``()`` when an example is one number.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(_IDENTIFIER.match(self.name)), f"{self.name!r} is not a tensor name")
        _check_shape(f"tensor {self.name!r}", self.shape)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model's interface: its flat parameter vector and its batch.

    Attributes
    ----------
    parameters : tuple of ParameterSpec
        In order, without gaps.
    inputs : tuple of TensorSpec
        What ``forward`` takes.
    target : TensorSpec
        What the loss compares with; always named ``target``.
    outputs : tuple of TensorSpec
        What ``predict`` returns.
    batch_size : int
        Rows of every batch; a short one is padded with rows of weight 0.
    random_numbers : int or None
        Uniform numbers per row that a training step takes for its dropout; None for most models.
    storage : {"float16"} or None
        How parameters are kept and downloaded; None for float32. A runtime's vector is float32 always.
    """

    parameters: tuple[ParameterSpec, ...]
    inputs: tuple[TensorSpec, ...]
    target: TensorSpec
    outputs: tuple[TensorSpec, ...]
    batch_size: int
    random_numbers: int | None = None
    storage: Literal["float16"] | None = None

    def __post_init__(self) -> None:
        _require(0 < len(self.parameters) <= 10_000, "a model needs 1 to 10,000 parameter tensors")
        end = 0
        for parameter in self.parameters:
            _require(
                parameter.offset == end,
                f"parameter {parameter.name!r} starts at {parameter.offset}, not at {end}",
            )
            end += element_count(parameter.shape)
        _require(end <= MAX_PARAMETERS, f"{end} parameters; {MAX_PARAMETERS} at most")
        names = [p.name for p in self.parameters]
        _require(len(set(names)) == len(names), "two parameters have the same name")
        _require(0 < len(self.inputs) <= 64, "a model needs 1 to 64 inputs")
        _require(0 < len(self.outputs) <= 64, "a model needs 1 to 64 outputs")
        tensors = [t.name for t in self.inputs]
        _require(len(set(tensors)) == len(tensors), "two inputs have the same name")
        _require(
            not {"target", "weight", "random"} & set(tensors),
            "inputs cannot be named 'target', 'weight' or 'random': a batch uses these names itself",
        )
        _require(self.target.name == "target", "the target tensor must be named 'target'")
        _require(1 <= self.batch_size <= MAX_BATCH, f"batch_size must be 1 to {MAX_BATCH}")
        _require(
            self.random_numbers is None
            or 1 <= self.random_numbers <= MAX_PARAMETERS // self.batch_size,
            f"random_numbers must be 1 to {MAX_PARAMETERS // self.batch_size}",
        )

    @property
    def parameter_count(self) -> int:
        """Length of the flat vector."""
        last = self.parameters[-1]
        return last.offset + element_count(last.shape)

    @property
    def stored_as(self) -> Storage:
        """How parameters are kept and downloaded."""
        return self.storage or "float32"

    @property
    def parameters_part(self) -> str:
        """Name of the part that holds the initial parameters, where a plan has them."""
        return part_name(self.stored_as)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the parameters, kept or downloaded."""
        return byte_length(self.parameter_count, self.stored_as)


@dataclass(frozen=True, kw_only=True)
class AggregationSpec:
    """The bounds of one device's report, and of the sum that it goes into.

    A report is an integer vector whose L2 norm is at most ``norm_bound``; one unit of that grid is
    ``clip_norm / norm_bound`` in the model's own units.

    Attributes
    ----------
    clip_norm : float
        L2 bound of one device's update.
    norm_bound : int
        The same bound in grid units; at most 32,767, so that a coordinate takes two bytes. With an
        encoding it follows from the number of parameters; see :meth:`encoded`.
    sampling_probability : float
        Probability with which a device takes part in a round, by its own coin.
    population : int
        Number of devices that toss the coin; the sum is divided by the fixed expected cohort
        ``population * sampling_probability``, which depends on nobody's data.
    cohort_floor : int
        Fewest reports of which a sum may be released.
    max_rounds : int
        Most releases of a task under this plan.
    max_participations : int
        Most rounds that one device takes part in, whatever a server asks.
    encoding : EncodingSpec or None
        How reports are made small; None for two bytes a coordinate.
    adaptive : AdaptiveClippingSpec or None
        Lets the clip norm follow the fleet; ``clip_norm`` is then that of the first round.
    asynchronous : AsynchronousSpec or None
        Lets releases take reports from older models; then every device may take part in every round,
        as far as its separation lets it, and nothing is amplified by sampling.
    """

    clip_norm: float
    norm_bound: int = 30_000
    sampling_probability: float = 1.0
    population: int
    cohort_floor: int
    max_rounds: int
    max_participations: int
    encoding: EncodingSpec | None = None
    adaptive: AdaptiveClippingSpec | None = None
    asynchronous: AsynchronousSpec | None = None

    def __post_init__(self) -> None:
        _require(
            self.asynchronous is None or self.sampling_probability == 1,
            "asynchronous rounds sample nobody: sampling_probability has to be 1",
        )
        _require(
            self.asynchronous is None or self.adaptive is None,
            "asynchronous rounds add up reports of several models, which need one clip norm",
        )
        _require(0 < self.clip_norm <= 1e6, "clip_norm must be above 0 and at most 1e6")
        if self.adaptive is not None:
            least_norm, most_norm = self.adaptive.min_clip_norm, self.adaptive.max_clip_norm
            _require(
                least_norm <= self.clip_norm <= most_norm,
                f"clip_norm is {self.clip_norm:g}; the plan allows {least_norm:g} to {most_norm:g}",
            )
        # How coarse a grid an encoding may have depends on the model: the manifest judges it.
        least = 256 if self.encoding is None else 1
        _require(least <= self.norm_bound <= 32_767, f"norm_bound must be {least} to 32,767")
        _require(
            0 < self.sampling_probability <= 1, "sampling_probability must be above 0, 1 at most"
        )
        _require(1 <= self.population <= 10**10, "population must be 1 to 10,000,000,000")
        _require(1 <= self.max_rounds <= 1_000_000, "max_rounds must be 1 to 1,000,000")
        _require(
            1 <= self.max_participations <= self.max_rounds,
            "max_participations must be 1 to max_rounds",
        )
        expected = self.expected_cohort
        highest = max(1, math.floor(expected - 6 * math.sqrt(expected)))
        if self.sampling_probability == 1.0:
            highest = self.population
        _require(
            1 <= self.cohort_floor <= highest,
            f"cohort_floor must be 1 to {highest}: above expected - 6 sqrt(expected) reports, chance "
            "alone would abort rounds",
        )

    @property
    def expected_cohort(self) -> float:
        """Expected number of participants: ``population * sampling_probability``."""
        return self.population * self.sampling_probability

    @property
    def grid_step(self) -> float:
        """Size of one grid unit in the model's own units."""
        return self.clip_norm / self.update_bound

    @property
    def whole_weight(self) -> int:
        """What an exact sum counts a report with: 1, or what leaves room for smaller weights."""
        return 1 if self.asynchronous is None else WHOLE_WEIGHT

    @property
    def release_step(self) -> float:
        """Size of one unit of a release in the model's own units."""
        return self.grid_step / self.whole_weight

    @property
    def count_weight(self) -> int:
        """Grid units that say whether an update was clipped; 0 where the clip norm stays."""
        return 0 if self.adaptive is None else self.adaptive.count_weight(self.norm_bound)

    @property
    def update_bound(self) -> float:
        """What the norm bound leaves to the update, in grid units; the clip norm is as much."""
        if self.adaptive is None:
            return self.norm_bound
        return math.sqrt(self.norm_bound**2 - self.count_weight**2)

    def in_round(self, clip_norm: float | None) -> AggregationSpec:
        """Return the bounds of one round.

        Parameters
        ----------
        clip_norm : float or None
            As it was announced; None where the plan has one for all rounds.

        Raises
        ------
        ValueError
            If one is announced and the plan has none to move, or the other way round, or it is not
            within the plan's bounds.
        """
        if (clip_norm is None) != (self.adaptive is None):
            has = "has one clip norm for all rounds" if self.adaptive is None else "needs one"
            raise ValueError(f"a round's clip norm is {clip_norm}, and the plan {has}")
        return self if clip_norm is None else replace(self, clip_norm=clip_norm)

    def encoded(self, encoding: EncodingSpec, *, parameters: int) -> AggregationSpec:
        """Return the same bounds with an encoding, and the norm bound that suits it."""
        bound = encoding.norm_bound(parameters + (self.adaptive is not None))
        return replace(self, encoding=encoding, norm_bound=bound)


@dataclass(frozen=True, kw_only=True)
class TreeNoiseSpec:
    """Noise that the releases of a task share, for training without assumptions on who takes part.

    Attributes
    ----------
    min_separation : int
        Fewest rounds from one participation of a device to its next, kept by the device itself.
    """

    min_separation: int = 1

    def __post_init__(self) -> None:
        _require(1 <= self.min_separation <= 1_000_000, "min_separation must be 1 to 1,000,000")


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacySpec:
    """How much noise a release carries, and how much may be learnt over the task's whole life.

    Attributes
    ----------
    noise_multiplier : float
        Standard deviation of the noise, divided by ``AggregationSpec.norm_bound``.
    epsilon : float
        Budget against someone who sees only the released models.
    delta : float
        Its delta.
    tree : TreeNoiseSpec or None
        None gives each release noise of its own. With a tree, ``noise_multiplier`` is that of each
        node, nothing is amplified by sampling, and round numbers end at ``max_rounds``; see
        :mod:`pocketfl.tree_noise`.
    """

    noise_multiplier: float
    epsilon: float
    delta: float
    tree: TreeNoiseSpec | None = None

    def __post_init__(self) -> None:
        _require(0.01 <= self.noise_multiplier <= 1000, "noise_multiplier must be 0.01 to 1000")
        _require(0 < self.epsilon <= 1000, "epsilon must be above 0 and at most 1000")
        _require(0 < self.delta < 0.01, "delta must be above 0 and below 0.01")


@dataclass(frozen=True, kw_only=True)
class BudgetSpec:
    """One account for every task whose plan names it: training, statistics and metrics together.

    Attributes
    ----------
    name : str
        The account's; plans that share it have to agree on all of this.
    epsilon, delta : float
        What all releases of all its tasks may come to together, against someone who sees them all.
    unit : {"device", "device-day"}
        Whose data the account protects: all of a device's, or its log of one day. Only plans that ask
        for nothing but a day's log, and so touch each day once, have the unit ``device-day``.
    """

    name: str
    epsilon: float
    delta: float
    unit: BudgetUnit = "device"

    def __post_init__(self) -> None:
        _require(bool(_NAME.match(self.name)), f"{self.name[:140]!r} is not the name of a budget")
        _require(0 < self.epsilon <= 1000, "epsilon must be above 0 and at most 1000")
        _require(0 < self.delta < 0.01, "delta must be above 0 and below 0.01")


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
        _require(1 <= self.min_examples <= 1_000_000, "min_examples must be 1 to 1,000,000")
        _require(
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
        _require(bool(_PART_NAME.match(self.name)), f"{self.name!r} is not a part name")
        _require(bool(_HEX_DIGEST.match(self.sha256)), f"{self.name}: sha256 is not 64 hex digits")
        _require(
            0 < self.size <= MAX_PART_BYTES, f"{self.name}: {self.size} bytes is out of bounds"
        )


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
            _require(
                len(set(kinds)) == len(kinds) and "float32" in kinds,
                "the ways to predict need 'float32', and each precision once at most",
            )
            (plain,) = (way for way in self.inference if way.precision == "float32")
            _require(
                plain.part == self.predict, f"the part of 'float32' has to be {self.predict!r}"
            )
        _require(
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
        _require(
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
            _require(
                self.kind == "training" and not any(newer),
                "a plan of schema 1 trains, and has no queries, no shared budget, no encoding, one "
                "clip norm, synchronous rounds and no acceptance",
            )
            _require(
                all(runtime.inference is None for runtime in self.runtimes.values()),
                "a plan of schema 1 has one way to predict",
            )
            plain = self.training is None or self.training == replace(
                self.training, clipping=None, optimizer=None
            )
            _require(
                plain and (self.model is None or self.model.random_numbers is None),
                "a plan of schema 1 trains by plain SGD without dropout",
            )
            _require(
                self.model is None or self.model.storage is None,
                "a plan of schema 1 stores float32",
            )
        for label, text in (("name", self.name), ("version", self.version)):
            _require(
                bool(_NAME.match(text)), f"{label} {text!r} needs letters, digits, '.', '_', '-'"
            )
        _require(
            (self.dp is None) == (self.privacy == "none"),
            "dp bounds go with privacy 'gaussian', and only with it",
        )
        _require(
            self.dp is None or self.dp.tree is None or self.kind == "training",
            "a tree's noise is for training: other tasks are released once",
        )
        _require(
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
            _require(
                (value is not None) == wanted,
                f"a plan of kind {kind!r} {'needs' if wanted else 'has no'} {what}",
            )
        made, taken = set(self.features.tensor_names), set[str]()
        if self.model is not None:
            taken = {tensor.name for tensor in self.model.inputs}
            _require(self.features.label is not None, f"a plan of kind {kind!r} needs a label")
        _require(
            made == taken,
            f"features make the tensors {sorted(made)}, the model takes {sorted(taken)}",
        )
        self._check_balancing()
        if self.queries is not None:
            _require(
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
        _require(
            size is not None,
            f"balancing corrects the output {balancing.output!r}, the model has {sorted(sizes)}",
        )
        _require(
            size == balancing.classes or (size == 1 and balancing.classes == 2),
            f"balancing of {balancing.classes} classes cannot correct output {balancing.output!r}, "
            f"which has {size} numbers per example",
        )

    def _check_parts(self) -> None:
        sizes = {part.name: part.size for part in self.parts}
        _require(len(sizes) == len(self.parts), "two parts have the same name")
        least = 0 if self.model is None else 1
        _require(
            least <= len(sizes) <= MAX_PARTS,
            f"a plan of kind {self.kind!r} has {least} to {MAX_PARTS} parts",
        )
        if self.model is not None:
            part, expected = self.model.parameters_part, self.model.parameter_bytes
            _require(self.kind != "training" or part in sizes, f"the part {part} is missing")
            size = sizes.get(part, expected)
            _require(size == expected, f"{part} has {size} bytes, not {expected}")
        for name, runtime in self.runtimes.items():
            _require(name in RUNTIME_NAMES, f"unknown runtime {name!r}; known: {RUNTIME_NAMES}")
            needed = [runtime.evaluate, runtime.predict]
            needed += [way.part for way in runtime.inference or ()]
            if runtime.train is not None:
                needed.append(runtime.train)
            _require(
                (runtime.train is not None) == (self.kind == "training"),
                f"runtime {name}: a part to train goes with the kind 'training', and only with it",
            )
            for part in needed:
                _require(part in sizes, f"runtime {name}: the part {part!r} is missing")

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        _require(self.dp is not None, "a shared budget goes with privacy 'gaussian'")
        _require(
            self.is_daily == (self.queries is not None and self.queries.daily),
            "the unit 'device-day' goes with queries of the kind 'funnel' alone, and they with it",
        )

    def _check_encoding(self) -> None:
        encoding = self.aggregation.encoding
        if encoding is None:
            return
        _require(
            self.kind == "training", "an encoding goes with a plan that trains, and only with it"
        )
        least, most = encoding.norm_bounds(self.summed_length)
        _require(
            least <= self.aggregation.norm_bound <= most,
            f"norm_bound must be {least} to {most} for {self.summed_length} coordinates of "
            f"{encoding.bits} bits, not {self.aggregation.norm_bound}; AggregationSpec.encoded() "
            "chooses one",
        )

    def _check_adaptive(self) -> None:
        if self.aggregation.adaptive is None:
            return
        _require(
            self.kind == "training",
            "a clip norm that adapts goes with a plan that trains: the norm of queries is known",
        )
        _require(
            self.dp is None or self.dp.tree is None,
            "releases that share a tree's noise need one clip norm for all",
        )

    def _check_asynchronous(self) -> None:
        if self.aggregation.asynchronous is None:
            return
        _require(self.kind == "training", "asynchronous rounds go with a plan that trains")
        _require(
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
