"""Rewrites keep what they can of a model, and what they make passes the gate."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_export import check_model
from pocketfl_export.rewrites import (
    class_weighted_cross_entropy,
    fix,
    group_norm_for,
    ignoring_cross_entropy,
)

torch.manual_seed(0)
X, Y = torch.randn(6, 3, 8, 8), torch.arange(6) % 3


def model() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 6, 1), norm,
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


@pytest.mark.parametrize("batch_norm", ["group_norm", "freeze"])
def test_what_was_refused_passes_once_it_is_fixed(batch_norm: str) -> None:
    """The point of a rewrite; the modeller's own model stays as it was."""
    ours = model()
    assert not check_model(ours, F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=1).ok
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    fixed = fix(ours, batch_norm=batch_norm)
    report = check_model(fixed.model, F.cross_entropy, X, Y, runtimes=["onnxruntime"], steps=10)
    assert report.ok, report.refused
    assert [change.module for change in fixed.changes] == ["1", "5"]
    assert all(change.before in str(change) for change in fixed.changes)
    assert isinstance(ours[1], nn.BatchNorm2d)
    assert ours[1].training
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_module_used_twice_is_still_one() -> None:
    """Shared weights stay shared."""
    fixed = fix(model()).model
    assert fixed[1] is fixed[4]


def test_what_needs_no_change_gets_none() -> None:
    """Frozen normalisation and dropout are fine as they are."""
    fine = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Dropout(0.2))
    assert fix(fine).changes == ()


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (6, 3), (7, 1), (1, 1), (96, 32)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    """At most 32, and more than one channel in each where that can be."""
    norm = nn.BatchNorm2d(channels)
    torch.nn.init.normal_(norm.weight)
    made = group_norm_for(norm)
    assert made.num_groups == groups
    assert torch.equal(made.weight, norm.weight)


def test_the_losses_that_refusals_name_are_means_over_examples() -> None:
    """Where nothing is divided by, they equal torch's own sums; and they pass the gate."""
    logits, weight = torch.randn(6, 3), torch.tensor([1.0, 4.0, 1.0])
    ours = class_weighted_cross_entropy(weight)(logits, Y)
    torchs = F.cross_entropy(logits, Y, weight=weight, reduction="sum") / (2.0 * len(Y))
    torch.testing.assert_close(ours, torchs)
    ignoring = ignoring_cross_entropy(0)(logits, Y)
    torch.testing.assert_close(
        ignoring, F.cross_entropy(logits, Y, ignore_index=0, reduction="sum") / len(Y)
    )
    for loss in (class_weighted_cross_entropy(weight), ignoring_cross_entropy(0)):
        report = check_model(
            nn.Linear(4, 3), loss, torch.randn(6, 4), Y, runtimes=["onnxruntime"], steps=5
        )
        assert report.ok, report.refused
    with pytest.raises(ValueError, match="class weights"):
        class_weighted_cross_entropy([0.0, 0.0])
