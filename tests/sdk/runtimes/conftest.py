"""Models that went through the real exporter once, and eager torch to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl.plan import AggregationSpec, Plan, generate_signing_key
from pocketfl.runtimes import PlanContents, Runtime, open_runtime
from pocketfl_export import ParitySettings, export_plan
from pocketfl_export.backends import back_ends
from pocketfl_export.gate import CandidatePlan
from pocketfl_export.problem import make_problem

RUNTIMES = ("onnxruntime", "executorch")
BATCH = 6

Arrays = dict[str, np.ndarray]


class Mixed(nn.Module):
    """Float, integer and boolean inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.dense = nn.Linear(5, 4)

    def forward(self, numbers: Tensor, category: Tensor, flag: Tensor) -> dict[str, Tensor]:
        scale = torch.where(flag, 1.0, 0.5).unsqueeze(1)
        hidden = torch.cat([numbers * scale, self.table(category)], dim=1)
        logits = self.dense(hidden)
        return {"logits": logits, "hidden": hidden}


class Image(nn.Module):
    """A convolution, pooling, and one number per image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.head = nn.Linear(3 * 3 * 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv(image)), 2)
        return self.head(hidden.flatten(1)).squeeze(1)


@dataclass(frozen=True)
class Case:
    """One model: as torch sees it, and as a plan."""

    plan: PlanContents
    model: nn.Module
    loss: Callable[..., Tensor]
    draw: Callable[[int, int], Arrays]

    def load(self, parameters: np.ndarray) -> nn.Module:
        """Return the model with these parameters."""
        nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), self.model.parameters())
        self.model.zero_grad(set_to_none=True)
        return self.model

    def forward(self, parameters: np.ndarray, arrays: Mapping[str, np.ndarray]) -> object:
        inputs = {
            k: torch.from_numpy(v) for k, v in arrays.items() if k not in ("target", "weight")
        }
        return self.load(parameters)(**inputs)

    def mean_loss(self, parameters: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Tensor:
        """Weighted mean loss, example by example."""
        outputs = self.forward(parameters, arrays)
        rows = len(arrays["target"])
        weight = torch.from_numpy(arrays.get("weight", np.ones(rows, np.float32)))
        target = torch.from_numpy(arrays["target"])

        def row(value: object, i: int) -> object:
            if isinstance(value, dict):
                return {k: v[i : i + 1] for k, v in value.items()}
            return value[i : i + 1]

        losses = torch.stack([self.loss(row(outputs, i), row(target, i)) for i in range(rows)])
        return (weight * losses).sum() / weight.sum()

    def step(
        self,
        parameters: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        *,
        learning_rate: float,
        clip_norm: float,
    ) -> tuple[np.ndarray, float, float]:
        """One step of torch's own SGD and clipping: (new parameters, loss, gradient norm)."""
        model = self.load(parameters)
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        loss = self.mean_loss(parameters, arrays)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        new = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
        return new, loss.item(), norm.item()


def _draw_mixed(rows: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "numbers": rng.standard_normal((rows, 2)).astype(np.float32),
        "category": rng.integers(0, 7, rows),
        "flag": rng.random(rows) < 0.5,
        "target": rng.integers(0, 4, rows),
    }


def _mixed_loss(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(outputs["logits"], target)


def _draw_image(rows: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.standard_normal((rows, 2, 6, 6)).astype(np.float32),
        "target": rng.standard_normal(rows).astype(np.float32),
    }


def _tensors(arrays: Arrays) -> tuple[dict[str, Tensor], Tensor]:
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return tensors, tensors.pop("target")


@pytest.fixture(scope="session")
def mixed_case() -> Case:
    """Parts that are not signed yet, as the exporter's gate opens them."""
    torch.manual_seed(0)
    model = Mixed()
    problem = make_problem(model, _mixed_loss, *_tensors(_draw_mixed(BATCH, 0)))
    chosen = back_ends(RUNTIMES)
    candidates = {b.name: CandidatePlan(problem, b, _parts(b, problem)) for b in chosen}
    return Case(_Both(candidates), model, _mixed_loss, _draw_mixed)


def _parts(back_end, problem) -> dict[str, bytes]:
    return {back_end.part_name(k): v for k, v in back_end.export_parts(problem).items()}


class _Both:
    """Two candidates as one plan for both runtimes."""

    def __init__(self, candidates: Mapping[str, CandidatePlan]) -> None:
        self._candidates = candidates
        first, second = candidates.values()
        known = {part.name for part in first.manifest.parts}
        self.manifest = replace(
            first.manifest,
            runtimes={**first.manifest.runtimes, **second.manifest.runtimes},
            parts=(
                *first.manifest.parts,
                *(part for part in second.manifest.parts if part.name not in known),
            ),
        )

    def part(self, name: str) -> bytes:
        return self._candidates[name.partition("/")[0]].part(name)

    def initial_parameters(self) -> np.ndarray:
        return next(iter(self._candidates.values())).initial_parameters()


@pytest.fixture(scope="session")
def image_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A signed plan, written and read back."""
    torch.manual_seed(0)
    model = Image()
    inputs, target = _tensors(_draw_image(BATCH, 0))
    path = tmp_path_factory.mktemp("plans") / "image.plan"
    key = generate_signing_key()
    export_plan(
        model,
        F.mse_loss,
        inputs,
        target,
        path,
        name="image",
        version="1",
        signing_key=key,
        privacy="none",
        aggregation=AggregationSpec(
            clip_norm=1.0, population=1, cohort_floor=1, max_rounds=1, max_participations=1
        ),
        runtimes=RUNTIMES,
        parity=ParitySettings(steps=5),
    )
    plan = Plan.load(path, trusted_keys=[key.public_key().public_bytes_raw()])
    return Case(plan, model, F.mse_loss, _draw_image)


@pytest.fixture(params=["mixed_case", "image_case"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=RUNTIMES)
def runtime_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runtime(case: Case, runtime_name: str) -> Iterator[Runtime]:
    opened = open_runtime(case.plan, runtime_name)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def plan_file(image_case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The image plan's file and the hex key that signed it, for other processes."""
    plan = image_case.plan
    assert isinstance(plan, Plan)
    path = tmp_path_factory.mktemp("file") / "image.plan"
    path.write_bytes(plan.data)
    return path, plan.signed_by
