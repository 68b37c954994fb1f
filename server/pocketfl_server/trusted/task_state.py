"""What the trusted tier's parts need of a task that it serves."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pocketfl.plan.manifest import Manifest
from pocketfl_server.trusted.messages import KeyDescription


@dataclass(frozen=True, kw_only=True, repr=False)
class TaskState:
    """A task's plan and keys; never printed, because it holds the private key.

    Attributes
    ----------
    task : str
        Its name.
    manifest : Manifest
        Of the signed plan.
    private_key : bytes
        Opens the task's reports; X25519.
    key : KeyDescription
        Its public half, and what it is bound to.
    lock : RLock
        Held by whoever changes what is on record of the task.
    """

    task: str
    manifest: Manifest
    private_key: bytes
    key: KeyDescription
    lock: threading.RLock = field(default_factory=threading.RLock)
