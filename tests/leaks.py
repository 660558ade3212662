"""What a run wrote (logs, request log, telemetry, ledger with its commands) held against every secret that was handed out."""

import json
import re
from collections.abc import Iterable, Iterator

import pytest

from tests.local import LocalAzure

# By their form, whoever made them: tokens, signatures, connection strings.
FORMS = {
    "a token": re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a signature": re.compile(r"\bsig=(?!\.\.\.)[\w%+/-]{16,}"),
    "a key": re.compile(r"\b(?:SharedAccessKey|AccountKey)=[\w+/=-]{16,}"),
}


def leaks(texts: Iterable[tuple[str, str]], secrets: Iterable[str]) -> list[str]:
    """Where which kind of secret stands, with what is around it and without itself."""
    made = sorted(secrets)
    known = re.compile("|".join(map(re.escape, made))) if made else None
    forms = FORMS | ({"a secret of this run": known} if known else {})
    return [
        f"{place}: {kind} after {text[max(0, found.start() - 80) : found.start()]!r}"
        for place, text in texts
        for kind, form in forms.items()
        for found in form.finditer(text)
    ]


def written(azure: LocalAzure) -> Iterator[tuple[str, str]]:
    """Everything that the service, its host and the local Azure have written, with its place."""
    for log in azure.directory.glob("*.log"):
        yield log.name, log.read_text(encoding="utf-8", errors="replace")
    yield "request log", json.dumps(azure.control.requests())
    yield "telemetry", json.dumps(azure.control.get("/application-insights/items"))
    yield from _ledger(azure)


def _ledger(azure: LocalAzure) -> Iterator[tuple[str, str]]:
    from azure.data.tables import TableServiceClient
    from azure.identity import ManagedIdentityCredential

    with pytest.MonkeyPatch.context() as patch:
        for name, value in azure.client_environment.items():
            patch.setenv(name, value)
        service = TableServiceClient(azure.endpoints["ledger"]["table_url"], credential=ManagedIdentityCredential())
        for table in service.list_tables():
            for entity in service.get_table_client(table.name).list_entities():
                place = f"{table.name} {entity['PartitionKey']} {entity['RowKey']}"
                yield place, "\n".join(str(value) for value in entity.values())
