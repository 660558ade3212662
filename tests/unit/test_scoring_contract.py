"""What scoring scripts take, read from their source: decorators in all the forms that tools have written them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Refusal
from core.scoring_contract import Contract, designer_contract, read_contract

HEAD = "import numpy as np\nimport pandas as pd\nfrom inference_schema.schema_decorators import input_schema, output_schema\n"
FRAME = 'pd.DataFrame({"age": pd.Series([0], dtype="int64"), "job": pd.Series(["example_value"], dtype="object")})'
ROW = {"age": 0, "job": "example_value"}
BODY = "def init():\n    pass\n"


def contract(samples: str, decorators: str, parameters: str) -> Contract:
    return read_contract(
        f"{HEAD}{samples}\n{BODY}{decorators}\ndef run({parameters}):\n    return 1\n", where="score.py"
    )


@pytest.mark.parametrize(
    ("samples", "decorators", "parameters", "request_body"),
    [
        pytest.param(
            f"s = PandasParameterType({FRAME})", "@input_schema('data', s)", "data", {"data": [ROW]}, id="first contract"
        ),
        pytest.param(
            f"s = {FRAME}\nm = StandardPythonParameterType('predict')",
            "@input_schema('method', m, convert_to_provided_type=False)\n@input_schema('data', PandasParameterType(s))",
            "data, method='predict'",
            {"data": [ROW], "method": "predict"},
            id="with a method",
        ),
        pytest.param(
            f"s = PandasParameterType({FRAME})\ni = StandardPythonParameterType({{'data': s}})\n"
            "g = StandardPythonParameterType(1.0)",
            "@input_schema('GlobalParameters', g)\n@input_schema('Inputs', i)\n@output_schema(o)",
            "Inputs, GlobalParameters=1.0",
            {"Inputs": {"data": [ROW]}, "GlobalParameters": 1.0},
            id="second contract",
        ),
        pytest.param(
            f"i = StandardPythonParameterType({{'data': PandasParameterType({FRAME})}})",
            "@schema_decorators.input_schema(param_name='Inputs', param_type=i)",
            "Inputs",
            {"Inputs": {"data": [ROW]}},
            id="keywords and a dotted name",
        ),
        pytest.param(
            f"s = PandasParameterType({FRAME}, enforce_shape=False)\n"
            "q = StandardPythonParameterType({'quantiles': [0.025, 0.975]})",
            "@input_schema('GlobalParameters', q)\n@input_schema('Inputs', StandardPythonParameterType({'data': s}))",
            "Inputs, GlobalParameters",
            {"Inputs": {"data": [ROW]}, "GlobalParameters": {"quantiles": [0.025, 0.975]}},
            id="forecasts",
        ),
        pytest.param(
            "s = NumpyParameterType(np.array([[1.5, -2]]))", "@input_schema('data', s)", "data", {"data": [[1.5, -2]]}, id="an array"
        ),
        pytest.param(
            "s = PandasParameterType(pd.DataFrame([{'a': 1}, {'a': 2}]))",
            "@input_schema('rows', s)",
            "rows",
            {"rows": [{"a": 1}, {"a": 2}]},
            id="a table of records",
        ),
        pytest.param(
            "s = PandasParameterType(pd.DataFrame([[1, 'x']], columns=['a', 'b']))",
            "@input_schema('rows', s)",
            "rows",
            {"rows": [{"a": 1, "b": "x"}]},
            id="rows beside columns",
        ),
    ],
)  # fmt: skip
def test_a_decorated_script_says_what_a_request_looks_like(
    samples: str, decorators: str, parameters: str, request_body: object
) -> None:
    found = contract(samples, decorators, parameters)
    assert (found.style, found.sample_request) == ("decorated", request_body)
    assert "$rows" in str(found.request_template)


def test_columns_and_the_form_of_rows_are_known() -> None:
    found = contract(f"s = PandasParameterType({FRAME})", "@input_schema('data', s)", "data")
    assert (found.columns, found.rows_as, found.parameters) == (("age", "job"), "records", ("data",))
    assert found.request_template == {"data": "$rows"}


@pytest.mark.parametrize(
    ("samples", "decorators", "parameters"),
    [
        ("s = make()", "@input_schema('data', s)", "data"),
        ("s = PandasParameterType(pd.read_csv('x'))", "@input_schema('data', s)", "data"),
        ("s = 1", "@input_schema(name, s)", "data"),
        ("", "@input_schema('data', s)", "data"),
        ("s = s", "@input_schema('data', s)", "data"),
        ("s = PandasParameterType(pd.DataFrame({'a': [1, 2], 'b': [1]}))", "@input_schema('data', s)", "data"),
    ],
)
def test_what_cannot_be_told_without_running_it_is_no_sample(samples: str, decorators: str, parameters: str) -> None:
    found = contract(samples, decorators, parameters)
    assert (found.style, found.sample_request) == ("decorated", None)


def test_an_optional_parameter_that_cannot_be_told_is_left_out() -> None:
    found = contract(
        f"s = PandasParameterType({FRAME})",
        "@input_schema('more', make())\n@input_schema('data', s)",
        "data, more=None",
    )
    assert found.sample_request == {"data": [ROW]}


def test_raw_and_plain_scripts() -> None:
    assert contract("", "@rawhttp", "request").style == "raw"
    assert contract("", "@aml_request.rawhttp", "request").style == "raw"
    assert contract("", "", "data") == Contract(style="plain")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("", r"score\.py has no init\(\) and no run\(\)"),
        ("def init():\n    pass\n", r"score\.py has no run\(\)"),
        ("class A:\n    def init(self): pass\n    def run(self): pass\n", r"no init\(\) and no run\(\)"),
        ("def run(:\n", r"score\.py is no valid Python"),
        ("curl -H 'x' https://example.org\n", r"score\.py is no valid Python"),
        ("\0", r"score\.py is no valid Python"),
    ],
)
def test_a_script_that_cannot_serve_is_refused(script: str, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        read_contract(script, where="score.py")


def test_designers_rows_have_every_column_of_the_schema() -> None:
    schema = b'{"columnAttributes": [{"name": "age"}, {"name": "label"}], "labelColumns": {}}'
    found = designer_contract(b'[{"age": {"isNan": true}, "label": null}]', schema, where="_samples.json")
    assert found.sample_request == [{"age": {"isNan": True}, "label": None}]
    assert (found.request_template, found.columns, found.rows_as) == ("$rows", ("age", "label"), "records")
    assert designer_contract(None, schema, where="_samples.json").sample_request is None
    assert designer_contract(b"[]", schema, where="_samples.json").sample_request is None


def test_a_sample_has_the_columns_of_the_schema_and_no_others() -> None:
    """Designer's script fails with one too few and with one too many."""
    schema = b'{"columnAttributes": [{"name": "age"}, {"name": "label"}]}'
    found = designer_contract(b'[{"more": 1, "age": 2}]', schema, where="_samples.json")
    assert found.sample_request == [{"age": 2, "label": None}]


@pytest.mark.parametrize(
    ("samples", "schema", "why"),
    [
        (b"{", b"{}", "_schema.json names no columnAttributes"),
        (b"{", b'{"columnAttributes": []}', "_samples.json is no JSON"),
        (b'{"a": 1}', b'{"columnAttributes": []}', "_samples.json is no list of rows"),
        (None, b"\xff", "_schema.json is no JSON"),
    ],
)
def test_designers_files_that_cannot_be_read_are_named(samples: bytes | None, schema: bytes, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        designer_contract(samples, schema, where="_samples.json")


@given(st.text(max_size=300))
def test_any_text_is_a_contract_or_a_refusal(text: str) -> None:
    try:
        read_contract(text, where="score.py")
    except Refusal as refusal:
        assert "score.py" in str(refusal)
