"""The signed archive in which a modeller ships everything tunable: graphs, weights, rules."""

from pocketfl.encoding import EncodingSpec
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.plan.adaptive_clipping import AdaptiveClippingSpec
from pocketfl.plan.aggregation import (
    AggregationSpec,
    BudgetSpec,
    DifferentialPrivacySpec,
    TreeNoiseSpec,
)
from pocketfl.plan.archive import Plan, build_plan, write_plan
from pocketfl.plan.asynchronous import AsynchronousSpec
from pocketfl.plan.card import ModelCard
from pocketfl.plan.inference import InferenceSpec
from pocketfl.plan.manifest import EligibilitySpec, Manifest, PartSpec, RuntimeSpec
from pocketfl.plan.models import ModelSpec, ParameterSpec, TensorSpec
from pocketfl.plan.signing import (
    generate_signing_key,
    load_signing_key,
    public_key_hex,
    save_signing_key,
)
from pocketfl.plan.training import LocalOptimizerSpec, TrainingSpec

__all__ = [
    "AcceptanceSpec",
    "AdaptiveClippingSpec",
    "AggregationSpec",
    "AsynchronousSpec",
    "BudgetSpec",
    "DifferentialPrivacySpec",
    "EligibilitySpec",
    "EncodingSpec",
    "InferenceSpec",
    "LocalOptimizerSpec",
    "Manifest",
    "ModelCard",
    "ModelSpec",
    "ParameterSpec",
    "PartSpec",
    "Plan",
    "RuntimeSpec",
    "TensorSpec",
    "TrainingSpec",
    "TreeNoiseSpec",
    "build_plan",
    "generate_signing_key",
    "load_signing_key",
    "public_key_hex",
    "save_signing_key",
    "write_plan",
]
