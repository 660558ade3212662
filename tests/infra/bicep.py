"""Bicep files as data, read with the grammar of tree-sitter. The compiler is a program of its own, and not needed here.

Values are what Python makes of literals; everything that Azure would have to work out is an `Unknown`. Names of variables are
followed. Loops and conditions are taken as if they ran once. The grammar takes `[f().a]` and `[b[0].a]` for lists of two: our
templates put such items into a variable first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser


@dataclass(frozen=True)
class Unknown:
    """An expression: its text, and the names in it."""

    text: str
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Resource:
    """A resource that a file declares. `body` is without `parent`, `scope` and `dependsOn`."""

    symbol: str
    type: str
    api_version: str
    existing: bool
    body: Mapping[str, Any]
    line: int


@dataclass(frozen=True)
class Module:
    symbol: str
    path: str
    scope: Any
    params: Mapping[str, Any]
    line: int


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    has_default: bool


@dataclass
class Template:
    """One file. `mistakes` are what the grammar does not understand; `uses` are names in expressions, with their lines."""

    path: Path
    scope: str = "resourceGroup"
    parameters: dict[str, Parameter] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    resources: list[Resource] = field(default_factory=list)
    modules: dict[str, Module] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    loop_names: set[str] = field(default_factory=set)
    uses: list[tuple[str, int]] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    output_uses: list[tuple[str, str, int]] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def resource(self, symbol: str) -> Resource:
        return next(each for each in self.resources if each.symbol == symbol)


_IGNORED = frozenset({"parent", "scope", "dependsOn"})
_COMMENTS = frozenset({"comment", "diagnostic_comment"})


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bicep.language()))


def templates(root: Path) -> dict[Path, Template]:
    """All templates below a folder, by path."""
    return {path: read(path) for path in sorted(root.rglob("*.bicep"))}


def read(path: Path) -> Template:
    return parse(path.read_bytes(), path)


def parse(content: bytes, path: Path) -> Template:
    root = _parser().parse(content).root_node
    template = Template(path)
    template.mistakes += [
        f"{path.name}:{_line(node)}: not understood: {_text(node)[:60]!r}"
        for node in _all(root)
        if node.is_error or node.is_missing
    ]
    for node in root.children:
        _declaration(node, template)
    for node in _all(root):
        _notice(node, template)
    return template


def _declaration(node: Node, template: Template) -> None:
    parts = [each for each in node.named_children if each.type not in _COMMENTS]
    match node.type:
        case "target_scope_assignment":
            template.scope = str(_value(parts[0], template))
        case "parameter_declaration":
            name = _text(parts[0])
            template.parameters[name] = Parameter(name, _text(parts[1]), has_default=len(parts) > 2)
        case "variable_declaration":
            template.variables[_text(parts[0])] = _value(parts[1], template)
        case "output_declaration":
            template.outputs[_text(parts[0])] = _value(parts[-1], template)
        case "resource_declaration":
            _resource(node, template)
        case "module_declaration":
            body = _value(_body(parts[2]), template)
            template.modules[_text(parts[0])] = Module(
                _text(parts[0]),
                str(_value(parts[1], template)),
                body.get("scope"),
                body.get("params", {}),
                _line(node),
            )


def _resource(node: Node, template: Template) -> None:
    parts = [each for each in node.named_children if each.type not in _COMMENTS]
    kind, _, version = str(_value(parts[1], template)).partition("@")
    body = {key: value for key, value in _value(_body(parts[-1]), template).items() if key not in _IGNORED}
    existing = any(_text(each) == "existing" for each in node.children)
    template.resources.append(Resource(_text(parts[0]), kind, version, existing, body, _line(node)))


def _body(node: Node) -> Node:
    """What a loop or a condition is about."""
    while node.type in ("for_statement", "if_statement"):
        node = node.named_children[-1]
    return node


def _value(node: Node, template: Template) -> Any:
    match node.type:
        case "string":
            return _string(node)
        case "number":
            return int(_text(node))
        case "boolean":
            return _text(node) == "true"
        case "null":
            return None
        case "array":
            return [_value(each, template) for each in node.named_children if each.type not in _COMMENTS]
        case "object":
            return _object(node, template)
        case "for_statement":
            return [_value(_body(node), template)]
        case "identifier" if _text(node) in template.variables:
            return template.variables[_text(node)]
        case "parenthesized_expression":
            return _value(node.named_children[0], template)
        case _:
            return _unknown(node)


def _object(node: Node, template: Template) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in node.named_children:
        if each.type == "object_property":
            key, value = each.named_children[0], each.named_children[-1]
            name = _string(key) if key.type == "string" else _text(key)
            found[name.text if isinstance(name, Unknown) else name] = _value(value, template)
    return found


def _string(node: Node) -> str | Unknown:
    if any(each.type == "interpolation" for each in node.named_children):
        return _unknown(node)
    return "".join(_text(each) for each in node.named_children)


def _unknown(node: Node) -> Unknown:
    return Unknown(_text(node), frozenset(_text(each) for each in _all(node) if each.type == "identifier"))


def _notice(node: Node, template: Template) -> None:
    """Which names an expression uses, and as what."""
    line = _line(node)
    match node.type:
        case "for_statement":
            heads = [each for each in node.named_children if each.type in ("identifier", "for_loop_parameters")]
            template.loop_names |= {_text(each) for each in _names_of(heads[0])}
        case "lambda_expression":
            template.loop_names |= {_text(each) for each in _names_of(node.named_children[0])}
        case "call_expression":
            template.calls.append((_text(node.named_children[0]), line))
        case "member_expression":
            above = node.named_children[0]
            if above.type == "member_expression" and _text(above.named_children[-1]) == "outputs":
                template.output_uses.append((_symbol(above), _text(node.named_children[-1]), line))
        case "identifier" if _is_use(node):
            template.uses.append((_text(node), line))


def _symbol(node: Node) -> str:
    """Whose member something is. The grammar takes the last branch of `a ? b : c.d` for `(a ? b : c).d`."""
    while node.named_children:
        node = node.named_children[-1 if node.type == "ternary_expression" else 0]
    return _text(node)


def _names_of(node: Node) -> Iterator[Node]:
    if not node.named_children:
        yield node
    for each in node.named_children:
        yield from _names_of(each)


def _is_use(node: Node) -> bool:
    """Whether an identifier is a value; others are declared by it, are keys, or are functions."""
    above = node.parent
    if above is None:
        return False
    first = above.named_children[0] == node
    if above.type.endswith("_declaration") or above.type in ("call_expression", "object_property"):
        return not first
    return above.type not in ("type", "decorator") and not (above.type == "lambda_expression" and first)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for each in node.children:
        yield from _all(each)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _line(node: Node) -> int:
    return node.start_point.row + 1
