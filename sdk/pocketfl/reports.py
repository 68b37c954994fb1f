"""The only module that makes bytes which leave a device.

A :class:`SealedReport` cannot be made elsewhere, and a transport uploads nothing else. One that was
kept on the device is recognised by its hash, so that an upload can be repeated with the same bytes.
What goes in is a float update; what comes out has been clipped, put on the grid, encoded at a fixed
length and sealed, in this order and with nothing in between to forget.

The plaintext is one byte of format, the number of coordinates as four little-endian bytes, and the
coordinates: little-endian int16, or as few bits as the plan's encoding has. Its length depends on the
plan alone, so a report's size says nothing about a device's data.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.clipping import GridVector, clip_to_grid
from pocketfl.encoding.packing import pack, packed_size, unpack
from pocketfl.encoding.rotation import Rotation
from pocketfl.errors import DecodeError, ReportError
from pocketfl.plan.manifest import PLAIN_BITS, Manifest
from pocketfl.sealing import SEALING_OVERHEAD, ReportContext, seal

if TYPE_CHECKING:
    from pocketfl.plan import Plan

REPORT_FORMATS: Final = {16: 1, 8: 2, 4: 3}
"""First byte of a report, by its bits for each coordinate."""
HEADER_BYTES: Final = 5

_MADE_HERE: Final = object()


class SealedReport:
    """A report that only the trusted tier can read; made by :func:`make_report` and nowhere else.

    :func:`restore_report` brings one back that was kept.

    Attributes
    ----------
    data : bytes
        What is uploaded.
    lease : str
        The lease that it is sealed for.
    """

    __slots__ = ("_data", "_lease")

    def __init__(self, data: bytes, lease: str, *, made_by: object) -> None:
        if made_by is not _MADE_HERE:
            raise TypeError("a SealedReport is made by pocketfl.reports.make_report only")
        self._data = data
        self._lease = lease

    @property
    def data(self) -> bytes:
        """The sealed bytes."""
        return self._data

    @property
    def lease(self) -> str:
        """The lease that the report is sealed for."""
        return self._lease

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the sealed bytes, as the back end's receipt repeats it."""
        return sha256(self._data).hexdigest()

    def __repr__(self) -> str:
        return f"SealedReport({len(self._data)} bytes)"


def make_report(
    update: NDArray[np.floating], *, plan: Plan, context: ReportContext, public_key: bytes
) -> SealedReport:
    """Clip an update, put it on the grid and seal it.

    Parameters
    ----------
    update : ndarray of float, shape (P,)
        Trained parameters minus downloaded ones, or the answers to the plan's queries.
    plan : Plan
        Names the bounds.
    context : ReportContext
        What the report belongs to; must name this plan and its policy.
    public_key : bytes
        The trusted tier's key as an :class:`~pocketfl.sealing.AggregatorVerifier` returned it.

    Returns
    -------
    SealedReport
        Of :func:`report_size` bytes.

    Raises
    ------
    ReportError
        If the update has the wrong length or is not finite, or the context names another plan or a
        clip norm that the plan does not allow.
    SealingError
        If the key cannot be used.
    """
    expected = plan.manifest.vector_length
    if update.shape != (expected,):
        raise ReportError(
            f"the update has shape {update.shape}; reports of the plan have {expected} coordinates"
        )
    if (context.plan_sha256, context.policy_hash) != (plan.sha256, plan.manifest.policy_hash):
        raise ReportError("the report's context names another plan or policy than the plan's own")
    manifest = plan.manifest
    try:
        aggregation = manifest.aggregation.in_round(context.clip_norm)
    except ValueError as error:
        raise ReportError(str(error)) from None
    rotation = None
    if aggregation.encoding is not None:
        rotation = Rotation.of_round(
            manifest.summed_length,
            plan_sha256=plan.sha256,
            task=context.task,
            round=manifest.rotation_round(context.round),
        )
    values = clip_to_grid(update, aggregation, rotation=rotation)
    plaintext = encode_vector(values, bits=manifest.report_bits)
    sealed = seal(public_key, info=context.info(), plaintext=plaintext)
    return SealedReport(sealed, context.lease, made_by=_MADE_HERE)


def restore_report(data: bytes, *, lease: str, sha256: str) -> SealedReport:
    """Return a report that was kept on the device, to upload the same bytes again.

    Parameters
    ----------
    data : bytes
        ``SealedReport.data``.
    lease : str
        The lease that it was sealed for.
    sha256 : str
        ``SealedReport.sha256``, kept beside it.

    Raises
    ------
    ReportError
        If the bytes are not the ones that were kept.
    """
    report = SealedReport(data, lease, made_by=_MADE_HERE)
    if len(data) <= HEADER_BYTES + SEALING_OVERHEAD or report.sha256 != sha256:
        raise ReportError("the kept report is damaged: it is not uploaded")
    return report


def plaintext_size(length: int, *, bits: int = PLAIN_BITS) -> int:
    """Return the size of an encoded vector of so many coordinates."""
    return HEADER_BYTES + packed_size(length, bits)


def sealed_size(length: int, *, bits: int = PLAIN_BITS) -> int:
    """Return the size of a sealed report of so many coordinates."""
    return plaintext_size(length, bits=bits) + SEALING_OVERHEAD


def report_size(manifest: Manifest) -> int:
    """Return the size of every sealed report of a plan."""
    return sealed_size(manifest.report_length, bits=manifest.report_bits)


def encode_vector(values: GridVector, *, bits: int = PLAIN_BITS) -> bytes:
    """Encode a vector of grid units.

    Parameters
    ----------
    values : ndarray of int16, shape (P,)
        What :func:`~pocketfl.clipping.clip_to_grid` returned.
    bits : {16, 8, 4}
        Of each; ``Manifest.report_bits``.

    Returns
    -------
    bytes
        Of :func:`plaintext_size` bytes.

    Raises
    ------
    ReportError
        If it is not a vector of int16, or a value does not fit.
    """
    if values.dtype != np.int16 or values.ndim != 1 or not 0 < values.size < 2**32:
        raise ReportError(
            f"a report holds a vector of int16, not {values.dtype} of shape {values.shape}"
        )
    header = bytes([REPORT_FORMATS[bits]]) + values.size.to_bytes(4, "little")
    if bits == PLAIN_BITS:
        return header + values.astype("<i2").tobytes()
    try:
        return header + pack(values, bits=bits)
    except ValueError as error:
        raise ReportError(f"the report cannot be packed: {error}") from None


def decode_vector(
    data: bytes, *, length: int, bits: int = PLAIN_BITS
) -> NDArray[np.int16] | NDArray[np.int8]:
    """Decode what :func:`encode_vector` made, trusting nothing about it.

    Parameters
    ----------
    data : bytes
        An opened report.
    length, bits : int
        What the plan says a report has: ``Manifest.report_length`` and ``Manifest.report_bits``.

    Returns
    -------
    ndarray of int16 or int8, shape (length,)
        Read-only where it is a view of ``data``. The norm is not checked here; see
        :func:`~pocketfl.clipping.is_within_bound`.

    Raises
    ------
    DecodeError
        If the format is another, any length differs, or a coordinate is beyond the plan's grid.
    """
    packed = packed_coordinates(data, length=length, bits=bits)
    if bits == PLAIN_BITS:
        return np.frombuffer(packed, dtype="<i2").astype(np.int16, copy=False)
    try:
        return unpack(packed, length=length, bits=bits)
    except ValueError as error:
        raise DecodeError(f"report: {error}") from None


def packed_coordinates(data: bytes, *, length: int, bits: int) -> memoryview:
    """Return what of an opened report follows its header, as :func:`decode_vector` checks it.

    Raises
    ------
    DecodeError
        If the format is another, or any length differs.
    """
    expected = plaintext_size(length, bits=bits)
    if len(data) != expected:
        raise DecodeError(f"report: {len(data)} bytes, not the {expected} of this plan")
    if data[0] != REPORT_FORMATS[bits]:
        raise DecodeError(
            f"report: format {data[0]} is not the {REPORT_FORMATS[bits]} of this plan's reports"
        )
    stated = int.from_bytes(data[1:HEADER_BYTES], "little")
    if stated != length:
        raise DecodeError(f"report: says {stated} coordinates; this plan has {length}")
    return memoryview(data)[HEADER_BYTES:]
