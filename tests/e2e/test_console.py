"""The console client as people run it, a process of its own, against the function app in the local Azure."""

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import models
from tests.e2e.test_orders import APPROVER
from tests.e2e.test_realtime import ask, register
from tests.local import REPOSITORY, LocalAzure

PROD = {"promote-to": "prod"}
SCOPE = "https://management.azure.com/.default"


@dataclass(frozen=True)
class Run:
    """How the client ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Console = Callable[..., Run]


@pytest.fixture
def console(local_azure: LocalAzure) -> Console:
    """Run the client with the address and key of the function app; options may say otherwise."""

    def run(*arguments: str, **environment: str) -> Run:
        key = local_azure.endpoints["function_key"]
        own = {"PROMOTIONS_URL": local_azure.endpoints["functions_url"], "PROMOTIONS_KEY": key, "TZ": "UTC"}
        ran = subprocess.run(
            [sys.executable, "-m", "promotions", *arguments],
            cwd=REPOSITORY,
            env=dict(os.environ) | own | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert key not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr
        return Run(ran.returncode, ran.stdout, ran.stderr)

    return run


def test_a_promotion_from_its_start_to_a_roll_back(local_azure: LocalAzure, console: Console, tmp_path: Path) -> None:
    """Watched, listed, fetched as a bundle, taken off again: with nothing but the client."""
    first, second = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0))
    one = local_azure.wait_for_end("console-prices", register(local_azure, "console-prices", first, **PROD))
    version = register(local_azure, "console-prices", second, **PROD)
    two = local_azure.wait_for(
        lambda: next(iter(local_azure.promotions_of("console-prices", version)), None), what="the second promotion"
    )

    watched = console("show", two["id"], "--watch")
    assert watched.code == 0, watched.err
    steps = [step["step"] for step in local_azure.api(f"promotions/{two['id']}")["steps"]]
    assert [step for step in steps if step not in watched.out] == []

    listed = console("list", "--model", "console-prices", "--json")
    assert listed.json == local_azure.api("promotions?model=console-prices")
    assert f"console-prices:{version}" in console("list", "--state", "succeeded", "--all").out
    assert f"console-prices:{version}" in console("events", "--model", f"console-prices:{version}").out

    bundle = console("bundle", two["id"], "--output", str(tmp_path / "bundle"))
    assert bundle.code == 0, bundle.err
    assert any(path.name == "provenance.json" for path in (tmp_path / "bundle").rglob("*"))

    endpoint = "prod/realtime/console-prices"
    back = console("rollback", endpoint, "--reason", "wrong prices", "--watch")
    assert back.code == 0, back.err
    assert ask(local_azure, local_azure.api(f"promotions/{one['id']}"), first.request) == first.expected
    shown = console("endpoint", endpoint, "--json").json
    assert (shown["live"]["version"], shown["hold"]["order"]["reason"]) == (one["version"], "wrong prices")
    history = console("history", endpoint)
    assert ("roll_back" in history.out, "wrong prices" in history.out) == (True, True)
    again = console("rollback", endpoint, "--reason", "too far")
    assert (again.code, "HTTP 409" in again.err) == (1, True)
    assert console("release", endpoint, "--reason", "prices are right").code == 0
    local_azure.wait_for(
        lambda: local_azure.api(f"endpoints/{endpoint}")["hold"] is None or None, what="the end of the hold"
    )


def test_a_person_asks_for_a_promotion(local_azure: LocalAzure, console: Console, tmp_path: Path) -> None:
    """Of a version that an event has promoted before: that is asked for anew."""
    saved = models.regression_with_example(tmp_path)
    version = register(local_azure, "console-asked", saved, **PROD)
    local_azure.wait_for_end("console-asked", version)

    asked = console("promote", f"console-asked:{version}", "--source", "dev", "--reason", "pilot", "--watch", "--json")
    assert asked.code == 0, asked.err
    row = json.loads(asked.out.splitlines()[-1])
    assert (row["state"], row["attempt"], row["order"]["reason"]) == ("succeeded", 2, "pilot")

    name = f"console-asked:{version}"
    planned = console("plan", "--promotion", row["id"])
    assert (planned.code, "nothing to do" in planned.out) == (0, True), planned.out
    not_there = console("plan", "console-asked:77", "--source", "dev")
    assert (not_there.code, not_there.err.startswith("error: ")) == (1, True)
    explained = console("explain", name)
    assert (explained.code, row["id"] in explained.out, "tagged-for-prod" in explained.out) == (0, True, True)

    unknown = console("promote", "console-asked:77", "--source", "dev")
    assert (unknown.code, unknown.err.startswith("error: ")) == (1, True)
    elsewhere = console("promote", f"console-asked:{version}", "--source", "nowhere")
    assert (elsewhere.code, "'nowhere' is none of the policy's sources" in elsewhere.err) == (1, True)


def test_an_approval_needs_a_sign_in(
    local_azure: LocalAzure, console: Console, signed_in_app: str, tmp_path: Path
) -> None:
    """A watch ends on the question; a key alone may not answer it, a token of somebody with the role may."""
    saved = models.regression_with_example(tmp_path)
    register(local_azure, "approved-console", saved)

    def of_prod() -> dict[str, Any] | None:
        return next((row for row in local_azure.promotions_of("approved-console") if row["target"] == "prod"), None)

    promotion = local_azure.wait_for(of_prod, what="the promotion to prod")["id"]

    asked = console("show", promotion, "--watch")
    assert (asked.code, "approval_wanted" in asked.out) == (3, True)
    by_key = console("approve", promotion, "--yes")
    assert (by_key.code, "HTTP 403" in by_key.err) == (1, True)
    unanswered = console("approve", promotion, PROMOTIONS_URL=signed_in_app, PROMOTIONS_SCOPE=SCOPE)
    assert (unanswered.code, "--yes" in unanswered.err or "nothing was sent" in unanswered.err) == (2, True)

    given = console("approve", promotion, "--yes", "--comment", "fine", "--url", signed_in_app, "--scope", SCOPE)
    assert given.code == 0, given.err
    row = local_azure.promotion(promotion)
    assert row is not None
    assert (row["manifest_digest"] in given.out, row["approvals"][0]["comment"]) == (True, "fine")
    assert console("show", promotion, "--watch").code == 0
    assert ask(local_azure, local_azure.api(f"promotions/{promotion}"), saved.request) == saved.expected


def test_a_policy_is_checked_before_it_is_rolled_out(console: Console, tmp_path: Path) -> None:
    good = REPOSITORY / "tests" / "promotion.yaml"
    bad = tmp_path / "promotion.yaml"
    bad.write_text(good.read_text().replace("auth_mode: aad_token", "auth_mood: aad_token"))
    line = next(number for number, text in enumerate(bad.read_text().splitlines(), 1) if "auth_mood" in text)

    assert console("policy", "check", str(good)).code == 0
    checked = console("policy", "check", str(bad))
    assert (checked.code, checked.out.startswith(f"{bad}:{line}: rules.")) == (1, True)


@pytest.mark.parametrize("command", ["audit", "reconcile", "failed list --group", "dead-letters list", "events"])
def test_what_operators_look_at_is_there(console: Console, command: str) -> None:
    ran = console(*command.split())
    as_json = console(*command.split(), "--json")

    assert (ran.code, as_json.code, isinstance(as_json.json, dict)) == (0, 0, True), ran.err


def test_a_wrong_key_and_a_wrong_id_are_told(local_azure: LocalAzure, console: Console) -> None:
    """As the Functions host answers the one, and the app the other."""
    wrong = console("list", PROMOTIONS_KEY="wrong")
    missing = console("show", "no-such-promotion")

    assert (wrong.code, "function key is wrong" in wrong.err) == (2, True)
    assert (missing.code, "no-such-promotion" in missing.err, "HTTP 404" in missing.err) == (1, True, True)


@pytest.fixture
def signed_in_app(local_azure: LocalAzure) -> Iterator[str]:
    """What App Service authentication puts before the app: it takes nobody without a token, and says who it is."""
    app = urlsplit(local_azure.endpoints["functions_url"])

    class FrontDoor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._forward()

        def do_POST(self) -> None:
            self._forward()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _forward(self) -> None:
            if not self.headers.get("Authorization", "").startswith("Bearer "):
                self.send_response(401)
                self.end_headers()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization")
            }
            connection = http.client.HTTPConnection(str(app.hostname), app.port, timeout=60)
            connection.request(self.command, self.path, body or None, kept | APPROVER)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), FrontDoor)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
