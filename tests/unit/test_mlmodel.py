"""MLmodel files and input examples as MLflow writes them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Reason, Refusal
from core.mlmodel import example_path, parse_mlmodel, sample_request
from core.packaging import Recipe
from tests.unit.builders import a_recipe

FLAVORS = {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {"sklearn_version": "1.9.1"}}
FILES = ("MLmodel", "conda.yaml", "input_example.json", "model.pkl")

# As mlflow 3.17 writes them for a DataFrame, with and without parameters, an array, and plain JSON.
TABLE_INFO = {"artifact_path": "input_example.json", "pandas_orient": "split", "type": "dataframe"}
ARRAY_INFO = {"artifact_path": "input_example.json", "type": "ndarray"}
JSON_INFO = {"artifact_path": "input_example.json", "type": "json_object"}
PARAMS = {"params": "true"}
TWO_COLUMNS = '[{"type": "double", "name": "a", "required": false}, {"type": "string", "name": "b", "required": true}]'


def mlmodel(info: dict[str, str] | None = None, inputs: Any = None) -> dict[str, Any]:
    signature = {"signature": {"inputs": inputs, "outputs": None, "params": None}} if inputs is not None else {}
    return {"flavors": FLAVORS} | ({"saved_input_example_info": info} if info else {}) | signature


def refusal(call: Any, *args: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*args)
    assert caught.value.reason is Reason.NOT_SERVABLE
    return caught.value


# -------------------------------------------------------------------------------------------------------------- MLmodel


def test_an_mlmodel_file_is_read() -> None:
    content = (
        b"artifact_path: model\nflavors:\n  python_function:\n    loader_module: mlflow.sklearn\nrun_id: AutoML_1_2\n"
    )
    assert parse_mlmodel(content)["flavors"] == {"python_function": {"loader_module": "mlflow.sklearn"}}


@pytest.mark.parametrize(
    "content",
    [b"flavors: [", b"\xff\xfe", b"flavors: {a: !!python/object:os.system {}}", b"when: 2026-13-01\n", b"[" * 5000],
)
def test_an_mlmodel_that_cannot_be_read_is_refused(content: bytes) -> None:
    assert str(refusal(parse_mlmodel, content)).startswith("MLmodel cannot be read: ")


@pytest.mark.parametrize("content", [b"", b"text", b"- a\n", b"run_id: x\n", b"flavors:\n", b"flavors: [a]\n"])
def test_an_mlmodel_without_flavors_is_refused(content: bytes) -> None:
    assert str(refusal(parse_mlmodel, content)) == "MLmodel names no flavors"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (TABLE_INFO, "input_example.json"),
        ({"artifact_path": "gone.json"}, None),
        ({"artifact_path": 5}, None),
        ({}, None),
        ("text", None),
        (None, None),
    ],
)
def test_the_example_is_where_mlmodel_says_if_it_is_there(info: Any, expected: str | None) -> None:
    assert example_path({"saved_input_example_info": info}, FILES) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"flavors: &a {python_function: *a}\n",
        b"\n".join([b"a0: &a0 [x, x]"] + [b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1) for n in range(1, 60)])
        + b"\nflavors: {python_function: {x: *a59}}\n",
    ],
    ids=["refers to itself", "stands for more than memory holds"],
)
def test_an_mlmodel_that_never_ends_is_refused(content: bytes) -> None:
    assert str(refusal(parse_mlmodel, content)).startswith("MLmodel cannot be read: ")


def test_aliases_and_dates_as_keys_are_read() -> None:
    """PyYAML writes an alias where one thing stands in two places."""
    parsed = parse_mlmodel(b"a: &x {2026-03-04: 1}\nflavors: {python_function: *x}\n")
    assert parsed["flavors"] == {"python_function": {"2026-03-04": 1}}


# --------------------------------------------------------------------------------------------------------------- sample

TABLE = {"columns": ["a", "b"], "index": [0], "data": [[1.5, "x"]]}


@pytest.mark.parametrize(
    ("info", "example", "expected"),
    [
        pytest.param(TABLE_INFO, '{"columns": ["a", "b"], "data": [[1.5, "x"]]}', TABLE, id="a DataFrame"),
        pytest.param(
            TABLE_INFO,
            '{"columns": ["a"], "index": [7, 9], "data": [[1], [2]]}',
            {"columns": ["a"], "index": [7, 9], "data": [[1], [2]]},
            id="a DataFrame with its own index",
        ),
        pytest.param(
            TABLE_INFO,
            '{"columns": ["a", "b"], "data": [[NaN, "x"], [Infinity, "y"]]}',
            {"columns": ["a", "b"], "index": [0, 1], "data": [[None, "x"], [None, "y"]]},
            id="missing numbers, which MLflow writes as NaN",
        ),
        pytest.param(
            TABLE_INFO | PARAMS,
            '{"inputs": {"columns": ["a", "b"], "data": [[1.5, "x"]]}, "params": {"t": 0.1}}',
            TABLE,
            id="a DataFrame beside parameters",
        ),
        pytest.param(
            TABLE_INFO,
            '{"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, "x"]]}}',
            TABLE,
            id="for mlflow serve",
        ),
        pytest.param(ARRAY_INFO, "[[1.0, null]]", [[1.0, None]], id="an array"),
        pytest.param(ARRAY_INFO, '{"inputs": [[1.0, 2.0]]}', [[1.0, 2.0]], id="an array of older MLflow"),
        pytest.param(ARRAY_INFO, '{"x": [1, 2], "y": [3, 4]}', {"x": [1, 2], "y": [3, 4]}, id="named tensors"),
        pytest.param(JSON_INFO, '["a", "b"]', ["a", "b"], id="a list of texts"),
        pytest.param(JSON_INFO, '"hello"', "hello", id="a text"),
        pytest.param(JSON_INFO, '{"inputs": ["a"], "k": [1]}', {"inputs": ["a"], "k": [1]}, id="JSON is left alone"),
        pytest.param(
            JSON_INFO | PARAMS, '{"inputs": {"q": ["a"]}, "params": {}}', {"q": ["a"]}, id="JSON with parameters"
        ),
        pytest.param(
            JSON_INFO,
            '[{"a": 1, "b": "x"}, {"b": "y", "a": 2}]',
            {"columns": ["a", "b"], "index": [0, 1], "data": [[1, "x"], [2, "y"]]},
            id="records, which no-code deployments do not take",
        ),
        pytest.param(JSON_INFO, '[{"a": 1}, {"b": 2}]', [{"a": 1}, {"b": 2}], id="records of no table"),
        pytest.param(
            TABLE_INFO, '{"columns": ["a"], "data": 5}', {"columns": ["a"], "data": 5}, id="no table after all"
        ),
    ],
)
def test_the_input_example_becomes_a_scoring_request(info: dict[str, str], example: str, expected: object) -> None:
    request = sample_request(mlmodel(info), example.encode())
    assert request == ({"input_data": expected}, "input_example.json")


@pytest.mark.parametrize("example", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_the_signature_serves_where_no_example_can(example: bytes | None) -> None:
    row = {"columns": ["a", "b"], "index": [0], "data": [[0.0, "a"]]}
    assert sample_request(mlmodel(TABLE_INFO, TWO_COLUMNS), example) == ({"input_data": row}, "signature")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("string", "a"),
        ("boolean", False),
        ("integer", 0),
        ("long", 0),
        ("float", 0.0),
        ("double", 0.0),
        ("datetime", "2000-01-01T00:00:00"),
    ],
)
def test_each_type_of_column_has_a_value(kind: str, expected: object) -> None:
    request, _ = sample_request(mlmodel(inputs=json.dumps([{"type": kind, "name": "a"}])), None)
    assert request == {"input_data": {"columns": ["a"], "index": [0], "data": [[expected]]}}


@pytest.mark.parametrize(
    "inputs",
    [
        '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]',
        '[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]',
        '[{"type": "array", "items": {"type": "string"}, "name": "q", "required": true}]',
        '[{"type": "object", "properties": {}, "name": "q"}, {"type": "double", "name": "a"}]',
        '[{"type": "binary", "name": "image"}]',
        '[{"type": "string", "required": true}]',
        '[{"type": ["string"], "name": "q"}]',
        '[{"type": "string", "name": "q"}, 5]',
        "[]",
        "5",
        "{}",
        "null",
        "no json",
        ["a list"],
        5,
    ],
)
def test_no_request_is_made_up_where_a_value_cannot_be(inputs: Any) -> None:
    """A request that the model must reject would keep a good model from its traffic."""
    assert sample_request(mlmodel(inputs=inputs), None) == (None, None)


def test_a_model_without_example_and_signature_has_no_sample() -> None:
    assert sample_request(mlmodel(), None) == (None, None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["columns", "data", "index", "inputs", "a"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.sampled_from([TABLE_INFO, ARRAY_INFO, JSON_INFO, JSON_INFO | PARAMS]), _JSON)
def test_any_example_gives_a_recipe_that_survives_being_kept(info: dict[str, str], example: Any) -> None:
    """The digest in the command is that of the document in the ledger, read back."""
    request, source = sample_request(mlmodel(info), json.dumps(example).encode())
    found = a_recipe(sample_request=request, sample_source=source)
    kept = Recipe.model_validate_json(found.model_dump_json())
    assert (kept, kept.digest) == (found, found.digest)
