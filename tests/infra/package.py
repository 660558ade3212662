"""What is deployed: the files that .funcignore leaves, and the packages that requirements.txt brings to them."""

import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parent.parent.parent
REQUIREMENTS = REPOSITORY / "requirements.txt"
POLICY = "promotion.yaml"  # a copy of one's own; the repository has the sample
# What the app wants to be told, with values that lead nowhere.
SETTINGS = {
    "PROMOTION_QUEUE": "promotions",
    "PROMOTION_RECONCILE_SCHEDULE": "0 */5 * * * *",
    "ServiceBusConnection__fullyQualifiedNamespace": "none.servicebus.windows.net",
    "LedgerStorage__tableServiceUri": "https://none.table.core.windows.net",
    "LedgerStorage__blobServiceUri": "https://none.blob.core.windows.net",
}


def ignored(name: str) -> bool:
    """Whether .funcignore leaves out files or folders of this name. Its patterns are all for names, at any depth."""
    lines = (REPOSITORY / ".funcignore").read_text(encoding="utf-8").splitlines()
    return any(fnmatch(name, line.rstrip("/")) for line in lines if line and not line.startswith("#"))


def tracked() -> list[Path]:
    """All files of the repository, relative to it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return [Path(name) for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]


def deployed() -> list[Path]:
    """Those of them that are deployed."""
    return [path for path in tracked() if not any(ignored(part) for part in path.parts)]


def distributions() -> list[Distribution]:
    """The packages of requirements.txt, and what they need in turn, as they are installed here."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}

    def add(requirement: Requirement, wanted_by: frozenset[str] = frozenset()) -> None:
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in {"", *wanted_by}):
            return
        key = (requirement.name.lower().replace("_", "-"), frozenset(requirement.extras))
        if key not in found:
            found[key] = distribution(requirement.name)
            for line in found[key].requires or []:
                add(Requirement(line), key[1])

    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            add(Requirement(text))
    return list({each.metadata["Name"]: each for each in found.values()}.values())


def installed(each: Distribution) -> Iterator[tuple[Path, Path]]:
    """The files of a package: below site-packages, and where they are. Programs for the shell are left out."""
    for file in each.files or []:
        where = Path(str(each.locate_file(file)))
        if ".." not in file.parts and where.is_file():
            yield Path(*file.parts), where
