"""The other half of embed.py: a modeller exports a plan, an operator runs a round of three."""

import json
import time
from pathlib import Path

import torch
from torch import nn

from pocketfl.features.transforms import (
    FeatureSpec,
    FieldSpec,
    InputSpec,
    LabelSpec,
    OneHot,
    Scale,
)
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    TrainingSpec,
    generate_signing_key,
    public_key_hex,
)
from pocketfl_export import export_plan
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

DEVICES = 3
SITE = Path("example-site")


def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), target)


# The modeller: an ordinary torch model, what it reads, and the bounds of what devices report.
features = FeatureSpec(
    collection="readings",
    fields=(
        FieldSpec(name="heart_rate", type="float"),
        FieldSpec(name="activity", type="str"),
        FieldSpec(name="tired", type="bool"),
    ),
    inputs=(
        InputSpec(
            tensor="reading",
            columns=(
                Scale(field="heart_rate", low=40.0, high=200.0),
                OneHot(field="activity", vocabulary=("rest", "walk", "run")),
            ),
        ),
    ),
    label=LabelSpec(field="tired"),
)


class Tiredness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, reading: torch.Tensor) -> torch.Tensor:
        return self.layers(reading)


SITE.mkdir(exist_ok=True)
key = generate_signing_key()
torch.manual_seed(0)
plan = export_plan(
    Tiredness(),
    loss,
    torch.randn(16, 5),
    torch.randint(0, 2, (16,)).float(),
    SITE / "tiredness.pocketfl",
    name="tiredness",
    version="1",
    signing_key=key,
    features=features,
    training=TrainingSpec(epochs=2, learning_rate=0.5),
    aggregation=AggregationSpec(
        clip_norm=1.0,
        population=DEVICES,
        sampling_probability=1.0,
        cohort_floor=DEVICES,
        max_rounds=5,
        max_participations=5,
    ),
    # With three devices this much noise drowns the signal: privacy needs a crowd.
    dp=DifferentialPrivacySpec(noise_multiplier=2.0, epsilon=8.0, delta=1e-5),
    runtimes=("onnxruntime",),
)

# The operator: a back end and a trusted tier, one task, one round.
with LocalDeployment(SITE / "server", plan_keys=[public_key_hex(key)]) as site:
    site.operator.create_task(
        "tiredness", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0)
    )
    notice = site.operator.open_round("tiredness", seconds=600)
    connection = {
        "server": site.url,
        "plan": str(SITE / "tiredness.pocketfl"),
        "modeller_key": public_key_hex(key),
        # The trusted tier vouches for itself here, so whoever runs this program can read reports.
        "attestation_key": site.attestation_key,
        "enrolment_key": site.enrolment_key,
    }
    (SITE / "site.json").write_text(json.dumps(connection, indent=2))
    print(f"round {notice.round} is open at {site.url}; waiting for {DEVICES} reports", flush=True)
    while site.operator.funnel("tiredness", notice.round).uploaded < DEVICES:
        time.sleep(0.5)
    result = site.operator.close_round("tiredness", notice.round)
    print(f"round {result.round}: {result.state}, model version {result.new_version}", flush=True)
