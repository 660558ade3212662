"""Files between the workspaces' storage and folders on this machine, as Azure ML's data runtime moves them."""

import asyncio
import os
from collections.abc import Set as AbstractSet
from pathlib import Path

from emulator.azure_ml.workspaces import Location, Storage


class Files:
    """Downloads what a job reads and uploads what it wrote."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def download(self, location: Location, target: Path) -> set[str]:
        """A blob to the path `target`, or all blobs of a folder below it; the relative paths that there were.

        A single blob is the empty relative path. Raises ValueError for a name that leads out of its folder.
        """
        found: set[str] = set()
        async with self._storage.blob_service(location.account) as service:
            container = service.get_container_client(location.container)
            async for blob in container.list_blobs(name_starts_with=location.path):
                relative = blob.name[len(location.path) :] if location.path else f"/{blob.name}"
                if relative and not relative.startswith("/"):
                    continue  # a neighbour whose name merely begins alike
                file = target / relative.lstrip("/") if relative else target
                if not is_inside(file, target):
                    raise ValueError(f"The blob name {blob.name} leads out of its folder.")
                await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
                content = await (await container.download_blob(blob.name)).readall()
                await asyncio.to_thread(file.write_bytes, content)
                found.add(relative.lstrip("/"))
        return found

    async def upload(self, folder: Path, location: Location, *, former: AbstractSet[str] = frozenset()) -> None:
        """All files below a folder, or a single file; what was there before (`former`) and is gone is deleted, as in a mount."""
        paths = await asyncio.to_thread(_files_below, folder)
        async with self._storage.blob_service(location.account) as service:
            container = service.get_container_client(location.container)
            for relative in paths:
                content = await asyncio.to_thread((folder / relative).read_bytes)
                await container.upload_blob(joined(location.path, relative), content, overwrite=True)
            for relative in former - set(paths):
                await container.delete_blob(joined(location.path, relative))

    async def upload_file(self, file: Path, location: Location) -> None:
        """One file to the blob that `location` names."""
        content = await asyncio.to_thread(file.read_bytes)
        async with self._storage.blob_service(location.account) as service:
            await service.get_container_client(location.container).upload_blob(location.path, content, overwrite=True)


def is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


def _files_below(folder: Path) -> list[str]:
    """Relative paths. A single file is the empty one."""
    if folder.is_file():
        return [""]
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def joined(path: str, relative: str) -> str:
    return "/".join(part for part in (path, relative) if part)
