"""An export as a file: what ``pocketfl export plan.toml`` reads."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pocketfl.decoding import decode
from pocketfl.encoding import EncodingSpec
from pocketfl.errors import DecodeError
from pocketfl.features.transforms import FeatureSpec
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.plan.aggregation import AggregationSpec, DifferentialPrivacySpec
from pocketfl.plan.card import ModelCard
from pocketfl.plan.manifest import EligibilitySpec, Privacy
from pocketfl.plan.storage import Storage
from pocketfl.plan.training import TrainingSpec
from pocketfl_export.errors import ExportError

_LARGEST_FILE: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class ExportConfiguration:
    """What a configuration file says; tables have the fields of the records that they name.

    Attributes
    ----------
    model : str
        ``module:factory`` that returns (model, loss, example inputs, example target).
    name, version : str
        Of the plan.
    key : str
        File of the modeller's private key.
    out : str
        File of the plan.
    privacy : {"gaussian", "none"}
        As in :func:`pocketfl_export.export_plan`.
    aggregation, dp, training, eligibility, acceptance, encoding : table
        Likewise.
    features : table or None
        Likewise.
    features_from : str or None
        ``module:NAME`` of a ``FeatureSpec``, instead of the table.
    runtimes, inference : list of str
        Likewise.
    batch_size : int or None
        Likewise.
    storage : {"float32", "float16"}
        Likewise.
    fix : bool
        Apply the stated rewrites to the model first.
    card : table or None
        As in :func:`pocketfl_export.export_plan`.
    """

    model: str
    name: str
    version: str
    key: str
    out: str
    privacy: Privacy = "gaussian"
    aggregation: AggregationSpec
    dp: DifferentialPrivacySpec | None = None
    training: TrainingSpec = dataclasses.field(default_factory=TrainingSpec)
    eligibility: EligibilitySpec = dataclasses.field(default_factory=EligibilitySpec)
    acceptance: AcceptanceSpec | None = None
    encoding: EncodingSpec | None = None
    features: FeatureSpec | None = None
    features_from: str | None = None
    runtimes: tuple[str, ...] = ("onnxruntime", "executorch")
    inference: tuple[str, ...] = ("float32",)
    batch_size: int | None = None
    storage: Storage = "float32"
    fix: bool = False
    card: ModelCard | None = None

    def __post_init__(self) -> None:
        if self.features is not None and self.features_from is not None:
            raise ValueError("give features or features_from, not both")

    def feature_spec(self) -> FeatureSpec | None:
        """Return the features of either kind.

        Raises
        ------
        ExportError
            If ``features_from`` names something else.
        """
        if self.features_from is None:
            return self.features
        found = import_named(self.features_from)
        if not isinstance(found, FeatureSpec):
            raise ExportError(f"{self.features_from} is {type(found).__name__}, not a FeatureSpec")
        return found


def read_configuration(path: Path) -> ExportConfiguration:
    """Read a TOML file; its paths are relative to the current folder, as on the command line.

    Raises
    ------
    ExportError
        Naming the file and the entry that is wrong.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ExportError(f"{path} is larger than any configuration")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not TOML: {error}") from None
    try:
        return decode(ExportConfiguration, _plain(values), what=str(path))
    except DecodeError as error:
        raise ExportError(str(error)) from None


def _plain(value: Any) -> Any:
    """Turn TOML's values into JSON's: a date has no place in a plan and stays to be refused."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def import_named(name: str) -> object:
    """Return what ``module:name`` names; the current folder is searched too.

    Raises
    ------
    ExportError
        If there is no such module, or nothing of that name in it.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ExportError(f"{name!r} is not MODULE:NAME, such as mymodels:make_mlp")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ExportError(f"cannot import {module_name!r}: {error}") from error
    if not hasattr(module, attribute):
        raise ExportError(f"{module_name!r} has no {attribute!r}")
    found: object = getattr(module, attribute)
    return found
