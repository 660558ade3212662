"""The local Functions host: a real app, through Microsoft's worker library, driven from outside its process."""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.functions.host.process import SAMPLE_APP, HostProcess

NO_NAMESPACE = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
NEVER = "0 0 0 29 2 *"


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(url: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with opener.open(request, timeout=30) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def settings(directory: Path, **more: str) -> dict[str, str]:
    return {
        "RECORD": str(directory / "record.jsonl"),
        "SCHEDULE": NEVER,
        "QUEUE": "sessions",
        "PLAIN_QUEUE": "plain",
        "BATCH_QUEUE": "batch",
        "ServiceBus": NO_NAMESPACE,
    } | more


def records(directory: Path, function: str) -> list[dict[str, Any]]:
    path = directory / "record.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["function"] == function]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., HostProcess]]:
    started: list[HostProcess] = []

    def start_host(app: Path = SAMPLE_APP, **more: str) -> HostProcess:
        host = HostProcess(tmp_path, settings(tmp_path, **more), app)
        started.append(host)
        return host

    yield start_host
    for host in started:
        host.kill()


@dataclass
class Running:
    host: HostProcess
    url: str
    keys: dict[str, str]
    directory: Path

    def call(self, path: str, method: str = "GET", body: bytes | None = None, **headers: Any) -> Answer:
        return call(self.url + path, method, body, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One running app for the tests that leave it as they found it."""
    directory = tmp_path_factory.mktemp("host")
    host = HostProcess(directory, settings(directory))
    ready = host.wait_until_ready()
    yield Running(host, ready["url"], ready["keys"], directory)
    host.kill()


class TestHttp:
    def test_a_request_arrives_whole_and_the_answer_is_the_functions(self, app: Running) -> None:
        body = bytes(range(256))
        answer = app.call(
            "/api/echo/Name%20x/7?q=a&q=b",
            "POST",
            body,
            x_functions_key=app.keys["function"],
            X_MS_CLIENT_PRINCIPAL="someone",
        )
        assert answer.status == 201
        assert answer.headers["X-Seen"] == "yes"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["Set-Cookie"] == "a=b; Path=/"
        seen = answer.json
        assert seen["method"] == "POST"
        assert seen["route"] == {"name": "Name x", "number": "7"}
        assert seen["query"] == {"q": "a,b"}
        assert seen["principal"] == "someone"
        assert bytes(seen["body"]) == body
        assert seen["url"].startswith(f"{app.url}/api/echo/")
        app.host.wait_for_line(r"\[Information\] echo \(Id=[0-9a-f-]{36}\): echo of POST")
        app.host.wait_for_line(r"Executed 'Functions.echo' \(Succeeded, Id=[0-9a-f-]{36}, Duration=\d+ms\)")

    def test_optional_parameters_and_constraints(self, app: Running) -> None:
        key = f"?code={app.keys['function']}"
        assert app.call(f"/api/ECHO/n{key}").json["route"] == {"name": "n"}
        assert app.call(f"/api/echo/n/x{key}").status == 404
        assert app.call("/api/files/a/b%20c").body == b"a/b c"
        assert app.call("/api/files").body == b""

    def test_the_more_specific_route_wins_and_bodies_may_be_binary(self, app: Running) -> None:
        answer = app.call("/api/echo/first", "POST", b"\xfe")
        assert (answer.status, answer.body) == (200, b"\x00\xff\xfe")

    @pytest.mark.parametrize(
        ("path", "key", "status"),
        [
            ("echo/n", None, 401),
            ("echo/n", "wrong", 401),
            ("echo/n", "function", 201),
            ("echo/n", "master", 201),
            ("echo/n", "eventgrid", 401),
            ("administer", "function", 401),
            ("administer", "master", 204),
            ("echo/first", None, 200),
        ],
    )
    def test_keys(self, app: Running, path: str, key: str | None, status: int) -> None:
        headers: dict[str, Any] = {"x_functions_key": app.keys.get(key, key)} if key else {}
        assert app.call(f"/api/{path}", **headers).status == status

    @pytest.mark.parametrize("path", ["/api/unknown", "/echo/first", "/", "/api"])
    def test_unknown_paths_are_404(self, app: Running, path: str) -> None:
        assert app.call(path).status == 404

    def test_a_method_that_the_function_does_not_take_is_404(self, app: Running) -> None:
        assert app.call("/api/echo/n", "DELETE", x_functions_key=app.keys["function"]).status == 404

    def test_an_exception_is_500_without_a_body_and_its_stack_trace_is_logged(self, app: Running) -> None:
        answer = app.call("/api/obedient", "POST", b'{"error": "no luck today"}')
        assert (answer.status, answer.body) == (500, b"")
        app.host.wait_for_line(r"RuntimeError: no luck today")
        app.host.wait_for_line(r'File ".*function_app.py", line \d+, in obedient')

    def test_a_request_above_100_megabytes_is_413(self, app: Running) -> None:
        assert app.call("/api/echo/first", "POST", bytes(100 * 1024 * 1024 + 1)).status == 413


class TestAdmin:
    def test_only_the_master_key_may_administer(self, app: Running) -> None:
        assert app.call("/admin/host/status", x_functions_key=app.keys["function"]).status == 401
        assert app.call("/admin/host/status", x_functions_key=app.keys["master"]).json["state"] == "Running"

    def test_a_timer_runs_by_hand(self, app: Running) -> None:
        before = len(records(app.directory, "on_timer"))
        answer = app.call("/admin/functions/on_timer", "POST", b'{"input": ""}', x_functions_key=app.keys["master"])
        assert answer.status == 202
        app.host.wait_for_line(r"Executed 'Functions.on_timer' \(Succeeded", count=before + 1)
        assert records(app.directory, "on_timer")[before]["past_due"] is False

    def test_a_message_function_runs_by_hand(self, app: Running) -> None:
        body = json.dumps({"input": json.dumps({"by": "hand"})}).encode()
        path = "/admin/functions/on_session_message"
        assert app.call(path, "POST", body, x_functions_key=app.keys["master"]).status == 202
        app.host.wait_for_line(r"Executed 'Functions.on_session_message' \(Succeeded")
        assert records(app.directory, "on_session_message")[-1]["order"] == {"by": "hand"}

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [("functions/nobody", b"{}", 404), ("functions/echo", b"{}", 400), ("functions/on_event", b"nonsense", 400)],
    )
    def test_refusals(self, app: Running, path: str, body: bytes, status: int) -> None:
        assert app.call(f"/admin/{path}", "POST", body, x_functions_key=app.keys["master"]).status == status


def event(number: str, **data: Any) -> dict[str, Any]:
    return {
        "id": number,
        "topic": "/subscriptions/s",
        "subject": "models/m:1",
        "eventType": "Test.Happened",
        "eventTime": "2026-11-23T01:02:03.1234567Z",
        "data": data,
        "dataVersion": "",
        "metadataVersion": "1",
    }


def cloud_event(number: str, **data: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": number, "source": "/s", "type": "Test.Happened", "data": data}


class TestEventGridWebhook:
    @pytest.fixture
    def deliver(self, app: Running) -> Callable[..., Answer]:
        def post(
            body: Any, kind: str | None = "Notification", function: str = "on_event", method: str = "POST"
        ) -> Answer:
            path = f"/runtime/webhooks/eventgrid?functionName={function}&code={app.keys['eventgrid']}"
            headers = {"aeg_event_type": kind} if kind else {}
            return app.call(path, method, json.dumps(body).encode() if body is not None else None, **headers)

        return post

    def test_both_schemas_reach_the_function(self, app: Running, deliver: Callable[..., Answer]) -> None:
        assert deliver([event("eg-1", a=1)]).status == 202
        assert deliver(cloud_event("ce-1", a=2)).status == 202
        assert deliver([cloud_event("ce-2"), cloud_event("ce-3")]).status == 202
        seen = {record["id"]: record for record in records(app.directory, "on_event")}
        assert seen["eg-1"]["schema"] == "EventGridEvent"
        assert seen["eg-1"]["data"] == {"a": 1}
        assert seen["ce-1"]["schema"] == "CloudEvent"
        assert seen["ce-1"]["kind"] == "Test.Happened"
        assert {"ce-2", "ce-3"} <= seen.keys()

    def test_one_failure_fails_the_batch_but_every_event_runs(
        self, app: Running, deliver: Callable[..., Answer]
    ) -> None:
        answer = deliver([event("b-1"), event("b-2", error="b-2 is bad"), event("b-3")])
        assert answer.status == 500
        assert b"b-2 is bad" in answer.body
        assert {"b-1", "b-2", "b-3"} <= {record["id"] for record in records(app.directory, "on_event")}

    def test_a_batch_runs_in_parallel(self, app: Running, deliver: Callable[..., Answer], tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        answers: list[Answer] = []
        batch = [event("p-1", gate=str(gate)), event("p-2")]
        delivery = threading.Thread(target=lambda: answers.append(deliver(batch)))
        done = len([line for line in app.host.lines if "Executed 'Functions.on_event'" in line])
        delivery.start()
        app.host.wait_for_line("Executed 'Functions.on_event'", count=done + 1)  # p-2, while p-1 waits at the gate
        assert not answers
        gate.write_bytes(b"")
        delivery.join(10)
        assert [answer.status for answer in answers] == [202]

    def test_validation_handshakes(self, deliver: Callable[..., Answer]) -> None:
        data = {"validationCode": "512d38b6"}
        expected = {"validationResponse": "512d38b6"}
        assert deliver([event("v", **data)], "SubscriptionValidation").json == expected
        assert deliver(cloud_event("v") | {"data": json.dumps(data)}, "SubscriptionValidation").json == expected

    def test_cloud_events_options_handshake(self, app: Running) -> None:
        path = f"/runtime/webhooks/eventgrid?functionName=on_event&code={app.keys['eventgrid']}"
        answer = app.call(path, "OPTIONS", WebHook_Request_Origin="eventgrid.azure.net")
        assert answer.status == 200
        assert answer.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"

    def test_refusals(self, app: Running, deliver: Callable[..., Answer]) -> None:
        assert deliver([], "Unsubscribe").status == 202
        assert deliver([event("x")], None).status == 400
        assert deliver([event("x")], function="echo").status == 404
        assert app.call("/runtime/webhooks/eventgrid?functionName=on_event&code=wrong", "POST", b"[]").status == 401


class TestStart:
    def test_a_timer_runs_on_startup_and_on_schedule(self, start: Callable[..., HostProcess], tmp_path: Path) -> None:
        host = start(SCHEDULE="* * * * * *")
        host.wait_for_line(r"Executed 'Functions.on_timer' \(Succeeded", count=3)
        assert len(records(tmp_path, "on_timer")) >= 3

    def test_an_indexing_error_is_told_as_the_worker_words_it(
        self, start: Callable[..., HostProcess], tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad"
        bad.mkdir()
        (bad / "host.json").write_text('{"version": "2.0"}')
        (bad / "function_app.py").write_text(
            "import azure.functions as func\n"
            "app = func.FunctionApp()\n"
            "@app.route()\n"
            "def wrong(request: int) -> str: ...\n"
        )
        host = start(bad)
        assert host.wait_for_exit() == 1
        assert "FunctionLoadError: cannot load the wrong function" in host.text
        assert not (tmp_path / "ready.json").exists()

    def test_an_unresolved_setting_is_told_by_name(self, start: Callable[..., HostProcess], tmp_path: Path) -> None:
        app = tmp_path / "unresolved"
        app.mkdir()
        (app / "host.json").write_text('{"version": "2.0"}')
        (app / "function_app.py").write_text(
            "import azure.functions as func\n"
            "app = func.FunctionApp()\n"
            "@app.timer_trigger(arg_name='t', schedule='%MISSING%')\n"
            "def tick(t: func.TimerRequest) -> None: ...\n"
        )
        host = start(app)
        assert host.wait_for_exit() == 1
        assert "The 'tick' function is in error: '%MISSING%' does not resolve to a value." in host.text

    def test_a_function_that_is_disabled_by_a_setting_does_not_run(self, start: Callable[..., HostProcess]) -> None:
        ready = start(**{"AzureWebJobs.on_timer.Disabled": "true"}, SCHEDULE="* * * * * *").wait_until_ready()
        assert "on_timer" not in ready["functions"]
        assert "echo" in ready["functions"]

    def test_keys_of_the_settings_file_are_used(self, tmp_path: Path, start: Callable[..., HostProcess]) -> None:
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"A": "b", "Host": {"Keys": {"function": "f-key"}}}))
        from emulator.functions_host.configuration import load_settings

        values, keys = load_settings(file)
        assert values == {"A": "b"}
        assert keys.function == "f-key"
        assert keys.master not in ("", "f-key")


class TestEnd:
    def test_sigterm_lets_a_running_function_finish(self, start: Callable[..., HostProcess], tmp_path: Path) -> None:
        host = start()
        url = host.wait_until_ready()["url"]
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        answers: list[Answer] = []
        order = json.dumps({"gate": str(gate)}).encode()
        caller = threading.Thread(target=lambda: answers.append(call(f"{url}/api/obedient", "POST", order)))
        caller.start()
        host.wait_for_line("Executing 'Functions.obedient'")
        host.terminate()
        host.wait_for_line("Host is stopping")
        with pytest.raises(urllib.error.URLError):
            call(f"{url}/api/files/x")
        gate.write_bytes(b"")
        caller.join(10)
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"done")]
        assert host.wait_for_exit() == 0

    def test_it_starts_again_after_sigkill(self, start: Callable[..., HostProcess]) -> None:
        first = start()
        first.wait_until_ready()
        first.kill()
        second = start()
        assert call(f"{second.wait_until_ready()['url']}/api/files/x").body == b"x"

    def test_it_dies_with_its_parent(self, start: Callable[..., HostProcess]) -> None:
        host = start()
        host.wait_until_ready()
        assert host.process.stdin
        host.process.stdin.close()
        assert host.wait_for_exit(5) == 1

    def test_a_function_above_the_time_out_ends_the_host(
        self, start: Callable[..., HostProcess], tmp_path: Path
    ) -> None:
        app = tmp_path / "impatient"
        app.mkdir()
        (app / "host.json").write_text('{"version": "2.0", "functionTimeout": "00:00:01"}')
        (app / "function_app.py").write_text(
            "import threading\n"
            "import azure.functions as func\n"
            "app = func.FunctionApp()\n"
            "@app.timer_trigger(arg_name='t', schedule='0 0 0 1 1 *', run_on_startup=True)\n"
            "def forever(t: func.TimerRequest) -> None:\n"
            "    threading.Event().wait()\n"
        )
        host = start(app)
        assert host.wait_for_exit(15) == 3
        assert "Timeout value of 1 s exceeded by function 'Functions.forever'" in host.text
