"""Orchestrates rounds over shards: it sees sealed sums and releases, and the root alone releases."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.protocol import MESSAGE_LIMIT, AggregatorKey
from pocketfl_server.flower.places import Place
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.trusted.client import HttpTrustedTier
from pocketfl_server.trusted.messages import decode_partial_message, encode_sealed_release
from pocketfl_server.trusted.refusals import TrustedTierError

logger = logging.getLogger(__name__)

Order: TypeAlias = dict[str, str | int | float | bytes]
"""What a node is asked to do."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds: open each at the root and every shard, wait, collect the sums, close at the root.

    A round that is open already when this begins is the first, and is collected at once: so a run that
    was cut off goes on. A shard that does not answer in time costs its devices' reports, and nothing
    else; it takes the releases that it missed when it is back.
    """
    settings = context.run_config
    place = Place.read(str(settings["root"]))
    with place.operator() as operator, place.trusted() as trusted:
        run = _Run(
            grid=grid,
            operator=operator,
            trusted=trusted,
            place=place,
            task=str(settings["task"]),
            seconds=float(settings["round-seconds"]),
            timeout=float(settings["timeout"]),
        )
        for _ in range(int(settings["rounds"])):
            if operator.task(run.task).state != "active":
                break
            run.one_round()
        run.advance(0)


@dataclass(kw_only=True)
class _Run:
    """One run of the app."""

    grid: Grid
    operator: OperatorClient
    trusted: HttpTrustedTier
    place: Place
    task: str
    seconds: float
    timeout: float

    def one_round(self) -> None:
        under_way = [r.round for r in self.operator.rounds(self.task) if r.ended_at is None]
        if under_way:
            number = under_way[-1]
            self.advance(number)
        else:
            # The root's round outlasts the shards', whose sums have to come in before it closes.
            lasts = self.seconds + 3 * self.timeout + 60
            number = self.operator.open_round(self.task, seconds=lasts).round
            self.advance(number)
            time.sleep(self.seconds)
        self._collect(number)
        result = self.operator.close_round(self.task, number)
        logger.info(
            "round %d of %s: %s, version %s", number, self.task, result.state, result.new_version
        )

    def advance(self, number: int) -> None:
        """Bring each shard to the root's model, and open a round there unless its number is 0."""
        latest = self.operator.task(self.task).latest_version
        made = {model.version: model.round for model in self.operator.models(self.task)}
        asked: dict[int, Order] = {node: {"task": self.task} for node in self.grid.get_node_ids()}
        orders: dict[int, Order] = {}
        for node, answer in self._ask("standing", asked).items():
            try:
                standing = answer["standing"]
                raw = bytes(standing["key"])
                key = decode_json(AggregatorKey, raw, what="the shard's key", limit=MESSAGE_LIMIT)
                order: Order = {
                    "task": self.task,
                    "round": number,
                    "seconds": self.seconds,
                }
                for version in range(int(standing["model_version"]) + 1, latest + 1):
                    round_number = made[version]
                    if round_number is None:
                        continue
                    sealed = self.trusted.forward(self.task, round_number, version - 1, key)
                    order[f"release-{version:010d}"] = encode_sealed_release(sealed)
                orders[node] = order
            except (KeyError, DecodeError, TrustedTierError) as error:
                logger.warning("a shard is left out of round %d: %s", number, error)
        self._ask("advance", orders)

    def _collect(self, number: int) -> None:
        """Give the root the partial sums of the shards that answer."""
        version = self.operator.round(self.task, number).model_version
        root = encode_json(self.place.attested_key(self.trusted, self.task))
        order: Order = {
            "task": self.task,
            "round": number,
            "model_version": version,
            "root": root,
        }
        answers = self._ask("partial_sum", dict.fromkeys(self.grid.get_node_ids(), order))
        for answer in answers.values():
            try:
                sealed = answer["sealed"]["partial_sum"]
                self.trusted.accept_partial_sum(decode_partial_message(sealed))
            except (KeyError, DecodeError, TrustedTierError) as error:
                logger.warning("a shard's partial sum is refused: %s", error)

    def _ask(self, what: str, asked: Mapping[int, Order]) -> dict[int, RecordDict]:
        """Ask nodes something each; returns the answers of those that gave one, by node."""
        messages = [
            Message(
                RecordDict({"asked": ConfigRecord(dict(order))}),
                dst_node_id=node,
                message_type=f"query.{what}",
            )
            for node, order in asked.items()
        ]
        if not messages:
            return {}
        answers = {}
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout):
            if reply.has_error():
                logger.warning("a shard did not answer %r: %s", what, reply.error)
            else:
                answers[reply.metadata.src_node_id] = reply.content
        return answers
