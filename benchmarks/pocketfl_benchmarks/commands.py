"""The commands ``pocketfl demo`` and ``pocketfl bench``; what they need is imported when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from pocketfl_benchmarks.aggregate.command import aggregate
from pocketfl_benchmarks.analytics.command import analytics
from pocketfl_benchmarks.asynchronous.command import asynchronous
from pocketfl_benchmarks.balancing.command import balancing
from pocketfl_benchmarks.device.command import device
from pocketfl_benchmarks.digits.command import app
from pocketfl_benchmarks.digits.speed import app as app_speed
from pocketfl_benchmarks.encoding.command import encoding
from pocketfl_benchmarks.life.command import life
from pocketfl_benchmarks.poisoning.command import poisoning
from pocketfl_benchmarks.step import step
from pocketfl_benchmarks.zoo.command import compare, zoo


class _DemoWhenAsked(TyperGroup):
    """Becomes the demo's command once it is called: its libraries take seconds to import."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Hand the arguments to the command itself."""
        command: Callable[..., None]
        if "--app" in args:
            from pocketfl_benchmarks.digits.command import demo_app

            command = demo_app
        else:
            from pocketfl_benchmarks.flights.command import demo

            command = demo

        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command()(command)
        return typer.main.get_command(single).make_context(info_name, args, parent, **extra)


__all__ = ["app", "bench", "demo"]

demo = typer.Typer(
    cls=_DemoWhenAsked,
    help="Train privately on aircraft that keep their data; compare with a server that has it all.",
)

bench = typer.Typer(help="Measure PocketFL on this machine.", no_args_is_help=True)
bench.command()(step)
bench.command()(device)
bench.command("app")(app_speed)
bench.command()(analytics)
bench.command()(balancing)
bench.command()(life)
bench.command()(zoo)
bench.command()(compare)
bench.command()(encoding)
bench.command()(aggregate)
bench.command()(asynchronous)
bench.command()(poisoning)


@bench.callback()
def group() -> None:
    """Measure PocketFL on this machine."""
