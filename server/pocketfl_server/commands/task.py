"""``pocketfl task``: create, start, pause, stop and show the tasks of a back end."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketfl.decoding import encode_json
from pocketfl.errors import PocketFLError
from pocketfl_server.commands.connection import DEFAULT_URL, CaFile, KeyFile, Url, connect

if TYPE_CHECKING:
    from pocketfl_server.optimizers import OptimizerSpec
    from pocketfl_server.records import Concurrency

app = typer.Typer(name="task", help="Work with the tasks of a back end.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the task.")]
OptionalName = Annotated[str | None, typer.Argument(help="Name of the task.")]
EveryTask = Annotated[bool, typer.Option("--all", help="Every task of this back end.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


class OptimizerKind(StrEnum):
    """Of the server."""

    sgd = "sgd"
    adam = "adam"


class TaskCommandError(PocketFLError):
    """The command asks for something that the task does not have."""


@app.command()
def create(
    name: Name,
    plan: Annotated[Path, typer.Option(help="The signed plan.", exists=True, dir_okay=False)],
    *,
    optimizer: Annotated[
        OptimizerKind | None, typer.Option(help="The server's; for a plan that trains.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the server; 1 with sgd is averaging.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="For sgd.")] = None,
    seed_model: Annotated[
        str | None, typer.Option(metavar="TASK:VERSION", help="Start from this task's model.")
    ] = None,
    selection_size: Annotated[
        int | None, typer.Option(help="Asynchronous rounds: devices that train at once.")
    ] = None,
    open_slots: Annotated[
        int | None, typer.Option(help="Free places before devices are let in again.")
    ] = None,
    reports_per_release: Annotated[
        int | None, typer.Option(help="Reports that make a release.")
    ] = None,
    rounds_per_token: Annotated[
        int | None,
        typer.Option(
            help="Rounds in a row for one of which an anonymous token is good; by default the plan's "
            "separation."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Upload a plan and make a task of it; the same again changes nothing."""
    concurrency = _concurrency(selection_size, open_slots, reports_per_release)
    spec = _optimizer(optimizer, learning_rate=learning_rate, momentum=momentum)
    with connect(url, operator_key_file, ca_file) as operator:
        record = operator.create_task(
            name,
            plan.read_bytes(),
            optimizer=spec,
            seed_model=_seed(seed_model),
            concurrency=concurrency,
            rounds_per_token=rounds_per_token,
        )
    typer.echo(f"task {record.name}: {record.kind}, privacy {record.privacy}, {record.state}")


@app.command("list")
def list_tasks(
    *,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """List all tasks."""
    with connect(url, operator_key_file, ca_file) as operator:
        tasks = operator.tasks()
    if as_json:
        typer.echo(encode_json(tasks).decode())
        return
    for task in tasks:
        typer.echo(f"{task.name}  {task.kind}  {task.state}  version {task.latest_version}")


@app.command()
def show(
    name: Name,
    *,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Show where a task stands and what happens next: state, rounds, counts and spent privacy."""
    from pocketfl_server.what_next import moment, schedule_line, what_next

    with connect(url, operator_key_file, ca_file) as operator:
        task = operator.task(name)
        rounds = operator.rounds(name)
        funnels = {r.round: operator.funnel(name, r.round) for r in rounds[-5:]}
        privacy = operator.privacy(name)
        pauses = [p for p in operator.pauses() if p.task in (None, name)]
        schedule = operator.schedule(name)
    if as_json:
        everything: dict[str, Any] = {
            "task": task,
            "rounds": rounds,
            "funnels": list(funnels.values()),
            "privacy": privacy,
            "pauses": pauses,
            "schedule": schedule,
        }
        typer.echo(
            "{"
            + ", ".join(f'"{k}": {encode_json(v).decode()}' for k, v in everything.items())
            + "}"
        )
        return
    ended = f" ({task.finished_reason})" if task.finished_reason else ""
    typer.echo(f"task {task.name}: {task.kind}, {task.state}{ended}")
    typer.echo(f"model version {task.latest_version}, privacy {task.privacy}")
    if said := schedule_line(schedule):
        typer.echo(said)
    typer.echo(f"next: {what_next(schedule)}")
    spent = privacy.spent
    if spent.epsilon is not None:
        planned = privacy.planned.epsilon
        bound = "" if planned is None else f" of {planned:.2f} in {spent.max_rounds} rounds"
        typer.echo(f"epsilon {spent.epsilon:.2f}{bound}, at delta {spent.delta:g}")
    for pause in pauses:
        whom = "every task" if pause.task is None else "this task"
        typer.echo(f"paused ({whom}): {pause.reason}")
    for result in rounds[-5:]:
        funnel = funnels[result.round]
        accepted = "-" if funnel.accepted is None else funnel.accepted
        reason = f" ({result.reason})" if result.reason else ""
        typer.echo(
            f"round {result.round}: {result.state}{reason}, until {moment(result.closes_at)}; "
            f"{funnel.checked_in} checked in, {funnel.uploaded} reports, {accepted} accepted"
        )


@app.command()
def start(
    name: Name,
    *,
    round_seconds: Annotated[float, typer.Option(help="How long a round is open.")] = 3600.0,
    pause_seconds: Annotated[
        float, typer.Option(help="From the end of a round to the next one's opening.")
    ] = 0.0,
    rounds: Annotated[
        int | None, typer.Option(help="Open so many; else as many as plan and budget allow.")
    ] = None,
    hours: Annotated[
        str | None,
        typer.Option(metavar="HH:MM-HH:MM", help="Rounds open and close within, each day in UTC."),
    ] = None,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Open the task's rounds, one after the other, until it is stopped or its budget is spent.

    The same command again changes nothing; with other options it replaces what was said before.
    """
    from pocketfl_server.records import Schedule
    from pocketfl_server.what_next import what_next

    try:
        schedule = Schedule(
            round_seconds=round_seconds, pause_seconds=pause_seconds, rounds=rounds, hours=hours
        )
    except ValueError as error:
        raise TaskCommandError(str(error)) from None
    with connect(url, operator_key_file, ca_file) as operator:
        record = operator.start(name, schedule)
    typer.echo(what_next(record))


@app.command()
def stop(
    name: Name,
    *,
    abort: Annotated[
        bool, typer.Option("--abort", help="Throw the round's reports away instead.")
    ] = False,
    keep_round: Annotated[
        bool, typer.Option("--keep-round", help="Let the round go on to its deadline.")
    ] = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Open no further round, and end the one under way: release what has come, from the floor on."""
    from pocketfl_server.what_next import what_next

    if abort and keep_round:
        raise typer.BadParameter("--abort and --keep-round exclude one another")
    with connect(url, operator_key_file, ca_file) as operator:
        was = operator.schedule(name)
        record = operator.stop(name)
        if record.round is None and was.state != "running":
            raise TaskCommandError(f"task {name!r} is not started and has no round under way")
        if keep_round or record.round is None:
            typer.echo(what_next(record))
            return
        end = operator.abort_round if abort else operator.close_round
        result = end(name, record.round)
    reason = f" ({result.reason})" if result.reason else ""
    version = "" if result.new_version is None else f", model version {result.new_version}"
    typer.echo(f"round {result.round}: {result.state}{reason}{version}")


@app.command()
def pause(
    name: OptionalName = None,
    *,
    every_task: EveryTask = False,
    reason: Annotated[str, typer.Option(help="A few words that devices show their users.")],
    min_seconds: Annotated[
        float, typer.Option(help="Devices look again no earlier than after this.")
    ] = 1800.0,
    max_seconds: Annotated[float, typer.Option(help="And no later than after this.")] = 5400.0,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Keep devices away from a task, or from all, until it is resumed.

    Devices that ask from now on begin no session; reports under way are still taken. Abort the task's
    round as well if they shall not be.
    """
    which = _which(name, every_task=every_task)
    with connect(url, operator_key_file, ca_file) as operator:
        operator.pause(which, reason=reason, min_seconds=min_seconds, max_seconds=max_seconds)
    typer.echo(f"paused {which or 'every task'}")


@app.command()
def resume(
    name: OptionalName = None,
    *,
    every_task: EveryTask = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """End a pause: of a task its own, with --all that of all tasks; prints what is still paused."""
    which = _which(name, every_task=every_task)
    with connect(url, operator_key_file, ca_file) as operator:
        still = operator.resume(which)
    typer.echo(f"resumed {which or 'every task'}")
    for record in still:
        typer.echo(f"still paused: {record.task or 'every task'} ({record.reason})")


@app.command()
def results(
    name: Annotated[str, typer.Argument(help="Name of a task that asks queries.")],
    *,
    round_number: Annotated[
        int | None, typer.Option("--round", help="Of which round; the last one by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every value as JSON.")] = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print what a fleet answered: the released sums of a task that asks queries."""
    from pocketfl_server.analytics.printing import print_result

    with connect(url, operator_key_file, ca_file) as operator:
        if round_number is None:
            known = operator.results(name)
            if not known:
                raise TaskCommandError(
                    f"task {name!r} has no result yet: close a round of it first"
                )
            round_number = known[-1].round
        result = operator.result(name, round_number)
    if as_json:
        typer.echo(encode_json(result).decode())
    else:
        print_result(result)


def _optimizer(
    kind: OptimizerKind | None, *, learning_rate: float | None, momentum: float | None
) -> OptimizerSpec | None:
    from pocketfl_server.optimizers import OptimizerSpec

    if kind is None:
        if learning_rate is not None or momentum is not None:
            raise typer.BadParameter("--learning-rate and --momentum go with --optimizer")
        return None
    if learning_rate is None:
        raise typer.BadParameter("--optimizer needs --learning-rate")
    settings: dict[str, Any] = {"kind": kind.value, "learning_rate": learning_rate}
    if momentum is not None:
        settings["momentum"] = momentum
    try:
        return OptimizerSpec(**settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _concurrency(
    selection_size: int | None, open_slots: int | None, reports_per_release: int | None
) -> Concurrency | None:
    from pocketfl_server.records import Concurrency

    if selection_size is None and open_slots is None and reports_per_release is None:
        return None
    if selection_size is None or open_slots is None or reports_per_release is None:
        raise TaskCommandError(
            "asynchronous rounds need all of --selection-size, --open-slots, --reports-per-release"
        )
    try:
        return Concurrency(
            selection_size=selection_size,
            open_slots=open_slots,
            reports_per_release=reports_per_release,
        )
    except ValueError as error:
        raise TaskCommandError(str(error)) from None


def _seed(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    task, _, version = text.rpartition(":")
    if not task or not version.isdecimal():
        raise typer.BadParameter(f"--seed-model is TASK:VERSION, not {text!r}")
    return task, int(version)


def _which(task: str | None, *, every_task: bool) -> str | None:
    if (task is None) is not every_task:
        raise typer.BadParameter("name a task, or say --all")
    return task
