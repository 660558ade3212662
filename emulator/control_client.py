"""A client of the control API, for tests and the demo. Goes straight to loopback, whatever proxy is set."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

# Seconds for which writes that follow one another are one change to whoever waits for a change.
BETWEEN_LOOKS = 0.15
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ControlError(Exception):
    """The control API refused; the text is its answer."""


class ControlClient:
    """One method for each thing that tests do often; `get` and `post` for the rest."""

    def __init__(self, control_url: str) -> None:
        self._url = control_url

    def get(self, path: str, **query: object) -> Any:
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("POST", path, body or {})

    def put(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("PUT", path, body or {})

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def plant(self, **fault: Any) -> int:
        """Plant a fault; its number."""
        return int(self.post("/faults", fault)["number"])

    def faults(self) -> list[dict[str, Any]]:
        """The faults in place: `number`, `fault`, `met` and the log entries `held`."""
        found: list[dict[str, Any]] = self.get("/faults")["faults"]
        return found

    def fault(self, number: int) -> dict[str, Any]:
        return next(fault for fault in self.faults() if fault["number"] == number)

    def release(self, number: int) -> None:
        self.post(f"/faults/{number}/release")

    def remove(self, number: int) -> None:
        self.delete(f"/faults/{number}")

    def clear_faults(self) -> None:
        self.delete("/faults")

    def now(self) -> datetime:
        return datetime.fromisoformat(self.get("/clock")["now"])

    def advance(self, seconds: float) -> None:
        self.post("/clock/advance", {"seconds": seconds})

    def next_write(self, since: int, *, seconds: float = 5.0) -> int:
        """Return once more has been written than `since`, at the latest after `seconds`; how much has been then.

        Looking is no news: it would wake whoever looks again.
        """
        return int(self.get("/writes", since=since, wait=seconds, rest=BETWEEN_LOOKS)["writes"])

    def requests(self, since: int = 0, **narrowed: object) -> list[dict[str, Any]]:
        """The request log after entry `since`; `wait=seconds` waits for the first."""
        found: list[dict[str, Any]] = self.get("/requests", since=since, **narrowed)["requests"]
        return found

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        try:
            with _DIRECT.open(request, timeout=120) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise ControlError(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error
        return json.loads(content) if content else None
