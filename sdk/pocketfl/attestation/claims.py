"""What the tokens of each attestation service say, read into one form.

Each reader takes the claims of a token whose signature, issuer and time have been checked, and trusts
nothing else about them: a claim that is missing or of another type is a refusal.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from pocketfl.errors import AggregatorRefusedError

Service = Literal["confidential_space", "azure_sev_snp", "intel_tdx", "development"]

DEVELOPMENT_SOFTWARE: Final = "POCKETFL_DEVELOPMENT"
"""What a development token calls its platform; no service issues it, and no other reader takes it."""
MAX_NONCES: Final = 16
_TDX_REGISTERS: Final = ("tdx_mrtd", "tdx_rtmr0", "tdx_rtmr1", "tdx_rtmr2", "tdx_rtmr3")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a token vouches for.

    Attributes
    ----------
    platform : str
        Hardware and software, in a few words.
    image_digest : str
        What identifies the code that runs, such as ``sha256:...``.
    debuggable : bool
        Whether its operator can look into it.
    nonces : frozenset of str
        The values that the code itself asked to be vouched for.
    """

    platform: str
    image_digest: str
    debuggable: bool
    nonces: frozenset[str]


def read_claims(service: Service, claims: Mapping[str, Any]) -> Evidence:
    """Read a verified token's claims.

    Parameters
    ----------
    service : {"confidential_space", "azure_sev_snp", "intel_tdx", "development"}
        Whose token it is.
    claims : mapping
        Its decoded payload.

    Raises
    ------
    AggregatorRefusedError
        If a claim that matters is missing or of another type.
    """
    return _READERS[service](claims)


def tdx_image_digest(measurements: Mapping[str, str]) -> str:
    """Return one digest of all that a trust domain measured: SHA-256 over MRTD and RTMR 0 to 3.

    Parameters
    ----------
    measurements : mapping of str to str
        ``tdx_mrtd`` and ``tdx_rtmr0`` to ``tdx_rtmr3`` in hex, as in the service's tokens.
    """
    joined = b"".join(bytes.fromhex(measurements[name]) for name in _TDX_REGISTERS)
    return f"sha256:{sha256(joined).hexdigest()}"


def _confidential_space(claims: Mapping[str, Any]) -> Evidence:
    # https://cloud.google.com/confidential-computing/confidential-space/docs/reference/token-claims
    software = _text(claims, "swname")
    if software != "CONFIDENTIAL_SPACE":
        raise _refused(f"the software is {software[:40]!r}, not a Confidential Space image")
    _require_true(claims, "secboot")
    return Evidence(
        platform=f"{_text(claims, 'hwmodel')} {software}",
        image_digest=_text(claims, "submods", "container", "image_digest"),
        debuggable=_text(claims, "dbgstat") != "disabled-since-boot",
        nonces=_nonces(claims.get("eat_nonce")),
    )


def _azure_sev_snp(claims: Mapping[str, Any]) -> Evidence:
    # https://learn.microsoft.com/azure/container-instances/confidential-containers-attestation-concepts
    # Host data is the digest of the policy that lists the images which the utility VM may run.
    kind = _text(claims, "x-ms-attestation-type")
    compliance = _text(claims, "x-ms-compliance-status")
    if kind != "sevsnpvm" or compliance != "azure-compliant-uvm":
        raise _refused(f"it is a token for {kind[:40]!r} with status {compliance[:40]!r}")
    return Evidence(
        platform="AMD SEV-SNP, Azure utility VM",
        image_digest=f"sha256:{_text(claims, 'x-ms-sevsnpvm-hostdata').lower()}",
        debuggable=_flag(claims, "x-ms-sevsnpvm-is-debuggable"),
        nonces=_nonces(_at(claims, "x-ms-runtime", "nonces")),
    )


def _intel_tdx(claims: Mapping[str, Any]) -> Evidence:
    # https://docs.trustauthority.intel.com; version 2 of the tokens nests the claims of each attester.
    tdx = claims.get("tdx", claims)
    if not isinstance(tdx, Mapping):
        raise _refused("the claim 'tdx' is no object")
    status = _text(tdx, "attester_tcb_status")
    if status not in {"UpToDate", "OK"}:
        raise _refused(f"the platform's firmware is {status[:40]!r}, not up to date")
    try:
        held = base64.b64decode(_text(tdx, "attester_held_data"), validate=True).decode("ascii")
        image = tdx_image_digest({name: _text(tdx, name) for name in _TDX_REGISTERS})
    except (binascii.Error, ValueError) as error:
        raise _refused(f"its held data or measurements cannot be read ({error})") from None
    return Evidence(
        platform="Intel TDX",
        image_digest=image,
        debuggable=_flag(tdx, "tdx_is_debuggable"),
        nonces=_nonces(held.split()),
    )


def _development(claims: Mapping[str, Any]) -> Evidence:
    software = _text(claims, "swname")
    if software != DEVELOPMENT_SOFTWARE:
        raise _refused("a development issuer vouches for development software only")
    return Evidence(
        platform="development: an ordinary process",
        image_digest=_text(claims, "submods", "container", "image_digest"),
        debuggable=_text(claims, "dbgstat") != "disabled-since-boot",
        nonces=_nonces(claims.get("eat_nonce")),
    )


_READERS: Final[Mapping[Service, Callable[[Mapping[str, Any]], Evidence]]] = {
    "confidential_space": _confidential_space,
    "azure_sev_snp": _azure_sev_snp,
    "intel_tdx": _intel_tdx,
    "development": _development,
}


def _refused(reason: str) -> AggregatorRefusedError:
    return AggregatorRefusedError(f"the attestation token is refused: {reason}")


def _at(claims: Mapping[str, Any], *path: str) -> Any:
    value: Any = claims
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            raise _refused(f"the claim {'.'.join(path)!r} is missing")
        value = value[name]
    return value


def _text(claims: Mapping[str, Any], *path: str) -> str:
    value = _at(claims, *path)
    if not isinstance(value, str) or not 0 < len(value) <= 512:
        raise _refused(f"the claim {'.'.join(path)!r} is no text of 1 to 512 characters")
    return value


def _flag(claims: Mapping[str, Any], *path: str) -> bool:
    value = _at(claims, *path)
    if not isinstance(value, bool):
        raise _refused(f"the claim {'.'.join(path)!r} is neither true nor false")
    return value


def _require_true(claims: Mapping[str, Any], *path: str) -> None:
    if not _flag(claims, *path):
        raise _refused(f"the claim {'.'.join(path)!r} is false")


def _nonces(value: Any) -> frozenset[str]:
    listed = [value] if isinstance(value, str) else value
    if (
        not isinstance(listed, list)
        or not 0 < len(listed) <= MAX_NONCES
        or not all(isinstance(nonce, str) for nonce in listed)
    ):
        raise _refused(f"it carries no list of 1 to {MAX_NONCES} nonces")
    return frozenset(listed)
