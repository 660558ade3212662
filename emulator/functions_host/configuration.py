"""What surrounds an app: its settings, its host.json, and the keys of its host."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIME_SPAN = re.compile(r"(?:(?P<days>\d+)\.)?(?P<hours>\d+):(?P<minutes>\d{2})(?::(?P<seconds>\d{2}(?:\.\d+)?))?$")
LOG_LEVELS = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "information": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "critical": "CRITICAL",
    "none": "CRITICAL",
}


class ConfigurationError(Exception):
    """The host cannot start with these settings; the text says which one and what it should be."""


@dataclass(frozen=True)
class Keys:
    """The access keys of a function app: of its functions, of its administration, and of its Event Grid webhook."""

    function: str
    master: str
    eventgrid: str

    @classmethod
    def given_or_made(cls, given: Mapping[str, str]) -> "Keys":
        if unknown := given.keys() - cls.__dataclass_fields__.keys():
            raise ConfigurationError(f"Host.Keys knows function, master and eventgrid, but not {sorted(unknown)}")
        return cls(**{name: given.get(name) or secrets.token_urlsafe(32) for name in cls.__dataclass_fields__})


def load_settings(path: Path) -> tuple[dict[str, str], Keys]:
    """Read app settings and keys from a file: a flat JSON object, or a local.settings.json with its `Values`.

    Keys may stand in it as `"Host": {"Keys": {"function": ..., "master": ..., "eventgrid": ...}}`.
    """
    content = json.loads(path.read_text())
    host = content.pop("Host", {})
    values = content.get("Values", content)
    if wrong := sorted(name for name, value in values.items() if not isinstance(value, str)):
        raise ConfigurationError(f"{path}: app settings are strings; put the values of {', '.join(wrong)} in quotes")
    return dict(values), Keys.given_or_made(host.get("Keys", {}))


def resolve_settings(value: Any, of_function: str) -> Any:
    """Replace each `%NAME%` in a binding's strings by the app setting of that name."""
    if not isinstance(value, str):
        return value

    def setting(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise ConfigurationError(
                f"The '{of_function}' function is in error: '%{match[1]}%' does not resolve to a value. "
                f"Add {match[1]} to the app settings."
            ) from None

    return re.sub(r"%([^%]+)%", setting, value)


def is_disabled(function: str, settings: Mapping[str, str]) -> bool:
    """Whether `AzureWebJobs.NAME.Disabled` says that this function shall not run (How to disable functions in Azure)."""
    return settings.get(f"AzureWebJobs.{function}.Disabled", "").lower() in ("true", "1")


def seconds(time_span: str, setting: str) -> float:
    """The length of a .NET time span, `[d.]hh:mm[:ss[.f]]`."""
    if not (match := TIME_SPAN.match(time_span)):
        raise ConfigurationError(f"host.json: {setting} is a time span such as 00:05:00, but not {time_span!r}")
    days, hours, minutes, rest = (float(match[part] or 0) for part in ("days", "hours", "minutes", "seconds"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


@dataclass(frozen=True)
class ServiceBusOptions:
    """`extensions.serviceBus` of host.json, with the extension's defaults; durations in seconds."""

    prefetch_count: int = 0
    auto_complete_messages: bool = True
    max_auto_lock_renewal_duration: float = 300.0
    max_concurrent_calls: int = 16 * (os.cpu_count() or 1)
    max_concurrent_sessions: int = 8
    max_message_batch_size: int = 1000
    session_idle_timeout: float = 60.0
    try_timeout: float = 60.0
    delay: float = 0.8
    max_delay: float = 60.0
    max_retries: int = 3

    @classmethod
    def from_host_json(cls, section: Mapping[str, Any]) -> "ServiceBusOptions":
        retry = section.get("clientRetryOptions", {})
        given: dict[str, Any] = {
            "prefetch_count": section.get("prefetchCount"),
            "auto_complete_messages": section.get("autoCompleteMessages"),
            "max_auto_lock_renewal_duration": section.get("maxAutoLockRenewalDuration"),
            "max_concurrent_calls": section.get("maxConcurrentCalls"),
            "max_concurrent_sessions": section.get("maxConcurrentSessions"),
            "max_message_batch_size": section.get("maxMessageBatchSize"),
            "session_idle_timeout": section.get("sessionIdleTimeout", retry.get("tryTimeout")),
            "try_timeout": retry.get("tryTimeout"),
            "delay": retry.get("delay"),
            "max_delay": retry.get("maxDelay"),
            "max_retries": retry.get("maxRetries"),
        }
        options: dict[str, Any] = {
            name: seconds(value, f"extensions.serviceBus, {name}") if isinstance(value, str) else value
            for name, value in given.items()
            if value is not None
        }
        return cls(**options)


@dataclass(frozen=True)
class HostConfiguration:
    """The parts of host.json that this host honours. `function_timeout` is None for an unbounded one."""

    route_prefix: str = "api"
    function_timeout: float | None = 30 * 60.0
    log_level: str = "INFO"
    service_bus: ServiceBusOptions = field(default_factory=ServiceBusOptions)


def load_host_json(app: Path) -> HostConfiguration:
    """Read `host.json` of an app. Default time-out is the one of Flex Consumption and Premium, 30 minutes."""
    path = app / "host.json"
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing; every function app has one, at least {{'version': '2.0'}}")
    content = json.loads(path.read_text())
    if content.get("version") != "2.0":
        raise ConfigurationError(f"{path}: version must be '2.0', but is {content.get('version')!r}")
    extensions = content.get("extensions", {})
    timeout = content.get("functionTimeout", "00:30:00")
    level = content.get("logging", {}).get("logLevel", {}).get("default", "Information")
    if level.lower() not in LOG_LEVELS:
        raise ConfigurationError(f"{path}: logging.logLevel.default is one of {', '.join(LOG_LEVELS)}, not {level!r}")
    return HostConfiguration(
        route_prefix=extensions.get("http", {}).get("routePrefix", "api").strip("/"),
        function_timeout=None if timeout in ("-1", None) else seconds(timeout, "functionTimeout"),
        log_level=LOG_LEVELS[level.lower()],
        service_bus=ServiceBusOptions.from_host_json(extensions.get("serviceBus", {})),
    )


def worker_settings(host: HostConfiguration) -> dict[str, str]:
    """What the worker is given unless the app's settings say otherwise: a thread for each session worked on at once.

    Functions that are no coroutines run on these threads. The worker's own default is few: the cores, and four more.
    """
    return {"PYTHON_THREADPOOL_THREAD_COUNT": str(host.service_bus.max_concurrent_sessions)}
