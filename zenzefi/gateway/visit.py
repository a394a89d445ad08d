"""One proxied request from its head to its answer: checked, forwarded, metered; and what is told of it afterwards."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from uuid import UUID

from aiohttp import hdrs, web

from zenzefi.audit.models import Actor, ActorKind
from zenzefi.gateway import service
from zenzefi.gateway.credentials import read_credentials
from zenzefi.gateway.errors import BadPath
from zenzefi.gateway.forward import forward
from zenzefi.gateway.headers import Provenance
from zenzefi.gateway.models import Admission
from zenzefi.gateway.paths import canonicalise
from zenzefi.gateway.service import Gateway
from zenzefi.gateway.streams import OpenStream
from zenzefi.infra.correlation import Correlation
from zenzefi.web.addresses import client_of
from zenzefi.web.auth import user_agent_of
from zenzefi.web.middleware import common_fields
from zenzefi.web.responses import format_time

PREFIX: Final = "/api/v1/proxy"
EXPIRY_HEADER: Final = "X-Token-Expires-At"

# The same few tokens come all the time.
_text_of_time = lru_cache(maxsize=4096)(format_time)


@lru_cache(maxsize=4096)
def _text_of_id(number: int) -> str:
    return str(UUID(int=number))


class Visit:
    """A request to the proxy's route, as far as it has come."""

    __slots__ = ("_gateway", "_is_over_tls", "_request", "_user_agent", "admission", "client", "correlation", "stream")

    def __init__(self, gateway: Gateway, request: web.Request, correlation: Correlation) -> None:
        """Take the request and its ids."""
        self._gateway = gateway
        self._request = request
        self.client = client = client_of(request, gateway.ctx.settings.trusted_proxies)
        self._is_over_tls = client.is_behind_proxy and request.headers.get("X-Forwarded-Proto") == "https"
        self._user_agent: str | None = None
        self.correlation = correlation
        self.admission: Admission | None = None
        self.stream: OpenStream | None = None

    async def pass_through(self) -> web.StreamResponse:
        """Check, forward and meter the request.

        Raises:
            ZenzefiError: as the functions of the service and forward() do.
        """
        request, gateway = self._request, self._gateway
        message = request._message  # noqa: SLF001  the request's own properties are several times as slow
        protocol = request.protocol
        before = getattr(protocol, "kept", None)
        credentials = read_credentials(message.headers, before=before)
        try:
            path = canonicalise(_upstream_path(message.path))
        except BadPath:
            await service.require_usable(gateway, credentials)
            raise
        admission = self.admission = await service.admit(gateway, credentials, method=message.method, path=path)
        if credentials is not before and hasattr(protocol, "kept"):
            protocol.kept = credentials
        if hdrs.USER_AGENT in message.headers:
            self._user_agent = user_agent_of(request)
        stream = OpenStream(admission, ip=self.client.address, user_agent=self._user_agent)
        with service.Following(gateway, stream):
            self.stream = stream
            return await forward(
                request,
                upstream=gateway.ctx.upstream,
                path=path,
                provenance=self._provenance(admission),
                stream=stream,
                on_answer=self._on_answer,
            )

    def limit_fields(self) -> tuple[tuple[str, str], ...]:
        """The fields that tell the client what is left of its rate limit."""
        admission = self.admission
        return admission.decision.fields() if admission is not None and admission.decision is not None else ()

    def log_fields(self) -> dict[str, object]:
        """What the request's log line tells of a token that was let through; nothing where none was."""
        admission, stream = self.admission, self.stream
        if admission is None:
            return {}
        fields: dict[str, object] = {
            "user_id": _text_of_id(admission.grant.user_id.int),
            "token_id": _text_of_id(admission.grant.token_id.int),
            "device": admission.device.hint,
        }
        if stream is not None:
            fields["outcome"] = str(stream.outcome)
            fields["bytes_in"], fields["bytes_out"] = stream.bytes_in, stream.bytes_out
            if stream.upstream_s is not None:
                fields["upstream_ms"] = round(stream.upstream_s * 1000, 3)
        return fields

    async def _on_answer(self) -> Iterable[tuple[str, str]]:
        assert self.stream is not None
        grant = service.grant_of_running(self.stream)
        if grant is None:
            grant = await service.start_clock(self._gateway, self.stream, actor=self._actor)
        assert grant.expires_at is not None
        return (
            (EXPIRY_HEADER, _text_of_time(grant.expires_at)),
            *common_fields(self.correlation.request_id, self.limit_fields(), over_tls=self._is_over_tls),
        )

    def _provenance(self, admission: Admission) -> Provenance:
        request, correlation = self._request, self.correlation
        return Provenance(
            client_ip=self.client.text or "unknown",  # RFC 7239, section 6.2
            scheme="https" if self._is_over_tls else request.scheme,
            host=request.host,
            user_id=_text_of_id(admission.grant.user_id.int),
            token_id=_text_of_id(admission.grant.token_id.int),
            request_id=correlation.request_id,
            trace=correlation.header_lines(),
        )

    def _actor(self) -> Actor:
        assert self.admission is not None
        return Actor(
            kind=ActorKind.USER,
            user_id=self.admission.grant.user_id,
            ip=self.client.text,
            user_agent=self._user_agent,
            request_id=self.correlation.request_id,
        )


def _upstream_path(target: str) -> str:
    """The request target, as it was sent, behind the prefix."""
    if not target.startswith(f"{PREFIX}/"):
        raise BadPath(f"The path does not begin with {PREFIX}/ as it was sent.")
    return target[len(PREFIX) :]
