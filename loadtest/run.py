"""`make loadtest`: loads the installation that runs, headless and for a bounded time, and fails by its exit code.

On a terminal it shows the figures as they come. The HTML report goes to LOADTEST_REPORT.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from loadtest.locusts import locust_command
from loadtest.plan import Plan, Shape
from loadtest.stack import NothingToLoad, installation, require_answer
from zenzefi.environment import SettingsError

DEFAULT_REPORT = Path(__file__).resolve().parent / "reports" / "report.html"
_ROOT = Path(__file__).resolve().parents[1]


@click.command()
def main() -> None:
    """Load it as the variables LOADTEST_… say; loadtest/README.md has them."""
    try:
        sys.exit(load())
    except (NothingToLoad, SettingsError) as error:
        raise click.ClickException(str(error)) from error


def load() -> int:
    """Seed, load, judge: Locust's exit code.

    Raises:
        NothingToLoad: nothing answers, or there is no database to make people in.
        SettingsError: a variable is bad.
    """
    plan = Plan.from_env(os.environ)
    require_answer(plan.url)
    environment = dict(os.environ)
    report = Path(os.environ.get("LOADTEST_REPORT") or DEFAULT_REPORT)
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zenzefi-loadtest-") as directory:
        if not plan.people_file:
            people = Path(directory) / "people.jsonl"
            click.echo(f"Making {plan.people} people …", err=True)
            command = [sys.executable, "-m", "loadtest.seed", "--count", str(plan.people), "--output", str(people)]
            seeded = subprocess.run(command, env=installation(environment), cwd=_ROOT, check=False)  # noqa: S603
            if seeded.returncode != 0:
                return seeded.returncode
            environment["LOADTEST_PEOPLE_FILE"] = str(people)
        click.echo(f"Loading {plan.url} for {plan.seconds} s with {plan.users} users ({plan.shape}) …", err=True)
        loading = subprocess.run(  # noqa: S603
            locust_command(is_steady=plan.shape is Shape.STEADY, report=report),
            env=environment,
            cwd=_ROOT,
            check=False,
        )
    click.echo(f"{'Passed' if loading.returncode == 0 else 'Failed'}. The report is {report}", err=True)
    return loading.returncode


if __name__ == "__main__":
    main()
