"""Which requests a scope lets through: pure rules over scopes.toml, which explains their meaning.

Matching compares strings and runs no regular expression, so that no path can make it slow. It sees only canonical paths
(zenzefi.gateway.paths): one that was not made canonical first could name the same resource in another spelling.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from zenzefi.access.errors import UnknownScope

_SUBTREE: Final = "/**"
_SCOPE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_METHOD: Final = re.compile(r"[A-Z]{1,20}")
# Characters that a canonical path never percent-encodes, save the * of wildcards and ; which no canonical path has.
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~!$&'()+,=:@-]+")


class ScopesInvalid(Exception):
    """The scope file cannot be used; the message names the scope, the rule and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRule:
    """One path, or one path and all below it, for some methods or (None) for all."""

    path: str
    below: str | None
    methods: frozenset[str] | None

    def matches(self, method: str, path: str) -> bool:
        """Whether this rule lets a request with this canonical path through."""
        if self.methods is not None and method not in self.methods:
            return False
        return path == self.path or (self.below is not None and path.startswith(self.below))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What tokens of one scope may ask for."""

    name: str
    description: str
    rules: tuple[ScopeRule, ...]

    def allows(self, method: str, path: str) -> bool:
        """Whether one of the rules matches."""
        for rule in self.rules:  # noqa: SIM110  each request comes here twice, and any() takes three times as long
            if rule.matches(method, path):
                return True
        return False


def parse_scopes(document: str) -> Mapping[str, Scope]:
    """The scopes of a TOML document, in its order.

    Raises:
        ScopesInvalid: it is no TOML, or says something that no rule of scopes.toml allows.
    """
    try:
        tables = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise ScopesInvalid(f"the scope file is not valid TOML: {error}") from None
    if not tables:
        raise ScopesInvalid("the scope file names no scope")
    return {name: _parse_scope(name, table) for name, table in tables.items()}


def load_scopes() -> Mapping[str, Scope]:
    """The scopes of the file that comes with this package.

    Raises:
        ScopesInvalid: see ``parse_scopes``.
    """
    return parse_scopes(resources.files(__package__).joinpath("scopes.toml").read_text(encoding="utf-8"))


def allows(scope: str, method: str, path: str) -> bool:
    """Whether a token of this scope may send this request; an unknown scope may send nothing."""
    known = SCOPES.get(scope)
    return known is not None and known.allows(method, path)


def scopes_allowing(method: str, path: str) -> tuple[str, ...]:
    """The names of all scopes that let this request through, in the file's order."""
    return tuple([name for name, scope in SCOPES.items() if scope.allows(method, path)])


def require_known(scope: str) -> None:
    """Do nothing when a scope of this name exists.

    Raises:
        UnknownScope: the detail lists those that do.
    """
    if scope not in SCOPES:
        raise UnknownScope(f"The scopes are {', '.join(SCOPES)}.")


def _parse_scope(name: str, table: object) -> Scope:
    if _SCOPE_NAME.fullmatch(name) is None:
        raise ScopesInvalid(f"scope {name!r}: a name is a-z, 0-9 and _, begins with a letter, at most 63 characters")
    if not isinstance(table, dict):
        raise ScopesInvalid(f"scope {name!r}: a table with description and rules is needed")
    _refuse_unknown_keys(table, {"description", "rules"}, where=f"scope {name!r}")
    description, rules = table.get("description"), table.get("rules")
    if not isinstance(description, str) or not description:
        raise ScopesInvalid(f"scope {name!r}: description is missing, or is no text")
    if not isinstance(rules, list) or not rules:
        raise ScopesInvalid(f"scope {name!r}: at least one [[{name}.rules]] is needed")
    parsed = tuple(_parse_rule(rule, where=f"scope {name!r}, rule {number}") for number, rule in enumerate(rules, 1))
    return Scope(name=name, description=description, rules=parsed)


def _parse_rule(table: object, *, where: str) -> ScopeRule:
    if not isinstance(table, dict):
        raise ScopesInvalid(f"{where}: a table with path, and methods if it is not for all, is needed")
    _refuse_unknown_keys(table, {"path", "methods"}, where=where)
    pattern = table.get("path")
    if not isinstance(pattern, str):
        raise ScopesInvalid(f"{where}: path is missing, or is no text")
    path = pattern.removesuffix(_SUBTREE)
    if path != "" and not _is_plain_path(path):
        raise ScopesInvalid(
            f"{where}: path {pattern!r} is not a canonical path, with or without /** at its end "
            "(it begins with /, has no empty or dot segments, no %-encoding and no other *)"
        )
    if pattern == "":
        raise ScopesInvalid(f"{where}: path is empty; everything is /**")
    below = path + "/" if pattern.endswith(_SUBTREE) else None
    return ScopeRule(path=path, below=below, methods=_parse_methods(table.get("methods"), where=where))


def _is_plain_path(path: str) -> bool:
    if path == "/":
        return True
    first, *segments = path.split("/")
    return first == "" and all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments)


def _parse_methods(methods: object, *, where: str) -> frozenset[str] | None:
    if methods is None:
        return None
    if not isinstance(methods, list) or not methods:
        raise ScopesInvalid(f"{where}: methods is a list with at least one method; leave it out for all")
    for method in methods:
        if not isinstance(method, str) or _METHOD.fullmatch(method) is None:
            raise ScopesInvalid(f"{where}: {method!r} is no method; they are written in capitals")
    return frozenset(methods)


def _refuse_unknown_keys(table: Mapping[str, object], known: set[str], *, where: str) -> None:
    if unknown := sorted(table.keys() - known):
        raise ScopesInvalid(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


# Read when the module is imported: a process with a bad file does not start, and the hot path reads no file.
SCOPES: Final = load_scopes()
