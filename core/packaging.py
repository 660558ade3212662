"""What a model needs in order to be served: its files (manifest) and the recipe of how to run them. Values only."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from core.environments import Environment

FROM_SIGNATURE = "signature"
FROM_SCORING_SCRIPT = "scoring script"
# Text files that are read in order to decide (MLmodel, input examples); models themselves are never read.
READABLE_LIMIT = 1024 * 1024


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON: equal content, equal digest."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


class File(_Value):
    """A file of a model: path below the model's root, size in bytes, the blob's ETag, MD5 (base64) if it has one."""

    path: str
    size: int
    etag: str
    md5: str | None = None


class Manifest(_Value):
    """The files of a model version as they were when the promotion was decided.

    `account_url`, `container` and `root` say where the blobs are; a file's blob is `root/path`. For a model that is one
    file, `root` is its folder and `folder` is empty; else `folder` is the last part of the root, whose name some scoring
    scripts rely on.
    """

    account_url: str
    container: str
    root: str
    folder: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    def selected(self, files: tuple[File, ...], *, below: str = "", folder: str) -> "Manifest":
        """These files alone, with their paths from `below` on, as a folder of this name (as one file if it is empty)."""
        root = "/".join(part for part in (self.root, below) if part)
        moved = tuple(file.model_copy(update={"path": file.path[len(below) :].lstrip("/")}) for file in files)
        return self.model_copy(update={"root": root, "folder": folder, "files": moved})


class Code(_Value):
    """A code asset: texts by their path in it, and the script that a server or job starts with."""

    files: Mapping[str, str]
    scoring_script: str


class Serving(_Value):
    """What a deployment is given besides the model; None is what Azure ML has for MLflow models by itself."""

    code: Code | None = None
    environment: Environment | None = None


class Recipe(_Value):
    """How to serve the model in either mode; a mode is None if no stage asked for it.

    It holds all texts (scripts, conda files, samples), so that a later redeploy uses the very same ones.
    `sample_request` is the body of a scoring request, made from what `sample_source` names; `sample_rows` are the same
    rows by column, where they have columns.
    """

    kind: Literal["mlflow", "automl", "designer", "script"]
    model_type: Literal["mlflow_model", "custom_model"] = "mlflow_model"
    flavors: Mapping[str, Any] = {}
    realtime: Serving | None = Serving()
    batch: Serving | None = None
    sample_request: Any = None
    sample_source: str | None = None
    sample_rows: tuple[Mapping[str, Any], ...] | None = None

    @property
    def is_sample_made_up(self) -> bool:
        """Whether the request was invented from types: its values are of the right types and mean nothing."""
        return self.sample_source in (FROM_SIGNATURE, FROM_SCORING_SCRIPT)
