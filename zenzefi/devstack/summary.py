"""What the development stack says to its user: plain text, with a little colour on a terminal."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from zenzefi.devstack.demo import DEMO_DEVICE

_LABEL_WIDTH = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A running stack, as its user needs to know it."""

    base_url: str
    internal_url: str
    upstream_url: str
    is_demo_upstream: bool
    servers: str
    docs_enabled: bool
    processes: int
    home: Path
    logs: Path
    admin_email: str
    admin_password: str = field(repr=False)
    token: str = field(repr=False)


def print_summary(stack: Description, *, seconds: float) -> None:
    """Say where everything is, and give a curl that works as pasted."""
    console = Console(highlight=False, soft_wrap=True)  # a wrapped line could not be pasted
    console.print()
    console.print(Text(f"zenzefi is ready after {seconds:.1f} s", style="bold green"))
    upstream = f"{stack.upstream_url} (a demo; UPSTREAM=https://… uses a real one)"
    rows = {
        "Web": f"{stack.base_url} ({stack.processes} processes)",
        "API docs": f"{stack.base_url}/docs  {stack.base_url}/redoc" if stack.docs_enabled else "",
        "Health": f"{stack.base_url}/health  {stack.internal_url}/readyz",
        "Upstream": upstream if stack.is_demo_upstream else stack.upstream_url,
        "Servers": stack.servers,
        "Admin": f"{stack.admin_email}  password {stack.admin_password}",
        "State": str(stack.home),
        "Logs": str(stack.logs),
    }
    for label, value in rows.items():
        if value:
            console.print(Text(f"  {label:<{_LABEL_WIDTH}}", style="bold") + Text(value, style="default"))
    if stack.token:
        console.print("\nThrough the gateway:\n")
        console.print(Text(f"  {_curl(stack)}", style="cyan"))
    console.print("\nCtrl-C stops everything.")


def print_starting(home: Path) -> None:
    """Say that it begins: a first start takes some seconds."""
    _say(f"Starting zenzefi, its state in {home} …")


def print_warning(message: str) -> None:
    """Say what is not as it should be, though the stack runs."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text("warning: ", style="bold yellow") + Text(message))


def print_failure(message: str) -> None:
    """Say why the stack does not run."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))


def print_stopped() -> None:
    """Say that it is over, as asked."""
    _say("zenzefi has stopped.")


def _say(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(Text(text))


def _curl(stack: Description) -> str:
    path = "hello?from=curl" if stack.is_demo_upstream else ""
    url = f"{stack.base_url}/api/v1/proxy/{path}"
    return f"curl -H 'X-Access-Token: {stack.token}' -H 'X-Device-ID: {DEMO_DEVICE}' '{url}'"
