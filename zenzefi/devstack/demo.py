"""A demo account, made through the public HTTP API as a newcomer would, so that the printed curl works at once."""

import http.client
import json
from typing import cast

from zenzefi.devstack.errors import DevStackError
from zenzefi.errors import JsonObject

DEMO_EMAIL = "demo@example.com"
DEMO_USERNAME = "demo"
DEMO_DEVICE = "demo-device"
_CREDIT = "100.00"
_DURATION_HOURS = 24
_TIMEOUT_S = 10.0


class DemoFailed(DevStackError):
    """The API did not do what the demo account needs; the message carries its answer."""


class DemoClient:
    """Speaks to the API as a client would."""

    def __init__(self, *, host: str, port: int) -> None:
        self._host = host
        self._port = port

    def ensure_token(self, known_token: str, *, password: str) -> str:
        """The known token when the gateway still takes it, else one that the demo account buys now.

        Raises DemoFailed.
        """
        if known_token and self._is_usable(known_token):
            return known_token
        credentials: JsonObject = {"email": DEMO_EMAIL, "password": password}
        registered, _ = self._call("POST", "/auth/register", {**credentials, "username": DEMO_USERNAME})
        if registered not in (http.HTTPStatus.CREATED, http.HTTPStatus.CONFLICT):
            raise DemoFailed(f"The demo account could not be registered: status {registered}.")
        access_token = str(self._post("/auth/login", credentials, expected=200)["access_token"])
        self._post("/currency/mock-purchase", {"amount": _CREDIT}, access_token=access_token)
        bought = self._post(
            "/tokens/purchase", {"duration_hours": _DURATION_HOURS, "scope": "full"}, access_token=access_token
        )
        return str(bought["token"])

    def _is_usable(self, token: str) -> bool:
        status, _ = self._call("GET", "/proxy/status", headers={"X-Access-Token": token})
        return status == http.HTTPStatus.OK

    def _post(self, path: str, body: JsonObject, *, access_token: str = "", expected: int = 201) -> JsonObject:
        headers = {"Authorization": f"Bearer {access_token}"} if access_token else {}
        status, answer = self._call("POST", path, body, headers=headers)
        if status != expected:
            raise DemoFailed(f"POST {path} answered {status}: {answer.get('detail') or answer.get('title')}")
        return answer

    def _call(
        self, method: str, path: str, body: JsonObject | None = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, JsonObject]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        content = None if body is None else json.dumps(body)
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if content else {})}
        try:
            connection.request(method, f"/api/v1{path}", body=content, headers=sent)
            response = connection.getresponse()
            answer = json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DemoFailed(f"{method} {path} failed: {error}") from error
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise DemoFailed(f"{method} {path} did not answer with a JSON object.")
        return response.status, cast("JsonObject", answer)
