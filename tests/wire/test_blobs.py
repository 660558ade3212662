"""The product's own access to blobs, through the gateway, against the real protocol."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient, ContainerClient

from core.adapters.blobs import Blobs
from core.adapters.datastores import BlobPath, is_plain
from core.errors import Reason, Refusal, Transient
from core.packaging import Manifest
from core.ports import CopyState, CopyStatus
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


@pytest.mark.parametrize("name", ["m/1//MLmodel", "m/1/data/"])
def test_names_that_could_mean_other_blobs_are_refused(blobs: Blobs, source: ContainerClient, name: str) -> None:
    source.upload_blob("m/1/model.pkl", b"1")
    source.upload_blob(name, b"2")
    with pytest.raises(Refusal, match=name) as refusal:
        blobs.manifest(BlobPath(SOURCE, source.container_name, "m/1"))
    assert refusal.value.reason is Reason.MODEL_PATH_UNSUPPORTED


@pytest.mark.parametrize("path", ["../other", "a/../b", "a/..", "./a", "a/.", "a//b", "/a", "a/", ""])
def test_clients_tidy_these_paths_up(path: str) -> None:
    assert not is_plain(path)


@pytest.mark.parametrize("path", ["a", "a/b.c", "..a/b..", ".hidden/...", "a b/ä"])
def test_clients_take_these_paths_as_they_are(path: str) -> None:
    assert is_plain(path)


# -------------------------------------------------------------------------------------------------------------- copies


@pytest.fixture
def manifest(blobs: Blobs, source: ContainerClient) -> Manifest:
    source.upload_blob("m/1/MLmodel", b"flavors: {}")
    return blobs.manifest(BlobPath(SOURCE, source.container_name, "m/1"))


def test_a_copy_is_started_once(blobs: Blobs, manifest: Manifest, target: ContainerClient) -> None:
    place = BlobPath(TARGET, target.container_name, "promoted/1")
    (missing,) = blobs.copy_states(manifest, place)
    assert missing.status is CopyStatus.MISSING
    for _ in range(2):  # the second delivery saw the same as the first
        blobs.start_copy(manifest, place, missing)
    (copied,) = blobs.copy_states(manifest, place)
    assert (copied.status, copied.why) == (CopyStatus.COPIED, None)


def conflict(code: str) -> dict[str, Any]:
    return {"service": "blob", "method": "PUT", "status": 409, "body": {"error": {"code": code, "message": "so it is"}}}


def test_a_copy_under_way_is_left_alone(
    front: Front, blobs: Blobs, manifest: Manifest, target: ContainerClient
) -> None:
    front.control.plant(**conflict("PendingCopyOperation"))
    blobs.start_copy(
        manifest, BlobPath(TARGET, target.container_name, "p"), CopyState(path="MLmodel", status=CopyStatus.MISSING)
    )


@pytest.mark.parametrize("code", ["ContainerBeingDeleted", "AccountBeingCreated", "InvalidBlobType"])
def test_a_conflict_of_another_kind_is_no_copy(
    front: Front, blobs: Blobs, manifest: Manifest, target: ContainerClient, code: str
) -> None:
    place = BlobPath(TARGET, target.container_name, "p")
    (missing,) = blobs.copy_states(manifest, place)
    front.control.plant(**conflict(code))
    with pytest.raises(Transient, match=code):
        blobs.start_copy(manifest, place, missing)


def test_a_copy_that_failed_says_why_and_is_made_again(
    front: Front, blobs: Blobs, manifest: Manifest, target: ContainerClient
) -> None:
    place = BlobPath(TARGET, target.container_name, "p")
    front.control.post("/storage/copies", {"pending_seconds": 0, "outcome": "failed"})
    blobs.start_copy(manifest, place, CopyState(path="MLmodel", status=CopyStatus.MISSING))
    front.control.post("/storage/copies", {"pending_seconds": None})
    (failed,) = blobs.copy_states(manifest, place)
    assert (failed.status, failed.why) == (CopyStatus.FAILED, '500 InternalError "Copy failed."')
    blobs.start_copy(manifest, place, failed)
    (copied,) = blobs.copy_states(manifest, place)
    assert copied.status is CopyStatus.COPIED
