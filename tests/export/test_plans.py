"""One call writes one signed, checked plan, or nothing at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl.errors import FeatureError, PlanError
from pocketfl.features.transforms import (
    FeatureSpec,
    FieldSpec,
    Index,
    InputSpec,
    LabelSpec,
    Scale,
)
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    EncodingSpec,
    Plan,
    generate_signing_key,
    public_key_hex,
)
from pocketfl.plan.card import read_card
from pocketfl.reports import report_size
from pocketfl.runtimes import open_runtime
from pocketfl_export import ExportError, ParityError, ParitySettings, export_plan

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AGGREGATION = AggregationSpec(
    clip_norm=1.0, population=100, cohort_floor=10, max_rounds=10, max_participations=10
)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def arguments(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": model(),
        "loss": F.cross_entropy,
        "example_inputs": X,
        "example_targets": Y,
        "path": path,
        "name": "digits",
        "version": "1",
        "signing_key": KEY,
        "aggregation": AGGREGATION,
        "privacy": "none",
        "runtimes": ["onnxruntime"],
        "parity": ParitySettings(steps=3),
        **changes,
    }


def test_a_plan_is_written_and_trains_on_a_device(tmp_path: Path) -> None:
    """The file verifies under the modeller's key, and its runtime repeats a step of torch."""
    path = tmp_path / "digits.plan"
    written = export_plan(**arguments(path))
    plan = Plan.load(path, trusted_keys=[public_key_hex(KEY)])
    assert plan.sha256 == written.sha256
    assert [p.name for p in plan.parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    reference = model()
    initial = torch.cat([p.detach().reshape(-1) for p in reference.parameters()])
    np.testing.assert_array_equal(plan.initial_parameters(), initial.numpy())
    spec = plan.manifest.runtimes["onnxruntime"]
    assert spec.train == "onnxruntime/train.onnx"
    assert spec.opset == 17

    runtime = open_runtime(plan, "onnxruntime")
    runtime.train_step({"input": X.numpy(), "target": Y.numpy()}, learning_rate=0.5, clip_norm=1e6)
    F.cross_entropy(reference(X), Y).backward()
    with torch.no_grad():
        expected = torch.cat([(p - 0.5 * p.grad).reshape(-1) for p in reference.parameters()])
    np.testing.assert_allclose(runtime.parameters(), expected.numpy(), atol=1e-6)
    runtime.close()


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    """A plan is a function of what went into it."""
    first = export_plan(**arguments(tmp_path / "a.plan"))
    second = export_plan(**arguments(tmp_path / "b.plan"))
    assert first.data == second.data


def test_no_trace_of_the_machine_is_in_a_plan(tmp_path: Path) -> None:
    """Neither paths of the modeller's machine nor the names of its source files get out."""
    plan = export_plan(**arguments(tmp_path / "a.plan"))
    here = Path(__file__)
    torch_home = Path(torch.__file__).parent
    for part in plan.manifest.parts:
        data = plan.part(part.name)
        for needle in (
            here.parent,
            here.name,
            here.stem,
            torch_home,
            Path.home(),
            "Traceback",
            ".py",
        ):
            assert str(needle).encode() not in data or str(needle) == "/", (part.name, needle)


def test_a_refused_model_leaves_nothing_behind(tmp_path: Path) -> None:
    """No plan, no half of one, and an earlier plan at that path survives."""
    path = tmp_path / "digits.plan"
    path.write_bytes(b"earlier")
    refused = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(ParityError, match="GroupNorm"):
        export_plan(**arguments(path, model=refused))
    assert [p.name for p in tmp_path.iterdir()] == ["digits.plan"]
    assert path.read_bytes() == b"earlier"


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.layer = nn.Linear(4, 2)

    def forward(self, color: Tensor, size: Tensor) -> Tensor:
        return self.layer(torch.cat([self.table(color), size], 1))


FEATURES = FeatureSpec(
    collection="things",
    fields=(
        FieldSpec(name="color", type="str"),
        FieldSpec(name="size", type="float"),
        FieldSpec(name="liked", type="bool"),
    ),
    inputs=(
        InputSpec(tensor="color", columns=(Index(field="color", vocabulary=("r", "g", "b")),)),
        InputSpec(tensor="size", columns=(Scale(field="size", low=0, high=9),)),
    ),
    label=LabelSpec(field="liked"),
)


def words(**changes: Any) -> dict[str, Any]:
    inputs = {"color": torch.arange(8) % 4, "size": torch.rand(8, 1)}
    return {
        "model": Words(),
        "example_inputs": inputs,
        "example_targets": torch.arange(8) % 2,
        **changes,
    }


def test_an_index_needs_features(tmp_path: Path) -> None:
    """Only the modeller knows the public vocabulary of an index; with it the plan is written."""
    with pytest.raises(ExportError, match="'index' column"):
        export_plan(**arguments(tmp_path / "a.plan", **words()))
    plan = export_plan(**arguments(tmp_path / "a.plan", **words(features=FEATURES)))
    assert plan.manifest.features == FEATURES


def test_features_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    """Before the gate runs, which takes seconds."""
    with pytest.raises(FeatureError):
        export_plan(**arguments(tmp_path / "a.plan", features=FEATURES))


def test_the_batch_size_can_differ_from_the_example(tmp_path: Path) -> None:
    """The example is repeated or cut to the batch that devices use."""
    for size in (3, 16):
        plan = export_plan(**arguments(tmp_path / f"{size}.plan", batch_size=size))
        assert plan.manifest.model.batch_size == size


def test_a_private_plan_states_its_noise(tmp_path: Path) -> None:
    """``gaussian`` comes with its bounds, and only with them."""
    dp = DifferentialPrivacySpec(noise_multiplier=1.0, epsilon=8.0, delta=1e-5)
    plan = export_plan(**arguments(tmp_path / "a.plan", privacy="gaussian", dp=dp))
    assert plan.manifest.dp == dp
    for changes in ({"privacy": "gaussian"}, {"privacy": "none", "dp": dp}):
        with pytest.raises(ExportError, match="dp="):
            export_plan(**arguments(tmp_path / "b.plan", **changes))


def test_an_encoding_brings_its_norm_bound(tmp_path: Path) -> None:
    """One argument makes reports a quarter of their size."""
    plain = export_plan(**arguments(tmp_path / "a.plan"))
    small = export_plan(**arguments(tmp_path / "b.plan", encoding=EncodingSpec(bits=4)))
    count = plain.manifest.vector_length
    assert small.manifest.aggregation == plain.manifest.aggregation.encoded(
        EncodingSpec(bits=4), parameters=count
    )
    assert report_size(small.manifest) - 53 <= 0.26 * (report_size(plain.manifest) - 53)


BAD = {
    "folder": ({"path": Path()}, "is a folder"),
    "no such folder": ({"path": Path("nowhere/x.plan")}, "does not exist"),
    "no key": ({"signing_key": b"secret"}, "generate_signing_key"),
    "unknown runtime": ({"runtimes": ["tflite"]}, "unknown runtime 'tflite'"),
    "no runtime": ({"runtimes": []}, "at least one runtime"),
    "bad batch size": ({"batch_size": 0}, "batch_size is 0"),
    "target of the wrong kind": (
        {"example_targets": torch.zeros(8, 2, dtype=torch.int64)},
        "cannot be stored",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(changes: dict, message: str, tmp_path: Path) -> None:
    """Each error says what to do, and comes before the work."""
    with pytest.raises(ExportError, match=message):
        export_plan(**{**arguments(tmp_path / "a.plan"), **changes})
    assert not list(tmp_path.iterdir())


def test_a_name_that_a_manifest_cannot_hold_is_refused(tmp_path: Path) -> None:
    """The manifest's own checks apply."""
    with pytest.raises(PlanError, match="name"):
        export_plan(**arguments(tmp_path / "a.plan", name="no spaces allowed"))
    assert not list(tmp_path.iterdir())


def test_keys_made_by_the_sdk_sign(tmp_path: Path) -> None:
    """Any Ed25519 key of the SDK will do; another key does not verify."""
    key = generate_signing_key()
    plan = export_plan(**arguments(tmp_path / "a.plan", signing_key=key))
    assert plan.signed_by == public_key_hex(key)
    with pytest.raises(PlanError):
        Plan.load(tmp_path / "a.plan", trusted_keys=[public_key_hex(KEY)])


def test_a_plan_in_float16_has_half_the_parameter_bytes(tmp_path: Path) -> None:
    """The gate compares both sides on the rounded parameters, and gate and card say what it rounded."""
    plan = export_plan(
        **arguments(
            tmp_path / "half.plan",
            storage="float16",
        )
    )
    exact = torch.cat([p.detach().reshape(-1) for p in model().parameters()])
    sizes = {part.name: part.size for part in plan.manifest.parts}
    assert sizes["parameters.f16"] == 2 * len(exact)
    assert "parameters.f32" not in sizes
    np.testing.assert_array_equal(plan.initial_parameters(), exact.half().float().numpy())
    card = read_card(plan)
    assert card is not None
    assert card.rounding == pytest.approx(float((exact.half().float() - exact).abs().max()))
    runtime = open_runtime(plan, "onnxruntime")
    np.testing.assert_array_equal(runtime.parameters(), plan.initial_parameters())
    runtime.close()


def test_a_parameter_beyond_float16_is_refused(tmp_path: Path) -> None:
    """By its name, before anything costly, with what to do; nothing is written."""
    large = model()
    with torch.no_grad():
        large[2].bias[1] = 70_000.0
    with pytest.raises(
        ExportError, match=r"'2\.bias' holds 70000, and the largest float16 is 65504"
    ):
        export_plan(**arguments(tmp_path / "large.plan", model=large, storage="float16"))
    assert not (tmp_path / "large.plan").exists()
