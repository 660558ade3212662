"""Unpacking what the service calls a bundle: into one folder, and nowhere else."""

import io
import stat
import zipfile
from pathlib import Path, PurePosixPath

from promotions.exits import Exit, Failure
from promotions.text import clean

FILES_LIMIT, SIZE_LIMIT = 10_000, 512 * 1024 * 1024


def unpack(content: bytes, folder: Path) -> list[str]:
    """Write the files of a zip into a folder, which must be new or empty; their paths in it.

    Everything is checked before anything is written. Raises Failure: a path that leads out of the folder or stands there
    twice, a link, or more than anybody would put into a bundle.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check(entries)
            _make(folder)
            for entry in entries:
                path = folder / entry.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(archive.read(entry))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refused("is no zip file that can be read") from error
    except OSError as error:
        raise Failure(f"{clean(folder)} cannot be written: {error.strerror or clean(error)}.") from error
    return [entry.filename for entry in entries]


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > FILES_LIMIT or sum(entry.file_size for entry in entries) > SIZE_LIMIT:
        raise _refused("is larger than a bundle can be")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or str(path) != name:
            raise _refused(f"has the path {clean(name)!r}, which may lead out of the folder")
        if kind not in (0, stat.S_IFREG):
            raise _refused(f"has {clean(name)!r}, which is no file")
        if name.casefold() in seen:
            raise _refused(f"has {clean(name)!r} twice")
        seen.add(name.casefold())


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Failure(f"{clean(folder)} is not empty.", "Name a new folder: nothing is overwritten.")


def _refused(what: str) -> Failure:
    return Failure(f"What the service sent {what}; nothing was unpacked.", code=Exit.REFUSED)
