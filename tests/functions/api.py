"""The HTTP API under test: the real app in the local Functions host, whose worker is switched off.

So promotions stay where a test puts them, and what an order sends can be looked at on the queue.
"""

import base64
import contextlib
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from azure.identity import ManagedIdentityCredential
from jsonschema import Draft202012Validator

from core.adapters.ledger_storage import StorageLedger
from core.commands import EndpointCommand, PromoteModel, decode
from core.ledger import LIVE, AuditRecord, Promotion, State
from emulator.functions_host.routes import Route
from tests.functions.host.process import HostProcess
from tests.local import REPOSITORY, LocalAzure
from tests.unit.builders import a_command

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def signed_in(name: str, *roles: str) -> dict[str, str]:
    """The header by which App Service's own sign-in vouches for somebody."""
    claims = [{"typ": "name", "val": name}, {"typ": "preferred_username", "val": f"{name}@example.com"}]
    claims += [{"typ": "roles", "val": role} for role in roles]
    principal = {"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles"}
    return {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(principal).encode()).decode()}


ADA = signed_in("Ada", "Promotion.Approver")
BOB = signed_in("Bob", "Promotion.Approver")
PLACE = "endpoints/prod/realtime"


def shown(row: Promotion, **more: str) -> dict[str, Any]:
    return {"manifest_digest": row.manifest_digest, "recipe_digest": row.recipe_digest, **more}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __getitem__(self, name: str) -> Any:
        return self.json[name]


def fetch(url: str, headers: Mapping[str, str], method: str = "GET", body: bytes | None = None) -> Answer:
    request = urllib.request.Request(url, body, dict(headers), method=method)
    try:
        with _DIRECT.open(request, timeout=60) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


@dataclass
class Api:
    """A running app. Every answer is held against what the app's own OpenAPI document says of it."""

    azure: LocalAzure
    url: str
    key: str

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, json.dumps(body if body is not None else {}).encode(), headers=headers)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        given = {"x-functions-key": self.key if key is None else key, **(headers or {})}
        answer = fetch(f"{self.url}/api/{path}", given, method, body)
        self._hold_against_document(method, path.partition("?")[0], answer)
        return answer

    @cached_property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = fetch(f"{self.url}/api/openapi.json", {"x-functions-key": self.key}).json
        return found

    def _hold_against_document(self, method: str, path: str, answer: Answer) -> None:
        operations = (
            described[method.lower()]
            for template, described in self.document["paths"].items()
            if method.lower() in described and Route(template).match(path) is not None
        )
        operation = next(operations, None)
        if operation is None or answer.status == 401:
            return
        described = operation["responses"].get(str(answer.status)) or operation["responses"]["default"]
        ((media, content),) = described["content"].items()
        assert answer.headers.get_content_type() == media
        if media.endswith("json"):
            schema = {**content["schema"], "components": self.document["components"]}
            mistakes = [error.message for error in Draft202012Validator(schema).iter_errors(answer.json)]
            assert mistakes == [], answer.json

    # ------------------------------------------------------------------------------------------------- what is there

    @cached_property
    def ledger(self) -> StorageLedger:
        account = self.azure.endpoints["ledger"]
        return StorageLedger(account["table_url"], account["blob_url"], ManagedIdentityCredential())

    def promotion(self, state: State = State.PARKED, **command: Any) -> Promotion:
        """A promotion of a model of its own, in this state."""
        wanted = a_command(**{"model": f"m{uuid.uuid4().hex[:10]}"} | command)
        row = self.ledger.open(Promotion.requested(wanted, now=wanted.requested_at))
        return self.ledger.save(row.model_copy(update={"state": state}))

    def live(self, *rows: Promotion) -> None:
        """These were live on their endpoint, one after the other; the last one is."""
        for row in rows:
            self.ledger.audit(
                AuditRecord(
                    id=f"{row.id}:{row.attempt}:{LIVE}",
                    at=self.azure.control.now(),
                    actor=row.requested_by,
                    action=LIVE,
                    target=row.target,
                    serve=row.serve,
                    endpoint=row.endpoint,
                    session_id=row.session_id,
                    promotion_id=row.id,
                    after={"promotion_id": row.id, "model": row.model, "version": row.version},
                )
            )

    def live_versions(self, *states: State) -> list[Promotion]:
        """Versions of one model that were live one after the other, in the state that each is in now."""
        model = f"m{uuid.uuid4().hex[:10]}"
        rows = [self.promotion(state, model=model, version=str(number)) for number, state in enumerate(states)]
        self.live(*rows)
        return rows

    def now(self, promotion_id: str) -> Promotion:
        row = self.ledger.promotion(promotion_id)
        assert row is not None
        return row

    def actions(self, row: Promotion) -> list[str]:
        """What stands in the audit of its endpoint, oldest first."""
        return [found.action for found in self.ledger.trail(row.session_id)][::-1]

    def sent(self, row: Promotion) -> list[str]:
        """The ids of the messages in the session of its endpoint."""
        return [each["message_id"] for each in self._messages(row)]

    def words(self, row: Promotion) -> list[EndpointCommand]:
        """The words in that session."""
        found = [decode(each["body"].encode()) for each in self._messages(row)]
        return [each for each in found if isinstance(each, EndpointCommand)]

    def _messages(self, row: Promotion) -> list[dict[str, Any]]:
        path = f"/service-bus/queues/{self.azure.endpoints['queue']}/messages"
        found = self.azure.control.get(path)["messages"]
        return [each for each in found if each["session_id"] == row.session_id]

    def command(self, row: Promotion) -> PromoteModel:
        return PromoteModel.model_validate_json(str(self.now(row.id).command))


def settings(azure: LocalAzure, **more: str) -> dict[str, str]:
    """The app settings of an app in this local Azure, and the environment of its identity."""
    return {
        "PROMOTION_QUEUE": azure.endpoints["queue"],
        "PROMOTION_POLICY": str(REPOSITORY / "tests" / "functions" / "promotion.yaml"),
        "PROMOTION_PLATFORM_AUTHENTICATION": "true",
        "ServiceBusConnection": azure.endpoints["service_bus_connection_string"],
        "LedgerStorage__tableServiceUri": azure.endpoints["ledger"]["table_url"],
        "LedgerStorage__blobServiceUri": azure.endpoints["ledger"]["blob_url"],
        "PROMOTION_RECONCILE_SCHEDULE": "0 0 3 1 1 *",
        "AzureWebJobs.worker.Disabled": "true",
        "AzureWebJobs.reconcile.Disabled": "true",
        **azure.client_environment,
        "SSL_CERT_FILE": azure.endpoints["ca_bundle"],
    } | more


@contextlib.contextmanager
def running(azure: LocalAzure, directory: Path, **more: str) -> Iterator[Api]:
    """The app with these settings changed."""
    host = HostProcess(directory, settings(azure, **more), REPOSITORY)
    try:
        ready = host.wait_until_ready()
        yield Api(azure, ready["url"], ready["keys"]["function"])
    finally:
        host.kill()
