"""The local Azure from a test's chair: start it, act as a data scientist in it, wait for what shall come."""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from emulator.control_client import ControlClient
from emulator.launch import client_environment, launched

REPOSITORY = Path(__file__).parent.parent
# The lock of a message, which a killed host leaves behind.
LOCK_SECONDS = 60
FINAL = frozenset({"succeeded", "refused", "superseded", "cancelled", "rolled_back", "retired"})
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
T = TypeVar("T")


@dataclass
class LocalAzure:
    """A running local Azure; `endpoints` is its endpoints.json."""

    endpoints: dict[str, Any]
    directory: Path
    _newest: int = 0

    @cached_property
    def control(self) -> ControlClient:
        return ControlClient(self.endpoints["control_url"])

    @property
    def client_environment(self) -> dict[str, str]:
        return client_environment(self.endpoints)

    def api(self, path: str, **headers: str) -> Any:
        """GET from the function app's HTTP API."""
        return json.loads(self.api_bytes(path, **headers))

    def order(self, path: str, body: Mapping[str, Any] | None = None, **headers: str) -> Any:
        """POST to the function app's HTTP API; the answer, whatever its status, with that as `status_code`."""
        url = f"{self.endpoints['functions_url']}/api/{path}"
        sent = {"x-functions-key": self.endpoints["function_key"], "Content-Type": "application/json", **headers}
        request = urllib.request.Request(url, json.dumps(body or {}).encode(), sent)
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                return {"status_code": answer.status} | json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return {"status_code": error.code} | json.loads(error.read() or b"{}")

    def tick(self) -> None:
        """Have the timer's function run now, by the admin API of the Functions host."""
        url = f"{self.endpoints['functions_url']}/admin/functions/reconcile"
        sent = {"x-functions-key": self.endpoints["master_key"], "Content-Type": "application/json"}
        with _DIRECT.open(urllib.request.Request(url, b"{}", sent), timeout=30) as answer:
            assert answer.status == 202

    def restart(self, settings: Mapping[str, str] | None = None) -> None:
        """SIGKILL the function app and start it again, with these settings as well; what it worked on is free again."""
        self.control.post("/function-app/kill")
        self.control.post("/function-app/start", {"settings": dict(settings or {})})
        self.control.advance(LOCK_SECONDS + 1)

    def api_bytes(self, path: str, **headers: str) -> bytes:
        """As `api`, for what is not JSON."""
        url = f"{self.endpoints['functions_url']}/api/{path}"
        request = urllib.request.Request(url, headers={"x-functions-key": self.endpoints["function_key"], **headers})
        for tries in reversed(range(5)):
            try:
                with _DIRECT.open(request, timeout=30) as answer:
                    content: bytes = answer.read()
                    return content
            except urllib.error.HTTPError as error:
                if error.code != 503 or not tries:  # 503 says: ask again in a moment
                    raise
        raise AssertionError("not reached")

    def promotion(self, promotion_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.api(f"promotions/{promotion_id}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return found

    def promotions_of(self, model: str, version: str | None = None) -> list[dict[str, Any]]:
        """The promotions of a model, each as it is: for a moment the listing may be ahead of what it lists."""
        query = f"model={model}" + (f"&version={version}" if version else "")
        listed: list[dict[str, Any]] = self.api(f"promotions?{query}")["promotions"]
        return [row for row in (self.promotion(each["id"]) for each in listed) if row is not None]

    def events_of(self, subject: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.api("events")["events"]
        return [event for event in events if event["subject"] == subject]

    def wait_for(self, look: Callable[[], T | None], *, what: str, seconds: float = 150.0) -> T:
        """Look again whenever something was written, and each second, until there is something to see."""
        ends = time.monotonic() + seconds
        while True:
            if (found := look()) is not None:
                return found
            if time.monotonic() > ends:
                raise AssertionError(f"{what}: not seen within {seconds:.0f} s")
            self._newest = self.control.next_write(self._newest, seconds=1.0)

    def wait_for_end(self, model: str, version: str = "1", seconds: float = 150.0) -> dict[str, Any]:
        """The promotion of this model version, once it has ended."""

        def ended() -> dict[str, Any] | None:
            rows = [row for row in self.promotions_of(model, version) if row["state"] in FINAL]
            return rows[0] if rows else None

        return self.wait_for(ended, what=f"the end of the promotion of {model}:{version}", seconds=seconds)

    def wait_for_state(
        self, promotion_id: str, *states: str, attempt: int = 1, seconds: float = 150.0
    ) -> dict[str, Any]:
        """The promotion, once it is in one of these states at this attempt (or a later one)."""

        def there() -> dict[str, Any] | None:
            row = self.promotion(promotion_id)
            return row if row and row["state"] in states and row["attempt"] >= attempt else None

        return self.wait_for(there, what=f"{promotion_id} in {' or '.join(states)}", seconds=seconds)

    def target_files(self, target: str) -> Any:
        """The container behind the default datastore of a target, as the data scientist sees it."""
        from azure.identity import ManagedIdentityCredential
        from azure.storage.blob import ContainerClient

        datastore = self.ml_client(self.endpoints["targets"][target]).datastores.get_default()
        url = f"https://{datastore.account_name}.blob.{datastore.endpoint}"
        return ContainerClient(url, datastore.container_name, ManagedIdentityCredential())

    def scheduled_runs(self, target: str, schedule: str) -> list[Any]:
        """The jobs that a schedule has started, oldest first."""
        jobs = self.ml_client(self.endpoints["targets"][target]).jobs.list()
        return [job for job in jobs if str(job.display_name).startswith(f"{schedule}-2")][::-1]

    def ml_client(self, workspace: Mapping[str, str]) -> Any:
        """The real SDK, signed in as the data scientist (needs the fixture's environment)."""
        from azure.ai.ml import MLClient
        from azure.identity import ManagedIdentityCredential

        return MLClient(
            ManagedIdentityCredential(),
            workspace["subscription_id"],
            workspace["resource_group"],
            workspace["workspace"],
            enable_telemetry=False,
            retry_total=0,
        )


@contextlib.contextmanager
def started(directory: Path, *, app: Path | None = None, policy: Path | None = None) -> Iterator[LocalAzure]:
    """A local Azure in a process of its own; gone when the block ends."""
    with launched(directory, app=app, policy=policy) as endpoints:
        yield LocalAzure(endpoints, directory)
