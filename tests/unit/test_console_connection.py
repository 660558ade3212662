"""The console client and what lies between it and the service: faults, keys, tokens, wrong addresses."""

import ast
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.unit.console_runs import Console
from tests.unit.console_service import KEY, NO_ANSWER, Reply, Service, a_row, problem

REPOSITORY = Path(__file__).parents[2]
LIST: dict[str, Any] = {"promotions": [], "continuation": None}
ROW = a_row()
CANCEL = f"POST promotions/{ROW['id']}/cancel"


def closed_port() -> int:
    """A port that nobody listens on: bound once, then let go."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


# -------------------------------------------------------------------------------------------------------- trying again


@pytest.mark.parametrize("fault", [NO_ANSWER, problem(503, "busy"), problem(429, "slow down"), Reply(b"", 502)])
def test_an_order_is_sent_again_under_the_same_key(service: Service, console: Console, fault: object) -> None:
    service.answers(CANCEL, fault, fault, Reply(ROW, 202))

    ran = console("cancel", ROW["id"])

    keys = [asked.headers["idempotency-key"] for asked in service.of(CANCEL)]
    assert (ran.code, len(keys), len(set(keys))) == (0, 3, 1)
    assert ran.slept == [0.5, 1.0]


def test_a_key_of_the_users_own_makes_a_repeated_command_one_order(service: Service, console: Console) -> None:
    service.answers(CANCEL, Reply(ROW, 202))

    for _ in range(2):
        console("cancel", ROW["id"], "--idempotency-key", "pipeline-7")

    assert [asked.headers["idempotency-key"] for asked in service.of(CANCEL)] == ["pipeline-7", "pipeline-7"]


@pytest.mark.parametrize(("retry_after", "wait"), [("7", 7.0), ("0", 0.0), ("86400", 30.0), ("soon", 0.5), ("-1", 0.5)])
def test_retry_after_is_heeded_within_bounds(service: Service, console: Console, retry_after: str, wait: float) -> None:
    headers = {"Retry-After": retry_after}
    service.answers("GET promotions", problem(503, "busy", headers=headers), LIST)

    assert console("list").slept == [wait]


def test_trying_again_comes_to_an_end(service: Service, console: Console) -> None:
    service.answers("GET promotions", problem(503, "the ledger is busy"))

    ran = console("list")

    assert (ran.code, len(service.asked), ran.out) == (2, 4, "")
    assert "error: the ledger is busy (HTTP 503)." in ran.err


def test_an_order_without_an_answer_says_how_to_repeat_it_safely(service: Service, console: Console) -> None:
    service.answers(CANCEL, NO_ANSWER)

    ran = console("cancel", ROW["id"])

    (key,) = {asked.headers["idempotency-key"] for asked in service.of(CANCEL)}
    assert ran.code == 2
    assert f"--idempotency-key {key}" in ran.err


def test_a_refusal_after_a_lost_answer_is_told_as_what_it_may_be(service: Service, console: Console) -> None:
    route = "POST dead-letters/42/resubmit"
    service.answers(route, NO_ANSWER, problem(404, "there is no dead letter 42"))

    ran = console("dead-letters", "resubmit", "42")

    assert (ran.code, "may have done it" in ran.err) == (1, True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_what_was_answered_is_not_asked_again(service: Service, console: Console, status: int) -> None:
    service.answers("GET promotions", problem(status, "no", reason="not_allowed"))

    ran = console("list")

    assert (len(service.asked), ran.slept) == (1, [])
    assert ran.code == (1 if status in (403, 404, 409, 422) else 2)
    assert f"error: no (HTTP {status}, not_allowed)." in ran.err


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "x" * 201, "ümlaut"])
def test_a_key_of_the_users_own_that_is_none_is_not_sent(service: Service, console: Console, key: str) -> None:
    ran = console("cancel", ROW["id"], "--idempotency-key", key)

    assert (ran.code, service.asked) == (2, [])


@pytest.mark.parametrize("answer", [{"promotions": [{}]}, {}, [], "text", None])
def test_an_answer_of_another_version_is_one_sentence(service: Service, console: Console, answer: object) -> None:
    service.answers("GET promotions", answer)

    ran = console("list")

    assert (ran.code, "not what this client knows" in ran.err) == (2, True)


# ------------------------------------------------------------------------------------------------- wrong address or key


def test_a_wrong_key_is_told_and_not_shown(service: Service, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMOTIONS_KEY", "wrong-but-still-secret")

    ran = console("list")

    assert (ran.code, "function key is wrong" in ran.err, "wrong-but" in ran.err) == (2, True, False)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "umläut", "nul\0"])
def test_what_can_be_no_key_is_told_and_not_shown(service: Service, console: Console, tmp_path: Path, key: str) -> None:
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")

    ran = console("list", "--key-file", str(file))

    assert (ran.code, service.asked, key.split()[0] in ran.err) == (2, [], False)


def test_a_key_comes_from_a_file(
    service: Service, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMOTIONS_KEY")
    file = tmp_path / "key"
    file.write_text(f"\ufeff{KEY}\r\n", encoding="utf-8")
    service.answers("GET promotions", LIST)

    assert console("list", "--key-file", str(file)).code == 0
    assert console("list", "--key-file", str(tmp_path / "none")).code == 2
    assert console("list", "--key-file", str(tmp_path)).code == 2


def test_an_error_that_repeats_the_key_is_shown_without_it(service: Service, console: Console) -> None:
    service.answers("GET promotions", problem(500, f"do not log {KEY} please"))

    assert "do not log *** please" in console("list").err


def test_no_option_takes_a_key(console: Console) -> None:
    assert console("list", "--key", KEY[::-1]).code == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not said where"),
        ("app.azurewebsites.net", "is none"),
        ("ftp://app", "is none"),
        ("https://", "is none"),
        ("https://app:port", "is none"),
        ("https://[::1", "is none"),
        ("https://app/api?code=secret-key", "more than an address"),
        ("https://me:secret-key@app", "more than an address"),
        ("http://app.azurewebsites.net", "not encrypted"),
        ("http://127.0.0.1.example.com", "not encrypted"),
    ],
)
def test_an_address_that_is_none_is_told(
    service: Service, console: Console, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("PROMOTIONS_URL", url)

    ran = console("list")

    assert (ran.code, says in ran.err, "secret-key" in ran.err) == (2, True, False)


@pytest.mark.parametrize("suffix", ["", "/", "/api", "/api/"])
def test_the_address_is_understood_with_and_without_api(service: Service, console: Console, suffix: str) -> None:
    service.answers("GET promotions", LIST)

    assert console("list", "--url", service.url + suffix).code == 0


def test_nobody_at_the_address_is_one_sentence(console: Console) -> None:
    ran = console("list", "--url", f"http://127.0.0.1:{closed_port()}")

    assert (ran.code, "Nobody listens at" in ran.err) == (2, True)


def test_a_name_that_is_not_known_is_one_sentence(console: Console) -> None:
    """`.invalid` never is (RFC 2606)."""
    ran = console("list", "--url", "https://no-such-app.invalid")

    assert (ran.code, "error: The name in https://no-such-app.invalid is not known." in ran.err) == (2, True)


def test_a_proxy_that_is_not_there_is_one_sentence(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NO_PROXY", "")

    ran = console("list", "--url", "https://app.example")

    assert (ran.code, "HTTPS_PROXY" in ran.err) == (2, True)


def test_a_certificate_that_nobody_vouches_for_is_one_sentence(console: Console) -> None:
    """And no reason to try again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with listening(BaseHTTPRequestHandler, context) as port:
        ran = console("list", "--url", f"https://127.0.0.1:{port}")

    assert (ran.code, "certificate" in ran.err, ran.slept) == (2, True, [])


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(b"<html>Sign in</html>", headers={"Content-Type": "text/html"}), "answered with text/html"),
        (Reply(b"", 302, {"Location": "https://login.microsoftonline.com/x?y"}), "on to login.microsoftonline.com"),
        (Reply(b"[" * 100_000), "JSON was expected"),
        (Reply(b"", 403), "lets nobody in"),
        (Reply(b"", 404), "not the promotion service"),
        (Reply(b"<html/>", 500), "answered HTTP 500"),
        (Reply(b"[]", 400), "answered HTTP 400"),
    ],
)
def test_an_answer_of_somebody_else_is_one_sentence(
    service: Service, console: Console, reply: Reply, says: str
) -> None:
    service.answers("GET promotions", reply)

    ran = console("list")

    assert (ran.code, says in ran.err) == (2, True)


def test_a_redirect_takes_no_key_along(service: Service, console: Console) -> None:
    service.answers("GET promotions", Reply(b"", 307, {"Location": f"{service.url}/api/elsewhere"}))

    assert console("list").code == 2
    assert service.of("GET elsewhere") == []


# -------------------------------------------------------------------------------------------------------------- tokens


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on loopback; its port."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # handshakes that fail are meant
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ManagedIdentity(BaseHTTPRequestHandler):
    """App Service's own endpoint of a managed identity, as azure-identity asks it."""

    asked: list[str]
    status = 200

    def do_GET(self) -> None:
        self.asked.append(self.path)
        token = {"access_token": "token-never-shown", "expires_on": "4102444800", "token_type": "Bearer"}
        content = json.dumps(token if self.status == 200 else {"error": "no identity here"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ManagedIdentity]]:
    """Only a managed identity to sign in with."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    handler = type("Identity", (ManagedIdentity,), {"asked": []})
    with listening(handler) as port:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{port}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        yield handler


@pytest.mark.parametrize("with_key", [True, False])
def test_a_token_signs_in_alone_or_beside_a_key(
    service: Service, console: Console, identity: type[ManagedIdentity], monkeypatch: pytest.MonkeyPatch, with_key: bool
) -> None:
    """By the real azure-identity; one token for all requests of a run."""
    if not with_key:
        monkeypatch.delenv("PROMOTIONS_KEY")
    service.answers("GET promotions", {"promotions": [], "continuation": "b"}, {"promotions": [], "continuation": None})

    ran = console("list", "--all", "--scope", "api://promotions/.default")

    assert (ran.code, "token-never-shown" in ran.out + ran.err) == (0, False)
    assert [asked.headers["authorization"] for asked in service.asked] == ["Bearer token-never-shown"] * 2
    assert ["x-functions-key" in asked.headers for asked in service.asked] == [with_key] * 2
    assert (len(identity.asked), "resource=api://promotions" in identity.asked[0]) == (1, True)


def test_a_sign_in_that_fails_says_what_to_do(
    service: Service, console: Console, identity: type[ManagedIdentity]
) -> None:
    identity.status = 400

    ran = console("list", "--scope", "api://promotions/.default")

    assert (ran.code, "az login" in ran.err, service.asked) == (2, True, [])


def test_nothing_to_sign_in_with_is_told(service: Service, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMOTIONS_KEY")

    ran = console("list")

    assert (ran.code, "--key-file" in ran.err, "--scope" in ran.err) == (2, True, True)


# ------------------------------------------------------------------------------------------------------------- packaging


def test_the_client_needs_nothing_of_the_service() -> None:
    """It can be installed alone: from its own requirements, without core, functions or the tests' packages."""
    modules = set()
    for file in (REPOSITORY / "promotions").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).split(".")[0])

    assert modules - sys.stdlib_module_names == {"azure", "promotions", "rich", "typer"}


def test_versions_are_those_of_the_service() -> None:
    """What both install has one version."""

    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w-]+)==([^;\s]+)$", (REPOSITORY / name).read_text(), re.MULTILINE))

    client, app = pins("requirements-cli.txt"), pins("requirements.txt")

    assert set(client) == {"azure-core", "azure-identity", "rich", "typer"}
    assert {name: client[name] for name in client.keys() & app} == {name: app[name] for name in client.keys() & app}


def test_help_needs_no_sign_in_and_little_time() -> None:
    """azure-identity is imported by those who sign in with it."""
    code = "import sys, promotions.app; print('azure.identity' in sys.modules, 'pydantic_settings' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["False", "False"]
