"""Verified plans and opened runtimes, shared by the devices of one process.

Verifying a plan and loading its graphs take far longer than a round's other work. An app has one device
and never notices; a fleet of devices in one process does all of it once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

from pocketfl.features.pipeline import FeaturePipeline
from pocketfl.plan import Plan
from pocketfl.queries.reading import QueryReader
from pocketfl.runtimes import Runtime, open_runtime


class OpenPlan:
    """A verified plan with what is worked out from it once.

    Attributes
    ----------
    plan : Plan
        The plan.
    manifest_sha256 : str
        Its identity whatever archive it came in: SHA-256 (hex) of the signed manifest.
    policy_hash : str
        ``Manifest.policy_hash``.
    pipeline : FeaturePipeline
        From examples to batches.
    query_reader : QueryReader or None
        From examples to what queries look at, where the plan asks any.
    balancing : Balancing or None
        What the model's scores are corrected for.
    """

    def __init__(self, plan: Plan, *, idle_runtimes: int) -> None:
        self.plan: Final = plan
        self.manifest_sha256: Final = sha256(plan.manifest.to_json()).hexdigest()
        self.policy_hash: Final = plan.manifest.policy_hash
        self.pipeline: Final = FeaturePipeline(plan.manifest.features, model=plan.manifest.model)
        self.query_reader: Final = (
            None
            if plan.manifest.queries is None
            else QueryReader(plan.manifest.features, plan.manifest.queries)
        )
        label = plan.manifest.features.label
        self.balancing: Final = None if label is None else label.balancing
        self._idle_runtimes = idle_runtimes
        self._lock = threading.Lock()
        self._idle: dict[str, list[Runtime]] = {}
        self._closed = False

    @contextmanager
    def runtime(self, name: str) -> Iterator[Runtime]:
        """Borrow a runtime; nobody else uses it meanwhile, and its parameters are the last user's.

        Raises
        ------
        RuntimeUnavailableError
            If it is not installed, or the plan has no parts for it.
        """
        with self._lock:
            idle = self._idle.setdefault(name, [])
            runtime = idle.pop() if idle else None
        if runtime is None:
            runtime = open_runtime(self.plan, name)
        try:
            yield runtime
        except BaseException:
            # Whatever went wrong may have left it half-way through something.
            runtime.close()
            raise
        with self._lock:
            if not self._closed and len(idle) < self._idle_runtimes:
                idle.append(runtime)
                return
        runtime.close()

    def close(self) -> None:
        """Close idle runtimes; borrowed ones are closed when they come back."""
        with self._lock:
            self._closed = True
            runtimes = [runtime for idle in self._idle.values() for runtime in idle]
            self._idle.clear()
        for runtime in runtimes:
            runtime.close()


class PlanCache:
    """Plans that were verified, by hash and by the keys they were verified against.

    Parameters
    ----------
    plans : int
        Most plans kept; the least recently used goes first.
    idle_runtimes : int
        Most idle runtimes kept per plan and runtime name.
    """

    def __init__(self, *, plans: int = 8, idle_runtimes: int = 2) -> None:
        self._limit = plans
        self._idle_runtimes = idle_runtimes
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[str, frozenset[bytes]], OpenPlan] = OrderedDict()

    def find(self, sha256: str, *, trusted_keys: frozenset[bytes]) -> OpenPlan | None:
        """Return a plan that was loaded under the same keys, or None."""
        with self._lock:
            found = self._plans.get((sha256, trusted_keys))
            if found is not None:
                self._plans.move_to_end((sha256, trusted_keys))
            return found

    def load(self, data: bytes, *, trusted_keys: frozenset[bytes]) -> OpenPlan:
        """Verify a plan and keep it.

        Parameters
        ----------
        data : bytes
            The archive.
        trusted_keys : frozenset of bytes
            Raw Ed25519 public keys.

        Raises
        ------
        PlanError
            If it is not a plan that these keys vouch for.
        FeatureError
            If its features do not make what its model takes.
        """
        opened = OpenPlan(
            Plan.load(data, trusted_keys=trusted_keys), idle_runtimes=self._idle_runtimes
        )
        key = (opened.plan.sha256, trusted_keys)
        with self._lock:
            # Another thread may have been quicker: its runtimes are the ones in use.
            kept = self._plans.setdefault(key, opened)
            self._plans.move_to_end(key)
            evicted = [
                self._plans.popitem(last=False)[1]
                for _ in range(max(0, len(self._plans) - self._limit))
            ]
        for plan in evicted:
            plan.close()
        return kept

    def close(self) -> None:
        """Close all plans."""
        with self._lock:
            plans = list(self._plans.values())
            self._plans.clear()
        for plan in plans:
            plan.close()
