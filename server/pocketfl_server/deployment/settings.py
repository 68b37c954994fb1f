"""The one file that ``pocketfl serve`` reads: strict TOML, with secrets in files or the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pocketfl.errors import PlanError, PocketFLError
from pocketfl.plan.signing import parse_public_keys

SECRET_VARIABLES: Final = {
    "operator_key": "POCKETFL_OPERATOR_KEY",
    "enrolment_key": "POCKETFL_ENROLMENT_KEY",
    "trusted_token": "POCKETFL_TRUSTED_TOKEN",
}
DATABASE_VARIABLE: Final = "POCKETFL_DATABASE_URL"
"""Overrides ``back_end.database``: a password does not belong into a file of settings."""
_SQLITE: Final = "sqlite:///"


class SettingsError(PocketFLError):
    """The file cannot be used; the message names the place and what is wrong there."""


class _Table(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A table of the file."""


class Tls(_Table, frozen=True, kw_only=True):
    """A certificate for HTTPS; see ``docs/serve.md``.

    Attributes
    ----------
    certificate, key : str
        PEM files: the certificate with its chain, and its private key.
    """

    certificate: str
    key: str


class BackEndSettings(_Table, frozen=True, kw_only=True):
    """The back end, which devices and operators talk to.

    Attributes
    ----------
    database : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://...``; ``POCKETFL_DATABASE_URL`` overrides it.
    host, port : str, int
        Where to listen; port 0 is any free one.
    gateways : int
        Processes that answer; more than one need PostgreSQL.
    trusted_url : str or None
        Where the trusted tier is, unless the same file starts it.
    trusted_ca : str or None
        PEM file with the authority that signed the trusted tier's certificate, unless the system
        knows it.
    anonymous_only : bool
        Take nothing but anonymous single-use tokens at check-in.
    arrivals_per_second : float
        Devices that are turned away come back at this rate.
    operator_key_file, enrolment_key_file : str or None
        Files with the secrets, or the variables of :data:`SECRET_VARIABLES`.
    tls : Tls or None
        Speak HTTPS.
    traces_endpoint : str or None
        Where OpenTelemetry's traces of requests go (OTLP over HTTP); by default nowhere.
    url_file : str or None
        Where the URL is written once connections are accepted.
    """

    database: str = "sqlite:///pocketfl.db"
    host: str = "127.0.0.1"
    port: int = 8000
    gateways: int = 1
    trusted_url: str | None = None
    trusted_ca: str | None = None
    anonymous_only: bool = False
    arrivals_per_second: float = 100.0
    operator_key_file: str | None = None
    enrolment_key_file: str | None = None
    tls: Tls | None = None
    traces_endpoint: str | None = None
    url_file: str | None = None


class AttestationTable(_Table, frozen=True, kw_only=True):
    """Who vouches for the trusted tier; see ``docs/threats.md``.

    Attributes
    ----------
    kind : {"development", "confidential-space", "command", "none"}
        ``development``: it vouches for itself, so that its operator can read every report.
    audience : str
        What tokens are issued for; apps expect the same.
    command : list of str
        For ``command``: the program that prints a token for its arguments.
    """

    kind: Literal["development", "confidential-space", "command", "none"] = "development"
    audience: str = "pocketfl-devices"
    command: tuple[str, ...] = ()


class ShardTable(_Table, frozen=True, kw_only=True):
    """What the trusted tier is among several that sum for one another; see ``docs/scale-out.md``.

    Attributes
    ----------
    role : {"root", "shard"}
        Who releases, and who hands over to it.
    name : str
        Of the shard.
    peers : list of str
        PEM files with the attestation keys of the other development tiers: of the shards for a root, of
        the root for a shard.
    """

    role: Literal["root", "shard"]
    name: str
    peers: tuple[str, ...]


class MetricsTable(_Table, frozen=True, kw_only=True):
    """Where the trusted tier answers Prometheus; see ``docs/serve.md``.

    Attributes
    ----------
    host, port : str, int
        Where to listen. Whoever reaches it may ask: there is no token.
    """

    port: int
    host: str = "127.0.0.1"


class TrustedTierSettings(_Table, frozen=True, kw_only=True):
    """The trusted tier: the one process in which a device's report is ever in the clear.

    Attributes
    ----------
    ledger : str
        The durable ledger with the private keys; made if it does not exist.
    host, port : str, int
        Where to listen; port 0 is any free one.
    witness : str or None
        Append-only file that remembers how far the ledger had come.
    workers : int
        Processes that open and sum reports; 1 for the one alone.
    attestation : AttestationTable
        Who vouches for it.
    shard : ShardTable or None
        What it is among several; without, it is the only one.
    tls : Tls or None
        Speak HTTPS.
    metrics : MetricsTable or None
        Where Prometheus may ask; by default nowhere.
    url_file : str or None
        Where the URL is written once connections are accepted.
    """

    ledger: str = "ledger.db"
    host: str = "127.0.0.1"
    port: int = 8001
    witness: str | None = None
    workers: int = 1
    attestation: AttestationTable = AttestationTable()
    shard: ShardTable | None = None
    tls: Tls | None = None
    metrics: MetricsTable | None = None
    url_file: str | None = None


class Logs(_Table, frozen=True, kw_only=True):
    """What the processes write on standard error.

    Attributes
    ----------
    format : {"text", "json"}
        Lines for people, or JSON lines for programs.
    level : {"debug", "info", "warning", "error"}
        From which on.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Table, frozen=True, kw_only=True):
    """What one file says; a table that is missing is not started.

    Attributes
    ----------
    plan_keys : list of str
        Public keys of the modellers whose plans are served, 64 hex digits each.
    rollout_keys : list of str
        Public keys of those whose rollout documents are taken; empty for those of the modellers.
    trusted_token_file : str or None
        File with the secret between back end and trusted tier, or the variable.
    back_end : BackEndSettings or None
        ``[back_end]``.
    trusted_tier : TrustedTierSettings or None
        ``[trusted_tier]``.
    logs : Logs
        ``[logs]``.
    """

    plan_keys: tuple[str, ...]
    rollout_keys: tuple[str, ...] = ()
    trusted_token_file: str | None = None
    back_end: BackEndSettings | None = None
    trusted_tier: TrustedTierSettings | None = None
    logs: Logs = Logs()


def read_settings(path: Path) -> Settings:
    """Read a file of settings; names of files in it count from its own folder.

    Raises
    ------
    SettingsError
        Naming the key that is unknown (with the nearest known one), missing, or out of bounds.
    """
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from None
    for unknown in _unknown_keys(Settings, table, ""):
        raise SettingsError(f"{path}: {unknown}")
    try:
        settings = msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {_plainly(str(error))}") from None
    try:
        _check(settings)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    return _resolved(settings, path.resolve().parent)


def read_secret(name: str, file: str | None) -> str:
    """Return a secret out of its file, or else of its variable.

    Raises
    ------
    SettingsError
        If there is neither, or it is empty.
    """
    variable = SECRET_VARIABLES[name]
    try:
        value = Path(file).read_text().strip() if file else os.environ.get(variable, "")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the secret in {file}: {error}") from None
    if not value:
        where = f"{file} is empty" if file else f"set {name}_file, or {variable}"
        raise SettingsError(f"a secret is missing: {where}")
    return value


def check_secrets(settings: Settings) -> None:
    """Refuse settings whose secrets are missing, before anything is started."""
    read_secret("trusted_token", settings.trusted_token_file)
    if settings.back_end is not None:
        read_secret("operator_key", settings.back_end.operator_key_file)
        read_secret("enrolment_key", settings.back_end.enrolment_key_file)


def _unknown_keys(
    kind: type[msgspec.Struct], table: Mapping[str, Any], place: str
) -> Iterator[str]:
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            yield f"unknown key '{place}{key}'; {hint}"
        elif isinstance(value, dict):
            inner = _table_of(known[key].type)
            if inner is not None:
                yield from _unknown_keys(inner, value, f"{place}{key}.")


def _table_of(annotation: Any) -> type[_Table] | None:
    kinds = getattr(annotation, "__args__", (annotation,))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, _Table)), None)


def _plainly(message: str) -> str:
    """Return msgspec's message with its path as the keys of the file."""
    return message.replace("`$.", "`").replace("Object missing", "missing").replace(" - at `$`", "")


def _check(settings: Settings) -> None:
    back_end, trusted = settings.back_end, settings.trusted_tier
    if not settings.plan_keys:
        raise ValueError("plan_keys is empty: name at least one modeller's public key")
    if back_end is None and trusted is None:
        raise ValueError("nothing to start: add [back_end], [trusted_tier], or both")
    for name, keys in (
        ("plan_keys", settings.plan_keys),
        ("rollout_keys", settings.rollout_keys),
    ):
        if keys:
            try:
                parse_public_keys(keys)
            except PlanError as error:
                raise ValueError(f"{name}: {error}") from None
    for name, listener in (("back_end", back_end), ("trusted_tier", trusted)):
        if listener is not None and not 0 <= listener.port < 2**16:
            raise ValueError(f"{name}.port must be 0 to 65535, not {listener.port}")
    if trusted is not None:
        if trusted.workers < 1:
            raise ValueError("trusted_tier.workers must be at least 1")
        if (trusted.attestation.kind == "command") != bool(trusted.attestation.command):
            raise ValueError("trusted_tier.attestation.command goes with kind = 'command'")
        if trusted.metrics is not None and not 0 < trusted.metrics.port < 2**16:
            raise ValueError(
                f"trusted_tier.metrics.port must be 1 to 65535, not {trusted.metrics.port}"
            )
        if trusted.shard is not None and not trusted.shard.peers:
            raise ValueError("trusted_tier.shard.peers is empty: name the other tiers' keys")
    if back_end is None:
        return
    if back_end.gateways < 1:
        raise ValueError("back_end.gateways must be at least 1")
    if not 0.01 <= back_end.arrivals_per_second <= 1e6:
        raise ValueError("back_end.arrivals_per_second must be 0.01 to 1e6")
    if (trusted is None) != (back_end.trusted_url is not None):
        raise ValueError(
            "say either where the trusted tier is (back_end.trusted_url) or how to start it here "
            "([trusted_tier])"
        )
    database = os.environ.get(DATABASE_VARIABLE) or back_end.database
    if back_end.gateways > 1 and database.startswith("sqlite"):
        raise ValueError(
            "back_end.gateways above 1 need PostgreSQL: SQLite has one writer at a time"
        )


def _resolved(settings: Settings, folder: Path) -> Settings:
    """Return the settings with every name of a file made absolute."""

    def file(name: str | None) -> str | None:
        return None if name is None else str(folder / name)

    def tls(found: Tls | None) -> Tls | None:
        if found is None:
            return None
        return Tls(certificate=str(folder / found.certificate), key=str(folder / found.key))

    back_end, trusted = settings.back_end, settings.trusted_tier
    if back_end is not None:
        database = os.environ.get(DATABASE_VARIABLE) or back_end.database
        name = database.removeprefix(_SQLITE)
        if name != database and name and not name.startswith((":", "file:")):
            database = f"{_SQLITE}{folder / name}"
        back_end = msgspec.structs.replace(
            back_end,
            database=database,
            trusted_ca=file(back_end.trusted_ca),
            operator_key_file=file(back_end.operator_key_file),
            enrolment_key_file=file(back_end.enrolment_key_file),
            url_file=file(back_end.url_file),
            tls=tls(back_end.tls),
        )
    if trusted is not None:
        trusted = msgspec.structs.replace(
            trusted,
            ledger=str(folder / trusted.ledger),
            witness=file(trusted.witness),
            url_file=file(trusted.url_file),
            shard=trusted.shard
            and msgspec.structs.replace(
                trusted.shard, peers=tuple(str(folder / peer) for peer in trusted.shard.peers)
            ),
            tls=tls(trusted.tls),
        )
    return msgspec.structs.replace(
        settings,
        trusted_token_file=file(settings.trusted_token_file),
        back_end=back_end,
        trusted_tier=trusted,
    )
