"""Where a model comes from, decided from what real runs and folders look like."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.origin import OVERRIDE_TAG, Classification, Evidence, Origin, Run, classify

# Runs as Azure ML shows them, cut down to what could tell their origin.
AUTOML_JOB_JUST_CREATED = Run(id="affable_rail", job_type="AutoML")
AUTOML_JOB = Run(
    id="affable_rail",
    job_type="AutoML",
    properties={"runTemplate": "AutoML", "azureml.runsource": "automl", "root_attribution": "AutoML"},
    tags={"automl_best_child_run_id": "affable_rail_2"},
)
AUTOML_CHILD = Run(id="affable_rail_2", job_type="Command", properties={"runTemplate": "automl_child"})
AUTOML_V1 = Run(id="AutoML_e7f148b1", properties={"runTemplate": "AutoML", "ClientType": "SDK"})
DESIGNER = Run(
    id="1f2e3d",
    job_type="Pipeline",
    properties={"azureml.runsource": "azureml.PipelineRun", "runSource": "Designer", "runType": "HTTP"},
    tags={"azureml.Designer": "true", "azureml.pipelineComponent": "pipelinerun"},
)
CLI_PIPELINE_WITH_DESIGNER_TAG = Run(
    id="bold_bean",
    job_type="Pipeline",
    properties={"azureml.runsource": "azureml.PipelineRun", "runSource": "MFE", "runType": "HTTP"},
    tags={"azureml.Designer": "true"},
)
PUBLISHED_PIPELINE = Run(id="p1", properties={"runSource": "SDK", "runType": "HTTP", "azureml.pipelineid": "x"})
SCRIPT_RUN = Run(id="s1", properties={"ContentSnapshotId": "c", "azureml.git.dirty": "False"})
COMMAND_JOB = Run(id="heroic_heart", job_type="Command", properties={"ContentSnapshotId": "c"})
SWEEP_JOB = Run(
    id="HD_1", job_type="Sweep", properties={"runTemplate": "HyperDrive", "azureml.runsource": "hyperdrive"}
)
SCORING_RUN = Run(
    id="batchjob-1",
    job_type="Pipeline",
    properties={"runSource": "BatchDeployment", "azureml.runLineageType": "batchDeployment"},
)

AUTOML_FILES = (
    "conda_env_v_1_0_0.yml",
    "env_dependencies.json",
    "mlflow-model/MLmodel",
    "model.pkl",
    "pipeline_graph.json",
    "scoring_file_v_1_0_0.py",
    "scoring_file_v_2_0_0.py",
)
AUTOML_DOWNLOAD = ("conda_env_v_1_0_0.yml", "model.pkl", "scoring_file_v_2_0_0.py")
AUTOML_NLP = ("scoring_file_v_1_0_0.py",)
DESIGNER_FILES = (
    "trained_model_outputs/_meta.yaml",
    "trained_model_outputs/_samples.json",
    "trained_model_outputs/_schema.json",
    "trained_model_outputs/conda_env.yaml",
    "trained_model_outputs/data.ilearner",
    "trained_model_outputs/model_spec.yaml",
    "trained_model_outputs/score.py",
)
DESIGNER_FLATTENED = tuple(path.rpartition("/")[2] for path in DESIGNER_FILES)
DESIGNER_DATASET = ("_meta.yaml", "data.dataset.parquet", "schema/_schema.json")
MLFLOW_FILES = ("MLmodel", "conda.yaml", "model.pkl", "python_env.yaml", "requirements.txt")
CODE_FILES = ("model.joblib", "score.py", "environment.yml")
MLMODEL: dict[str, Any] = {"flavors": {"python_function": {}}}


def evidence(run: Run | None = None, files: tuple[str, ...] = (), **changes: Any) -> Evidence:
    return Evidence.model_validate({"run": run, "files": files} | changes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(evidence(AUTOML_JOB), Origin.AUTOML, id="an AutoML job"),
        pytest.param(evidence(AUTOML_JOB_JUST_CREATED), Origin.AUTOML, id="an AutoML job before it has properties"),
        pytest.param(evidence(AUTOML_CHILD), Origin.AUTOML, id="a trial, which looks like a command job"),
        pytest.param(evidence(AUTOML_V1), Origin.AUTOML, id="an experiment of SDK v1"),
        pytest.param(evidence(DESIGNER), Origin.DESIGNER, id="a Designer pipeline"),
        pytest.param(
            evidence(CLI_PIPELINE_WITH_DESIGNER_TAG), Origin.NOTEBOOK, id="the Designer tag on a CLI pipeline"
        ),
        pytest.param(evidence(PUBLISHED_PIPELINE), Origin.NOTEBOOK, id="a published pipeline"),
        pytest.param(evidence(SCRIPT_RUN), Origin.NOTEBOOK, id="a script run of SDK v1"),
        pytest.param(evidence(COMMAND_JOB), Origin.NOTEBOOK, id="a command job"),
        pytest.param(evidence(SWEEP_JOB), Origin.NOTEBOOK, id="a sweep"),
        pytest.param(evidence(files=AUTOML_FILES), Origin.AUTOML, id="AutoML's outputs without a run"),
        pytest.param(evidence(files=AUTOML_DOWNLOAD), Origin.AUTOML, id="AutoML's studio download"),
        pytest.param(evidence(files=AUTOML_NLP), Origin.AUTOML, id="AutoML for text"),
        pytest.param(evidence(files=DESIGNER_FILES), Origin.DESIGNER, id="Designer's outputs without a run"),
        pytest.param(evidence(files=DESIGNER_FLATTENED), Origin.DESIGNER, id="Designer's outputs, flattened"),
        pytest.param(
            evidence(files=MLFLOW_FILES, mlmodel=MLMODEL), Origin.NOTEBOOK, id="an MLflow folder and nothing else"
        ),
        pytest.param(evidence(files=CODE_FILES), Origin.NOTEBOOK, id="a scoring script and nothing else"),
        pytest.param(
            evidence(files=MLFLOW_FILES, mlmodel=MLMODEL | {"metadata": {"azureml.engine": "AutoML"}}),
            Origin.AUTOML,
            id="an MLmodel that says AutoML",
        ),
        pytest.param(
            evidence(files=MLFLOW_FILES, mlmodel=MLMODEL | {"metadata": {"is_automl_model": True}}),
            Origin.AUTOML,
            id="an MLmodel of AutoML for images",
        ),
        pytest.param(
            evidence(files=MLFLOW_FILES, mlmodel=MLMODEL | {"metadata": {"is_automl_model": False}}),
            Origin.NOTEBOOK,
            id="an MLmodel that denies it",
        ),
        pytest.param(
            evidence(files=MLFLOW_FILES, mlmodel=MLMODEL | {"metadata": ["odd"]}), Origin.NOTEBOOK, id="odd metadata"
        ),
        pytest.param(evidence(SCORING_RUN, files=DESIGNER_FILES), Origin.DESIGNER, id="a scoring run tells nothing"),
        pytest.param(evidence(DESIGNER, files=DESIGNER_FILES), Origin.DESIGNER, id="Designer, run and files"),
        pytest.param(
            evidence(DESIGNER, files=MLFLOW_FILES, mlmodel=MLMODEL),
            Origin.DESIGNER,
            id="files that anything could have written do not contradict a run",
        ),
        pytest.param(evidence(COMMAND_JOB, files=CODE_FILES), Origin.NOTEBOOK, id="code, run and files"),
        pytest.param(evidence(), None, id="nothing at all"),
        pytest.param(evidence(SCORING_RUN), None, id="only a scoring run"),
        pytest.param(evidence(files=("model.pkl",)), None, id="a file that anything could have written"),
        pytest.param(evidence(files=DESIGNER_DATASET), None, id="a Designer dataset is no model"),
        pytest.param(evidence(COMMAND_JOB, files=AUTOML_FILES), None, id="AutoML's files from somebody's job"),
        pytest.param(evidence(DESIGNER, files=AUTOML_FILES), None, id="an AutoML step in a Designer pipeline"),
        pytest.param(evidence(files=AUTOML_FILES + DESIGNER_FILES), None, id="files of two origins"),
    ],
)
def test_the_origin_follows_from_job_and_files(given: Evidence, expected: Origin | None) -> None:
    assert classify(given).origin == expected


def test_the_evidence_is_told_in_words() -> None:
    assert str(classify(evidence(DESIGNER, files=DESIGNER_FILES))) == (
        "designer (run 1f2e3d was submitted by Designer (runSource); "
        "files: a Designer model directory (_meta.yaml, model_spec.yaml))"
    )


def test_evidence_that_contradicts_itself_is_told_whole() -> None:
    assert str(classify(evidence(COMMAND_JOB, files=AUTOML_DOWNLOAD))) == (
        "unknown (no evidence), against it: heroic_heart is a Command job submitted by code; "
        "files: Automated ML's scoring file or conda file"
    )


@pytest.mark.parametrize("tag", ["designer", "Designer", " DESIGNER "])
def test_a_tag_decides_against_all_evidence(tag: str) -> None:
    assert classify(evidence(AUTOML_JOB, tags={OVERRIDE_TAG: tag})) == Classification(
        origin=Origin.DESIGNER,
        because=("tag promotion-origin says so",),
        against=("job affable_rail is of type AutoML",),
    )


def test_a_tag_that_names_no_origin_decides_nothing() -> None:
    """Falling back to the evidence would hide the mistake."""
    assert classify(evidence(AUTOML_JOB, tags={OVERRIDE_TAG: "auto-ml"})) == Classification(
        origin=None, against=("tag promotion-origin is 'auto-ml', not one of designer, notebook, automl",)
    )


def test_an_empty_tag_is_none() -> None:
    assert classify(evidence(AUTOML_JOB, tags={OVERRIDE_TAG: ""})).origin == Origin.AUTOML


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
@pytest.mark.parametrize("run", [AUTOML_JOB, AUTOML_CHILD, DESIGNER, SCORING_RUN, COMMAND_JOB, SWEEP_JOB])
def test_the_case_of_keys_and_values_does_not_matter(run: Run, change: Any) -> None:
    """Azure's services spell them differently."""
    respelled = run.model_copy(
        update={
            "job_type": change(run.job_type),
            "properties": {change(key): change(value) for key, value in run.properties.items()},
        }
    )
    assert classify(evidence(respelled)).origin == classify(evidence(run)).origin


_RUNS = st.sampled_from(
    [None, AUTOML_JOB, AUTOML_CHILD, DESIGNER, CLI_PIPELINE_WITH_DESIGNER_TAG, COMMAND_JOB, SCORING_RUN]
)
_FILES = st.lists(st.sampled_from(sorted({*AUTOML_FILES, *DESIGNER_FILES, *MLFLOW_FILES, *CODE_FILES})), unique=True)


@given(_RUNS, _FILES, st.randoms(use_true_random=False))
def test_an_origin_is_never_decided_without_a_reason_nor_by_the_order_of_files(
    run: Run | None, files: list[str], random: Any
) -> None:
    found = classify(evidence(run, files=tuple(files)))
    shuffled = random.sample(files, len(files))
    assert (found.origin is not None) == bool(found.because)
    assert found == classify(evidence(run, files=tuple(shuffled)))
