"""One small exported plan for all of these tests."""

import pytest
import torch
from torch import nn

from pocketfl.plan import AggregationSpec, Plan, generate_signing_key
from pocketfl_export import export_plan


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    torch.manual_seed(0)
    return export_plan(
        nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
        nn.functional.cross_entropy,
        (torch.rand(8, 6),),
        torch.randint(3, (8,)),
        tmp_path_factory.mktemp("benchmark") / "small.plan",
        name="small",
        version="1",
        signing_key=generate_signing_key(),
        privacy="none",
        aggregation=AggregationSpec(
            clip_norm=1.0, population=1, cohort_floor=1, max_rounds=1, max_participations=1
        ),
        runtimes=("onnxruntime",),
    )
