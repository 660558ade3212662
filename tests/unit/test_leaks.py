"""The look for secrets at the end of a run finds what it looks for."""

import pytest

from tests.leaks import leaks

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Authorization: Bearer " + TOKEN, ["a token"]),
        ("https://st.blob.core.windows.net/c/b?sv=2024&sig=AbCd%2BEfGh12345678%3D", ["a signature"]),
        ("?sv=2024&sig=...", []),
        ("Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=abcdefghijklmnop1234=", ["a key"]),
        ("the key is k3y+of/an endpoint", ["a secret of this run"]),
        ("promotion p-1 waits until noon: looking at the endpoint", []),
    ],
)
def test_secrets_are_found_and_not_repeated(text: str, kinds: list[str]) -> None:
    found = leaks([("log", text)], ["k3y+of/an"])

    assert [line.split(": ")[1].partition(" after")[0] for line in found] == kinds
    assert not any("k3y" in line or TOKEN in line for line in found)
