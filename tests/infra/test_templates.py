"""infra/ as far as it can be checked without Azure and without the Bicep compiler."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.infra import bicep, extract
from tests.infra.template_types import TemplateTypes

REPOSITORY = Path(__file__).parent.parent.parent
INFRA = REPOSITORY / "infra"
TEMPLATES = bicep.templates(INFRA)
PATHS = [pytest.param(path, id=path.stem) for path in TEMPLATES]
# Functions of Bicep that stand for themselves, and decorators.
FUNCTIONS = frozenset(
    [
        "allowed",
        "any",
        "contains",
        "description",
        "empty",
        "environment",
        "guid",
        "indexOf",
        "items",
        "last",
        "loadJsonContent",
        "loadTextContent",
        "loadYamlContent",
        "map",
        "maxLength",
        "maxValue",
        "minLength",
        "minValue",
        "range",
        "resourceGroup",
        "split",
        "string",
        "subscription",
        "subscriptionResourceId",
        "tenant",
        "toLower",
        "union",
        "uniqueString",
    ]
)
SCOPES = {"resourceGroup": "resourceGroup", "subscription": "subscription", "group": "resourceGroup"}
GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Azure's own roles (learn.microsoft.com, "Azure built-in roles").
BUILT_IN = {
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": "Azure Service Bus Data Sender",
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": "Azure Service Bus Data Receiver",
    "d5a91429-5739-47e2-a06b-3470a27159e7": "EventGrid Data Sender",
}


def official(resource: bicep.Resource) -> TemplateTypes:
    provider = resource.type.partition("/")[0].lower()
    return TemplateTypes.read(extract.TYPES / extract.file_name(provider, resource.api_version))


@pytest.mark.parametrize("path", PATHS)
def test_the_grammar_understands_each_file(path: Path) -> None:
    assert TEMPLATES[path].mistakes == []


@pytest.mark.parametrize("path", PATHS)
def test_resources_have_the_properties_that_azure_knows(path: Path) -> None:
    """Type, api-version, names, kinds and values, against the types that Azure publishes for Bicep."""
    faults = []
    for resource in TEMPLATES[path].resources:
        types = official(resource)
        assert types.knows(resource.type), f"{path.name}:{resource.line}: no {resource.type} in {resource.api_version}"
        if not resource.existing:
            faults += [f"{path.name}:{resource.line}: {fault}" for fault in types.faults(resource)]
    assert faults == []


@pytest.mark.parametrize("path", PATHS)
def test_every_name_is_declared_and_used(path: Path) -> None:
    template = TEMPLATES[path]
    declared = {*template.parameters, *template.variables, *template.modules, *template.loop_names}
    declared |= {resource.symbol for resource in template.resources}
    used = {name for name, _ in template.uses}
    assert used <= declared
    assert {*template.parameters, *template.variables} <= used
    assert {name for name, _ in template.calls} <= FUNCTIONS


@pytest.mark.parametrize("path", PATHS)
def test_modules_get_the_parameters_that_they_take(path: Path) -> None:
    template = TEMPLATES[path]
    for module in template.modules.values():
        called = TEMPLATES[(path.parent / module.path).resolve()]
        required = {name for name, each in called.parameters.items() if not each.has_default}
        given = {*module.params}
        assert required <= given <= {*called.parameters}, f"{path.name}:{module.line}"
        scope = module.scope.text.partition("(")[0] if isinstance(module.scope, bicep.Unknown) else "resourceGroup"
        assert SCOPES[scope] == called.scope, f"{path.name}:{module.line}: {module.path} is for a {called.scope}"
    for symbol, output, line in template.output_uses:
        called = TEMPLATES[(path.parent / template.modules[symbol].path).resolve()]
        assert output in called.outputs, f"{path.name}:{line}: {symbol} has no output {output}"


@pytest.mark.parametrize("path", PATHS)
def test_what_azure_must_know_before_it_starts_depends_on_no_answer(path: Path) -> None:
    """Names of resources and scopes of modules (error BCP120 of the compiler)."""
    template = TEMPLATES[path]
    early = [resource.body.get("name") for resource in template.resources]
    early += [module.scope for module in template.modules.values()]
    late = [
        each.text
        for each in early
        if isinstance(each, bicep.Unknown) and re.search(r"\.(outputs|properties)\.", each.text)
    ]
    assert late == []


def test_every_module_is_used() -> None:
    used = {
        (path.parent / module.path).resolve() for path, each in TEMPLATES.items() for module in each.modules.values()
    }
    assert {path.resolve() for path in TEMPLATES} == used | {(INFRA / "main.bicep").resolve()}


def test_roles_of_azure_are_the_known_ones() -> None:
    found = {guid for path in TEMPLATES for guid in GUID.findall(path.read_text(encoding="utf-8"))}
    assert found == {*BUILT_IN}


def test_the_extract_of_official_types_has_no_more_than_is_used() -> None:
    assert {path.name for path in extract.TYPES.iterdir()} == {extract.file_name(*key) for key in extract.used()}


# ------------------------------------------------------------------------------------------------------------------- azd


def test_azd_finds_its_templates_and_gives_every_parameter() -> None:
    azure = yaml.safe_load((REPOSITORY / "azure.yaml").read_text(encoding="utf-8"))
    main = TEMPLATES[REPOSITORY / azure["infra"]["path"] / f"{azure['infra']['module']}.bicep"]
    given = json.loads((INFRA / "main.parameters.json").read_text(encoding="utf-8"))["parameters"]
    required = {name for name, each in main.parameters.items() if not each.has_default}

    assert main.scope == "subscription"
    assert required <= {*given} <= {*main.parameters}
    assert given["environmentName"]["value"] == "${AZURE_ENV_NAME}"
    assert given["location"]["value"] == "${AZURE_LOCATION}"


def test_azd_finds_the_function_app_by_its_tags() -> None:
    azure = yaml.safe_load((REPOSITORY / "azure.yaml").read_text(encoding="utf-8"))
    (service,) = azure["services"]
    tags = TEMPLATES[INFRA / "modules" / "app.bicep"].resource("app").body["tags"]
    group = TEMPLATES[INFRA / "main.bicep"].resource("group").body["tags"]
    assert f"'azd-service-name': '{service}'" in tags.text
    assert isinstance(group["azd-env-name"], bicep.Unknown)
    assert group["azd-env-name"].text == "environmentName"
    assert azure["services"][service] == {"project": ".", "language": "py", "host": "function"}


def test_the_second_pass_is_asked_for_by_the_hook() -> None:
    """Subscriptions need a function that exists: `azd up` runs the hook after the first code."""
    azure = yaml.safe_load((REPOSITORY / "azure.yaml").read_text(encoding="utf-8"))
    given = json.loads((INFRA / "main.parameters.json").read_text(encoding="utf-8"))["parameters"]
    (variable,) = re.findall(r"\$\{(\w+)=false\}", given["subscribe"]["value"])
    for hook in azure["hooks"]["postdeploy"].values():
        assert f"azd env set {variable} true" in hook["run"]
        assert "azd provision" in hook["run"]


def test_outputs_are_values_of_the_environment() -> None:
    main = TEMPLATES[INFRA / "main.bicep"]
    assert all(re.fullmatch(r"[A-Z][A-Z_]*", name) for name in main.outputs)
    assert "AZURE_RESOURCE_GROUP" in main.outputs
