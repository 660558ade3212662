"""The data scientist's side: the real SDK, pointed at the local Azure by environment variables alone."""

import contextlib
import io
import json
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

from demo.scenarios import Trained
from emulator.launch import client_environment


class Workspaces:
    """Clients of the source and target workspaces, signed in as the data scientist."""

    def __init__(self, endpoints: Mapping[str, Any]) -> None:
        self._endpoints = endpoints
        os.environ.update(client_environment(endpoints))
        os.environ.pop("CURL_CA_BUNDLE", None)

    def register(self, name: str, trained: Trained, tags: Mapping[str, str]) -> str:
        """Upload and register the model in the source, as anybody would; its version."""
        from azure.ai.ml.entities import Model

        model = Model(name=name, path=str(trained.folder), type="mlflow_model", tags=dict(tags))
        with contextlib.redirect_stderr(io.StringIO()):  # the SDK's own progress bar
            return str(self._client(self._endpoints["source"]).models.create_or_update(model).version)

    def ask(self, target: str, endpoint: str, request: Mapping[str, Any]) -> Any:
        """What the endpoint in the target answers to this request."""
        online = self._client(self._endpoints["targets"][target]).online_endpoints
        keys = online.get_keys(endpoint)
        return post(str(online.get(endpoint).scoring_uri), request, {"Authorization": f"Bearer {keys.primary_key}"})

    def _client(self, workspace: Mapping[str, str]) -> Any:
        from azure.ai.ml import MLClient
        from azure.identity import ManagedIdentityCredential

        return MLClient(
            ManagedIdentityCredential(),
            workspace["subscription_id"],
            workspace["resource_group"],
            workspace["workspace"],
            enable_telemetry=False,
        )


def post(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
    """POST JSON with the requests library, which follows the proxy and the certificate of the environment."""
    import requests

    response = requests.post(url, json=body, headers=dict(headers), timeout=60)
    response.raise_for_status()
    return response.json()


class Operations:
    """The function app's HTTP API."""

    def __init__(self, endpoints: Mapping[str, Any]) -> None:
        self._url = endpoints["functions_url"]
        self._key = endpoints["function_key"]

    def promotion_of(self, model: str, version: str) -> dict[str, Any] | None:
        """The promotion of this model version with its steps, once it exists."""
        for row in self._get("promotions")["promotions"]:
            if (row["model"], row["version"]) == (model, version):
                return self._get(f"promotions/{row['id']}")
        return None

    def events_of(self, model: str, version: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self._get("events")["events"]
        return [event for event in events if event["subject"] == f"models/{model}:{version}"]

    def _get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}/api/{path}", headers={"x-functions-key": self._key})  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
