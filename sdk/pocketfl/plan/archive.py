"""A plan as a file: a zip of a signed manifest and the parts whose hashes it lists.

Reading goes from cheap to costly, and nothing is parsed before it is vouched for: size of the file,
names in the directory, signature over the exact manifest bytes, then the manifest's JSON, then a part's
hash whenever that part is used. There is no pickle and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from pocketfl.errors import DecodeError, PlanError, PlanSignatureError
from pocketfl.features.transforms import FeatureSpec
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.plan.aggregation import AggregationSpec, BudgetSpec, DifferentialPrivacySpec
from pocketfl.plan.manifest import (
    MANIFEST_LIMIT,
    MAX_PARTS,
    EligibilitySpec,
    Kind,
    Manifest,
    PartSpec,
    Privacy,
    RuntimeSpec,
)
from pocketfl.plan.models import ModelSpec, ParameterSpec
from pocketfl.plan.schemas import SCHEMA_VERSION
from pocketfl.plan.signing import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    parse_public_keys,
    public_key_hex,
    verify_signature,
)
from pocketfl.plan.storage import decode_parameters
from pocketfl.plan.training import TrainingSpec
from pocketfl.queries import QuerySet

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"
"""The signer's raw public key (32 bytes) and the Ed25519 signature over ``manifest.json`` (64)."""
PLAN_LIMIT: Final = 512 * 2**20
"""Largest archive in bytes."""

# A fixed time stamp keeps the archive a function of its contents (the earliest that zip can say).
_EPOCH = (1980, 1, 1, 0, 0, 0)
# End-of-central-directory record (PKWARE APPNOTE 4.3.16); the count of entries is at offset 10.
_DIRECTORY_END = b"PK\x05\x06"
_DIRECTORY_END_BYTES = 22


class Plan:
    """A verified plan. Make one with :meth:`load`; it exists only if the signature was right.

    Attributes
    ----------
    manifest : Manifest
        What the plan says.
    sha256 : str
        Hash of the whole archive in hex: the plan's name on the wire.
    signed_by : str
        The modeller's public key in hex.
    """

    def __init__(self, *, data: bytes, manifest: Manifest, signed_by: str) -> None:
        self._data = data
        self.manifest = manifest
        self.signed_by = signed_by
        self.sha256 = sha256(data).hexdigest()

    @classmethod
    def load(cls, source: str | Path | bytes, *, trusted_keys: Iterable[str | bytes]) -> Plan:
        """Read and verify a plan.

        Parameters
        ----------
        source : path or bytes
            The archive.
        trusted_keys : iterable of str or bytes
            Ed25519 public keys of modellers, as 64 hex digits or 32 raw bytes.

        Returns
        -------
        Plan
            With its manifest checked; parts are checked when they are used.

        Raises
        ------
        PlanSignatureError
            If it is unsigned, signed by another key, or was changed.
        PlanError
            If it is not a plan, too large, or its manifest is not sound.
        """
        keys = parse_public_keys(trusted_keys)
        data = source if isinstance(source, bytes) else _read_file(Path(source))
        if len(data) > PLAN_LIMIT:
            raise PlanError(f"{len(data)} bytes is more than the {PLAN_LIMIT} of a plan")
        archive = _open_archive(data)
        if SIGNATURE_NAME not in archive or MANIFEST_NAME not in archive:
            raise PlanSignatureError("the plan is unsigned: it lacks its manifest or signature")
        signature = _read_member(
            data, archive[SIGNATURE_NAME], size=PUBLIC_KEY_BYTES + SIGNATURE_BYTES
        )
        manifest_bytes = _read_member(data, archive[MANIFEST_NAME], limit=MANIFEST_LIMIT)
        public_key = signature[:PUBLIC_KEY_BYTES]
        verify_signature(
            manifest_bytes,
            public_key=public_key,
            signature=signature[PUBLIC_KEY_BYTES:],
            trusted_keys=keys,
        )
        try:
            manifest = Manifest.from_json(manifest_bytes)
        except DecodeError as error:
            raise PlanError(str(error)) from None
        listed = {part.name for part in manifest.parts} | {MANIFEST_NAME, SIGNATURE_NAME}
        if listed != set(archive):
            odd = sorted(listed ^ set(archive))[0]
            raise PlanError(f"archive and manifest disagree about {odd!r}")
        return cls(data=data, manifest=manifest, signed_by=public_key.hex())

    @property
    def data(self) -> bytes:
        """The archive, byte for byte as it was signed."""
        return self._data

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """Name, shape and offset of each parameter, in ``named_parameters()`` order."""
        return self.manifest.required_model.parameters

    def part(self, name: str) -> bytes:
        """Return one part after checking its size and hash.

        Raises
        ------
        PlanError
            If there is no such part, or it is not what was signed.
        """
        spec = next((part for part in self.manifest.parts if part.name == name), None)
        if spec is None:
            known = ", ".join(part.name for part in self.manifest.parts)
            raise PlanError(f"the plan has no part {name!r}; it has: {known}")
        content = _read_member(self._data, _open_archive(self._data)[name], size=spec.size)
        if sha256(content).hexdigest() != spec.sha256:
            raise PlanError(f"the part {name!r} is not what was signed: its hash differs")
        return content

    def initial_parameters(self) -> NDArray[np.float32]:
        """Return the initial parameters, one flat vector of shape (P,).

        Raises
        ------
        PlanError
            If a value is not finite, or the plan comes without them.
        """
        model = self.manifest.required_model
        data = self.part(model.parameters_part)
        try:
            return decode_parameters(data, count=model.parameter_count, storage=model.stored_as)
        except PlanError as error:
            raise PlanError(f"the plan's initial parameters: {error}") from None


def build_plan(
    *,
    name: str,
    version: str,
    privacy: Privacy,
    kind: Kind = "training",
    model: ModelSpec | None = None,
    training: TrainingSpec | None = None,
    features: FeatureSpec,
    queries: QuerySet | None = None,
    aggregation: AggregationSpec,
    dp: DifferentialPrivacySpec | None,
    budget: BudgetSpec | None = None,
    runtimes: Mapping[str, RuntimeSpec],
    parts: Mapping[str, bytes],
    signing_key: Ed25519PrivateKey,
    eligibility: EligibilitySpec | None = None,
    acceptance: AcceptanceSpec | None = None,
) -> Plan:
    """Sign a manifest and pack it with its parts; the same contents give the same bytes.

    Parameters
    ----------
    kind : {"training", "analytics", "evaluation"}
        What the plan is for; see :class:`~pocketfl.plan.Manifest` for what goes with it.
    parts : mapping of str to bytes
        Every part by name, the model's :attr:`~pocketfl.plan.ModelSpec.parameters_part` among them.
    signing_key : Ed25519PrivateKey
        The modeller's.

    Returns
    -------
    Plan
        The signed plan; ``plan.data`` is the archive.

    Raises
    ------
    PlanError
        If what the manifest says is not sound.
    """
    try:
        manifest = Manifest(
            schema=SCHEMA_VERSION,
            name=name,
            version=version,
            kind=kind,
            privacy=privacy,
            model=model,
            training=training,
            features=features,
            queries=queries,
            aggregation=aggregation,
            dp=dp,
            budget=budget,
            eligibility=eligibility or EligibilitySpec(),
            acceptance=acceptance,
            runtimes=dict(runtimes),
            parts=tuple(
                PartSpec(name=part, sha256=sha256(content).hexdigest(), size=len(content))
                for part, content in sorted(parts.items())
            ),
        )
    except ValueError as error:
        raise PlanError(str(error)) from None
    manifest_bytes = manifest.to_json()
    public_key = public_key_hex(signing_key)
    signature = bytes.fromhex(public_key) + signing_key.sign(manifest_bytes)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in (
            (MANIFEST_NAME, manifest_bytes),
            (SIGNATURE_NAME, signature),
            *sorted(parts.items()),
        ):
            info = zipfile.ZipInfo(member, date_time=_EPOCH)
            info.external_attr = 0o644 << 16
            # Weights hardly compress; graphs and JSON do.
            is_weights = model is not None and member == model.parameters_part
            info.compress_type = zipfile.ZIP_STORED if is_weights else zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    # Read it back as a device would: nothing is handed out that a device would refuse.
    return Plan.load(buffer.getvalue(), trusted_keys=[public_key])


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan's archive, completely or not at all."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(plan.data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_signer(source: str | Path | bytes) -> str:
    """Return who claims to have signed a plan, as 64 hex digits; says nothing about trust.

    Raises
    ------
    PlanSignatureError
        If the plan is unsigned.
    PlanError
        If it is not a plan.
    """
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    archive = _open_archive(data)
    if SIGNATURE_NAME not in archive:
        raise PlanSignatureError("the plan is unsigned")
    size = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
    return _read_member(data, archive[SIGNATURE_NAME], size=size)[:PUBLIC_KEY_BYTES].hex()


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > PLAN_LIMIT:
            raise PlanError(f"{path} is larger than the {PLAN_LIMIT} bytes of a plan")
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None


def _open_archive(data: bytes) -> dict[str, zipfile.ZipInfo]:
    """Return the directory by name; refuse one that is large, repeats a name, or hides something."""
    # zipfile would build an object per entry before anyone could count them, so count first. Our own
    # archives carry no comment, hence the record sits at the very end.
    end = data[-_DIRECTORY_END_BYTES:]
    if len(end) < _DIRECTORY_END_BYTES or not end.startswith(_DIRECTORY_END):
        raise PlanError("not a plan: the file is no zip archive, or was cut short")
    (entries,) = struct.unpack_from("<H", end, 10)
    if entries > MAX_PARTS + 2:
        raise PlanError(f"not a plan: {entries} files in the archive, {MAX_PARTS + 2} at most")
    # RuntimeError is what zipfile raises for kinds of archives that it cannot read.
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, struct.error) as error:
        raise PlanError(f"not a plan: the archive is damaged ({error})") from None
    directory = {}
    for member in members:
        if member.filename in directory:
            raise PlanError(f"not a plan: {member.filename!r} is in the archive twice")
        directory[member.filename] = member
    if len(directory) > MAX_PARTS + 2:
        raise PlanError(f"not a plan: {len(directory)} files in the archive")
    return directory


def _read_member(
    data: bytes, member: zipfile.ZipInfo, *, size: int | None = None, limit: int | None = None
) -> bytes:
    """Decompress one member, never making more bytes than it may have."""
    bound = size if size is not None else limit
    assert bound is not None  # noqa: S101 - the callers give one of the two
    plain = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if member.compress_type not in plain or member.flag_bits & 0x1:
        raise PlanError(f"{member.filename!r} is encrypted or compressed in a way plans do not use")
    if member.file_size > bound or (size is not None and member.file_size != size):
        raise PlanError(f"{member.filename!r} has {member.file_size} bytes, not {bound}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(member) as stream:
            content = stream.read(bound + 1)
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError, zlib.error) as e:
        raise PlanError(f"{member.filename!r} is damaged in the archive ({e})") from None
    if len(content) > bound or (size is not None and len(content) != size):
        raise PlanError(f"{member.filename!r} does not have the size that the manifest states")
    return content
