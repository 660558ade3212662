"""The archive in a blob container: written once, never changed. Switch blob versioning on where it must be proven."""

import contextlib
import io
import threading
import zipfile
from collections.abc import Mapping

from azure.core.credentials import TokenCredential
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerClient

from core.adapters.blobs import HTTP
from core.adapters.faults import translated

CONTAINER = "promotion-archive"
# A zip file's times start here; equal bundles give equal files.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class StorageArchive:
    """`core.ports.Archive` for Azure Storage. The container is made when first needed."""

    def __init__(self, blobs_url: str, credential: TokenCredential) -> None:
        self._blobs = BlobServiceClient(blobs_url, credential, **HTTP)
        self._lock = threading.Lock()
        self._exists = False

    def store(self, name: str, files: Mapping[str, str]) -> None:
        """Write the bundle as one zip file, so that it is there whole or not at all; a repeat changes nothing."""
        container = self._container()
        with translated(f"archiving {name}"), contextlib.suppress(ResourceExistsError):
            container.upload_blob(f"{name}.zip", _zipped(name, files), overwrite=False)

    def fetch(self, name: str) -> bytes | None:
        """The bundle as a zip file with one folder in it; None if there is none."""
        container = self._container()
        with translated(f"reading bundle {name}"):
            try:
                return container.download_blob(f"{name}.zip").readall()
            except ResourceNotFoundError:
                return None

    def _container(self) -> ContainerClient:
        with self._lock:
            if not self._exists:
                with translated("making the archive"), contextlib.suppress(ResourceExistsError):
                    self._blobs.create_container(CONTAINER)
                self._exists = True
        return self._blobs.get_container_client(CONTAINER)


def _zipped(name: str, files: Mapping[str, str]) -> bytes:
    folder = name.replace("/", "-")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path, text in sorted(files.items()):
            bundle.writestr(zipfile.ZipInfo(f"{folder}/{path}", _EPOCH), text, zipfile.ZIP_DEFLATED)
    return written.getvalue()
