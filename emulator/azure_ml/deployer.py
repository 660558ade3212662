"""What happens inside a deployment: its model, code and environment are brought together and a server is started."""

import asyncio
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.azure_ml.arm import ArmError
from emulator.azure_ml.assets import Assets, Version
from emulator.azure_ml.files import Files, is_inside, joined
from emulator.azure_ml.online import Deployment
from emulator.azure_ml.operations import OperationFailed
from emulator.azure_ml.workspaces import Location, Storage, Workspace, Workspaces
from emulator.serving.environments import Environments, Wanted, absent_modules, from_conda, from_model
from emulator.serving.servers import InferenceServer, InferenceServers, ServerFailed, ServerSpec

NO_CODE_SCRIPT = Path(__file__).resolve().parents[1] / "serving" / "mlflow_score.py"
TROUBLESHOOTING = "https://aka.ms/oe-tsg#error-resourcenotready"


@dataclass(frozen=True)
class Parts:
    """What a deployment refers to, looked up at the moment when it is provisioned.

    `conda` is the environment's conda file, empty if it has none; None means that no environment is named.
    """

    model: Version | None
    model_location: Location | None
    conda: str | None
    code: Location | None
    script: str | None


class Deployer:
    """Provisions deployments. Each provisioning has a folder of its own, so an update leaves the old one intact."""

    def __init__(
        self,
        *,
        workspaces: Workspaces,
        assets: Assets,
        storage: Storage,
        servers: InferenceServers,
        environments: Environments,
    ) -> None:
        self._workspaces = workspaces
        self._assets = assets
        self._files = Files(storage)
        self._servers = servers
        self._environments = environments
        self._numbers = itertools.count(1)

    def parts(self, workspace: Workspace, properties: dict[str, Any]) -> Parts:
        """The assets that a deployment's body names. Raises the service's refusal for one that does not exist."""
        model = self._model(properties.get("model"))
        conda = self._conda(properties.get("environmentId"))
        configuration = properties.get("codeConfiguration") or {}
        code = script = None
        if code_id := configuration.get("codeId"):
            found = self._assets.find("codes", code_id)
            if found is None:
                raise ArmError(404, "UserError", f"The code asset {code_id} was not found.")
            code = self._workspaces.locate(found[0], found[1].properties["codeUri"])
            script = configuration.get("scoringScript")
        if code and conda is None:
            raise ArmError(400, "UserError", "A deployment with a scoring script needs an environmentId.")
        version, location = model or (None, None)
        if code is None and not (version and version.properties["modelType"].lower() == "mlflow_model"):
            message = "Only a model of type mlflow_model can be deployed without codeConfiguration."
            raise ArmError(400, "UserError", message)
        return Parts(version, location, conda, code, script)

    async def provision(self, deployment: Deployment) -> InferenceServer:
        """Download, choose the environment, start the server. Raises `OperationFailed`; the log stays readable."""
        parts = self._parts_still_there(deployment)
        folder = deployment.directory / str(next(self._numbers))
        app = folder / "app"
        await asyncio.to_thread(app.mkdir, parents=True)
        deployment.log = folder / "server.log"
        deployment.downloads = []
        model_directory = await self._download_model(deployment, parts, folder)
        script = await self._place_script(deployment, parts, app)
        wanted = self._wanted(parts, model_directory)
        python, notes = await self._environments.python_for(wanted)
        await asyncio.to_thread(deployment.log.write_text, "".join(f"{note}\n" for note in notes), "utf-8")
        spec = ServerSpec(
            entry_script=script,
            directory=app,
            model_directory=model_directory,
            log=deployment.log,
            environment={key: str(value) for key, value in deployment.properties["environmentVariables"].items()},
            python=python,
            absent=absent_modules(wanted),
        )
        try:
            return await self._servers.launch(spec)
        except ServerFailed as error:
            message = (
                f"User container has crashed or terminated: {error}. Read the deployment's logs (getLogs) for the reason. "
                f"Please see troubleshooting guide, available here: {TROUBLESHOOTING}"
            )
            raise OperationFailed("ResourceNotReady", message) from None

    async def remove(self, deployment: Deployment) -> None:
        """End the deployment's server and delete its files."""
        if deployment.server:
            await deployment.server.stop()
        await asyncio.to_thread(shutil.rmtree, deployment.directory, True)

    def _parts_still_there(self, deployment: Deployment) -> Parts:
        try:
            return self.parts(deployment.workspace, deployment.properties)
        except ArmError as error:
            raise OperationFailed(error.code, error.message) from None

    def _model(self, reference: Any) -> tuple[Version, Location] | None:
        if not reference:
            return None
        arm_id = reference.get("assetId", "") if isinstance(reference, dict) else str(reference)
        found = self._assets.find("models", arm_id)
        if found is None:
            raise ArmError(404, "UserError", f"The model {arm_id} was not found. Register it before it is deployed.")
        workspace, version = found
        return version, self._workspaces.locate(workspace, version.properties["modelUri"])

    def _conda(self, arm_id: str | None) -> str | None:
        if not arm_id:
            return None
        if "registries/" in arm_id.lower():
            return ""  # a curated environment: the serving image stands for all of them
        found = self._assets.find("environments", arm_id)
        if found is None:
            raise ArmError(404, "UserError", f"The environment {arm_id} was not found.")
        return str(found[1].properties.get("condaFile") or "")

    @staticmethod
    def _wanted(parts: Parts, model_directory: Path) -> Wanted:
        """The environment's conda file, else that of an MLflow model which brings its own."""
        if parts.conda is not None:
            return from_conda(parts.conda)
        return next((from_model(each.parent) for each in sorted(model_directory.glob("*/MLmodel"))), Wanted())

    async def _download_model(self, deployment: Deployment, parts: Parts, folder: Path) -> Path:
        """AZUREML_MODEL_DIR ends in the model's name and version and holds the registered folder or file."""
        if parts.model is None or parts.model_location is None:
            return folder
        directory = folder / "azureml-models" / parts.model.name / parts.model.version
        name = parts.model_location.path.rpartition("/")[2]
        count = await self._download(parts.model_location, directory / name, deployment.downloads)
        if not count:
            where = f"{parts.model_location.container}/{parts.model_location.path} of {parts.model_location.account}"
            raise OperationFailed("BadArgument", f"Unable to download the model: there is no blob at {where}.")
        return directory

    async def _place_script(self, deployment: Deployment, parts: Parts, app: Path) -> Path:
        if parts.code is None:
            await asyncio.to_thread(shutil.copy, NO_CODE_SCRIPT, app)
            return app / NO_CODE_SCRIPT.name
        if not await self._download(parts.code, app, deployment.downloads):
            raise OperationFailed("BadArgument", f"Unable to download the code: there is no blob at {parts.code.path}.")
        script = app / str(parts.script)
        if not is_inside(script, app) or not await asyncio.to_thread(script.is_file):
            raise OperationFailed("DriverFileNotFound", f"The scoring script {parts.script} is not in the code asset.")
        return script

    async def _download(self, location: Location, target: Path, downloads: list[str]) -> int:
        """Download a blob, or all blobs of a folder. Returns how many there were."""
        try:
            found = await self._files.download(location, target)
        except ValueError as error:
            raise OperationFailed("BadArgument", str(error)) from None
        downloads += [joined(location.path, relative) for relative in sorted(found)]
        return len(found)
