"""Who is signed in."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user of a request, and the login that vouches for them."""

    user_id: UUID
    login_id: UUID
    is_superuser: bool
