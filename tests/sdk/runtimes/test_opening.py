"""Opening a plan: what is asked of the plan and the device, and how a refusal reads."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from pocketfl.errors import PlanError, PlanUnsupportedError, RuntimeUnavailableError
from pocketfl.plan.manifest import Manifest
from pocketfl.runtimes import executorch as executorch_module
from pocketfl.runtimes import onnx as onnx_module
from pocketfl.runtimes import open_runtime
from pocketfl.runtimes.graphs import version_numbers

from .conftest import BATCH, Case


class Altered:
    """A plan with some parts or its manifest replaced; counts which parts were asked for."""

    def __init__(
        self, case: Case, *, parts: dict[str, bytes] | None = None, manifest: Manifest | None = None
    ) -> None:
        self._plan = case.plan
        self._parts = parts or {}
        self.manifest = manifest or case.plan.manifest
        self.asked: list[str] = []

    def part(self, name: str) -> bytes:
        self.asked.append(name)
        return self._parts[name] if name in self._parts else self._plan.part(name)

    def initial_parameters(self) -> np.ndarray:
        return self._plan.initial_parameters()


def with_minimum(case: Case, name: str, minimum: str) -> Manifest:
    manifest = case.plan.manifest
    spec = replace(manifest.runtimes[name], minimum_version=minimum)
    return replace(manifest, runtimes={**manifest.runtimes, name: spec})


def test_a_part_is_loaded_when_it_is_first_used(image_case: Case, runtime_name: str) -> None:
    """A device that only trains never pays for the other graphs, and pays once."""
    plan = Altered(image_case)
    spec = plan.manifest.runtimes[runtime_name]
    runtime = open_runtime(plan, runtime_name)
    assert plan.asked == []
    for seed in range(2):
        runtime.train_step(image_case.draw(BATCH, seed), learning_rate=0.1, clip_norm=1.0)
    assert plan.asked == [spec.train]
    runtime.predict({"image": image_case.draw(1, 0)["image"]})
    assert plan.asked == [spec.train, spec.predict]
    runtime.close()


def test_an_unknown_runtime_is_refused_with_the_known_ones(image_case: Case) -> None:
    """A typing mistake reads as one."""
    with pytest.raises(RuntimeUnavailableError, match=r"'onnx'.*onnxruntime, executorch"):
        open_runtime(image_case.plan, "onnx")


def test_a_plan_without_parts_for_the_runtime_says_so(image_case: Case, runtime_name: str) -> None:
    """The message names what the plan has and how to get the rest."""
    manifest = image_case.plan.manifest
    others = {k: v for k, v in manifest.runtimes.items() if k != runtime_name}
    plan = Altered(image_case, manifest=replace(manifest, runtimes=others))
    with pytest.raises(
        RuntimeUnavailableError, match=f"no parts for {runtime_name}.*{next(iter(others))}"
    ):
        open_runtime(plan, runtime_name)


def test_a_runtime_that_is_too_old_is_refused(image_case: Case, runtime_name: str) -> None:
    """A plan from the future is not tried; one for exactly this version is."""
    plan = Altered(image_case, manifest=with_minimum(image_case, runtime_name, "99.0"))
    with pytest.raises(PlanUnsupportedError, match=rf"needs {runtime_name} 99\.0"):
        open_runtime(plan, runtime_name)
    installed = open_runtime(image_case.plan, runtime_name)._installed_version()
    numbers = ".".join(map(str, version_numbers(installed)))
    plan = Altered(image_case, manifest=with_minimum(image_case, runtime_name, numbers))
    open_runtime(plan, runtime_name).close()


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1.9.0", "1.22.0"), ("1.22", "1.22.1"), ("1.28.0+cpu", "1.28.1"), ("1.4.1", "1.5.0.dev1")],
)
def test_versions_are_compared_by_number(older: str, newer: str) -> None:
    """1.22 is later than 1.9, whatever is appended."""
    assert version_numbers(older) < version_numbers(newer)


@pytest.mark.parametrize("content", [b"", b"not a program", b"\0" * 4096])
def test_a_part_that_is_no_program_is_refused(
    image_case: Case, runtime_name: str, content: bytes
) -> None:
    """A damaged part is an error of the plan and never brings the process down."""
    name = image_case.plan.manifest.runtimes[runtime_name].train
    runtime = open_runtime(Altered(image_case, parts={name: content}), runtime_name)
    with pytest.raises(PlanError, match="cannot load the part"):
        runtime.train_step(image_case.draw(BATCH, 0), learning_rate=0.1, clip_norm=1.0)


def test_a_part_of_another_shape_is_refused(image_case: Case, runtime_name: str) -> None:
    """A sound program that is not the one the manifest describes is never run."""
    spec = image_case.plan.manifest.runtimes[runtime_name]
    swapped = {spec.train: image_case.plan.part(spec.predict)}
    runtime = open_runtime(Altered(image_case, parts=swapped), runtime_name)
    with pytest.raises(PlanError, match="does not fit the manifest"):
        runtime.train_step(image_case.draw(BATCH, 0), learning_rate=0.1, clip_norm=1.0)
    smaller = replace(image_case.plan.manifest.model, batch_size=BATCH - 1)
    manifest = replace(image_case.plan.manifest, model=smaller)
    runtime = open_runtime(Altered(image_case, manifest=manifest), runtime_name)
    with pytest.raises(PlanError, match=r"does not fit the manifest.*\[6, 2, 6, 6\]"):
        runtime.train_step(image_case.draw(1, 0), learning_rate=0.1, clip_norm=1.0)


def test_onnx_runtime_missing_says_what_to_install(
    image_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without the library the message is an instruction."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'onnxruntime<1\.29'"):
        open_runtime(image_case.plan, "onnxruntime")


def test_executorch_missing_says_what_to_install(
    image_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without the bindings the message is an instruction."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(executorch_module, "version", missing)
    executorch_module.load_library.cache_clear()
    try:
        with pytest.raises(RuntimeUnavailableError, match=r"pip install 'pocketfl\[export\]'"):
            open_runtime(image_case.plan, "executorch")
    finally:
        executorch_module.load_library.cache_clear()


def test_an_onnx_runtime_that_may_have_reported_is_refused(
    image_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build with telemetry that something else loaded with it on cannot be switched off any more."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.29.0")
    monkeypatch.delenv(onnx_module.TELEMETRY_SWITCH, raising=False)
    with pytest.raises(RuntimeUnavailableError, match="telemetry"):
        open_runtime(image_case.plan, "onnxruntime")
    monkeypatch.setenv(onnx_module.TELEMETRY_SWITCH, "1")
    open_runtime(image_case.plan, "onnxruntime").close()
