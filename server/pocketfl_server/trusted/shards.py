"""Trusted tiers that sum for one another: shards hand partial sums over, the root releases the whole.

A shard never releases by itself, so that one budget pays once, at the root, where noise is added once
and the floor holds for the total. A shard that is lost costs its devices' reports and nothing else: the
root releases what it has.
"""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketfl.errors import AggregatorRefusedError, DecodeError, SealingError
from pocketfl.plan import Manifest
from pocketfl.protocol import AggregatorKey, check_identifier
from pocketfl.sealing import AggregatorVerifier
from pocketfl_server.trusted.forwarding import ReleaseContext, open_release, seal_release
from pocketfl_server.trusted.ledger import Ledger
from pocketfl_server.trusted.messages import (
    SealedPartialSum,
    SealedRelease,
    decode_partial_message,
    encode_partial_message,
)
from pocketfl_server.trusted.partial_sums import (
    PartialSumContext,
    decode_partial_sum,
    encode_partial_sum,
    open_partial_sum,
    seal_partial_sum,
)
from pocketfl_server.trusted.refusals import Conflict, MalformedRequest, PeerRefused
from pocketfl_server.trusted.shard_ledger import ShardLedger, ShardTakenError
from pocketfl_server.trusted.summing import PartialSum, require_room
from pocketfl_server.trusted.task_state import TaskState


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """What a trusted tier is among several.

    Attributes
    ----------
    role : {"root", "shard"}
        Who releases, and who hands over to it.
    name : str
        Of the shard, in its partial sums; the root's is for logs only.
    peers : AggregatorVerifier
        Decides which keys are those of trusted tiers; the same as in an app that trusts them.
    """

    role: Literal["root", "shard"]
    name: str
    peers: AggregatorVerifier

    def __post_init__(self) -> None:
        check_identifier(self.name, what="shard")


class Shards:
    """Seals what goes to the root, and opens what comes from shards.

    Parameters
    ----------
    sharding : Sharding
        What this tier is.
    ledger : Ledger
        Where it remembers.
    """

    def __init__(self, sharding: Sharding, ledger: Ledger) -> None:
        self.sharding = sharding
        self._ledger = ShardLedger(ledger)

    def handed_over(
        self, state: TaskState, round: int, model_version: int, root: AggregatorKey
    ) -> SealedPartialSum | None:
        """Return what was handed over before for a round, to this root.

        Raises
        ------
        Conflict
            If it was for another root or from another model version.
        """
        kept = self._ledger.handed_over(state.task, round)
        if kept is None:
            return None
        if kept[:2] != (model_version, root.key_id):
            raise Conflict(
                f"task {state.task!r}: round {round} has been handed over to another root or from "
                "another model version",
                code="round_handed_over",
            )
        return decode_partial_message(kept[2])

    def require_shard(self, manifest: Manifest) -> None:
        """Refuse to hand over where there is nothing to hand over to, or the plan cannot be split."""
        if self.sharding.role != "shard":
            raise Conflict("this trusted tier is no shard", code="not_a_shard")
        aggregation = manifest.aggregation
        if aggregation.adaptive is not None or aggregation.asynchronous is not None:
            raise Conflict(
                "a clip norm that follows the fleet, and which reports came too late, are known to the "
                "root alone: such a plan cannot be split into shards",
                code="plan_not_for_shards",
            )

    def hand_over(
        self,
        state: TaskState,
        round: int,
        model_version: int,
        part: PartialSum,
        *,
        root: AggregatorKey,
        own: AggregatorKey,
    ) -> SealedPartialSum:
        """Seal a round's sum to the root and end the round here, in one transaction.

        Raises
        ------
        PeerRefused
            If nothing vouches for the root's key.
        """
        raw = self._verify(root, state)
        context = self._context(
            state, round, model_version, root=root, shard=own, name=self.sharding.name
        )
        sealed = seal_partial_sum(
            encode_partial_sum(part),
            root_key=raw,
            shard_private_key=state.private_key,
            context=context,
        )
        message = SealedPartialSum(
            shard=self.sharding.name,
            task=state.task,
            round=round,
            model_version=model_version,
            key=own,
            sealed=sealed,
        )
        self._ledger.hand_over(
            state.task,
            round,
            model_version=model_version,
            root_key_id=root.key_id,
            message=encode_partial_message(message),
        )
        return message

    def accept(self, state: TaskState, partial: SealedPartialSum) -> None:
        """Check a partial sum and keep it for the release; the same one again changes nothing.

        Raises
        ------
        PeerRefused
            If nothing vouches for the shard's key.
        MalformedRequest
            If it does not open under its shard, round, task and model version, or is no sum of reports.
        Conflict
            If another one of the shard or its key is on record.
        """
        if self.sharding.role != "root":
            raise Conflict("this trusted tier is a shard itself", code="not_the_root")
        self._verify(partial.key, state)
        self._open(state, partial)
        try:
            self._ledger.add(
                state.task,
                partial.round,
                model_version=partial.model_version,
                shard=partial.shard,
                key_id=partial.key.key_id,
                message=encode_partial_message(partial),
            )
        except ShardTakenError as error:
            raise Conflict(
                f"task {state.task!r}, round {partial.round}: {error}; the first is kept",
                code="other_partial_sum",
            ) from None

    def add_to(self, whole: PartialSum, state: TaskState, round: int, model_version: int) -> None:
        """Add all partial sums of a round that came in."""
        bound = state.manifest.aggregation.norm_bound
        for message in self._ledger.partial_sums(state.task, round):
            partial = decode_partial_message(message)
            if partial.model_version != model_version:
                raise Conflict(
                    f"task {state.task!r}: shard {partial.shard!r} summed round {round} from model "
                    f"version {partial.model_version}, not {model_version}",
                    code="other_model_version",
                )
            part = self._open(state, partial)
            require_room(whole.accepted + part.accepted, bound)
            whole.add(part)

    def forward(
        self,
        state: TaskState,
        round: int,
        model_version: int,
        release: bytes,
        *,
        shard: AggregatorKey,
        own: AggregatorKey,
    ) -> SealedRelease:
        """Seal a release of the root to a shard.

        Raises
        ------
        PeerRefused
            If nothing vouches for the shard's key.
        """
        raw = self._verify(shard, state)
        context = ReleaseContext(
            root_key_id=own.key_id,
            shard_key_id=shard.key_id,
            policy_hash=state.key.policy_hash,
            plan_sha256=state.key.plan_sha256,
            task=state.task,
            round=round,
            model_version=model_version,
        )
        return seal_release(
            release, context=context, shard_key=raw, private_key=state.private_key, own=own
        )

    def adopt(self, state: TaskState, message: SealedRelease) -> None:
        """Check a release of the root and keep it, and end its round here; repeating changes nothing.

        Raises
        ------
        PeerRefused
            If nothing vouches for the root's key.
        MalformedRequest
            If it does not open as what it says it is.
        """
        self.require_shard(state.manifest)
        data, _ = open_release(
            message,
            verify=lambda key: self._verify(key, state),
            private_key=state.private_key,
            shard_key_id=state.key.key_id,
            policy_hash=state.key.policy_hash,
            plan_sha256=state.key.plan_sha256,
        )
        self._ledger.adopt(state.task, message.round, release=data)

    def adopted(self, task: str, round: int) -> bytes | None:
        """Return the root's release of a round, if it was adopted."""
        return self._ledger.adopted(task, round)

    def forget(self, task: str, round: int) -> None:
        """Delete the partial sums of a round that is over, and of those before it."""
        self._ledger.forget(task, round)

    def _verify(self, key: AggregatorKey, state: TaskState) -> bytes:
        try:
            return self.sharding.peers.verify(
                key, policy_hash=state.key.policy_hash, plan_sha256=state.key.plan_sha256
            )
        except AggregatorRefusedError as error:
            raise PeerRefused(f"the other trusted tier is refused: {error}") from None

    def _open(self, state: TaskState, partial: SealedPartialSum) -> PartialSum:
        own = AggregatorKey(key_id=state.key.key_id, public_key=state.key.public_key)
        context = self._context(
            state,
            partial.round,
            partial.model_version,
            root=own,
            shard=partial.key,
            name=partial.shard,
        )
        manifest = state.manifest
        try:
            plaintext = open_partial_sum(
                partial.sealed,
                root_private_key=state.private_key,
                shard_key=bytes.fromhex(partial.key.public_key),
                context=context,
            )
            return decode_partial_sum(
                plaintext,
                length=manifest.report_length,
                norm_bound=manifest.aggregation.norm_bound,
                most_reports=2 * manifest.aggregation.population,
            )
        except (SealingError, DecodeError) as error:
            raise MalformedRequest(str(error), code="partial_sum_refused") from None

    @staticmethod
    def _context(
        state: TaskState,
        round: int,
        model_version: int,
        *,
        root: AggregatorKey,
        shard: AggregatorKey,
        name: str,
    ) -> PartialSumContext:
        return PartialSumContext(
            root_key_id=root.key_id,
            shard_key_id=shard.key_id,
            shard=name,
            policy_hash=state.key.policy_hash,
            plan_sha256=state.key.plan_sha256,
            task=state.task,
            round=round,
            model_version=model_version,
        )
