"""`make bench`: runs the benchmarks one after another and keeps what they measured.

On a terminal it shows how far it is; the table goes to standard output, so that a pipe gets that alone.
"""

import asyncio
import importlib
import inspect
import pkgutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from loadtest import benchmarks
from loadtest.figures import Bench, Benchmark, Figure
from loadtest.machine import describe_run
from loadtest.results import headlines, markdown, quote, read_results, write_result, write_whole
from loadtest.servers import Servers
from zenzefi.errors import JsonObject

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parents[1] / "README.md"
NAMES = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]…")
@click.option("--quick", is_flag=True, help="Only see that they work: seconds each, and no file is written.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the files go; loadtest/results by default.",
)
def main(names: tuple[str, ...], quick: bool, output: Path | None) -> None:
    """Run the benchmarks NAME, or all of them, on servers of their own."""
    directory = output or (None if quick else RESULTS)
    results: list[JsonObject] = []
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)
    )
    progress.disable = not sys.stderr.isatty()
    with Servers() as servers, progress:
        for name in dict.fromkeys(names) or NAMES:
            task = progress.add_task(name)
            tell = partial(_tell, progress, task, name)
            results.append(run_benchmark(name, servers=servers, quick=quick, directory=directory, tell=tell))
            progress.stop_task(task)
    if directory == RESULTS:
        write_whole(
            README, quote(README.read_text(encoding="utf-8"), headlines(read_results(RESULTS), _headline_names()))
        )
    click.echo(markdown(results), nl=False)


def run_benchmark(
    name: str, *, servers: Servers, quick: bool, directory: Path | None, tell: Callable[[str], None]
) -> JsonObject:
    """Run one benchmark; its result is written to `directory` unless that is None."""
    benchmark: Benchmark = importlib.import_module(f"{benchmarks.__name__}.{name}").run
    run, started = describe_run(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=servers.directory) as scratch:
        figures = _measure(benchmark, Bench(servers=servers, directory=Path(scratch), quick=quick, tell=tell))
    took_s = round(time.monotonic() - started, 1)
    result: JsonObject = {"benchmark": name, **run, "quick": quick, "took_s": took_s}
    result["figures"] = [asdict(figure) for figure in figures]
    if directory is not None:
        write_result(directory, result)
    return result


def _headline_names() -> dict[str, tuple[str, ...]]:
    """The figures that README.md quotes, by benchmark: each module names its own, if any."""
    modules = {name: importlib.import_module(f"{benchmarks.__name__}.{name}") for name in NAMES}
    return {name: getattr(module, "HEADLINES", ()) for name, module in modules.items()}


def _tell(progress: Progress, task: TaskID, name: str, text: str) -> None:
    progress.update(task, description=f"{name}: {text}")


def _measure(benchmark: Benchmark, bench: Bench) -> list[Figure]:
    found = benchmark(bench)
    if inspect.isawaitable(found):

        async def wait() -> list[Figure]:
            return await found

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(wait())
    return found


if __name__ == "__main__":
    # Otherwise it would leave its servers' data behind, which may be gigabytes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
