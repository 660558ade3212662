"""Shared access signatures: who may speak to which entity."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import unquote_plus, urlsplit

from emulator.service_bus.entities import BrokerError

SCHEME = "SharedAccessSignature "
LOOPBACK = ("127.0.0.1", "localhost")


def entity_path(address: str) -> str:
    """The entity in an address, in lower case: clients give it with scheme and host, or bare."""
    return (urlsplit(address).path if "://" in address else address).strip("/").lower()


def covers(granted: str, path: str) -> bool:
    """Whether a token for the entity `granted` is good for `path`: for itself and what is below it."""
    return granted in ("", path) or path.startswith(granted + "/")


def unauthorized(description: str) -> BrokerError:
    return BrokerError("amqp:unauthorized-access", description)


def signer(token: str, audience: str, access_keys: Mapping[str, str]) -> str:
    """The name of the key that signed this token for this audience. Raises BrokerError if the token is no good.

    Its expiry is compared with the machine's time, not with the emulator's: clients make their tokens by their own clock,
    which nobody can advance. The port of the audience is not looked at, as clients may come through a forwarder.
    """
    if not token.startswith(SCHEME):
        raise unauthorized("The token is no shared access signature; other tokens are not accepted here.")
    raw = dict(part.partition("=")[::2] for part in token.removeprefix(SCHEME).split("&"))
    name, resource, expiry = (unquote_plus(raw.get(part, "")) for part in ("skn", "sr", "se"))
    if (key := access_keys.get(name)) is None:
        raise unauthorized(f"This namespace has no access key named '{name}'.")
    signed = f"{raw.get('sr', '')}\n{raw.get('se', '')}".encode()
    expected = base64.b64encode(hmac.digest(key.encode(), signed, hashlib.sha256)).decode()
    if not hmac.compare_digest(unquote_plus(raw.get("sig", "")).encode(), expected.encode()):
        raise unauthorized("The token's signature is wrong: it was not made with the key that it names.")
    if not expiry.isdecimal() or int(expiry) < time.time():
        raise unauthorized("The token has expired.")
    if urlsplit(resource).hostname not in LOOPBACK or not covers(entity_path(resource), entity_path(audience)):
        raise unauthorized(f"The token is for '{resource}', which does not cover '{audience}'.")
    return name
