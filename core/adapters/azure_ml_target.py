"""A target workspace: what it shows, and the effects of a promotion on it.

Bodies are those of `azure.ai.ml`'s own entities, so that they are what the SDK would send; they are sent by plain
requests, because the SDK's `begin_*` methods poll on in a thread of their own. Only effects import `azure.ai.ml`.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from azure.core.credentials import TokenCredential

from core.adapters.arm import Arm
from core.adapters.azure_ml_batch import AzureMLBatchEndpoints
from core.adapters.azure_ml_bodies import asset, body_of, flavors_as_texts
from core.adapters.azure_ml_online import AzureMLOnlineEndpoints
from core.adapters.azure_ml_preflight import AzureMLPreflight
from core.adapters.blobs import Blobs
from core.adapters.datastores import BlobPath, datastore_container
from core.commands import Operation
from core.environments import Environment
from core.errors import Reason, Refusal
from core.events import WorkspaceId
from core.packaging import Code, Manifest
from core.ports import CopyState, TargetAsset

# Copies are kept by content: several endpoints that serve one model share them.
COPIES_FOLDER = "promoted-models"
CODE_FOLDER = "promoted-code"
CODE_NAME = "promoted-code"
ENVIRONMENT_NAME = "promoted-environment"


class AzureMLTarget:
    """`core.ports.Target` for one Azure ML workspace."""

    def __init__(self, credential: TokenCredential, workspace: WorkspaceId, blobs: Blobs) -> None:
        self._workspace = workspace
        self._arm = Arm(credential, workspace)
        self._blobs = blobs
        self.online = AzureMLOnlineEndpoints(credential, self._arm)
        self.batch = AzureMLBatchEndpoints(credential, self._arm, workspace, blobs)
        self.preflight = AzureMLPreflight(self._arm, workspace)
        self._default_datastore: tuple[str, str, str] | None = None

    # -------------------------------------------------------------------------------------------------------- looks

    def model(self, name: str, version: str) -> TargetAsset | None:
        return asset(self._arm, f"/models/{name}/versions/{version}")

    def code(self, code: Code) -> TargetAsset | None:
        return asset(self._arm, f"/codes/{CODE_NAME}/versions/{_version(code.digest)}")

    def environment(self, environment: Environment) -> TargetAsset | None:
        return asset(self._arm, f"/environments/{ENVIRONMENT_NAME}/versions/{_version(environment.digest)}")

    def copy_states(self, manifest: Manifest) -> tuple[CopyState, ...]:
        return self._blobs.copy_states(manifest, self._destination(manifest))

    def read_text(self, path: str, limit: int) -> bytes | None:
        _, account_url, container = self._datastore()
        return self._blobs.read_text(account_url, container, path, limit)

    def read_copy(self, manifest: Manifest, path: str, limit: int) -> bytes | None:
        place = self._destination(manifest)
        return self._blobs.read_text(place.account_url, place.container, f"{place.path}/{path}", limit)

    def violation(self, schema: Mapping[str, Any], answer: Any) -> str | None:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise Refusal(
                Reason.POLICY_INVALID,
                f"answer_schema is no JSON Schema: {error.message}",
                remedy="Correct `verification.answer_schema` in the policy, then ask again.",
            ) from error
        found = next(iter(Draft202012Validator(schema).iter_errors(answer)), None)
        return f"{found.json_path.replace('$', 'answer', 1)}: {found.message[:200]}" if found else None

    def operation_error(self, operation: Operation) -> str | None:
        error = self._arm.operation(operation).get("error")
        return f"{error.get('code')}: {error.get('message')}" if isinstance(error, Mapping) else None

    # ------------------------------------------------------------------------------------------------------ effects

    def start_copy(self, manifest: Manifest, state: CopyState) -> None:
        self._blobs.start_copy(manifest, self._destination(manifest), state)

    def register_model(
        self,
        manifest: Manifest,
        *,
        name: str,
        version: str,
        model_type: str,
        flavors: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        from azure.ai.ml.entities import Model

        place = self._destination(manifest)
        path = place.path if manifest.folder else f"{place.path}/{manifest.files[0].path}"
        workspace = self._workspace
        uri = (
            f"azureml://subscriptions/{workspace.subscription_id}/resourcegroups/{workspace.resource_group}"
            f"/workspaces/{workspace.workspace}/datastores/{self._datastore()[0]}/paths/{path}"
        )
        model = Model(
            name=name, version=version, path=uri, type=model_type, flavors=flavors_as_texts(flavors), tags=dict(tags)
        )
        self._arm.put(f"/models/{name}/versions/{version}", body_of(model._to_rest_object()))

    def create_code(self, code: Code) -> None:
        """The files first; the asset that names them last, so that who finds it finds all of them."""
        _, account_url, container = self._datastore()
        folder = f"{CODE_FOLDER}/{_version(code.digest)}"
        for path, text in sorted(code.files.items()):
            self._blobs.put_text(account_url, container, f"{folder}/{path}", text.encode())
        properties = {"hash_sha256": code.digest, "hash_version": "202208"}
        body = {"codeUri": f"{account_url}/{container}/{folder}", "isAnonymous": False, "properties": properties}
        self._arm.put(f"/codes/{CODE_NAME}/versions/{_version(code.digest)}", {"properties": body})

    def create_environment(self, environment: Environment, *, tags: Mapping[str, str]) -> None:
        from azure.ai.ml.entities import Environment as EnvironmentEntity

        entity = EnvironmentEntity(
            image=environment.image, conda_file=yaml.safe_load(environment.conda_file), tags=dict(tags)
        )
        path = f"/environments/{ENVIRONMENT_NAME}/versions/{_version(environment.digest)}"
        self._arm.put(path, body_of(entity._to_rest_object()))

    def put_text(self, path: str, content: bytes) -> str:
        _, account_url, container = self._datastore()
        self._blobs.put_text(account_url, container, path, content)
        return self.default_path(path)

    # ------------------------------------------------------------------------------------------------------- places

    def default_path(self, path: str) -> str:
        return f"azureml://datastores/{self._datastore()[0]}/paths/{path}"

    def _destination(self, manifest: Manifest) -> BlobPath:
        _, account_url, container = self._datastore()
        folder = f"/{manifest.folder}" if manifest.folder else ""
        return BlobPath(account_url, container, f"{COPIES_FOLDER}/{manifest.digest[:32]}{folder}")

    def _datastore(self) -> tuple[str, str, str]:
        """Name, account URL and container of the workspace's default datastore."""
        if self._default_datastore is None:
            answer = self._arm.get("/datastores", {"isDefault": "true", "count": "30", "orderByAsc": "false"})
            datastore = answer["value"][0]
            self._default_datastore = (str(datastore["name"]), *datastore_container(datastore))
        return self._default_datastore


def _version(digest: str) -> str:
    return digest[:32]
