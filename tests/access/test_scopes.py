"""What the scopes let through, and what a scope file may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zenzefi.access.errors import UnknownScope
from zenzefi.access.scopes import ScopesInvalid, allows, load_scopes, parse_scopes, require_known, scopes_allowing
from zenzefi.gateway.paths import canonicalise

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
WITHIN = [
    "/certificates",
    "/certificates/",
    "/certificates/7",
    "/certificates/7/pem",
    "/certificates/7/",
    "/certificates/a%20b",
    "/configurations/certificatesColumnOrder",
    "/configurations/certificatesColumnVisibility",
]
OUTSIDE = [
    "/",
    "/certificates2",
    "/certificates-old/1",
    "/certificates%20/1",
    "/Certificates/1",
    "/CERTIFICATES",
    "/certificate",
    "/api/certificates/1",
    "/configurations",
    "/configurations/",
    "/configurations/certificatesColumn",
    "/configurations/certificatesColumnOrder/",
    "/configurations/certificatesColumnOrder/x",
    "/configurations/certificatesColumnOrderX",
    "/configurations/certificatesColumnOther",
    "/configurations/certificatescolumnorder",
    "/x/configurations/certificatesColumnOrder",
    "/users",
]
segments = st.text("abcXYZ019-_.~%20", min_size=1, max_size=8)
canonical_paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize("path", WITHIN)
@pytest.mark.parametrize("method", METHODS)
def test_certificates_only_lets_its_paths_through(method: str, path: str) -> None:
    assert allows("certificates_only", method, path)
    assert scopes_allowing(method, path) == ("full", "certificates_only")


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("method", METHODS)
def test_certificates_only_lets_nothing_else_through(method: str, path: str) -> None:
    assert not allows("certificates_only", method, path)
    assert scopes_allowing(method, path) == ("full",)


@given(st.sampled_from(METHODS), canonical_paths)
def test_full_lets_everything_through(method: str, path: str) -> None:
    assert allows("full", method, path)


@given(st.sampled_from(METHODS), canonical_paths)
def test_certificates_only_agrees_with_its_definition(method: str, path: str) -> None:
    expected = path.split("/")[1] == "certificates" or path in WITHIN[-2:]
    assert allows("certificates_only", method, path) == expected


@given(st.sampled_from(METHODS), canonical_paths, st.sampled_from(["", "nothing", "FULL", "full "]))
def test_an_unknown_scope_lets_nothing_through(method: str, path: str, scope: str) -> None:
    assert not allows(scope, method, path)


@pytest.mark.parametrize(
    ("raw_path", "allowed"),
    [
        ("/certificates/../users", False),
        ("/users/../certificates/1", True),
        ("/%63ertificates/1", True),
        ("/certificates/1?next=/users", True),
        ("/users?next=/certificates/1", False),
    ],
)
def test_the_canonical_path_is_what_counts(raw_path: str, allowed: bool) -> None:
    assert allows("certificates_only", "GET", canonicalise(raw_path).path) == allowed


def test_a_long_path_takes_no_longer_than_reading_it() -> None:
    path = "/certificates" + "/a" * 100_000 + "!"
    assert scopes_allowing("GET", path) == ("full", "certificates_only")
    assert scopes_allowing("GET", path.removeprefix("/certificates")) == ("full",)


def test_the_scopes_of_the_package_are_the_two_that_are_sold() -> None:
    assert list(load_scopes()) == ["full", "certificates_only"]


def test_only_scopes_of_the_file_are_known() -> None:
    require_known("full")
    with pytest.raises(UnknownScope, match=r"The scopes are full, certificates_only\."):
        require_known("Full")


def test_a_rule_with_methods_is_for_these_alone() -> None:
    scope = parse_scopes(
        """
        [read]
        description = "To read."
        [[read.rules]]
        path = "/a/**"
        methods = ["GET"]
        [[read.rules]]
        path = "/a/search"
        methods = ["POST"]
        """
    )["read"]
    assert scope.allows("GET", "/a/b")
    assert scope.allows("POST", "/a/search")
    assert not scope.allows("HEAD", "/a/b")
    assert not scope.allows("POST", "/a/b")
    assert not scope.allows("get", "/a/b")


def test_a_rule_for_the_root_alone_is_for_the_root_alone() -> None:
    scope = parse_scopes(a_scope('path = "/"'))["some"]
    assert scope.allows("GET", "/")
    assert not scope.allows("GET", "/a")


def a_scope(rule: str) -> str:
    return f'[some]\ndescription = "Some."\n[[some.rules]]\n{rule}\n'


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "certificates/**",
        "/certificates/*",
        "/certificates**",
        "/**/pem",
        "/a/**/**",
        "**",
        "/a//b",
        "/a/",
        "/a/./b",
        "/a/../b",
        "/..",
        "/a%20b",
        "/a;b",
        "/a?b",
        "/a#b",
        "/a b",
        "/ä",
        "/(a|a)+$",
        "/a\\\\b",
        "/a\\n",
    ],
)
def test_a_pattern_that_could_never_match_or_means_something_else_is_refused(pattern: str) -> None:
    with pytest.raises(ScopesInvalid, match=r"^scope 'some', rule 1: path"):
        parse_scopes(a_scope(f'path = "{pattern}"'))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "names no scope"),
        ("[full", "not valid TOML"),
        ("full = 1", "scope 'full': a table"),
        ("[Full]", "scope 'Full': a name"),
        ('["a b"]', "scope 'a b': a name"),
        ("[full]", "scope 'full': description is missing"),
        ("[full]\ndescription = 1", "scope 'full': description is missing"),
        ('[full]\ndescription = "x"', r"at least one \[\[full\.rules\]\]"),
        ('[full]\ndescription = "x"\nrules = []', r"at least one \[\[full\.rules\]\]"),
        ('[full]\ndescription = "x"\nrules = ["/**"]', "scope 'full', rule 1: a table"),
        ('[full]\ndescription = "x"\nrule = []', "scope 'full': unknown key 'rule'; known are description, rules"),
        (a_scope("methods = ['GET']"), "rule 1: path is missing"),
        (a_scope("path = 1"), "rule 1: path is missing"),
        (a_scope("path = '/a'\nmethod = ['GET']"), "rule 1: unknown key 'method'"),
        (a_scope("path = '/a'\nmethods = 'GET'"), "rule 1: methods is a list"),
        (a_scope("path = '/a'\nmethods = []"), "rule 1: methods is a list"),
        (a_scope("path = '/a'\nmethods = ['get']"), "rule 1: 'get' is no method"),
        (a_scope("path = '/a'\nmethods = [1]"), "rule 1: 1 is no method"),
    ],
)
def test_a_bad_scope_file_is_refused_with_the_place(document: str, message: str) -> None:
    with pytest.raises(ScopesInvalid, match=message):
        parse_scopes(document)
