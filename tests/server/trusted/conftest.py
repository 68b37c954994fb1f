"""Real plans, real keys and reports sealed as a device seals them."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.server.tiny_plan import tiny_plan

from pocketfl.plan import (
    AggregationSpec,
    BudgetSpec,
    DifferentialPrivacySpec,
    Plan,
    generate_signing_key,
    public_key_hex,
)
from pocketfl.plan.aggregation import TreeNoiseSpec
from pocketfl.reports import encode_vector
from pocketfl.sealing import ReportContext, seal
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.messages import KeyDescription, SealedEntry

SIGNING_KEY = generate_signing_key()


def build(
    *,
    parameters: int = 3,
    privacy: str = "gaussian",
    noise_multiplier: float = 1.0,
    epsilon: float = 50.0,
    delta: float = 1e-5,
    tree: TreeNoiseSpec | None = None,
    name: str = "tiny",
    signing_key: Ed25519PrivateKey = SIGNING_KEY,
    budget: BudgetSpec | None = None,
    **aggregation: object,
) -> Plan:
    """A signed plan of a model with so many parameters; keywords go to its AggregationSpec."""
    spec = {
        "clip_norm": 0.5,
        "norm_bound": 1000,
        "population": 20,
        "cohort_floor": 3,
        "max_rounds": 10,
        "max_participations": 10,
        **aggregation,
    }
    return tiny_plan(
        parameters=parameters,
        name=name,
        signing_key=signing_key,
        aggregation=AggregationSpec(**spec),
        dp=None
        if privacy == "none"
        else DifferentialPrivacySpec(
            noise_multiplier=noise_multiplier, epsilon=epsilon, delta=delta, tree=tree
        ),
        budget=budget,
    )


def seal_vector(
    values: np.ndarray | list[int],
    *,
    key: KeyDescription,
    lease: str,
    task: str = "clicks",
    round: int = 1,
    model_version: int = 0,
    bits: int = 16,
    **changes: object,
) -> SealedEntry:
    """Seal a vector for a task, round and lease; keywords change the context it is sealed for."""
    context = ReportContext(
        key_id=key.key_id,
        policy_hash=key.policy_hash,
        plan_sha256=key.plan_sha256,
        task=task,
        round=round,
        model_version=model_version,
        lease=lease,
    )
    context = dataclasses.replace(context, **changes)
    plaintext = encode_vector(np.asarray(values, dtype=np.int16), bits=bits)
    sealed = seal(bytes.fromhex(key.public_key), info=context.info(), plaintext=plaintext)
    return SealedEntry(lease=lease, sealed=sealed)


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """Builds signed plans."""
    return build


@pytest.fixture(scope="session")
def plan_keys() -> list[str]:
    """The modeller's public key."""
    return [public_key_hex(SIGNING_KEY)]


@pytest.fixture(scope="session")
def sealed_vector() -> Callable[..., SealedEntry]:
    """Seals one vector."""
    return seal_vector


@pytest.fixture
def aggregator(tmp_path: Path, plan_keys: list[str]) -> Iterator[Aggregator]:
    """An aggregator on a ledger of its own."""
    with Aggregator(tmp_path / "ledger.sqlite", plan_keys=plan_keys) as tier:
        yield tier
