"""``python -m tests.chaos``: run the suite, print the counts, write them as JSON."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.chaos.faults import Scenario
from tests.chaos.scenarios import FAMILIES, Itinerary, Scenarios
from tests.chaos.trial import Trial, explore
from tests.chaos.verdict import Verdict
from tests.chaos.world import World

ENOUGH_RUNS = 200
"""So many runs come past every place."""


def run(
    *, runs: int, seed: int, jobs: int, only: str | None = None, verbose: bool = False
) -> tuple[Verdict, Itinerary]:
    """Carry out that many scenarios and return what was wrong, and what there was to disturb."""
    total = Verdict()
    lock = threading.Lock()
    waiting: SimpleQueue[Scenario] = SimpleQueue()

    def work(world: World, directory: Path) -> None:
        while True:
            try:
                scenario = waiting.get_nowait()
            except Empty:
                return
            place = directory / f"run{scenario.number}"
            place.mkdir()
            began = time.monotonic()
            try:
                found = Trial(world, scenario, place).run()
            except Exception:
                found = Verdict(runs=1, unrecovered=1)
                found.notes.append(f"unrecovered: {traceback.format_exc()}\n    in {scenario}")
            with lock:
                total.add(found)
            if verbose or not found.is_good:
                state = "good" if found.is_good else "\n  ".join(["WRONG", *found.notes])
                print(f"{scenario} ({time.monotonic() - began:.2f} s): {state}", flush=True)

    with tempfile.TemporaryDirectory(prefix="pocketfl-chaos-") as name:
        directory = Path(name)
        worlds = [World(directory / f"world{number}") for number in range(jobs)]
        try:
            for world in worlds:
                world.directory.mkdir()
                world.__enter__()
            calm = directory / "calm"
            calm.mkdir()
            itinerary = explore(worlds[0], calm)
            scenarios = Scenarios(itinerary, seed=seed)
            number = drawn = 0
            while drawn < runs:
                scenario = scenarios.draw(number)
                number += 1
                if only in (None, scenario.family):
                    waiting.put(scenario)
                    drawn += 1
            threads = [
                threading.Thread(target=work, args=(world, world.directory)) for world in worlds
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for world in worlds:
                world.close()
    return total, itinerary


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", choices=FAMILIES, help="one family of faults only")
    parser.add_argument("--verbose", action="store_true", help="a line for every run")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    verdict, itinerary = run(
        runs=options.runs,
        seed=options.seed,
        jobs=min(options.jobs, options.runs),
        only=options.only,
        verbose=options.verbose,
    )
    if options.json is not None:
        verdict.write(options.json)
    print(f"a session passes {', '.join(itinerary.phases)}")
    print(
        f"  {itinerary.statements} SQL statements, {itinerary.batches} batches, "
        f"{itinerary.checkpoints} checkpoints, {itinerary.seconds:.2f} s"
    )
    print(f"{verdict.runs} runs in {time.monotonic() - began:.0f} s")
    for title, counts in (
        ("families", verdict.families),
        ("killed at", verdict.killed_at),
        ("servers killed", verdict.servers_killed),
        ("budgets watched", verdict.budgets),
        ("contributions", verdict.counted),
    ):
        print(f"  {title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    for name in Verdict.COUNTS:
        print(f"  {name.replace('_', ' ')}: {getattr(verdict, name)}")
    spared = [place for place in itinerary.phases if place not in verdict.killed_at]
    if spared and options.runs >= ENOUGH_RUNS and options.only is None:
        print(f"  never killed at {', '.join(spared)}: not every place was tried")
        return 1
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
