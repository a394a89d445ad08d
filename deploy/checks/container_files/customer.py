"""Somebody who uses the installation through `web`, from nginx's place in the network; prints what the checks wait for.

customer.py register EMAIL WEB    makes an account
customer.py download EMAIL WEB    buys a token, and reads a stream of events through the gateway to its end
"""

import http.client
import json
import sys
from typing import Any

PASSWORD = "a long walk at night"  # noqa: S105  of an account that lives for seconds


def main(action: str, email: str, web: str) -> None:
    """Do one of the two; an answer that is not the right one ends the program."""
    if action == "register":
        ask(
            web,
            "POST",
            "/api/v1/auth/register",
            {"email": email, "username": "ada", "password": PASSWORD},
            expected=201,
        )
        print("registered")
        return
    login = ask(web, "POST", "/api/v1/auth/login", {"email": email, "password": PASSWORD}, expected=200)
    bearer = {"Authorization": f"Bearer {login['access_token']}"}
    token = ask(web, "POST", "/api/v1/tokens/purchase", {"duration_hours": 1}, expected=201, **bearer)["token"]
    connection = http.client.HTTPConnection(web, 8000, timeout=30)
    holder = {"X-Access-Token": token, "X-Device-ID": "device-0001"}
    connection.request("GET", "/api/v1/proxy/events?count=4&interval=0.5", headers=holder)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        sys.exit(f"The gateway answered {response.status}: {response.read().decode()}")
    print("streaming", flush=True)
    print(f"{response.read().count(b'data:')} events")


def ask(web: str, method: str, path: str, body: dict[str, Any], *, expected: int, **headers: str) -> Any:
    """Send JSON, as nginx would hand it on; returns the answer's."""
    connection = http.client.HTTPConnection(web, 8000, timeout=30)
    sent = {
        "Content-Type": "application/json",
        "X-Forwarded-For": "198.51.100.7",
        "X-Forwarded-Proto": "https",
        **headers,
    }
    connection.request(method, path, json.dumps(body), sent)
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != expected:
        sys.exit(f"{method} {path} was answered {response.status}: {text}")
    return json.loads(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
