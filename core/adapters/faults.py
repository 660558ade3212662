"""Azure's errors in our three kinds, by status code and error type, never by text."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from core.errors import Blocked, Conflict, PromotionError, Reason, Refusal, Transient

# 408, 429 and 5xx pass by themselves; 409 is Azure ML's answer while a resource is being changed;
# 412 (a Conflict) is a row or blob that somebody else changed since it was read.
PASSING = frozenset({408, 409, 429})


def translate(status: int, message: str, headers: Mapping[str, str], *, doing: str) -> PromotionError:
    """The error for an HTTP status. `doing` completes the sentence 'while ...'."""
    text = f"{message} (HTTP {status} while {doing})"
    if status == 412:
        return Conflict(text)
    if status in PASSING or status >= 500:
        return Transient(text, retry_after=retry_after(headers))
    if status in (401, 403):
        return Blocked(
            Reason.PERMISSION_MISSING,
            text,
            remedy="Give the service's managed identity the role that this needs; see docs/operations.md.",
        )
    if status == 404:
        return Refusal(Reason.TARGET_NOT_FOUND, text, remedy="Check the names of the workspace in the policy.")
    return Refusal(Reason.REQUEST_REJECTED, text, remedy="Correct what Azure names, in the policy or the model.")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header, if it has a number (dates are not used by the services we call)."""
    value = next((text for key, text in headers.items() if key.lower() == "retry-after"), "")
    try:
        return max(0.0, float(value))
    except ValueError:
        return None


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate what an Azure SDK raises inside."""
    try:
        yield
    except ClientAuthenticationError as error:
        if error.status_code in (401, 403):
            raise translate(error.status_code, _message(error), {}, doing=doing) from error
        raise Transient(f"no token could be had while {doing}: {_message(error)}") from error
    except HttpResponseError as error:
        if error.status_code is None or error.status_code < 400:
            raise Transient(f"the answer broke off while {doing}: {_message(error)}") from error
        headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
        raise translate(error.status_code, _message(error), headers, doing=doing) from error
    except AzureError as error:
        # Connections that could not be made or broke; clients that found no endpoint.
        raise Transient(f"{type(error).__name__} while {doing}: {_message(error)}") from error


def _message(error: AzureError) -> str:
    """The first line of Azure's own words: the rest repeats headers and time stamps."""
    code = getattr(getattr(error, "error", None), "code", None) or getattr(error, "error_code", None)
    first = str(error.message).strip().partition("\n")[0][:500]
    return f"{code}: {first}" if code and str(code) not in first else first
