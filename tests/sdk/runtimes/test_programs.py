"""What an ExecuTorch program says of itself, read without ExecuTorch."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import PlanError
from pocketfl.runtimes.executorch import ExecutorchRuntime
from pocketfl.runtimes.programs import read_signatures

from .conftest import Case


@pytest.mark.parametrize("task", ["train", "evaluate", "predict"])
def test_it_is_what_executorch_says(case: Case, task: str) -> None:
    """Dtypes and shapes of all inputs and outputs, booleans included."""
    runtime = ExecutorchRuntime(case.plan)
    part = case.plan.part(getattr(case.plan.manifest.runtimes["executorch"], task))
    graph = runtime._open(task)
    assert read_signatures(part, "forward") == (graph.inputs, graph.outputs)
    runtime.close()


def test_another_method_is_not_there(image_case: Case) -> None:
    """A program without the method is refused by name."""
    part = image_case.plan.part(image_case.plan.manifest.runtimes["executorch"].train)
    with pytest.raises(PlanError, match="no method 'backward'"):
        read_signatures(part, "backward")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_programs_are_refused_or_read(image_case: Case, data: st.DataObject) -> None:
    """Whatever bytes change, the answer is a signature or an error of the plan, and comes at once."""
    part = image_case.plan.part(image_case.plan.manifest.runtimes["executorch"].train)
    damaged = np.frombuffer(part, np.uint8).copy()
    # Most of what the reader follows is at the ends of the file.
    length = len(damaged)
    for _ in range(data.draw(st.integers(1, 40))):
        place = data.draw(st.one_of(st.integers(0, 200), st.integers(0, length - 1)))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(length), st.integers(0, length)))
    with contextlib.suppress(PlanError):
        read_signatures(damaged[:cut].tobytes(), "forward")
