"""Schemathesis drives every operation of the OpenAPI document; whatever it sends, nothing answers 500."""

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.people import gateway_headers, register
from zenzefi.health import probes

MAX_EXAMPLES = 40
MAX_TIME_S = 75  # for the fuzzing phase; the examples and the coverage phase before it are bounded by themselves
SEED = 20261123


@pytest.mark.timeout(MAX_TIME_S + 300)
async def test_no_input_gives_a_500(
    client: aiohttp.ClientSession, app_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # /health answers 503 when a probe finds nothing in time, as while this machine stands still.
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 20.0)
    person = await register(client)
    await person.top_up("500.00")
    token = (await person.buy_token(24))["token"]
    headers = {**person.headers, **gateway_headers(token)}
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{app_url}/openapi.json"),
        *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
        *(
            "--checks",
            "not_a_server_error",
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            str(MAX_EXAMPLES),
        ),
        *("--max-time", str(MAX_TIME_S)),
        *("--seed", str(SEED), "--workers", "1", "--request-timeout", "30", "--no-color", "--continue-on-failure"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text[-8000:]
