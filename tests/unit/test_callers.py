"""Who is asking: what is read from App Service's header, and when it is believed."""

import base64
import json
from typing import Any

import pytest

from core.callers import KEY_HOLDER, NOBODY, Caller, caller

ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"
UPN = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn"
OBJECT = "http://schemas.microsoft.com/identity/claims/objectidentifier"


def header(*claims: tuple[Any, Any], **more: Any) -> str:
    principal = {"auth_typ": "aad", "claims": [{"typ": kind, "val": value} for kind, value in claims]} | more
    return base64.b64encode(json.dumps(principal).encode()).decode()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ADA = header(("name", "Ada"), ("preferred_username", "ada@example.com"), ("roles", "Approver"))


def who(text: str | None, *, believed: bool = True) -> Caller:
    headers = {} if text is None else {"x-ms-client-principal": text}
    return caller(headers, platform_authentication=believed)


@pytest.mark.parametrize(
    ("text", "name", "names", "roles"),
    [
        (ADA, "Ada", {"ada", "ada@example.com"}, {"Approver"}),
        (header((UPN, "Ada@Example.com")), "Ada@Example.com", {"ada@example.com"}, set()),
        (header((OBJECT, "0-1"), ("name", " Ada ")), " Ada ", {"ada", "0-1"}, set()),
        (header(("appid", "a-b"), (ROLE, "Approver")), "a-b", {"a-b"}, {"Approver"}),
        (header(("sub", "s"), ("groups", "R1"), role_typ="groups"), "s", {"s"}, {"R1"}),
        (header(("name", "A"), ("roles", "R1"), ("roles", "R2")), "A", {"a"}, {"R1", "R2"}),
        (header(("name", "A"), ("roles", 1), (None, "x"), ("name", None)), "A", {"a"}, set()),
    ],
)
def test_a_caller_that_the_platform_vouches_for(text: str, name: str, names: set[str], roles: set[str]) -> None:
    found = who(text)
    assert found == Caller(name=name, names=frozenset(names), roles=frozenset(roles))
    assert found.is_known


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        "e30",  # not padded
        encoded("not json"),
        encoded("[]"),
        encoded('"Ada"'),
        encoded("{}"),
        encoded('{"claims": null}'),
        encoded('{"claims": {"typ": "name", "val": "Ada"}}'),
        encoded('{"claims": ["name", null, 1]}'),
        encoded("[" * 100_000),
        base64.b64encode(b"\xff\xfe").decode(),
        header(("name", "  ")),
        header(("roles", "Approver")),
    ],
)
def test_what_says_no_name_is_nobody(text: str | None) -> None:
    assert who(text) == NOBODY
    assert (NOBODY.name, NOBODY.is_known, NOBODY.roles) == (KEY_HOLDER, False, frozenset())


def test_nobody_is_believed_where_the_platform_does_not_sign_in() -> None:
    assert who(ADA, believed=False) == NOBODY


def test_other_headers_of_the_platform_are_not_read() -> None:
    headers = {"x-ms-client-principal-name": "Ada", "x-ms-client-principal-id": "1", "x-ms-client-principal-idp": "aad"}
    assert caller(headers, platform_authentication=True) == NOBODY


@pytest.mark.parametrize(
    ("name", "is_theirs"),
    [
        ("Ada", True),
        ("ADA", True),
        (" ada ", True),
        ("ada@EXAMPLE.com", True),
        ("Ad", False),
        ("", False),
        ("Bob", False),
    ],
)
def test_a_person_is_known_by_each_of_their_names(name: str, is_theirs: bool) -> None:
    assert who(ADA).is_called(name) is is_theirs


def test_who_has_only_a_key_is_called_nothing() -> None:
    assert not NOBODY.is_called(KEY_HOLDER)
