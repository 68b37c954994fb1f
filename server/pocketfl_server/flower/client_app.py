"""What a SuperNode does for the shard that it fronts."""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pocketfl.decoding import decode_json, encode_json
from pocketfl.protocol import MESSAGE_LIMIT, AggregatorKey
from pocketfl_server.flower.places import Place
from pocketfl_server.trusted.messages import decode_sealed_release, encode_partial_message

app = ClientApp()


def place_of(context: Context) -> Place:
    """Return the shard of a node: its own file, or in a simulation the one of its number."""
    own = context.node_config.get("shard")
    if own is not None:
        return Place.read(str(own))
    files = sorted(Path(str(context.run_config["shards"])).glob("*.toml"))
    return Place.read(files[int(context.node_config["partition-id"])])


@app.query("standing")
def standing(message: Message, context: Context) -> Message:
    """Say which model version the shard has, and show the key that releases are sealed to."""
    task = str(message.content["asked"]["task"])
    place = place_of(context)
    with place.operator() as operator, place.trusted() as trusted:
        answer = ConfigRecord(
            {
                "model_version": operator.task(task).latest_version,
                "key": encode_json(place.attested_key(trusted, task)),
            }
        )
    return Message(RecordDict({"standing": answer}), reply_to=message)


@app.query("advance")
def advance(message: Message, context: Context) -> Message:
    """Take the root's releases into the shard's model, then open the round that begins there."""
    asked = message.content["asked"]
    task, number = str(asked["task"]), int(asked["round"])
    place = place_of(context)
    with place.operator() as operator, place.trusted() as trusted:
        for name in sorted(name for name in asked if name.startswith("release-")):
            release = decode_sealed_release(bytes(asked[name]))
            trusted.adopt(release)
            operator.adopt_release(task, release.round)
        under_way = [result for result in operator.rounds(task) if result.ended_at is None]
        for result in under_way:
            if result.round != number:
                operator.abort_round(task, result.round)
        if number and number not in {result.round for result in under_way}:
            operator.open_round(task, seconds=float(asked["seconds"]), number=number)
        version = operator.task(task).latest_version
    answer = ConfigRecord({"model_version": version})
    return Message(RecordDict({"standing": answer}), reply_to=message)


@app.query("partial_sum")
def partial_sum(message: Message, context: Context) -> Message:
    """Close the shard's round and have its sum sealed to the root; Flower cannot read it."""
    asked = message.content["asked"]
    task, number = str(asked["task"]), int(asked["round"])
    root = decode_json(AggregatorKey, asked["root"], what="the root's key", limit=MESSAGE_LIMIT)
    place = place_of(context)
    with place.operator() as operator, place.trusted() as trusted:
        operator.close_round(task, number)
        partial = trusted.hand_over(task, number, int(asked["model_version"]), root)
    sealed = ConfigRecord({"partial_sum": encode_partial_message(partial)})
    return Message(RecordDict({"sealed": sealed}), reply_to=message)
