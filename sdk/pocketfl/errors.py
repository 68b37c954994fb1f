"""Every exception that the SDK raises on purpose.

Each message says what was wrong and what to do about it; each class says who can act on it.
"""

from __future__ import annotations


class PocketFLError(Exception):
    """Base class: catching it catches all that the SDK raises on purpose."""


class DecodeError(PocketFLError):
    """Bytes or JSON from outside do not have the form that they should have."""


class PlanError(PocketFLError):
    """A plan cannot be used."""


class PlanSignatureError(PlanError):
    """A plan is unsigned, signed by an unknown key, or changed after it was signed."""


class PlanUnsupportedError(PlanError):
    """A plan is sound but asks for something that this SDK or runtime does not have."""


class PlanRefusedError(PlanError):
    """A plan is sound but goes beyond what this device's own limits allow."""


class RuntimeUnavailableError(PocketFLError):
    """A runtime is not installed on this device, or the plan has no part for it."""


class StoreError(PocketFLError):
    """An example or a collection does not fit the store's schema."""


class StoreDamagedError(StoreError):
    """The store's file is damaged: close the store and open it again, which sets the file aside."""


class KeyUnavailableError(StoreError):
    """The key of a collection is lost: its examples cannot be read, ``revoke()`` starts afresh."""


class FeatureError(PocketFLError):
    """Examples cannot be turned into the tensors that the plan asks for."""


class TrainingError(PocketFLError):
    """Local training has nothing to train on, or ended without usable parameters."""


class TrainingCancelledError(TrainingError):
    """A step was cancelled while it ran; the parameters are as before it."""


class SignalsUnavailableError(PocketFLError):
    """The device's state cannot be read: a library that does so is missing on this platform."""


class ReportError(PocketFLError):
    """An update cannot become a report (not finite, wrong length, above its bound)."""


class SealingError(PocketFLError):
    """A report cannot be sealed or opened."""


class AggregatorRefusedError(PocketFLError):
    """The key of a trusted tier is not one that this device was told to trust."""


class CredentialError(PocketFLError):
    """An anonymous token, a request for one, or the key that signs them cannot be used."""


class KeyConsistencyError(CredentialError):
    """The keys of anonymous tokens are not those that this device saw before: others may see others."""


class LedgerError(PocketFLError):
    """The ledger is asked for something that does not fit what it has recorded."""


class BudgetError(PocketFLError):
    """A download does not fit into this device's budgets.

    Attributes
    ----------
    retry_after : float or None
        Seconds after which there may be room; None if there never is.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RolloutError(PocketFLError):
    """A rollout document cannot be trusted or used; what was in use before stays in use."""


class ModelStoppedError(RolloutError):
    """The rollout says that no version of a model may be used, or none that this device has."""


class TransportError(PocketFLError):
    """The server could not be reached, or answered with something unusable.

    Attributes
    ----------
    status : int or None
        HTTP status code, where there was an answer.
    code : str or None
        The server's machine-readable reason, where it gave one.
    retryable : bool
        Whether the same request may succeed later.
    retry_after : float or None
        Seconds that the server asks to wait, where it said so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
