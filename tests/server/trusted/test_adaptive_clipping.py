"""The clip norm follows a quantile of the fleet, for what one release without it costs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.clipping import clip_to_grid, is_within_bound
from pocketfl.encoding import EncodingSpec, Rotation
from pocketfl.errors import PlanError, ReportError
from pocketfl.plan import AdaptiveClippingSpec, AggregationSpec
from pocketfl.plan.aggregation import TreeNoiseSpec
from pocketfl.reports import make_report
from pocketfl.sealing import ReportContext
from pocketfl_server.trusted.accounting import spent_privacy
from pocketfl_server.trusted.messages import SealedEntry

ADAPTIVE = AdaptiveClippingSpec(
    min_clip_norm=0.1, max_clip_norm=50.0, quantile=0.5, count_share=0.02
)


def bounds(length: int, bits: int | None = None, **changes: object) -> AggregationSpec:
    options: dict = {
        "clip_norm": 1.0,
        "population": 1000,
        "cohort_floor": 1,
        "max_rounds": 100,
        "max_participations": 100,
        "adaptive": ADAPTIVE,
        **changes,
    }
    spec = AggregationSpec(**options)
    return spec if bits is None else spec.encoded(EncodingSpec(bits=bits), parameters=length)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 300),
    norm=st.floats(1e-6, 1e6),
    clip_norm=st.floats(0.1, 50.0),
    bits=st.sampled_from([None, 4, 8]),
)
def test_the_whole_report_is_within_the_bound_and_votes(size, norm, clip_norm, bits) -> None:
    """Update and vote together never exceed the bound; the vote says whether it was clipped."""
    spec = bounds(size, bits).in_round(clip_norm)
    update = np.random.default_rng(size).normal(size=size)
    update *= norm / np.linalg.norm(update)
    rotation = None
    if bits is not None:
        rotation = Rotation.of_round(size + 1, plan_sha256="0" * 64, task="t", round=1)
    values = clip_to_grid(update, spec, rotation=rotation)
    assert is_within_bound(values, spec)
    if rotation is None and not math.isclose(norm, clip_norm, rel_tol=1e-9):
        wanted = spec.count_weight if np.linalg.norm(update) <= clip_norm else -spec.count_weight
        assert values[-1] == wanted
        kept = float(np.linalg.norm(values[:-1])) * spec.grid_step
        assert kept == pytest.approx(min(norm, clip_norm), rel=0.002, abs=size * spec.grid_step)


def test_an_update_of_zeros_votes_within() -> None:
    """A device without usable examples does not drag the clip norm up."""
    spec = bounds(3)
    assert clip_to_grid(np.zeros(3), spec).tolist() == [0, 0, 0, spec.count_weight]


@pytest.mark.parametrize(
    ("quantile", "bits"), [(0.2, None), (0.5, None), (0.9, None), (0.5, 4)], ids=str
)
def test_the_clip_norm_tracks_a_quantile_of_known_norms(quantile, bits) -> None:
    """From below and from above it comes to the norm that this share of devices stays within.

    150 devices with log-normal norms, the noise of multiplier 1. The share within is the quantile to
    within 0.15 on average over the last ten rounds: the count's noise is 5 of 150 devices; four
    standard deviations of the mean of ten are 0.05, the rest is for the way and for rounding.
    """
    adaptive = dataclasses.replace(ADAPTIVE, quantile=quantile, learning_rate=0.5, count_share=0.1)
    generator = np.random.default_rng(5)
    norms = np.exp(generator.normal(size=150))
    directions = generator.normal(size=(150, 40))
    updates = directions * (norms / np.linalg.norm(directions, axis=1))[:, None]
    for first in (0.2, 6.0):
        clip_norm, shares = first, []
        for number in range(1, 31):
            spec = bounds(40, bits, adaptive=adaptive).in_round(clip_norm)
            rotation = None
            if bits is not None:
                rotation = Rotation.of_round(41, plan_sha256="0" * 64, task="t", round=number)
            total = np.zeros(41 if rotation is None else rotation.padded)
            for update in updates:
                total += clip_to_grid(update, spec, rotation=rotation)
            total += generator.normal(size=total.size) * spec.norm_bound
            count = float((total if rotation is None else rotation.invert(total))[-1])
            within = adaptive.share_within(count, norm_bound=spec.norm_bound, reports=150)
            clip_norm = adaptive.following(clip_norm, within)
            shares.append(float((norms <= clip_norm).mean()))
        assert np.mean(shares[-10:]) == pytest.approx(quantile, abs=0.15)


def test_the_noise_is_split_as_in_the_paper(make_plan) -> None:
    """Accounting is that of the plan's multiplier, and the closed form of the two parts equals it.

    Andrew et al. 2021, theorem 1: ``z**-2 = update**-2 + (2 count)**-2``.
    """
    plain = make_plan(noise_multiplier=0.8).manifest
    manifest = make_plan(noise_multiplier=0.8, adaptive=ADAPTIVE).manifest
    spec, dp = manifest.aggregation, manifest.dp
    assert dp is not None
    on_update = dp.noise_multiplier * spec.norm_bound * spec.grid_step / spec.clip_norm
    on_count = ADAPTIVE.count_noise(spec.norm_bound, noise_multiplier=dp.noise_multiplier)
    assert on_update**-2 + (2 * on_count) ** -2 == pytest.approx(dp.noise_multiplier**-2)
    assert on_update > dp.noise_multiplier
    for releases in (1, 7):
        assert spent_privacy(manifest, releases) == spent_privacy(plain, releases)


def entries_of(plan, key, number, clip_norm, norms, *, first=0) -> list[SealedEntry]:
    entries = []
    for device, norm in enumerate(norms, start=first):
        context = ReportContext(
            key_id=key.key_id,
            policy_hash=key.policy_hash,
            plan_sha256=key.plan_sha256,
            task="clicks",
            round=number,
            model_version=number - 1,
            clip_norm=clip_norm,
            lease=f"lease-{number}-{device:010d}",
        )
        report = make_report(
            np.array([norm, 0.0, 0.0]),
            plan=plan,
            context=context,
            public_key=bytes.fromhex(key.public_key),
        )
        entries.append(SealedEntry(lease=context.lease, sealed=report.data))
    return entries


@pytest.mark.parametrize("bits", [None, 8], ids=["plain", "encoded"])
def test_the_trusted_tier_moves_the_clip_norm_by_what_it_released(
    aggregator, make_plan, bits
) -> None:
    """Sealed reports, three rounds: the next norm follows from this release, and binds the reports."""
    changes: dict = {"adaptive": dataclasses.replace(ADAPTIVE, count_share=0.1)}
    if bits is not None:
        encoding = EncodingSpec(bits=bits)
        changes |= {"encoding": encoding, "norm_bound": encoding.norm_bound(4)}
    plan = make_plan(privacy="none", **changes)
    key = aggregator.register("clicks", plan.data)
    clip_norm = 0.5
    for number, within in ((1, 1), (2, 3), (3, 4)):
        norms = [0.1] * within + [9.0] * (4 - within)
        entries = entries_of(plan, key, number, clip_norm, norms)
        aggregator.submit("clicks", number, number - 1, entries)
        release = aggregator.release("clicks", number, number - 1)
        assert release.reports == 4
        summary = release.summary
        assert summary.clip_norm == clip_norm
        assert summary.share_within == pytest.approx(within / 4, abs=0.03)
        wanted = clip_norm * math.exp(-0.2 * (min(summary.share_within, 1.0) - 0.5))
        assert summary.next_clip_norm == pytest.approx(max(0.1, wanted))
        clip_norm = summary.next_clip_norm
    # A report under another clip norm, as a server could have announced to one device alone.
    odd = entries_of(plan, key, 4, clip_norm * 1.01, [0.1])
    good = entries_of(plan, key, 4, clip_norm, [0.1] * 3, first=1)
    aggregator.submit("clicks", 4, 3, odd + good)
    last = aggregator.release("clicks", 4, 3)
    assert (last.reports, last.rejected) == (3, {"cannot_open": 1})


def test_one_device_has_one_vote(aggregator, make_plan, sealed_vector) -> None:
    """A last coordinate that is neither of the two is no report, even within the bound."""
    plan = make_plan(privacy="none", adaptive=ADAPTIVE)
    key = aggregator.register("clicks", plan.data)
    weight = plan.manifest.aggregation.count_weight
    votes = [weight, -weight, weight, 40 * weight, 0]
    entries = [
        sealed_vector([1, 0, 0, vote], key=key, lease=f"lease-{n:012d}", clip_norm=0.5)
        for n, vote in enumerate(votes)
    ]
    aggregator.submit("clicks", 1, 0, entries)
    release = aggregator.release("clicks", 1, 0)
    assert release.rejected == {"malformed": 2}
    assert release.values.tolist() == [3, 0, 0, weight]


def test_what_does_not_go_together_is_refused(make_plan) -> None:
    """A norm outside the signed bounds, a tree's noise, a report that names no clip norm."""
    with pytest.raises(ValueError, match=r"allows 0\.1 to 50"):
        bounds(3, clip_norm=60.0)
    with pytest.raises(PlanError, match="one clip norm for all"):
        make_plan(adaptive=ADAPTIVE, tree=TreeNoiseSpec())
    plan = make_plan(adaptive=ADAPTIVE)
    for clip_norm in (None, 0.05, 51.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"clip norm|clip_norm"):
            plan.manifest.aggregation.in_round(clip_norm)
        context = ReportContext(
            key_id="0" * 64,
            policy_hash=plan.manifest.policy_hash,
            plan_sha256=plan.sha256,
            task="clicks",
            round=1,
            model_version=0,
            clip_norm=clip_norm,
            lease="lease-0123456789",
        )
        with pytest.raises(ReportError):
            make_report(np.zeros(3), plan=plan, context=context, public_key=bytes(32))
    with pytest.raises(ValueError, match="one clip norm for all rounds"):
        make_plan().manifest.aggregation.in_round(0.5)
    assert b"adaptive" not in make_plan().manifest.to_json()
