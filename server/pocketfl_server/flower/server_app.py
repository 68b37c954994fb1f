"""Orchestrates a round over shards: it sees sealed sums only, and the root releases."""

from __future__ import annotations

import logging

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from pocketfl.decoding import encode_json
from pocketfl.errors import DecodeError
from pocketfl.protocol import AggregatorKey
from pocketfl_server.flower.places import Place
from pocketfl_server.trusted.messages import TrustedTierError, decode_partial_message

logger = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Collect the partial sums of a round that is open at the root, and close it there.

    A shard that does not answer in time costs its devices' reports, and nothing else.
    """
    settings = context.run_config
    task, number = str(settings["task"]), int(settings["round"])
    root = Place.read(str(settings["root"]))
    with root.operator() as operator, root.trusted() as trusted:
        version = operator.round(task, number).model_version
        key = trusted.describe(task).key
        attested = AggregatorKey(
            key_id=key.key_id, public_key=key.public_key, attestation=trusted.attest(task)
        )
        asked = ConfigRecord(
            {
                "task": task,
                "round": number,
                "model_version": version,
                "root": encode_json(attested),
            }
        )
        messages = [
            Message(
                RecordDict({"round": asked}), dst_node_id=node, message_type="query.partial_sum"
            )
            for node in grid.get_node_ids()
        ]
        replies = grid.send_and_receive(messages, timeout=float(settings["timeout"]))
        for reply in replies:
            if reply.has_error():
                logger.warning("a shard is lost for this round: %s", reply.error)
                continue
            try:
                sealed = reply.content["sealed"]["partial_sum"]
                trusted.accept_partial_sum(decode_partial_message(sealed))
            except (KeyError, DecodeError, TrustedTierError) as error:
                logger.warning("a shard's partial sum is refused: %s", error)
        result = operator.close_round(task, number)
    logger.info("round %d of %s: %s, version %s", number, task, result.state, result.new_version)
