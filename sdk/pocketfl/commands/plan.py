"""``pocketfl plan``: make a modeller's key, look into a plan, verify one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pocketfl.commands.card import print_card
from pocketfl.decoding import encode
from pocketfl.errors import PlanError
from pocketfl.plan import (
    Manifest,
    Plan,
    generate_signing_key,
    load_signing_key,
    public_key_hex,
    save_signing_key,
)
from pocketfl.plan.archive import read_signer
from pocketfl.plan.card import read_card
from pocketfl.plan.comparison import compare_plans
from pocketfl.reports import report_size

app = typer.Typer(help="Look into signed plans.", no_args_is_help=True)

_KeyOption = Annotated[
    list[str],
    typer.Option("--key", "-k", help="Public key to trust: 64 hex digits, or a file with them."),
]


@app.command()
def keygen(path: Annotated[Path, typer.Argument(help="Where the private key goes (PEM).")]) -> None:
    """Make a signing key; prints its public half."""
    key = generate_signing_key()
    try:
        save_signing_key(key, path)
    except FileExistsError:
        raise PlanError(f"{path} exists; a signing key is never overwritten") from None
    typer.echo(public_key_hex(key))


@app.command()
def public(path: Annotated[Path, typer.Argument(help="A private key (PEM).")]) -> None:
    """Print the public half of a signing key."""
    typer.echo(public_key_hex(load_signing_key(path)))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The plan.")],
    key: _KeyOption,
) -> None:
    """Check signature, manifest and the hash of every part; exit status 1 if anything is wrong."""
    plan = Plan.load(file, trusted_keys=_read_keys(key))
    for part in plan.manifest.parts:
        plan.part(part.name)
    plan.initial_parameters()
    typer.echo(
        f"{file}: plan {plan.manifest.name} {plan.manifest.version}, "
        f"{len(plan.manifest.parts)} parts, signed by {plan.signed_by}, sha256 {plan.sha256}"
    )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="The plan.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", "-k", help="Key to trust; without it the signer is not judged."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print manifest and card as JSON.")
    ] = False,
) -> None:
    """Print what a plan says. Its signature is always checked; by whom it was made, only with a key."""
    trusted = _read_keys(key) if key else [read_signer(file)]
    plan = Plan.load(file, trusted_keys=trusted)
    card = read_card(plan)
    if as_json:
        said = {**encode(plan.manifest), **({} if card is None else {"card": encode(card)})}
        typer.echo(json.dumps(said, indent=2, sort_keys=True))
        return
    console = Console()
    console.print(_overview(plan, judged=bool(key)))
    console.print(_parts(plan.manifest))
    if card is None:
        console.print("no model card: the plan says nothing about costs and operators")
    else:
        print_card(card, console=console)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A plan.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON.")] = False,
) -> None:
    """Show what differs between two plans: every field of the manifest, parts, initial parameters."""
    old, new = (Plan.load(file, trusted_keys=[read_signer(file)]) for file in (before, after))
    changes = compare_plans(old, new)
    if as_json:
        typer.echo(json.dumps([change.to_json() for change in changes], indent=2))
        return
    if not changes:
        typer.echo("the two plans are the same")
        return
    table = Table("what", "before", "after")
    for change in changes:
        table.add_row(change.what, change.shown(change.before), change.shown(change.after))
    Console().print(table)


def _read_keys(keys: list[str]) -> list[str]:
    resolved = []
    for key in keys:
        path = Path(key)
        is_file = len(key) != 64 and path.is_file()
        resolved.append(path.read_text().strip() if is_file else key)
    return resolved


def _overview(plan: Plan, *, judged: bool) -> Table:
    manifest = plan.manifest
    aggregation = manifest.aggregation
    table = Table(title=f"plan {manifest.name} {manifest.version}", show_header=False)
    if manifest.dp is None:
        privacy = "none: no differential privacy"
    else:
        privacy = (
            f"gaussian, noise multiplier {manifest.dp.noise_multiplier:g}, budget epsilon "
            f"{manifest.dp.epsilon:g} at delta {manifest.dp.delta:g}"
        )
    rows = {
        "sha256": plan.sha256,
        "signed by": plan.signed_by + ("" if judged else "  (not judged: give --key)"),
        "privacy": privacy,
        "policy": manifest.policy_hash,
        **_shared_budget(manifest),
        "kind": manifest.kind,
        **_model(manifest),
        **_training(manifest),
        **_queries(manifest),
        "report": f"clip norm {aggregation.clip_norm:g}, {aggregation.norm_bound} grid units, "
        f"{manifest.report_bits} bits a coordinate, {report_size(manifest):,} bytes sealed",
        "rounds": f"at most {aggregation.max_rounds}, each device in at most "
        f"{aggregation.max_participations} with probability {aggregation.sampling_probability:g}, "
        f"floor {aggregation.cohort_floor} reports",
        "examples": f"collection {manifest.features.collection!r}, at least "
        f"{manifest.eligibility.min_examples}",
        "conditions": ", ".join(manifest.eligibility.conditions.describe()) or "none",
        "runtimes": ", ".join(
            f"{name} >= {spec.minimum_version}" for name, spec in manifest.runtimes.items()
        )
        or "none",
    }
    for label, text in rows.items():
        table.add_row(label, text)
    return table


def _shared_budget(manifest: Manifest) -> dict[str, str]:
    budget = manifest.budget
    if budget is None:
        return {}
    return {
        "shared budget": f"{budget.name}: epsilon {budget.epsilon:g} at delta {budget.delta:g} for one "
        f"{budget.unit}"
    }


def _model(manifest: Manifest) -> dict[str, str]:
    model = manifest.model
    if model is None:
        return {}
    return {
        "model": f"{model.parameter_count:,} parameters in {len(model.parameters)} tensors, "
        f"stored as {model.stored_as}, batch {model.batch_size}",
        "inputs": ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in model.inputs),
        "outputs": ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in model.outputs),
    }


def _training(manifest: Manifest) -> dict[str, str]:
    training = manifest.training
    if training is None:
        return {}
    return {
        "training": f"{training.epochs} epoch(s), at most {training.max_examples} examples, learning "
        f"rate {training.learning_rate:g}"
    }


def _queries(manifest: Manifest) -> dict[str, str]:
    if manifest.queries is None:
        return {}
    return {
        f"query {query.name}": f"{query.kind}, {query.length:,} coordinates, share {query.share:.4g}"
        for query in manifest.queries.queries
    }


def _parts(manifest: Manifest) -> Table:
    table = Table("part", "bytes", "sha256")
    for part in manifest.parts:
        table.add_row(part.name, f"{part.size:,}", part.sha256)
    return table
