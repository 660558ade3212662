"""Running the console client in a test: against the stand-in of the service, with nothing slept in earnest."""

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from promotions.app import main
from tests.unit.console_service import KEY, Service, served


class Run:
    """How a command ended, and what it printed."""

    def __init__(self, code: int, out: str, err: str, slept: list[float]) -> None:
        self.code, self.out, self.err, self.slept = code, out, err, slept

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Console = Callable[..., Run]


@pytest.fixture(scope="session")
def _service() -> Iterator[Service]:
    with served() as service:
        yield service


@pytest.fixture
def service(_service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The stand-in, with the environment of a user who has its address and its key, an hour ahead of UTC."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "PROMOTIONS_SCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PROMOTIONS_URL", _service.url)
    monkeypatch.setenv("PROMOTIONS_KEY", KEY)
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield _service
    _service.forget()
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def console(service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    """Run the client; `typed` is what the user types. No run ever shows the key, and none waits in earnest."""

    def run(*arguments: str, typed: str = "") -> Run:
        slept: list[float] = []
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = main(arguments, sleep=slept.append)
        out, err = capsys.readouterr()
        assert KEY not in out + err
        assert "Traceback" not in err
        return Run(code, out, err, slept)

    return run
