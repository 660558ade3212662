"""The scripts that are shipped to the target, in the image of its model servers and on Microsoft's inference server."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import mlflow.sklearn
import numpy
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from emulator.azure_ml.deployer import NO_CODE_SCRIPT
from emulator.serving.servers import IMAGE_PYTHON, InferenceServers, ServerSpec
from tests import models
from tests.unit.scoring_job import SCRIPTS, ScoringJob, StepFailed

AUTOML = """
import json, os, pickle
import numpy as np
import pandas as pd
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema

sample = pd.DataFrame({
    "zip": pd.Series(["example_value"], dtype="object"),
    "area": pd.Series([0.0], dtype="float64"),
    "built": pd.Series(["2000-1-1"], dtype="datetime64[ns]"),
})

def init():
    path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "model.pkl")
    assert path.split(os.sep)[-3:-1] == ["price", "7"]
    with open(path, "rb") as file:
        pickle.load(file)

def answer(data):
    return [f"{row.zip}|{row.area}|{row.built:%Y}" for row in data.itertuples()]
"""
V1 = (
    AUTOML
    + """
@input_schema("method", StandardPythonParameterType("predict"), convert_to_provided_type=False)
@input_schema("data", PandasParameterType(sample))
@output_schema(NumpyParameterType(np.array(["x"])))
def run(data, method="predict"):
    try:
        return json.dumps({"result": [method[0] + text for text in answer(data)]})
    except Exception as e:
        return json.dumps({"error": str(e)})
"""
)
V2 = (
    AUTOML
    + """
method_sample = StandardPythonParameterType("predict")
@input_schema("GlobalParameters", StandardPythonParameterType({"method": method_sample}), convert_to_provided_type=False)
@input_schema("Inputs", StandardPythonParameterType({"data": PandasParameterType(sample)}))
@output_schema(StandardPythonParameterType({"Results": NumpyParameterType(np.array(["x"]))}))
def run(Inputs, GlobalParameters={"method": "predict"}):
    return {"Results": [GlobalParameters["method"][0] + text for text in answer(Inputs["data"])]}
"""
)
RAW = """
from azureml_inference_server_http.api.aml_request import rawhttp
def init(): pass
@rawhttp
def run(request): return []
"""


def automl_job(tmp_path: Path, script: str, template: Any) -> ScoringJob:
    model = tmp_path / "model.pkl"
    model.write_bytes(b"\x80\x03K\x01.")
    settings = {
        "kind": "script",
        "script": "entry/scoring_file.py",
        "model": {"name": "price", "version": "7", "folder": None},
        "request": {"template": template, "rows_as": "records"},
        "columns": ["zip", "area", "built"],
    }
    scripts = {"entry/scoring_file.py": script}
    return ScoringJob(tmp_path / "job", settings, model, scripts=scripts, python=IMAGE_PYTHON)


@pytest.mark.parametrize(
    ("script", "template", "prefix"),
    [
        (V1, {"data": "$rows"}, "p"),
        (V1, {"data": "$rows", "method": "other"}, "o"),
        (V2, {"Inputs": {"data": "$rows"}}, "p"),
        (V2, {"Inputs": {"data": "$rows"}, "GlobalParameters": {"method": "other"}}, "o"),
    ],
    ids=["v1", "v1-method", "v2", "v2-method"],
)
def test_scripts_of_automated_ml_get_what_their_decorators_promise(
    tmp_path: Path, script: str, template: Any, prefix: str
) -> None:
    job = automl_job(tmp_path, script, template)
    job.put("a.csv", "built,area,zip,price\n2001-5-6,10,01067,1\n1999-1-2,12.5,10115,2\n")
    job.put("b.jsonl", json.dumps({"zip": "007", "area": 1, "built": "2010-01-01"}))
    job.put("bad.csv", "built,area,zip\n2001-5-6,large,01067\n")

    job.all(collect=("--error-threshold", "1"))

    assert (job.predictions / "predictions.csv").read_text().splitlines() == [
        "file,row,prediction",
        f"a.csv,0,{prefix}01067|10.0|2001",
        f"a.csv,1,{prefix}10115|12.5|1999",
        f"b.jsonl,0,{prefix}007|1.0|2010",
    ]
    assert "large" in job.errors()["bad.csv"]


def test_a_request_without_what_the_decorators_need_is_said(tmp_path: Path) -> None:
    job = automl_job(tmp_path, V2, {"data": "$rows"})
    job.put("a.csv", "built,area,zip\n2001-5-6,10,01067\n")
    with pytest.raises(StepFailed, match="no file could be scored"):
        job.all()

    assert job.errors() == {"a.csv": "run() needs a value for 'Inputs', which the request does not have"}


def test_a_script_of_raw_http_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    job = automl_job(tmp_path, RAW, "$rows")
    job.plan()

    with pytest.raises(StepFailed, match=r"run\(\) in scoring_file\.py is decorated with @rawhttp"):
        job.score()


def tensors(directory: Path) -> Path:
    rows = numpy.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=numpy.float32)
    model = LinearRegression().fit(rows, [1, 2, 3])
    signature = infer_signature(rows, model.predict(rows))
    pins = models.pins("mlflow-skinny", "scikit-learn")
    mlflow.sklearn.save_model(
        model, directory, signature=signature, serialization_format="cloudpickle", pip_requirements=pins
    )
    return directory


REGRESSION_REQUESTS: Mapping[str, Any] = {
    "table": {"input_data": {"columns": ["area", "rooms"], "index": [0, 1], "data": [[1, 2], [3.5, 1]]}},
    "no index": {"input_data": {"columns": ["rooms", "area"], "data": [[1, 2]]}},
    "more columns": {"input_data": {"columns": ["x", "rooms", "area"], "data": [["a", 1, 2]]}},
}
BAD_REQUESTS: Mapping[str, tuple[Any, str]] = {
    "missing column": ({"input_data": {"columns": ["area"], "data": [[1]]}}, "rooms"),
    "words": ({"input_data": {"columns": ["area", "rooms"], "data": [["many", 1]]}}, "area"),
    "ragged": ({"input_data": {"columns": ["area", "rooms"], "data": [[1]]}}, "input_data cannot be read"),
    "another server's key": ({"dataframe_split": {"columns": ["area"], "data": [[1]]}}, 'needs "input_data"'),
    "no object": ([1], 'needs "input_data"'),
    "a number": ({"input_data": 3}, "a tensor is a list"),
}


@pytest.mark.parametrize("kind", ["regression", "tensor", "strings"])
def test_our_mlflow_script_answers_as_deployments_without_code_do(tmp_path: Path, kind: str) -> None:
    requests: Mapping[str, Any]
    if kind == "regression":
        folder, requests = models.regression_with_example(tmp_path).folder, REGRESSION_REQUESTS
    elif kind == "tensor":
        folder, requests = tensors(tmp_path / "model"), {"tensor": {"input_data": [[0, 1], [1, 1]]}}
    else:
        saved = models.pyfunc_of_strings(tmp_path)
        folder, requests = saved.folder, {"table": saved.request}
    bad = {name: body for name, (body, _) in BAD_REQUESTS.items()} if kind == "regression" else {}

    ours, theirs = asyncio.run(_ask_both(tmp_path, folder, {**requests, **bad}))

    for name in requests:
        assert ours[name][0] == 200, ours[name]
        assert ours[name] == theirs[name]
    for name in bad:
        status, answer = ours[name]
        assert status == 400
        assert BAD_REQUESTS[name][1] in answer["message"]
        assert theirs[name][0] != 200


Answers = dict[str, tuple[int, Any]]


async def _ask_both(tmp_path: Path, folder: Path, requests: Mapping[str, Any]) -> tuple[Answers, Answers]:
    """What our script and that of a deployment without code answer, each on an inference server of its own."""
    model = tmp_path / "registered" / "price" / "1"
    shutil.copytree(folder, model / "model")
    code = tmp_path / "code"
    code.mkdir()
    for name in ("promotion_mlflow_online.py", "promotion_signature.py"):
        shutil.copy(SCRIPTS / name, code)
    servers = InferenceServers(directory=tmp_path / "servers")
    await servers.start()
    try:
        async with aiohttp.ClientSession() as session:
            scripts = (code / "promotion_mlflow_online.py", NO_CODE_SCRIPT)
            return tuple([await _ask(servers, session, script, model, requests) for script in scripts])  # type: ignore[return-value]
    finally:
        await servers.stop()


async def _ask(
    servers: InferenceServers, session: aiohttp.ClientSession, script: Path, model: Path, requests: Mapping[str, Any]
) -> Answers:
    spec = ServerSpec(script, model.parent, model, model.parent / f"{script.stem}.log", {})
    server = await servers.launch(spec)
    answers = {}
    for name, body in requests.items():
        async with session.post(server.url("/score"), json=body) as response:
            text = await response.text()
            answers[name] = (response.status, json.loads(text) if response.status in (200, 400) else text)
    await server.stop()
    return answers
