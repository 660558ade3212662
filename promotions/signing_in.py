"""Where the service is, and what the client shows it: a function key, a token of Microsoft Entra ID, or both."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from promotions.exits import Failure
from promotions.text import clean

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

URL, KEY, SCOPE = "PROMOTIONS_URL", "PROMOTIONS_KEY", "PROMOTIONS_SCOPE"
_KEY = re.compile(r"[!-~]{1,1000}")
_KEY_FILE_LIMIT = 4096


@dataclass(frozen=True)
class Service:
    """`url` is where `/api` begins. The key stands in no representation of this."""

    url: str
    key: str | None = field(default=None, repr=False)
    scope: str | None = None

    @property
    def is_local(self) -> bool:
        """On this machine: only there may a key or token travel without TLS."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def service(url: str | None, key_file: Path | None, scope: str | None, environment: Mapping[str, str]) -> Service:
    """What the options and the environment say. Raises Failure, which never quotes a key."""
    found = Service(
        url=_url(url or environment.get(URL, "")),
        key=_key(key_file, environment.get(KEY, "")),
        scope=scope or environment.get(SCOPE) or None,
    )
    if found.url.startswith("http:") and not found.is_local:
        raise Failure(
            f"{found.url} is not encrypted, so no key or token goes there.",
            "Use its https address; http is for localhost.",
        )
    if found.key is None and found.scope is None:
        raise Failure(
            "There is nothing to sign in with.",
            f"Set {KEY} or give --key-file (a function key), or give --scope (a token of Microsoft Entra ID).",
        )
    return found


def _url(text: str) -> str:
    if not text:
        raise Failure(
            "It is not said where the service is.", f"Set {URL} or give --url, like https://APP.azurewebsites.net."
        )
    try:
        parts = urlsplit(text.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise Failure("The service's URL is none.", "Write it like https://APP.azurewebsites.net.")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise Failure(
            "The service's URL holds more than an address.",
            f"Leave out everything after ? and before @; a key belongs in {KEY} or --key-file.",
        )
    path = parts.path.rstrip("/").removesuffix("/api").rstrip("/")
    return clean(f"{parts.scheme}://{parts.netloc}{path}")


def _key(file: Path | None, given: str) -> str | None:
    """Checked here, because what cannot be a header would be quoted in the error of the library below."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                given = opened.read(_KEY_FILE_LIMIT).decode("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise Failure(f"The key file {clean(file)} cannot be read: {why}.") from error
        if not given:
            raise Failure(f"The key file {clean(file)} is empty.")
    key = given.strip()
    if key and not _KEY.fullmatch(key):
        raise Failure("The function key is none: it holds blanks or characters that no key has.", "Copy it again.")
    return key or None


def credential() -> "TokenCredential":
    """As `az login`, the environment or a managed identity has it."""
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()
