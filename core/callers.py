"""Who is asking: the identity that App Service's own sign-in vouches for, or nobody but the holder of a key. Pure."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

PRINCIPAL_HEADER = "x-ms-client-principal"
KEY_HOLDER = "the holder of a function key"
# Claims by which a person may be named elsewhere: as the creator of a model, say.
_NAMES = ("name", "preferred_username", "upn", "email", "emails", "oid", "appid", "azp", "sub")
_SCHEMAS = {
    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn": "upn",
    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name": "name",
    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress": "email",
    "http://schemas.microsoft.com/identity/claims/objectidentifier": "oid",
    "http://schemas.microsoft.com/ws/2008/06/identity/claims/role": "roles",
}


class Caller(BaseModel):
    """Who asks. `names` are all names of the same person or application, in lower case; empty if only a key is known."""

    model_config = ConfigDict(frozen=True)

    name: str
    names: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()

    @property
    def is_known(self) -> bool:
        return bool(self.names)

    def is_called(self, name: str) -> bool:
        return name.strip().lower() in self.names


NOBODY = Caller(name=KEY_HOLDER)


def caller(headers: Mapping[str, str], *, platform_authentication: bool) -> Caller:
    """The caller of a request. `headers` have lower-case names.

    The header `X-MS-CLIENT-PRINCIPAL` (base64 of JSON, App Service "Work with user identities in Azure App Service
    authentication") is believed only where platform authentication is on: anywhere else anybody can send it.
    """
    text = headers.get(PRINCIPAL_HEADER, "")
    if not platform_authentication or not text:
        return NOBODY
    claims = _claims(text)
    names = [value for kind in _NAMES for value in claims.get(kind, ()) if value.strip()]
    if not names:
        return NOBODY
    return Caller(
        name=names[0],
        names=frozenset(name.strip().lower() for name in names),
        roles=frozenset(claims.get("roles", ())),
    )


def _claims(text: str) -> dict[str, list[str]]:
    """Values by the short name of their claim; nothing of what cannot be read."""
    try:
        principal: Any = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    given = principal.get("claims") if isinstance(principal, dict) else None
    found: dict[str, list[str]] = {}
    for claim in given if isinstance(given, list) else ():
        if isinstance(claim, dict) and isinstance(claim.get("typ"), str) and isinstance(claim.get("val"), str):
            kind: str = claim["typ"]
            name = "roles" if kind == principal.get("role_typ") else _SCHEMAS.get(kind, kind)
            found.setdefault(name, []).append(claim["val"])
    return found
