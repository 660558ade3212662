"""Where a model comes from: the table of cases, and what holds for all evidence."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.origin import Classification, Evidence, Origin, Run, classify
from tests.unit.origin_cases import (
    AUTOML_DOWNLOAD,
    AUTOML_FULL,
    CASES,
    COMMAND_JOB,
    DESIGNER_FOLDER,
    DESIGNER_PIPELINE,
    MLFLOW,
    OWN_MODEL,
    PACKED_GRAPH,
    STEP,
    Case,
    evidence,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_judged_as_the_table_says(case: Case) -> None:
    found = classify(case.evidence)
    assert (found.origin, found.job, found.files, found.is_packed_graph) == (
        case.origin,
        case.job,
        case.files,
        case.is_packed_graph,
    ), str(found)
    assert [words for words in case.says if words not in str(found)] == [], str(found)
    if found.origin is not None:
        assert bool(found.against) == ("against it" in " ".join(case.says)), str(found)


def test_the_table_tells_every_case_once() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
    pictured = [case.evidence.model_dump_json() for case in CASES]
    assert len(set(pictured)) == len(pictured)


def test_the_evidence_is_told_in_words() -> None:
    assert str(classify(evidence(STEP, DESIGNER_PIPELINE, files=DESIGNER_FOLDER))) == (
        "designer (run 1f2e3d was submitted by Designer (runSource); "
        "files: a Designer model directory (_meta.yaml, model_spec.yaml, score.py, conda_env.yaml))"
    )


def test_evidence_that_contradicts_itself_is_told_whole() -> None:
    assert str(classify(evidence(COMMAND_JOB, files=AUTOML_DOWNLOAD))) == (
        "unknown (no evidence), against it: heroic_heart is a Command job submitted by code; "
        "files: written by Automated ML (conda_env_v_1_0_0.yml, scoring_file_v_2_0_0.py)"
    )


def _outcome(found: Classification) -> tuple[Origin | None, Origin | None, Origin | None, bool]:
    return found.origin, found.job, found.files, found.is_packed_graph


Change = Callable[[str], str]


def _respelled(case: Evidence, change: Change) -> Evidence:
    def changed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {change(key): change(str(value)) for key, value in values.items()}

    runs = tuple(
        run.model_copy(
            update={
                "job_type": run.job_type and change(run.job_type),
                "properties": changed(run.properties),
                "tags": changed(run.tags),
            }
        )
        for run in case.runs
    )
    mlmodel = case.mlmodel
    if mlmodel and isinstance(mlmodel.get("metadata"), Mapping):
        mlmodel = {**mlmodel, "metadata": changed(mlmodel["metadata"])}
    return case.model_copy(
        update={"name": change(case.name), "tags": changed(case.tags), "runs": runs, "mlmodel": mlmodel}
    )


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title, str.swapcase])
@pytest.mark.parametrize("case", [case for case in CASES if "two tags" not in case.name], ids=lambda case: case.name)
def test_the_case_of_keys_and_values_does_not_matter(case: Case, change: Change) -> None:
    """Two tags that differ in case only would become one."""
    assert _outcome(classify(_respelled(case.evidence, change))) == _outcome(classify(case.evidence))


_PATHS = sorted({*AUTOML_FULL, *DESIGNER_FOLDER, *MLFLOW, *OWN_MODEL, *PACKED_GRAPH})
_EVERY_TEXT = {
    path: text
    for files in (AUTOML_FULL, DESIGNER_FOLDER, MLFLOW, OWN_MODEL)
    for path, text in files.items()
    if isinstance(text, str)
}
_RUNS = sorted({run.model_dump_json(): run for case in CASES for run in case.evidence.runs}.items())
_some_runs = st.lists(st.sampled_from([run for _, run in _RUNS]), max_size=4).map(tuple)
_some_files = st.lists(st.sampled_from(_PATHS), unique=True)


@given(_some_runs, _some_files, st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_matter(runs: tuple[Run, ...], files: list[str], random: Any) -> None:
    shuffled = random.sample(files, len(files))
    assert classify(_with(runs, files)) == classify(_with(runs, shuffled))


@given(_some_runs, _some_files)
def test_an_origin_has_a_reason_and_no_origin_has_none(runs: tuple[Run, ...], files: list[str]) -> None:
    found = classify(_with(runs, files))
    assert (found.origin is not None) == bool(found.because)


@given(_some_runs, _some_files)
def test_neither_side_is_overruled_in_silence(runs: tuple[Run, ...], files: list[str]) -> None:
    """Where both sides have an origin, the decision is the job's or none; what files prove is never overruled."""
    found = classify(_with(runs, files))
    if found.job and found.origin:
        assert found.origin == found.job
    if found.job is None and found.files:
        assert found.origin == found.files
    if found.origin is None and (found.job or found.files):
        assert found.against


@given(_some_runs, _some_files)
def test_files_of_no_bytes_prove_nothing(runs: tuple[Run, ...], files: list[str]) -> None:
    empty = Evidence(runs=runs, files=dict.fromkeys(files, 0), texts=_EVERY_TEXT)
    assert classify(empty) == classify(Evidence(runs=runs))


def _with(runs: tuple[Run, ...], files: list[str]) -> Evidence:
    texts = {path: _EVERY_TEXT[path] for path in files if path in _EVERY_TEXT}
    return Evidence(runs=runs, files=dict.fromkeys(files, 1), texts=texts)


_telling = ["_meta.yaml", "score.py", "conda_env.yaml", "conda_env_v_1_0_0.yml", "scoring_file_v_1_0_0.py", "MLmodel"]
_text = st.one_of(
    st.text(max_size=40), st.sampled_from(["automl", "Designer", "type: ", "azureml.automl", "true", "#"])
)
_path = st.one_of(
    st.text(max_size=20),
    st.sampled_from(_telling),
    st.sampled_from(_telling).map("a/".__add__),
    st.just("/"),
    st.just(""),
)
_values = st.dictionaries(
    st.one_of(_text, st.sampled_from(["runSource", "runTemplate", "promotion-origin", "azureml.batchrun"])), _text
)
_anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_text, inner, max_size=3)),
    max_leaves=8,
)
_mlmodel = st.one_of(
    st.none(), st.dictionaries(st.one_of(_text, st.sampled_from(["metadata", "flavors"])), _anything, max_size=4)
)
_run = st.builds(Run, id=_text, job_type=st.one_of(st.none(), _text), properties=_values, tags=_values)


@given(
    st.builds(
        Evidence,
        name=_text,
        tags=_values,
        properties=_values,
        runs=st.lists(_run, max_size=3).map(tuple),
        files=st.dictionaries(_path, st.integers(min_value=0), max_size=6),
        mlmodel=_mlmodel,
        texts=st.dictionaries(_path, _text, max_size=6),
    )
)
def test_no_evidence_is_too_odd(odd: Evidence) -> None:
    found = classify(odd)
    assert str(found)
    assert (found.origin is not None) == bool(found.because)
