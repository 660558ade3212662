"""Blobs and tables through the gateway, with the unmodified SDKs and the names that they have in Azure."""

import hashlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from azure.core import MatchConditions
from azure.core.credentials import AccessToken, AzureNamedKeyCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.data.tables import TableClient, TableServiceClient, TableTransactionError, UpdateMode
from azure.identity import DefaultAzureCredential
from azure.storage.blob import (
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    generate_blob_sas,
    generate_container_sas,
)

from emulator.control_client import ControlError
from tests.wire.conftest import Front

SOURCE, TARGET = "stsource", "sttarget"
MODEL = "models/m/1/MLmodel"


def blob_url(account: str) -> str:
    return f"https://{account}.blob.core.windows.net"


def service(account: str, credential: Any = None, **options: Any) -> BlobServiceClient:
    return BlobServiceClient(blob_url(account), credential=credential or DefaultAzureCredential(), **options)


class Fixed:
    """A credential that always shows this token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(self._token, 2**40)


@pytest.fixture
def source(front: Front) -> Iterator[ContainerClient]:
    """A new container in the source account, with one blob in it."""
    container = service(SOURCE).create_container(f"c{uuid.uuid4().hex[:12]}")
    container.upload_blob(
        MODEL, b"flavors: {}", metadata={"kind": "mlflow"}, content_settings=ContentSettings("text/x")
    )
    with container:
        yield container


@pytest.fixture
def target(front: Front) -> Iterator[ContainerClient]:
    with service(TARGET).create_container(f"c{uuid.uuid4().hex[:12]}") as container:
        yield container


def delegated_sas(container: ContainerClient, name: str = MODEL) -> str:
    """The URL of a blob with a signature by a user delegation key, as the product reads a source."""
    now = datetime.now(UTC)
    account = service(SOURCE)
    key = account.get_user_delegation_key(now - timedelta(minutes=5), now + timedelta(hours=1))
    sas = generate_blob_sas(
        SOURCE,
        container.container_name,
        name,
        user_delegation_key=key,
        permission=BlobSasPermissions(read=True),
        expiry=now + timedelta(hours=1),
    )
    return f"{blob_url(SOURCE)}/{container.container_name}/{name}?{sas}"


def start_copy(source: ContainerClient, target: ContainerClient, name: str = MODEL, **options: Any) -> BlobClient:
    blob = target.get_blob_client(name)
    options = {"etag": None, "match_condition": MatchConditions.IfMissing} | options
    blob.start_copy_from_url(delegated_sas(source), **{k: v for k, v in options.items() if v is not None})
    return blob


# ------------------------------------------------------------------------------------------------------ credentials


def test_a_token_reads_and_writes_and_is_logged_by_name(front: Front, source: ContainerClient) -> None:
    content = hashlib.sha256(b"seed").digest() * 300_000  # above the client's chunk size: several requests
    blob = source.upload_blob("large.bin", content, max_concurrency=2)
    assert blob.download_blob(max_concurrency=2).readall() == content
    properties = source.get_blob_client(MODEL).get_blob_properties()
    assert (properties.size, properties.metadata, properties.content_settings.content_type) == (
        11,
        {"kind": "mlflow"},
        "text/x",
    )
    assert [blob.name for blob in source.list_blobs()] == ["large.bin", MODEL]
    entry = front.last("blob")
    assert (entry["principal"], entry["status"], entry["host"]) == (
        "data-scientist",
        200,
        f"{SOURCE}.blob.core.windows.net",
    )


def test_tokens_that_are_not_for_storage_are_refused(front: Front, source: ContainerClient) -> None:
    unsigned = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJodHRwczovL3N0b3JhZ2UuYXp1cmUuY29tIn0."
    for token in (front.token("https://management.azure.com"), "no token at all", unsigned):
        with pytest.raises(ClientAuthenticationError) as refusal:
            service(SOURCE, Fixed(token), retry_total=0).get_container_client(source.container_name).exists()
        assert refusal.value.status_code == 401
        assert "InvalidAuthenticationInfo" in str(refusal.value)


def test_nobody_reads_without_a_credential(front: Front, source: ContainerClient, session: requests.Session) -> None:
    answer = session.get(f"{source.url}/{MODEL}")
    assert answer.status_code in (401, 403, 404)
    assert b"flavors" not in answer.content


def test_an_account_key_and_its_signatures_work(front: Front, source: ContainerClient) -> None:
    key = front.storage.account_key(SOURCE)
    container = service(SOURCE, {"account_name": SOURCE, "account_key": key}).get_container_client(
        source.container_name
    )
    container.upload_blob("a ä+b&c.txt", b"1")
    assert {blob.name for blob in container.list_blobs()} == {"a ä+b&c.txt", MODEL}
    assert front.last("blob")["principal"] == "account key"
    wrong = service(TARGET, {"account_name": TARGET, "account_key": key}, retry_total=0)
    with pytest.raises(ClientAuthenticationError):
        list(wrong.list_containers())

    sas = generate_container_sas(
        SOURCE,
        source.container_name,
        account_key=key,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    reader = ContainerClient.from_container_url(f"{source.url}?{sas}")
    assert reader.download_blob("a ä+b&c.txt").readall() == b"1"
    entry = front.last("blob")
    assert (entry["principal"], entry["query"]["sig"]) == ("signature", "...")
    with pytest.raises(HttpResponseError) as refusal:
        reader.upload_blob("more", b"")
    assert refusal.value.status_code == 403


def test_the_emulators_own_signatures_are_for_clients_of_the_gateway(front: Front, source: ContainerClient) -> None:
    sas = front.storage.container_sas(SOURCE, source.container_name, "rl", timedelta(hours=1))
    container = ContainerClient.from_container_url(
        f"{front.storage.blob_service_url(SOURCE)}/{source.container_name}?{sas}"
    )
    assert [blob.name for blob in container.list_blobs()] == [MODEL]


def test_an_account_that_does_not_exist_has_no_host(front: Front) -> None:
    with pytest.raises(ServiceRequestError):
        next(iter(service("stnobody", retry_total=0).list_containers()), None)


# --------------------------------------------------------------------------------------------------- conditions, faults


def test_conditions_are_kept(source: ContainerClient) -> None:
    blob = source.get_blob_client(MODEL)
    etag = blob.get_blob_properties().etag
    blob.upload_blob(b"2", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError) as stale:
        blob.upload_blob(b"3", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
    assert stale.value.status_code == 412
    with pytest.raises(ResourceExistsError):
        blob.upload_blob(b"4", overwrite=False)
    assert blob.download_blob().readall() == b"2"


def test_a_lost_answer_is_a_download_again(front: Front, source: ContainerClient) -> None:
    """After the effect, and with an answer that streams: the client sees a failure, tries again and has the content."""
    before = front.last_number()
    front.control.plant(service="blob", method="GET", phase="after", status=503)
    front.control.plant(service="blob", method="GET", phase="after", drop=True)
    blob = service(SOURCE, retry_backoff_factor=0, initial_backoff=0, increment_base=0, random_jitter_range=0)
    assert blob.get_blob_client(source.container_name, MODEL).download_blob().readall() == b"flavors: {}"
    entries = front.control.requests(before, service="blob", method="GET")
    assert [entry["status"] for entry in entries] == [503, 0, 206]
    assert [entry["detail"].get("status_lost") for entry in entries] == [206, 206, None]


def test_a_write_whose_answer_is_lost_has_happened(front: Front, source: ContainerClient) -> None:
    front.control.plant(service="blob", method="PUT", path="/written$", phase="after", drop=True)
    writer = service(SOURCE, retry_total=0).get_blob_client(source.container_name, "written")
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        writer.upload_blob(b"there")
    assert writer.download_blob().readall() == b"there"


# ------------------------------------------------------------------------------------------------------------ copies


def test_a_copy_between_accounts_by_delegated_signature(
    front: Front, source: ContainerClient, target: ContainerClient
) -> None:
    etag = source.get_blob_client(MODEL).get_blob_properties().etag
    blob = start_copy(source, target, source_etag=etag, source_match_condition=MatchConditions.IfNotModified)
    properties = blob.get_blob_properties()
    assert (properties.copy.status, properties.copy.progress, properties.size) == ("success", "11/11", 11)
    assert properties.copy.source == f"{blob_url(SOURCE)}/{source.container_name}/{MODEL}"
    assert bytes(properties.content_settings.content_md5 or b"") == hashlib.md5(b"flavors: {}").digest()  # noqa: S324 - the service's
    assert properties.metadata == {"kind": "mlflow"}
    assert blob.download_blob().readall() == b"flavors: {}"
    assert "sig=" not in str(front.control.requests()).replace("'sig': '...'", "")


def test_a_source_that_changed_is_not_copied(source: ContainerClient, target: ContainerClient) -> None:
    etag = source.get_blob_client(MODEL).get_blob_properties().etag
    source.upload_blob(MODEL, b"another", overwrite=True)
    with pytest.raises(HttpResponseError) as stale:
        start_copy(source, target, source_etag=etag, source_match_condition=MatchConditions.IfNotModified)
    assert stale.value.status_code == 412
    assert not target.get_blob_client(MODEL).exists()


def test_a_target_that_exists_is_not_overwritten(source: ContainerClient, target: ContainerClient) -> None:
    target.upload_blob(MODEL, b"mine")
    with pytest.raises(ResourceExistsError) as refusal:
        start_copy(source, target)
    assert refusal.value.status_code == 409
    assert target.download_blob(MODEL).readall() == b"mine"


def test_a_source_without_a_signature_is_not_copied(source: ContainerClient, target: ContainerClient) -> None:
    with pytest.raises(HttpResponseError) as refusal:
        target.get_blob_client(MODEL).start_copy_from_url(f"{source.url}/{MODEL}")
    assert refusal.value.status_code in (401, 403, 404)
    assert not target.get_blob_client(MODEL).exists()


def test_a_source_outside_of_this_azure_is_not_fetched(target: ContainerClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        target.get_blob_client(MODEL).start_copy_from_url("https://example.com/c/b?sig=x")


def test_a_copy_signed_with_an_account_key_is_refused_with_a_reason(
    front: Front, source: ContainerClient, target: ContainerClient
) -> None:
    key = {"account_name": TARGET, "account_key": front.storage.account_key(TARGET)}
    blob = service(TARGET, key, retry_total=0).get_blob_client(target.container_name, MODEL)
    with pytest.raises(HttpResponseError, match="use a token or a signature"):
        blob.start_copy_from_url(delegated_sas(source))


@pytest.mark.parametrize("outcome", ["success", "failed"])
def test_a_slow_copy_is_pending_until_the_clock_has_passed(
    front: Front, source: ContainerClient, target: ContainerClient, outcome: str
) -> None:
    front.control.post("/storage/copies", {"pending_seconds": 600, "outcome": outcome})
    target.upload_blob("other", b"no copy")
    blob = target.get_blob_client(MODEL)
    assert blob.start_copy_from_url(delegated_sas(source))["copy_status"] == "pending"

    pending, listed = blob.get_blob_properties(), list(target.list_blobs(include=["copy", "metadata"]))
    assert (pending.copy.status, pending.copy.progress, pending.size) == ("pending", "0/11", 0)
    assert pending.copy.completion_time is None
    assert [(b.name, b.copy.status, b.size) for b in listed] == [(MODEL, "pending", 0), ("other", None, 7)]
    assert listed[0].metadata == {"kind": "mlflow"}
    assert blob.download_blob().readall() == b""

    front.control.advance(601)
    ended, listed = blob.get_blob_properties(), list(target.list_blobs(include=["copy", "metadata"]))
    content = b"flavors: {}" if outcome == "success" else b""
    assert (ended.copy.status, ended.size) == (outcome, len(content))
    assert ended.copy.completion_time is not None
    assert ended.copy.completion_time > datetime.now(UTC) + timedelta(seconds=590)
    assert (ended.copy.status_description is None) == (outcome == "success")
    assert [(b.name, b.copy.status, b.size) for b in listed] == [(MODEL, outcome, len(content)), ("other", None, 7)]
    assert blob.download_blob().readall() == content


def test_a_failed_copy_can_be_removed_and_made_again(
    front: Front, source: ContainerClient, target: ContainerClient
) -> None:
    front.control.post("/storage/copies", {"pending_seconds": 0, "outcome": "failed"})
    blob = start_copy(source, target)
    assert blob.get_blob_properties().copy.status == "failed"
    front.control.post("/storage/copies", {"pending_seconds": None})
    blob.delete_blob()
    assert start_copy(source, target).get_blob_properties().copy.status == "success"
    assert blob.download_blob().readall() == b"flavors: {}"


@pytest.mark.parametrize("body", [{"seconds": 1}, {"pending_seconds": "1"}, {"pending_seconds": 1, "outcome": "lost"}])
def test_a_pace_of_copies_that_makes_no_sense_is_refused(front: Front, body: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="400"):
        front.control.post("/storage/copies", body)


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.fixture
def table(front: Front) -> Iterator[TableClient]:
    tables = TableServiceClient(f"https://{SOURCE}.table.core.windows.net", credential=DefaultAzureCredential())
    with tables.create_table(f"t{uuid.uuid4().hex[:12]}") as table:
        yield table


def test_a_table_with_a_token(front: Front, table: TableClient) -> None:
    row = {"PartitionKey": "p", "RowKey": "r", "state": "running", "hops": 1, "note": "ä/ö"}
    table.create_entity(row)
    with pytest.raises(ResourceExistsError):
        table.create_entity(row)
    found = table.get_entity("p", "r")
    assert (found["state"], found["hops"], found["note"]) == ("running", 1, "ä/ö")
    etag = found.metadata["etag"]

    same = MatchConditions.IfNotModified
    changed = row | {"state": "waiting"}
    table.update_entity(changed, UpdateMode.MERGE, etag=etag, match_condition=same)
    with pytest.raises(ResourceModifiedError):
        table.update_entity(row, UpdateMode.MERGE, etag=etag, match_condition=same)
    rows = table.query_entities("PartitionKey eq @p and state eq @s", parameters={"p": "p", "s": "waiting"})
    assert [row["RowKey"] for row in rows] == ["r"]
    assert front.last("table")["principal"] == "data-scientist"


def test_a_batch_is_all_or_nothing(table: TableClient) -> None:
    table.create_entity({"PartitionKey": "p", "RowKey": "1"})
    rows = [("create", {"PartitionKey": "p", "RowKey": str(number)}) for number in (2, 1)]
    with pytest.raises(TableTransactionError) as conflict:
        table.submit_transaction(rows)
    assert conflict.value.status_code == 409
    assert [row["RowKey"] for row in table.list_entities()] == ["1"]
    table.submit_transaction([("create", {"PartitionKey": "p", "RowKey": str(number)}) for number in (3, 4)])
    table.submit_transaction(
        [
            ("upsert", {"PartitionKey": "p", "RowKey": "3", "url": "https://stsource.table.core.windows.net/"}),
            ("delete", {"PartitionKey": "p", "RowKey": "4"}),
        ]
    )
    assert [row["RowKey"] for row in table.list_entities()] == ["1", "3"]
    assert table.get_entity("p", "3")["url"] == "https://stsource.table.core.windows.net/"


def test_a_table_with_an_account_key_and_without_a_right_token(front: Front, table: TableClient) -> None:
    key = AzureNamedKeyCredential(SOURCE, front.storage.account_key(SOURCE))
    with TableClient(f"https://{SOURCE}.table.core.windows.net", table.table_name, credential=key) as keyed:
        keyed.create_entity({"PartitionKey": "p", "RowKey": "r"})
        assert front.last("table")["principal"] == "account key"
    foreign = Fixed(front.token("https://management.azure.com"))
    with (
        TableClient(table.url, table.table_name, credential=foreign, retry_total=0) as refused,
        pytest.raises(ClientAuthenticationError),
    ):
        refused.get_entity("p", "r")
