"""Whom an audit row names."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self
from uuid import UUID


class ActorKind(StrEnum):
    """Who acts: a signed-in person, the system itself, or an operator on the command line."""

    USER = "user"
    SYSTEM = "system"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, and from where."""

    kind: ActorKind
    user_id: UUID | None = None
    ip: str | None = None
    user_agent: str | None = None
    request_id: str | None = None

    @classmethod
    def system(cls) -> Self:
        """The system itself: a job or a rule."""
        return cls(kind=ActorKind.SYSTEM)

    @classmethod
    def operator(cls) -> Self:
        """Somebody at the command line."""
        return cls(kind=ActorKind.OPERATOR)

    def known_as(self, user_id: UUID) -> Self:
        """The same client, who has just shown to be this user; an operator stays one."""
        if self.kind is ActorKind.OPERATOR:
            return self
        return replace(self, kind=ActorKind.USER, user_id=user_id)
