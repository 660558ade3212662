"""The checks themselves: what is planted is found."""

from pathlib import Path

import pytest

from tests.infra import bicep, extract
from tests.infra.template_types import TemplateTypes

QUEUE = """
resource queue 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {
  name: 'promotions'
  properties: {
    %s
  }
}
"""
TYPES = TemplateTypes.read(extract.TYPES / "microsoft.servicebus@2024-01-01.json")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("maxDeliveryCount: 3", ""),
        ("lockDuration: someParameter", ""),
        ("maxDelivery: 3", "queue.properties.maxDelivery is unknown"),
        ("maxDeliveryCount: '3'", "queue.properties.maxDeliveryCount must be a whole number"),
        ("requiresSession: 'yes'", "queue.properties.requiresSession must be true or false"),
        ("status: 'Sleeping'", "queue.properties.status is 'Sleeping', which is none of 9 that it may be"),
        ("sizeInBytes: 5", "queue.properties.sizeInBytes is Azure's to say"),
    ],
)
def test_a_property_that_azure_does_not_know_is_found(line: str, fault: str) -> None:
    template = bicep.parse((QUEUE % line).encode(), Path("queue.bicep"))
    assert TYPES.faults(template.resources[0]) == ([fault] if fault else [])


def test_a_resource_without_its_name_is_found() -> None:
    template = bicep.parse(b"resource q 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {}", Path("q.bicep"))
    assert TYPES.faults(template.resources[0]) == ["q.name is missing"]


def test_a_mistake_in_the_grammar_is_found() -> None:
    assert bicep.parse(b"param a string\nresource = {\n", Path("broken.bicep")).mistakes


def test_variables_loops_and_conditions_are_seen_through() -> None:
    template = bicep.parse(
        b"""
param on bool
var names = ['a', 'b']
var common = { x: 1 }
module m 'm.bicep' = [for (name, i) in names: if (on) {
  scope: resourceGroup(name)
  params: { common: common, text: 'a-${name}', first: n[i].outputs.id }
}]
module n 'n.bicep' = {}
output one string = on ? m[0].outputs.a : n.outputs.b
""",
        Path("m.bicep"),
    )

    module = template.modules["m"]
    assert module.params["common"] == {"x": 1}
    assert module.params["text"] == bicep.Unknown("'a-${name}'", frozenset({"name"}))
    assert module.scope.text == "resourceGroup(name)"
    assert [(symbol, output) for symbol, output, _ in template.output_uses] == [("n", "id"), ("n", "b"), ("m", "a")]
    assert {name for name, _ in template.uses} == {"on", "names", "common", "name", "i", "m", "n"}
    assert {name for name, _ in template.calls} == {"resourceGroup"}
    assert template.loop_names == {"name", "i"}
