"""How examples become tensors, as data in the plan: one definition for training and inference.

A :class:`FeatureSpec` names the collection it reads, the server-side table it joins, and for each of
the model's inputs a list of columns; every column makes one or more numbers per example. Ranges and
vocabularies are public knowledge that the modeller writes down, or were learned from the fleet by
private queries (:mod:`pocketfl.features.bundle`); never statistics of pooled data.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pocketfl.balancing.spec import Balancing
from pocketfl.checks import require

MAX_VOCABULARY: Final = 100_000
MAX_COLUMNS: Final = 4096

Source = Literal["device", "server"]

_BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """A field that the plan reads from a collection or table.

    Attributes
    ----------
    name : str
        Field name.
    type : {"float", "int", "bool", "str", "tensor"}
        What the app declared.
    optional : bool
        Whether the value may be missing (``None``).
    shape : tuple of int or None
        For a tensor: its shape. Tensors hold float32.
    """

    name: str
    type: Literal["float", "int", "bool", "str", "tensor"]
    optional: bool = False
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require(0 < len(self.name) <= 128, "a field needs a name of 1 to 128 characters")
        require((self.type == "tensor") == (self.shape is not None), "a tensor field has a shape")
        if self.shape is not None:
            require(len(self.shape) <= 8 and all(0 < n <= 10**6 for n in self.shape), "bad shape")
            require(math.prod(self.shape) <= 10**7, f"field {self.name!r} is too large")


@dataclass(frozen=True, kw_only=True)
class ServerTable:
    """Server-side features of the user, joined on the device.

    A row joins an example when its ``key`` equals the example's ``key_field``; of several, the latest
    whose ``valid_from`` is not after the example's own time. A row that is older than ``max_age`` at
    that time joins nothing: what it says may not hold any more.

    Attributes
    ----------
    name : str
        Table at the back end.
    key_field : str
        Field of the example that holds the key.
    fields : tuple of FieldSpec
        What a row holds.
    required : bool
        Whether an example without a matching row is left out of training, and refused at inference;
        else its fields are missing, and every column says what it makes of that.
    max_age : float or None
        Staleness bound: most seconds between a row's ``valid_from`` and the example's time.
    """

    name: str
    key_field: str
    fields: tuple[FieldSpec, ...]
    required: bool = True
    max_age: float | None = None

    def __post_init__(self) -> None:
        require(
            self.max_age is None or (self.max_age > 0 and math.isfinite(self.max_age)),
            f"server table {self.name!r}: max_age must be above 0, in seconds",
        )


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """The field as it is: a number, or a tensor flattened unless it is its input's only column."""

    kind: Literal["tensor"] = "tensor"
    field: str
    source: Source = "device"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Clamp to ``[low, high]`` and map to ``[-1, 1]``; a missing value becomes ``missing``."""

    kind: Literal["scale"] = "scale"
    field: str
    low: float
    high: float
    missing: float = 0.0
    source: Source = "device"

    def __post_init__(self) -> None:
        require(
            self.low < self.high and math.isfinite(self.high - self.low),
            f"scale of {self.field!r}: low must be below high, and both finite",
        )
        _check_missing(f"scale of {self.field!r}", self.missing)


@dataclass(frozen=True, kw_only=True)
class Standardise:
    """Subtract ``mean``, divide by ``deviation`` and clamp to ``[-limit, limit]``.

    A missing value becomes ``missing``.
    """

    kind: Literal["standardise"] = "standardise"
    field: str
    mean: float
    deviation: float
    limit: float = 3.0
    missing: float = 0.0
    source: Source = "device"

    def __post_init__(self) -> None:
        what = f"standardise of {self.field!r}"
        require(math.isfinite(self.mean), f"{what}: mean must be finite")
        require(
            self.deviation > 0 and math.isfinite(self.deviation),
            f"{what}: deviation must be above 0, and finite",
        )
        require(0 < self.limit <= 100, f"{what}: limit must be above 0, and at most 100")
        _check_missing(what, self.missing)


@dataclass(frozen=True, kw_only=True)
class LogScale:
    """Natural logarithm of ``1 + x`` for ``x`` clamped to ``[0, high]``, mapped to ``[-1, 1]``."""

    kind: Literal["log_scale"] = "log_scale"
    field: str
    high: float
    missing: float = 0.0
    source: Source = "device"

    def __post_init__(self) -> None:
        require(
            self.high > 0 and math.isfinite(self.high),
            f"log_scale of {self.field!r}: high must be above 0, and finite",
        )
        _check_missing(f"log_scale of {self.field!r}", self.missing)


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """One column per word of a public vocabulary, plus one for other and missing values."""

    kind: Literal["one_hot"] = "one_hot"
    field: str
    vocabulary: tuple[str | int, ...]
    source: Source = "device"

    def __post_init__(self) -> None:
        _check_vocabulary(self.field, self.vocabulary)


@dataclass(frozen=True, kw_only=True)
class Index:
    """Position in a public vocabulary as int64, ``len(vocabulary)`` for other and missing values.

    For embeddings: every column of such an input is an ``index``.
    """

    kind: Literal["index"] = "index"
    field: str
    vocabulary: tuple[str | int, ...]
    source: Source = "device"

    def __post_init__(self) -> None:
        _check_vocabulary(self.field, self.vocabulary)


@dataclass(frozen=True, kw_only=True)
class Cyclic:
    """Sine and cosine of a quantity that wraps around at ``period``; zeros when missing."""

    kind: Literal["cyclic"] = "cyclic"
    field: str
    period: float
    source: Source = "device"

    def __post_init__(self) -> None:
        require(
            self.period > 0 and math.isfinite(self.period),
            f"cyclic of {self.field!r}: period must be above 0, and finite",
        )


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """One-hot of the interval between rising public boundaries, plus a column for missing.

    ``n`` boundaries make ``n + 1`` intervals; a value that equals a boundary lies above it.
    """

    kind: Literal["buckets"] = "buckets"
    field: str
    boundaries: tuple[float, ...]
    source: Source = "device"

    def __post_init__(self) -> None:
        pairs = zip(self.boundaries, self.boundaries[1:], strict=False)
        require(
            0 < len(self.boundaries) <= 1000
            and all(map(math.isfinite, self.boundaries))
            and all(a < b for a, b in pairs),
            f"buckets of {self.field!r}: 1 to 1000 finite boundaries that rise",
        )


@dataclass(frozen=True, kw_only=True)
class IsMissing:
    """1 when the field is missing, else 0."""

    kind: Literal["is_missing"] = "is_missing"
    field: str
    source: Source = "device"


Transform: TypeAlias = (
    Tensor | Scale | Standardise | LogScale | OneHot | Index | Cyclic | Buckets | IsMissing
)


def _check_missing(what: str, value: float) -> None:
    # The transform's own range, so that no stand-in can outweigh every real value.
    require(-1 <= value <= 1, f"{what}: missing must be between -1 and 1")


def _check_vocabulary(field: str, vocabulary: tuple[str | int, ...]) -> None:
    require(
        0 < len(vocabulary) <= MAX_VOCABULARY and len(set(vocabulary)) == len(vocabulary),
        f"vocabulary of {field!r}: 1 to {MAX_VOCABULARY} different words",
    )


@dataclass(frozen=True, kw_only=True)
class LabelSpec:
    """How the target comes from a field.

    Attributes
    ----------
    field : str
        Field of the device's own collection.
    above : float or None
        If given, the target is 1 where the field is above it, else 0.
    vocabulary : tuple or None
        If given, the target is the position in it; an example with another value is left out.
    balancing : Balancing or None
        What each class counts in training; taken back out of the model's scores at inference.
    """

    field: str
    above: float | None = None
    vocabulary: tuple[str | int, ...] | None = None
    balancing: Balancing | None = None

    def __post_init__(self) -> None:
        require(
            self.above is None or self.vocabulary is None,
            "a label has 'above' or 'vocabulary', not both",
        )
        if self.vocabulary is not None:
            _check_vocabulary(self.field, self.vocabulary)
        if self.balancing is not None and (self.vocabulary is not None or self.above is not None):
            classes = 2 if self.vocabulary is None else len(self.vocabulary)
            require(
                self.balancing.classes == classes,
                f"label {self.field!r} has {classes} classes, its balancing "
                f"{self.balancing.classes}",
            )


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The columns of one model input, side by side along its last axis."""

    tensor: str
    columns: tuple[Transform, ...]

    def __post_init__(self) -> None:
        require(0 < len(self.columns) <= MAX_COLUMNS, f"input {self.tensor!r} needs columns")
        kinds = {isinstance(column, Index) for column in self.columns}
        require(len(kinds) == 1, f"input {self.tensor!r} mixes 'index' with other columns")


@dataclass(frozen=True, kw_only=True)
class BundleReference:
    """Which transform bundle a plan's numbers come from; see :mod:`pocketfl.features.bundle`.

    Attributes
    ----------
    name, version : str
        The modeller's.
    sha256 : str
        Of the bundle's JSON, in hex.
    """

    name: str
    version: str
    sha256: str

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("version", self.version)):
            require(
                bool(_BUNDLE_NAME.match(text)),
                f"the {what} of a bundle, {text[:70]!r}, needs 1 to 64 letters, digits, '.', '_', '-'",
            )
        require(bool(_HEX_DIGEST.match(self.sha256)), "a bundle's sha256 has 64 hex digits")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything between a device's examples and the model's batch.

    Attributes
    ----------
    collection : str
        Collection of the example store.
    fields : tuple of FieldSpec
        Fields read from it; the device refuses the plan if its collection lacks one.
    inputs : tuple of InputSpec
        One per input of the model; none where there is no model.
    label : LabelSpec or None
        Where the target comes from; None where there is no model.
    server_table : ServerTable or None
        Server-side features to join.
    bundle : BundleReference or None
        Where the numbers of scaled columns come from, if they were learned.
    """

    collection: str
    fields: tuple[FieldSpec, ...]
    inputs: tuple[InputSpec, ...] = ()
    label: LabelSpec | None = None
    server_table: ServerTable | None = None
    bundle: BundleReference | None = None

    def __post_init__(self) -> None:
        device = {f.name for f in self.fields}
        server = {f.name for f in self.server_table.fields} if self.server_table else set()
        require(len(device) == len(self.fields), "two fields have the same name")
        for spec in self.inputs:
            for column in spec.columns:
                known = device if column.source == "device" else server
                require(
                    column.field in known,
                    f"input {spec.tensor!r} reads the {column.source} field {column.field!r}, "
                    "which is not declared",
                )
        if self.label is not None:
            require(self.label.field in device, f"label field {self.label.field!r} is not declared")
            self._check_balancing(self.label)
        if self.server_table is not None:
            require(
                self.server_table.key_field in device,
                f"key field {self.server_table.key_field!r} is not declared",
            )
        names = self.tensor_names
        require(len(set(names)) == len(names), "two inputs make the same tensor")

    def _check_balancing(self, label: LabelSpec) -> None:
        if label.balancing is None or label.above is not None or label.vocabulary is not None:
            return
        # A field that already is the class: only of these types is it a whole number.
        kind = next(field.type for field in self.fields if field.name == label.field)
        require(
            kind in ("bool", "int"),
            f"label {label.field!r} is a number, and balancing needs classes: give 'above' or a "
            "vocabulary",
        )

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the model inputs that the spec makes."""
        return tuple(spec.tensor for spec in self.inputs)
