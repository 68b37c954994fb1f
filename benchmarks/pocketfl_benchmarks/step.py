"""``pocketfl bench step``: the time of a training step, relative to eager torch in the same process.

A step is what a device does with one batch: loss, gradient, clipping to a global norm, SGD. Torch and
the runtimes take turns in short blocks on one thread, so that a slow moment of the machine hits all
alike, and the ratio compares medians of the same run. A runtime is measured as devices use it, with all
checks and copies, on a program that the parity gate has just accepted.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pocketfl.runtimes import Runtime
    from pocketfl_benchmarks.models import Loss

REPEATS: Final = 40
BLOCK_SECONDS: Final = 0.01
"""A block lasts about this long: far above the clock's resolution, far below a scheduler's mood."""
LEARNING_RATE: Final = 1e-3
CLIP_NORM: Final = 1.0
_PARITY_STEPS: Final = 5

Step = Callable[[], object]


def step(
    *,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Measure only this model; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Blocks per runtime and model.")] = REPEATS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time a training step on each runtime against eager torch, on one thread."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from pocketfl_benchmarks.machine import describe_machine
    from pocketfl_benchmarks.models import MODELS

    names = model or list(MODELS)
    for name in names:
        if name not in MODELS:
            raise typer.BadParameter(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    machine = describe_machine()
    results: dict[str, Any] = {}
    # Progress goes to standard error, so that standard output is nothing but the figures.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task("", total=len(names))
        for name in names:
            progress.update(bar, description=name)
            results[name] = measure_model(*MODELS[name](), repeats=repeats)
            progress.advance(bar)
    figures = {"machine": machine, "models": results}
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def measure_model(
    model: nn.Module,
    loss: Loss,
    inputs: dict[str, Tensor],
    target: Tensor,
    *,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Measure one model.

    Parameters
    ----------
    model, loss, inputs, target
        As a model factory returns them.
    repeats : int
        Blocks per runtime.

    Returns
    -------
    dict
        ``torch_ms``, and per runtime ``{"ms", "ratio", "min_ms"}`` or ``{"refused": reason}``. Times
        are medians in milliseconds; ``ratio`` is the runtime's median over torch's.
    """
    from pocketfl_export.backends import BACK_ENDS

    batch = {name: value.numpy() for name, value in {**inputs, "target": target}.items()}
    steps: dict[str, Step] = {"torch": torch_step(model, loss, inputs, target)}
    with one_thread():
        opened, refused = _open_runtimes(model, loss, inputs, target)
        for name, runtime in opened.items():
            steps[name] = runtime_step(runtime, batch)
        times = time_in_turns(steps, repeats=repeats)
    for runtime in opened.values():
        runtime.close()
    torch_ms = statistics.median(times["torch"])
    figures: dict[str, Any] = {"torch_ms": torch_ms, "torch_min_ms": min(times["torch"])}
    for name in BACK_ENDS:
        if name in refused:
            figures[name] = refused[name]
            continue
        median = statistics.median(times[name])
        figures[name] = {"ms": median, "ratio": median / torch_ms, "min_ms": min(times[name])}
    return figures


def _open_runtimes(
    model: nn.Module, loss: Loss, inputs: dict[str, Tensor], target: Tensor
) -> tuple[dict[str, Runtime], dict[str, dict[str, str]]]:
    """Return the runtimes that train the model as torch does, and why the others do not."""
    from pocketfl.errors import PocketFLError
    from pocketfl.runtimes import open_runtime
    from pocketfl_export.backends import BACK_ENDS
    from pocketfl_export.errors import UnsupportedModelError
    from pocketfl_export.gate import CandidatePlan, run_gate
    from pocketfl_export.parity import ParitySettings
    from pocketfl_export.problem import make_problem

    opened: dict[str, Runtime] = {}
    refused: dict[str, dict[str, str]] = {}
    try:
        problem = make_problem(model, loss, inputs, target)
    except UnsupportedModelError as error:
        # What no runtime could train is refused before any of them is asked.
        return opened, {name: {"refused": str(error)} for name in BACK_ENDS}
    for name, back_end in BACK_ENDS.items():
        gate = run_gate(problem, [back_end], ParitySettings(steps=_PARITY_STEPS))
        if not gate.report.ok:
            refused[name] = {"refused": "; ".join(map(str, gate.report.refused))}
            continue
        try:
            opened[name] = open_runtime(CandidatePlan(problem, back_end, gate.parts), name)
        except PocketFLError as error:
            refused[name] = {"refused": str(error)}
    return opened, refused


def time_in_turns(steps: dict[str, Step], *, repeats: int) -> dict[str, list[float]]:
    """Time several functions in short blocks, taking turns.

    Parameters
    ----------
    steps : dict of str to callable
        What to time.
    repeats : int
        Blocks of each.

    Returns
    -------
    dict of str to list of float
        Milliseconds per call in each block.
    """
    blocks = {name: _calls_per_block(call) for name, call in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, call in steps.items():
                times[name].append(1000 * _seconds(call, blocks[name]) / blocks[name])
    finally:
        gc.enable()
    return times


def _calls_per_block(call: Step) -> int:
    _seconds(call, 3)  # First calls load graphs and allocate memory.
    return max(1, round(BLOCK_SECONDS / min(_seconds(call, 1) for _ in range(3))))


def _seconds(call: Step, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def torch_step(model: nn.Module, loss: Loss, inputs: dict[str, Tensor], target: Tensor) -> Step:
    """Return a function that takes one step in eager torch: gradient, clipping by norm, SGD."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def call() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss(model(**inputs), target))
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()

    return call


def runtime_step(runtime: Any, batch: Mapping[str, Any]) -> Step:
    """Return a function that takes the same step in a runtime, with all checks and copies."""

    def call() -> None:
        runtime.train_step(batch, learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM)

    return call


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="One training step, one thread, median", title_justify="left")
    table.add_column("model")
    table.add_column("torch ms", justify="right")
    runtimes = ("onnxruntime", "executorch")
    for runtime in runtimes:
        table.add_column(f"{runtime} ms", justify="right")
        table.add_column("ratio", justify="right")
    notes: list[str] = []
    for name, result in figures["models"].items():
        cells: list[str] = []
        for runtime in runtimes:
            cells += _cells(result[runtime])
            if "refused" in result[runtime]:
                notes.append(f"{name} on {runtime}: {result[runtime]['refused']}")
        table.add_row(name, f"{result['torch_ms']:.2f}", *cells)
    console = Console()
    console.print(table)
    machine = figures["machine"]
    console.print(_describe(machine), highlight=False)
    for note in notes:
        console.print(note, highlight=False)


def _cells(result: dict[str, Any]) -> Iterable[str]:
    if "refused" in result:
        return "refused", "-"
    return f"{result['ms']:.2f}", f"{result['ratio']:.2f}"


def _describe(machine: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']}"
    return f"{where}; {libraries} (through {machine['executorch_through']})"
