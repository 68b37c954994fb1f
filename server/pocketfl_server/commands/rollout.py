"""``pocketfl rollout``: decide which version a fleet predicts with; make, sign, publish, roll back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, RolloutError
from pocketfl.plan import load_signing_key
from pocketfl.plan.signing import parse_public_keys
from pocketfl.protocol import ROLLOUT_LIMIT
from pocketfl.rollout import Channel, Rollout, RolloutModel, load_rollout, read_signed
from pocketfl_server.commands.connection import DEFAULT_URL, CaFile, KeyFile, Url, connect

if TYPE_CHECKING:
    from pocketfl_server.operator_client import OperatorClient
    from pocketfl_server.records import RolloutRecord

app = typer.Typer(
    name="rollout", help="Decide which version a fleet predicts with.", no_args_is_help=True
)

TaskName = Annotated[str, typer.Argument(help="Name of the task.")]
SigningKey = Annotated[
    Path, typer.Option("--key", help="Private key (PEM) of whoever may roll out models.")
]
FromTask = Annotated[
    str | None,
    typer.Option(help="Take the versions of another task, such as one of a newer plan."),
]


@app.command()
def make(
    task: TaskName,
    *,
    stable: Annotated[int, typer.Option(help="Version for everybody who is in no channel.")],
    canary: Annotated[
        int | None, typer.Option(help="Version for the channel 'canary', and for --percent.")
    ] = None,
    percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of all devices that get the canary.")
    ] = 0.0,
    canary_task: FromTask = None,
    stable_task: FromTask = None,
    minimum_plan_version: Annotated[
        str | None, typer.Option(help="Plans below this are neither used nor trained.")
    ] = None,
    salt: Annotated[str, typer.Option(help="With another one, other devices are the first.")] = "",
    out: Annotated[Path, typer.Option(help="Where the unsigned document goes.")],
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Write an unsigned document with the next number, after the versions that the back end has."""
    if percent and canary is None:
        raise typer.BadParameter("--percent goes with --canary VERSION")
    with connect(url, operator_key_file, ca_file) as operator:
        channels: tuple[Channel, ...] = ()
        if canary is not None:
            model = _model(operator, task, canary, of=canary_task)
            channels = (Channel(name="canary", share=percent / 100, model=model),)
        rollout = _rollout(
            task=task,
            sequence=_next_sequence(operator, task),
            stable=_model(operator, task, stable, of=stable_task),
            channels=channels,
            minimum_plan_version=minimum_plan_version,
            salt=salt,
        )
    out.write_bytes(encode_json(rollout) + b"\n")
    typer.echo(f"{out}: {_describe(rollout)}")


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="What 'make' wrote.")],
    *,
    key: SigningKey,
    out: Annotated[Path, typer.Option(help="Where the signed document goes.")],
) -> None:
    """Sign a document, on a machine that holds the key; needs no network."""
    try:
        data = _read(file).rstrip(b"\n")
        rollout = decode_json(Rollout, data, what=str(file), limit=ROLLOUT_LIMIT)
    except DecodeError as error:
        raise RolloutError(str(error)) from None
    out.write_bytes(rollout.sign(load_signing_key(key)))
    typer.echo(f"{out}: signed {_describe(rollout)}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A signed document.")],
    *,
    key: Annotated[
        str | None,
        typer.Option(help="Public key to trust, 64 hex digits; else who signed is said."),
    ] = None,
) -> None:
    """Check a signed document and say what it means; exit status 1 if anything is wrong."""
    data = _read(file)
    signer, rollout = read_signed(data)
    if key is not None:
        rollout = load_rollout(data, trusted_keys=parse_public_keys([key]))
    typer.echo(f"{file}: {_describe(rollout)}, signed by {signer}")


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="A signed document.")],
    *,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Have the back end announce a signed document; devices obey it from their next look on."""
    data = _read(file)
    _, rollout = read_signed(data)
    with connect(url, operator_key_file, ca_file) as operator:
        _say(operator.publish_rollout(rollout.task, data))


@app.command()
def back(
    task: TaskName,
    *,
    to: Annotated[int, typer.Option(help="Version that every device goes back to.")],
    of_task: FromTask = None,
    key: SigningKey,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Roll every device back to a version, at its next look and without asking its examples."""
    with connect(url, operator_key_file, ca_file) as operator:
        before = operator.rollouts(task)
        rollout = _rollout(
            task=task,
            sequence=_next_sequence(operator, task),
            stable=_model(operator, task, to, of=of_task),
            minimum_plan_version=before[-1].rollout.minimum_plan_version if before else None,
            rolls_back=True,
        )
        _say(operator.publish_rollout(task, rollout.sign(load_signing_key(key))))


@app.command()
def stop(
    task: TaskName,
    *,
    reason: Annotated[str, typer.Option(help="A few words for apps to show.")],
    key: SigningKey,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Throw the kill switch: no version of the model is used or trained, until the next document."""
    with connect(url, operator_key_file, ca_file) as operator:
        rollout = _rollout(task=task, sequence=_next_sequence(operator, task), stopped=reason)
        _say(operator.publish_rollout(task, rollout.sign(load_signing_key(key))))


@app.command()
def show(
    task: TaskName,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print every document as JSON.")] = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print the documents of a task, oldest first; the last one holds."""
    with connect(url, operator_key_file, ca_file) as operator:
        records = operator.rollouts(task)
    for record in records:
        if as_json:
            typer.echo(encode_json(record).decode())
        else:
            moment = datetime.fromtimestamp(record.published_at, tz=UTC)
            typer.echo(f"{moment:%Y-%m-%d %H:%M} UTC  {_describe(record.rollout)}")
    if not records and not as_json:
        typer.echo(f"{task} has no rollout: devices predict with what rounds bring")


def _next_sequence(operator: OperatorClient, task: str) -> int:
    records = operator.rollouts(task)
    return records[-1].rollout.sequence + 1 if records else 1


def _model(
    operator: OperatorClient, task: str, version: int, *, of: str | None = None
) -> RolloutModel:
    trained_by = of or task
    return RolloutModel(
        version=version,
        task=None if trained_by == task else trained_by,
        plan_sha256=operator.task(trained_by).plan_sha256,
        parameters_sha256=operator.model(trained_by, version).parameters_sha256,
    )


def _rollout(
    *,
    task: str,
    sequence: int,
    stable: RolloutModel | None = None,
    channels: tuple[Channel, ...] = (),
    minimum_plan_version: str | None = None,
    stopped: str | None = None,
    rolls_back: bool = False,
    salt: str = "",
) -> Rollout:
    try:
        return Rollout(
            task=task,
            sequence=sequence,
            stable=stable,
            channels=channels,
            minimum_plan_version=minimum_plan_version,
            stopped=stopped,
            rolls_back=rolls_back,
            salt=salt,
        )
    except ValueError as error:
        raise RolloutError(str(error)) from None


def _describe(rollout: Rollout) -> str:
    said = [f"rollout {rollout.sequence} of {rollout.task}"]
    if rollout.stopped is not None:
        said.append(f"stopped ({rollout.stopped})")
    if rollout.stable is not None:
        said.append(f"{_named(rollout.stable)} for everybody" + (" at once" * rollout.rolls_back))
    said += [
        f"{_named(channel.model)} for {channel.name} and {channel.share:.4g} of the others"
        for channel in rollout.channels
    ]
    if rollout.minimum_plan_version is not None:
        said.append(f"plans from {rollout.minimum_plan_version} on")
    return ", ".join(said)


def _named(model: RolloutModel) -> str:
    return f"version {model.version}" + ("" if model.task is None else f" of {model.task}")


def _say(record: RolloutRecord) -> None:
    typer.echo(f"published {_describe(record.rollout)}")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(ROLLOUT_LIMIT + 1)
    except OSError as error:
        raise RolloutError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > ROLLOUT_LIMIT:
        raise RolloutError(f"{file} is larger than the {ROLLOUT_LIMIT} bytes of a rollout")
    return data
