"""What a scoring script takes, read from its source and never by running it.

A script for Azure ML's inference server has `init()` and `run(...)`. Undecorated, `run` gets the request's body as text;
with `@input_schema` decorators of inference-schema it gets the parameters that they name; with `@rawhttp` the request
itself. The decorators say what a request looks like, whatever the file is called.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from core.errors import not_servable

ROWS = "$rows"
# What stands for the sample in the template of a request: a table of rows, wherever it is nested.
_MISSING = object()


class Contract(BaseModel):
    """How to call `run`.

    `sample_request` is a body made from the samples in the decorators. Their values are invented by the tool that wrote
    the script (0, "example_value", "2000-1-1"): of the right types, without meaning. `request_template` is the same body
    with "$rows" where the rows stand; `rows_as` says whether rows are objects by column, or bare lists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: Literal["plain", "decorated", "raw"]
    parameters: tuple[str, ...] = ()
    sample_request: Any = None
    request_template: Any = None
    rows_as: Literal["records", "values"] = "values"
    columns: tuple[str, ...] | None = None


class _Table:
    """A sample of rows: where it stands in a request, the rows go."""

    def __init__(self, rows: list[Any], columns: tuple[str, ...] | None) -> None:
        self.rows = rows
        self.columns = columns


class _UnknownError(Exception):
    """A value that cannot be told without running the script."""


def read_contract(script: str, *, where: str) -> Contract:
    """The contract of a scoring script. Raises Refusal if it is no Python, or lacks `init` or `run`."""
    try:
        module = ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise not_servable(f"{where} is no valid Python: {error}") from error
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    missing = [name for name in ("init", "run") if name not in functions]
    if missing:
        raise not_servable(f"{where} has no {' and no '.join(f'{name}()' for name in missing)}")
    decorators = functions["run"].decorator_list
    if any(_name(decorator) == "rawhttp" for decorator in decorators):
        return Contract(style="raw")
    schemas = [each for each in decorators if isinstance(each, ast.Call) and _name(each.func) == "input_schema"]
    if not schemas:
        return Contract(style="plain")
    return _decorated(schemas, _assignments(module), functions["run"])


def designer_contract(samples: bytes | None, schema: bytes | None, *, where: str) -> Contract:
    """The contract of Designer's score.py: a bare array of rows, each with the columns of `_schema.json` and no others.

    A missing number is written `{"isNan": true}` in `_samples.json`, which score.py reads as NaN; it takes null as well,
    in any column. It fails if a column is missing, the label included, or if there is one more; so the sample's rows get
    exactly those of the schema.
    """
    columns = _schema_columns(_json(schema, "_schema.json")) if schema else None
    rows = _json(samples, where) if samples else None
    if rows is not None and not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise not_servable(f"{where} is no list of rows")
    if rows and columns:
        rows = [{column: row.get(column) for column in columns} for row in rows]
    return Contract(
        style="plain", sample_request=rows or None, request_template=ROWS, rows_as="records", columns=columns
    )


def _schema_columns(schema: Any) -> tuple[str, ...]:
    attributes = schema.get("columnAttributes") if isinstance(schema, Mapping) else None
    if not isinstance(attributes, list):
        raise not_servable("_schema.json names no columnAttributes")
    return tuple(str(each["name"]) for each in attributes if isinstance(each, Mapping) and "name" in each)


# ------------------------------------------------------------------------------------------------------- decorators


def _decorated(
    schemas: list[ast.Call], names: Mapping[str, ast.expr], run: ast.FunctionDef | ast.AsyncFunctionDef
) -> Contract:
    parameters: list[str] = []
    samples: dict[str, Any] = {}
    known = True
    for call in schemas[::-1]:
        name, sample = _parameter(call, names)
        if name is None:
            known = False
            continue
        parameters.append(name)
        if sample is _MISSING:
            known = known and name in _optional(run)
        else:
            samples[name] = sample
    tables = list(_tables(samples))
    if not known or not parameters:
        return Contract(style="decorated", parameters=tuple(parameters))
    template = _with_rows(samples, placeholder=True) if len(tables) == 1 else None
    records = bool(tables) and tables[0].columns is not None
    return Contract(
        style="decorated",
        parameters=tuple(parameters),
        sample_request=_with_rows(samples, placeholder=False),
        request_template=template,
        rows_as="records" if records else "values",
        columns=tables[0].columns if len(tables) == 1 else None,
    )


def _parameter(call: ast.Call, names: Mapping[str, ast.expr]) -> tuple[str | None, Any]:
    """The parameter that an `@input_schema` names, and its sample."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    name = given.get("param_name") or (call.args[0] if call.args else None)
    kind = given.get("param_type") or (call.args[1] if len(call.args) > 1 else None)
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        return None, _MISSING
    try:
        return name.value, _value(kind, names) if kind is not None else _MISSING
    except (_UnknownError, RecursionError):
        return name.value, _MISSING


def _optional(run: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Parameters of `run` that have a default."""
    positional = [*run.args.posonlyargs, *run.args.args]
    with_default = positional[len(positional) - len(run.args.defaults) :]
    keyword = [arg for arg, default in zip(run.args.kwonlyargs, run.args.kw_defaults, strict=True) if default]
    return {arg.arg for arg in (*with_default, *keyword)}


def _assignments(module: ast.Module) -> dict[str, ast.expr]:
    """What is assigned to a name at the top of the script; the last one counts."""
    found: dict[str, ast.expr] = {}
    for node in module.body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
    return found


def _value(node: ast.expr, names: Mapping[str, ast.expr], depth: int = 0) -> Any:
    """A literal, or the sample inside one of the calls that such scripts make; raises if it is anything else."""
    if depth > 50:
        raise _UnknownError
    match node:
        case ast.Constant(value=value) if isinstance(value, str | int | float | bool | None):
            return value
        case ast.Name(id=name) if name in names:
            return _value(names[name], {key: each for key, each in names.items() if key != name}, depth + 1)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_value(operand, names, depth + 1))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, names, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {
                str(_value(key, names, depth + 1)): _value(value, names, depth + 1)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.Call():
            return _called(node, names, depth)
        case _:
            raise _UnknownError


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise _UnknownError
    return value


def _called(call: ast.Call, names: Mapping[str, ast.expr], depth: int) -> Any:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    first = call.args[0] if call.args else given.get("sample_input") or given.get("data")
    if first is None:
        raise _UnknownError
    match _name(call.func):
        case "PandasParameterType" | "NumpyParameterType" | "StandardPythonParameterType" | "SparkParameterType":
            return _value(first, names, depth + 1)
        case "DataFrame":
            return _frame(_value(first, names, depth + 1), given, names, depth)
        case "Series":
            value = _value(first, names, depth + 1)
            return value if isinstance(value, list) else [value]
        case "array" | "asarray":
            value = _value(first, names, depth + 1)
            return _Table(value, None) if isinstance(value, list) else value
        case "Timestamp" | "str" | "datetime64":
            return str(_value(first, names, depth + 1))
        case "float" | "int" | "bool":
            return _value(first, names, depth + 1)
        case _:
            raise _UnknownError


def _frame(data: Any, given: Mapping[str | None, ast.expr], names: Mapping[str, ast.expr], depth: int) -> _Table:
    """A DataFrame of columns, of records, or of rows beside `columns=`."""
    if isinstance(data, dict):
        columns = {name: values if isinstance(values, list) else [values] for name, values in data.items()}
        length = max((len(values) for values in columns.values()), default=0)
        if any(len(values) != length for values in columns.values()):
            raise _UnknownError
        return _Table(
            [{name: values[row] for name, values in columns.items()} for row in range(length)], tuple(columns)
        )
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return _Table(data, tuple(data[0]))
    named = given.get("columns")
    if isinstance(data, list) and named is not None:
        header = [str(name) for name in _value(named, names, depth + 1)]
        return _Table([dict(zip(header, row, strict=False)) for row in data if isinstance(row, list)], tuple(header))
    raise _UnknownError


def _tables(value: Any) -> Iterator[_Table]:
    if isinstance(value, _Table):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tables(inner)


def _with_rows(value: Any, *, placeholder: bool) -> Any:
    if isinstance(value, _Table):
        return ROWS if placeholder else value.rows
    if isinstance(value, Mapping):
        return {key: _with_rows(inner, placeholder=placeholder) for key, inner in value.items()}
    return value


def _name(node: ast.expr) -> str:
    """The last part of a dotted name: scripts import these in many ways."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise not_servable(f"{where} is no JSON: {str(error)[:200]}") from error
