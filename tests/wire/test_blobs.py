"""The product's own access to blobs, through the gateway, against the real protocol."""

import uuid
from collections.abc import Iterator

import pytest
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient, ContainerClient

from core.adapters.blobs import Blobs
from core.adapters.datastores import BlobPath
from core.errors import Reason, Refusal, Transient
from tests.wire.conftest import Front

SOURCE, TARGET = "https://stsource.blob.core.windows.net", "https://sttarget.blob.core.windows.net"


@pytest.fixture
def blobs(front: Front) -> Blobs:
    return Blobs(DefaultAzureCredential())


def new_container(account_url: str) -> ContainerClient:
    return BlobServiceClient(account_url, DefaultAzureCredential()).create_container(f"c{uuid.uuid4().hex[:12]}")


@pytest.fixture
def source(front: Front) -> Iterator[ContainerClient]:
    with new_container(SOURCE) as container:
        yield container


@pytest.fixture
def target(front: Front) -> Iterator[ContainerClient]:
    with new_container(TARGET) as container:
        yield container


# --------------------------------------------------------------------------------------------------------- small texts


def test_a_text_is_written_once_and_may_be_written_again(blobs: Blobs, target: ContainerClient) -> None:
    for _ in range(2):
        blobs.put_text(TARGET, target.container_name, "code/a b/score.py", b"import json")
    assert target.download_blob("code/a b/score.py").readall() == b"import json"
    blobs.put_text(TARGET, target.container_name, "empty", b"")
    blobs.put_text(TARGET, target.container_name, "empty", b"")


@pytest.mark.parametrize("theirs", [b"import js", b"import json ", b"import JSON", b""])
def test_a_text_of_somebody_else_is_never_overwritten(blobs: Blobs, target: ContainerClient, theirs: bytes) -> None:
    target.upload_blob("score.py", theirs)
    with pytest.raises(Refusal, match=r"score\.py") as refusal:
        blobs.put_text(TARGET, target.container_name, "score.py", b"import json")
    assert refusal.value.reason is Reason.COPY_MISMATCH
    assert target.download_blob("score.py").readall() == theirs


def test_a_conflict_of_another_kind_is_not_taken_for_a_text_that_is_there(
    front: Front, blobs: Blobs, target: ContainerClient
) -> None:
    answer = {"status": 409, "body": {"error": {"code": "ContainerBeingDeleted", "message": "in a moment"}}}
    front.control.plant(service="blob", method="PUT", path="/score.py$", **answer)
    with pytest.raises(Transient, match="ContainerBeingDeleted"):
        blobs.put_text(TARGET, target.container_name, "score.py", b"import json")


def test_the_end_of_a_text_is_read(blobs: Blobs, target: ContainerClient) -> None:
    name = target.container_name
    target.upload_blob("log.txt", b"0123456789")
    target.upload_blob("empty.txt", b"")
    assert blobs.read_text(TARGET, name, "log.txt", 100) == b"0123456789"
    assert blobs.read_text(TARGET, name, "log.txt", 10) == b"0123456789"
    assert blobs.read_text(TARGET, name, "log.txt", 4) == b"6789"
    assert blobs.read_text(TARGET, name, "empty.txt", 4) == b""
    assert blobs.read_text(TARGET, name, "none.txt", 4) is None


def test_a_container_that_is_not_there_is_no_missing_text(front: Front, blobs: Blobs) -> None:
    with pytest.raises(Refusal) as refusal:
        blobs.read_text(TARGET, "nowhere", "log.txt", 4)
    assert refusal.value.reason is Reason.TARGET_NOT_FOUND


# ----------------------------------------------------------------------------------------------------------- manifests


def test_files_are_listed_or_there_are_none(blobs: Blobs, source: ContainerClient) -> None:
    for name in ("m/1/MLmodel", "m/1/data/model.pkl", "m/12/other", "single.pkl"):
        source.upload_blob(name, name.encode())
    container = source.container_name
    folder, single = (blobs.list(BlobPath(SOURCE, container, path)) for path in ("m/1", "single.pkl"))
    assert folder is not None
    assert single is not None
    assert (folder.root, folder.folder, folder.paths()) == ("m/1", "1", ("MLmodel", "data/model.pkl"))
    assert (single.root, single.folder, single.paths()) == ("", "", ("single.pkl",))
    assert blobs.list(BlobPath(SOURCE, container, "m/3")) is None
    with pytest.raises(Refusal) as refusal:
        blobs.manifest(BlobPath(SOURCE, container, "m/3"))
    assert refusal.value.reason is Reason.MODEL_EMPTY
