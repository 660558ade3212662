"""How users name things on the command line: MODEL:VERSION and TARGET/SERVE/ENDPOINT. Pure."""

from dataclasses import dataclass

from promotions.exits import Failure
from promotions.text import clean


@dataclass(frozen=True)
class ModelVersion:
    model: str
    version: str


@dataclass(frozen=True)
class EndpointName:
    target: str
    serve: str
    name: str

    @property
    def path(self) -> tuple[str, ...]:
        return ("endpoints", self.target, self.serve, self.name)


def model_version(text: str) -> ModelVersion:
    """`churn:3`, or `azureml:churn:3` as the Azure CLI writes it."""
    model, _, version = text.removeprefix("azureml:").rpartition(":")
    if not model or not version or ":" in model:
        raise Failure(f"{clean(text)!r} is no MODEL:VERSION.", "Write it like churn:3.")
    return ModelVersion(model, version)


def endpoint(text: str) -> EndpointName:
    """`prod/realtime/churn`."""
    parts = text.split("/")
    if len(parts) != 3 or not all(parts) or parts[1] not in ("realtime", "batch"):
        raise Failure(f"{clean(text)!r} is no TARGET/SERVE/ENDPOINT.", "Write it like prod/realtime/churn.")
    return EndpointName(*parts)
