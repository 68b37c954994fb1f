"""What the trusted tier hands over is believed only if it is the release that was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from pocketfl.plan import Manifest
from pocketfl_server.errors import ReleaseRefusedError
from pocketfl_server.trusted.messages import NoisedRelease, Release, UnprotectedRelease


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
        "grid_step": manifest.aggregation.in_round(clip_norm).grid_step,
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
