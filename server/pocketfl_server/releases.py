"""What the trusted tier hands over is believed only if it is the release that was asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pocketfl.encoding import Rotation
from pocketfl.plan import Manifest
from pocketfl_server.errors import ReleaseRefusedError
from pocketfl_server.trusted.releases import NoisedRelease, Release, UnprotectedRelease


def require_release(release: object, manifest: Manifest) -> None:
    """Refuse everything but the one type of release that a plan's privacy calls for.

    Raises
    ------
    ReleaseRefusedError
        It is a ``TypeError`` too.
    """
    wanted = UnprotectedRelease if manifest.privacy == "none" else NoisedRelease
    if type(release) is not wanted:
        raise ReleaseRefusedError(
            f"the plan says privacy {manifest.privacy!r}, so its task moves on by a {wanted.__name__} "
            f"only, not by a {type(release).__name__}"
        )


def check_release(
    release: Release,
    *,
    manifest: Manifest,
    plan_sha256: str,
    task: str,
    round_number: int,
    model_version: int,
    clip_norm: float | None,
) -> None:
    """Refuse a release of something else.

    Parameters
    ----------
    release : NoisedRelease or UnprotectedRelease
        From the trusted tier.
    manifest, plan_sha256
        The task's plan.
    task, round_number, model_version, clip_norm
        What the release has to be of.

    Raises
    ------
    ReleaseRefusedError
        If it is not the type that the plan's privacy calls for, or is of something else.
    """
    require_release(release, manifest)
    expected: Mapping[str, object] = {
        "task": task,
        "round": round_number,
        "model_version": model_version,
        "plan_sha256": plan_sha256,
        "policy_hash": manifest.policy_hash,
        "grid_step": manifest.aggregation.in_round(clip_norm).release_step,
        "expected_cohort": manifest.aggregation.expected_cohort,
    }
    for name, value in expected.items():
        if getattr(release, name) != value:
            raise ReleaseRefusedError(
                f"the release says {name} {getattr(release, name)!r}; this round has {value!r}"
            )
    length = manifest.report_length
    if release.values.shape != (length,):
        raise ReleaseRefusedError(
            f"the release has {release.values.size} values; reports of the plan have {length}"
        )


def mean_update(
    values: NDArray[np.int64],
    *,
    manifest: Manifest,
    plan_sha256: str,
    task: str,
    round_number: int,
    clip_norm: float | None,
    reports: int | None = None,
) -> NDArray[np.float64]:
    """Return what a released sum says of the parameters, shape (P,), in the model's own units.

    Parameters
    ----------
    values : ndarray of int64, shape (report_length,)
        The sum, in grid units.
    manifest, plan_sha256
        The task's plan.
    task, round_number
        Of the release; they decide the rotation of an encoded sum.
    clip_norm : float or None
        Of the round, where the plan lets it move.
    reports : int, optional
        How many were summed. Asynchronous rounds divide by it: how many reports a buffer held says
        nothing of what is in them.
    """
    aggregation = manifest.aggregation.in_round(clip_norm)
    total = values.astype(np.float64)
    if aggregation.encoding is not None:
        rotation = Rotation.of_round(
            manifest.summed_length,
            plan_sha256=plan_sha256,
            task=task,
            round=manifest.rotation_round(round_number),
        )
        total = rotation.invert(total)
    # Behind the parameters there may be a count.
    total = total[: manifest.vector_length]
    divisor = aggregation.expected_cohort
    if aggregation.asynchronous is not None:
        if reports is None:
            raise ValueError("a release of asynchronous rounds is divided by its reports")
        divisor = reports
    return total * (aggregation.release_step / divisor)
