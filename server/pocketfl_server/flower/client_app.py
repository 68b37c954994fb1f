"""What a SuperNode does for the shard that it fronts."""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pocketfl.decoding import decode_json
from pocketfl.protocol import MESSAGE_LIMIT, AggregatorKey
from pocketfl_server.flower.places import Place
from pocketfl_server.trusted.messages import encode_partial_message

app = ClientApp()


def place_of(context: Context) -> Place:
    """Return the shard of a node: its own file, or in a simulation the one of its number."""
    own = context.node_config.get("shard")
    if own is not None:
        return Place.read(str(own))
    files = sorted(Path(str(context.run_config["shards"])).glob("*.toml"))
    return Place.read(files[int(context.node_config["partition-id"])])


@app.query("partial_sum")
def partial_sum(message: Message, context: Context) -> Message:
    """Close the shard's round and have its sum sealed to the root; Flower cannot read it."""
    asked = message.content["round"]
    task, number = str(asked["task"]), int(asked["round"])
    root = decode_json(AggregatorKey, asked["root"], what="the root's key", limit=MESSAGE_LIMIT)
    place = place_of(context)
    with place.operator() as operator, place.trusted() as trusted:
        operator.close_round(task, number)
        partial = trusted.hand_over(task, number, int(asked["model_version"]), root)
    sealed = ConfigRecord({"partial_sum": encode_partial_message(partial)})
    return Message(RecordDict({"sealed": sealed}), reply_to=message)
