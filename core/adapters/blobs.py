"""Blobs: reading a model's file list and small texts, and copying files on the server side from account to account."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from azure.core import MatchConditions
from azure.core.credentials import TokenCredential
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import (
    BlobProperties,
    BlobSasPermissions,
    BlobServiceClient,
    StorageErrorCode,
    UserDelegationKey,
    generate_blob_sas,
)

from core.adapters.arm import CONNECT_SECONDS, READ_SECONDS
from core.adapters.datastores import BlobPath, is_plain
from core.adapters.faults import translated
from core.errors import PromotionError, Reason, Refusal, Transient
from core.packaging import READABLE_LIMIT, File, Manifest
from core.ports import CopyState, CopyStatus

# For all clients of storage. No retries: the SDK would sleep for many seconds, which a hop does not.
HTTP: dict[str, Any] = {"retry_total": 0, "connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
# A copy that Azure schedules late must still be allowed to read; a user delegation key lives 7 days at most.
SAS_LIFETIME = timedelta(hours=24)
_STARTED = (StorageErrorCode.BLOB_ALREADY_EXISTS, StorageErrorCode.PENDING_COPY_OPERATION)
_STATUSES = {"success": CopyStatus.COPIED, "pending": CopyStatus.PENDING, None: CopyStatus.COPIED}


class Blobs:
    """Blob storage as one identity sees it. Clients are kept for each account."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._services: dict[str, BlobServiceClient] = {}
        self._delegation_keys: dict[str, tuple[UserDelegationKey, datetime]] = {}

    def manifest(self, place: BlobPath) -> Manifest:
        """The files at this path: a folder, or one file. Raises Refusal if there are none."""
        found = self.list(place)
        if found is None:
            raise Refusal(
                Reason.MODEL_EMPTY,
                f"there are no files at {place.account_url}/{place.container}/{place.path}",
                remedy="Register the model from a path that holds its files.",
            )
        return found

    def list(self, place: BlobPath) -> Manifest | None:
        """The files at this path, a folder or one file; None if there are none."""
        with translated(f"listing {place.container}/{place.path}"):
            found = [blob for blob in self._list(place) if not _is_folder_marker(blob)]
        below = [blob for blob in found if blob.name.startswith(f"{place.path}/")]
        if below:
            _check_names(below)
            files = tuple(_file(blob, place.path) for blob in below)
            folder = place.path.rpartition("/")[2]
            return Manifest(
                account_url=place.account_url, container=place.container, root=place.path, folder=folder, files=files
            )
        single = [blob for blob in found if blob.name == place.path]
        if not single:
            return None
        root = place.path.rpartition("/")[0]
        files = (_file(single[0], root),)
        return Manifest(account_url=place.account_url, container=place.container, root=root, folder="", files=files)

    def read(self, manifest: Manifest, path: str) -> bytes:
        """A small file, as it was when the manifest was taken."""
        file = next(file for file in manifest.files if file.path == path)
        if file.size > READABLE_LIMIT:
            raise Refusal(
                Reason.NOT_SERVABLE,
                f"{path} has {file.size} bytes; only {READABLE_LIMIT} are read",
                remedy="Use a smaller input example.",
            )
        blob = self._service(manifest.account_url).get_blob_client(manifest.container, _join(manifest.root, path))
        try:
            with translated(f"reading {path}"):
                content = blob.download_blob(etag=file.etag, match_condition=MatchConditions.IfNotModified).readall()
        except Transient as fault:
            cause = fault.__cause__
            if isinstance(cause, HttpResponseError) and cause.status_code == 412:
                raise Transient(f"{path} is being changed") from fault
            raise
        return bytes(content)

    def read_text(self, account_url: str, container: str, path: str, limit: int) -> bytes | None:
        """The last `limit` bytes of a blob, which is where a log tells how it ended; None if there is no such blob."""
        blob = self._service(account_url).get_blob_client(container, path)
        try:
            with translated(f"reading {container}/{path}"):
                size = blob.get_blob_properties().size
                if not size:
                    return b""
                start = max(0, size - limit)
                return bytes(blob.download_blob(offset=start, length=size - start).readall())
        except Refusal as fault:
            if _error_code(fault) == StorageErrorCode.BLOB_NOT_FOUND:
                return None
            raise

    def put_text(self, account_url: str, container: str, path: str, content: bytes) -> None:
        """Create a small blob. One with this very content may be there already; any other is left alone and refused."""
        blob = self._service(account_url).get_blob_client(container, path)
        try:
            with translated(f"writing {container}/{path}"):
                blob.upload_blob(content, overwrite=False)
        except Transient as fault:
            if _error_code(fault) != StorageErrorCode.BLOB_ALREADY_EXISTS:
                raise
            there = self.read_text(account_url, container, path, len(content) + 1)
            if there is None:
                raise  # deleted meanwhile
            if there != content:
                raise Refusal(
                    Reason.COPY_MISMATCH,
                    f"{account_url}/{container}/{path} is there with other content than ours",
                    remedy="Find out who wrote it; delete it, and the promotion can be asked for again.",
                ) from fault

    def copy_states(self, manifest: Manifest, destination: BlobPath) -> tuple[CopyState, ...]:
        """How far each file of the manifest is on its way to the destination: one listing, however many files."""
        with translated(f"listing {destination.container}/{destination.path}"):
            found = {blob.name: blob for blob in self._list(destination)}
        return tuple(_copy_state(file.path, found.get(_join(destination.path, file.path))) for file in manifest.files)

    def start_copy(self, manifest: Manifest, destination: BlobPath, state: CopyState) -> None:
        """Start one copy, pinned to the source's ETag. What is there already, or under way, is left alone."""
        file = next(file for file in manifest.files if file.path == state.path)
        target = self._service(destination.account_url).get_blob_client(
            destination.container, _join(destination.path, file.path)
        )
        if state.status is CopyStatus.FAILED:
            with translated(f"removing the failed copy of {file.path}"):
                target.delete_blob(etag=state.etag, match_condition=MatchConditions.IfNotModified)
        try:
            with translated(f"copying {file.path}"):
                target.start_copy_from_url(
                    self._source_url(manifest, file),
                    source_etag=file.etag,
                    source_match_condition=MatchConditions.IfNotModified,
                    match_condition=MatchConditions.IfMissing,
                )
        except (Transient, Refusal) as fault:
            if _error_code(fault) in _STARTED:
                return  # by a delivery before this one
            status = getattr(fault.__cause__, "status_code", None)
            if status in (404, 412):
                raise Refusal(
                    Reason.SOURCE_CHANGED,
                    f"{file.path} was changed or deleted in the source since the promotion was decided",
                    remedy="Register the model as a new version, from files that nobody writes to any more.",
                ) from fault
            raise

    def _source_url(self, manifest: Manifest, file: File) -> str:
        """The source blob with a read-only signature made from our identity's delegation key, never an account key."""
        service = self._service(manifest.account_url)
        name = _join(manifest.root, file.path)
        account = service.account_name or ""
        key, expiry = self._delegation_key(manifest.account_url, service)
        sas = generate_blob_sas(
            account,
            manifest.container,
            name,
            user_delegation_key=key,
            permission=BlobSasPermissions(read=True),
            expiry=expiry,
        )
        return f"{manifest.account_url}/{manifest.container}/{quote(name, safe='/')}?{sas}"

    def _delegation_key(self, account_url: str, service: BlobServiceClient) -> tuple[UserDelegationKey, datetime]:
        now = datetime.now(UTC)
        kept = self._delegation_keys.get(account_url)
        if kept is None or kept[1] - now < SAS_LIFETIME / 2:
            expiry = now + SAS_LIFETIME
            with translated("asking for a user delegation key of the source's storage account"):
                key = service.get_user_delegation_key(now - timedelta(minutes=5), expiry)
            kept = self._delegation_keys[account_url] = (key, expiry)
        return kept

    def _list(self, place: BlobPath) -> Iterable[BlobProperties]:
        container = self._service(place.account_url).get_container_client(place.container)
        return container.list_blobs(name_starts_with=place.path, include=["copy", "metadata"])

    def _service(self, account_url: str) -> BlobServiceClient:
        if account_url not in self._services:
            self._services[account_url] = BlobServiceClient(
                account_url,
                self._credential,
                **HTTP,
            )
        return self._services[account_url]


def _check_names(blobs: Iterable[BlobProperties]) -> None:
    for blob in blobs:
        if not is_plain(blob.name):
            raise Refusal(
                Reason.MODEL_PATH_UNSUPPORTED,
                f"the blob {blob.name[:300]!r} has an empty part, `.` or `..` in its name and cannot be copied safely",
                remedy="Register the model from a folder of files with plain names.",
            )


def _error_code(fault: PromotionError) -> str | None:
    """Azure Storage's own code for the error that was translated."""
    code = getattr(fault.__cause__, "error_code", None)
    return str(getattr(code, "value", code)) if code else None


def _is_folder_marker(blob: BlobProperties) -> bool:
    """Accounts with a hierarchical namespace list folders as empty blobs."""
    return (blob.metadata or {}).get("hdi_isfolder", "").lower() == "true"


def _file(blob: BlobProperties, root: str) -> File:
    path = blob.name[len(root) :].lstrip("/")
    return File(path=path, size=blob.size, etag=_etag(blob), md5=_md5(blob))


def _etag(blob: BlobProperties) -> str:
    """With its quotes, which conditional headers want and listings leave out."""
    return '"' + str(blob.etag).strip('"') + '"'


def _md5(blob: BlobProperties) -> str | None:
    md5 = blob.content_settings.content_md5
    return base64.b64encode(bytes(md5)).decode() if md5 else None


def _copy_state(path: str, blob: BlobProperties | None) -> CopyState:
    if blob is None:
        return CopyState(path=path, status=CopyStatus.MISSING)
    status = _STATUSES.get(blob.copy.status, CopyStatus.FAILED)
    copied = (blob.copy.progress or "").partition("/")[0]
    return CopyState(
        path=path,
        status=status,
        size=blob.size,
        bytes_copied=int(copied) if copied.isdecimal() else blob.size,
        md5=_md5(blob),
        etag=_etag(blob),
        why=blob.copy.status_description
        or (f"its copy was {blob.copy.status}" if status is CopyStatus.FAILED else None),
    )


def _join(root: str, path: str) -> str:
    return f"{root}/{path}" if root else path
