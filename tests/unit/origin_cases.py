"""What is taken for which origin, case by case. To be read as documentation; `test_origin.py` runs it.

Runs and folders have the keys, names and sizes of real ones, cut down to what could tell. The chain of runs begins with
the one that wrote the model and ends with its root.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.origin import OVERRIDE_TAG, Evidence, Origin, Run

AUTOML, DESIGNER, NOTEBOOK = Origin.AUTOML, Origin.DESIGNER, Origin.NOTEBOOK


@dataclass(frozen=True)
class Case:
    """`origin`, `job` and `files` are expected; `says` are words that the operator must read.

    A case whose origin is known has something against it only if it says so.
    """

    name: str
    evidence: Evidence
    origin: Origin | None
    why: str
    job: Origin | None = None
    files: Origin | None = None
    says: tuple[str, ...] = ()
    is_packed_graph: bool = False


# --- Runs ------------------------------------------------------------------------------------------------------------

STUDIO_AUTOML = Run(
    id="affable_rail",
    job_type="AutoML",
    properties={
        "runTemplate": "AutoML",
        "azureml.runsource": "automl",
        "ClientType": "Mfe",
        "PlatformVersion": "DPV2",
        "root_attribution": "automl",
        "Orchestrator": "AutoML",
        "environment_cpu_name": "AzureML-AutoML",
    },
    tags={"automl_best_child_run_id": "entrega_dio_2", "_aml_system_azureml.automlComponent": "AutoML"},
)
AUTOML_JOB_JUST_CREATED = Run(id="test_remote", job_type="AutoML")
AUTOML_HISTORY_ONLY = Run(id="test_remote", properties={"azureml.runsource": "automl"})
AUTOML_BY_ATTRIBUTION = Run(id="test_remote", properties={"root_attribution": "AutoML"})
AUTOML_TRIAL = Run(
    id="mllearn-bike-automl_2",
    job_type="Command",
    properties={
        "runTemplate": "automl_child",
        "run_algorithm": "VotingEnsemble",
        "pipeline_id": "__AutoML_Ensemble__",
        "_azureml.ComputeTargetType": "amlctrain",
        "model_name": "mllearnbikeauto2",
        "model_output_path": "outputs/model.pkl",
    },
    tags={"mlflow.source.name": "automl_driver.py", "mlflow.source.type": "JOB"},
)
AUTOML_TRIAL_OF_THE_EVENT = Run(
    id="AutoML_ad912b2d-6467-4f32-a616-dbe4af6dd8fc_5",
    properties={"run_template": "automl_child", "run_algorithm": "LassoLars", "model_name": "AutoMLad912b2d65"},
)
AUTOML_V1 = Run(
    id="AutoML_e7f148b1",
    properties={"runTemplate": "AutoML", "azureml.runsource": "automl", "ClientType": "SDK"},
)
DESIGNER_PIPELINE = Run(
    id="1f2e3d",
    job_type="Pipeline",
    properties={"azureml.runsource": "azureml.PipelineRun", "runSource": "Designer", "runType": "HTTP"},
    tags={"azureml.Designer": "true", "azureml.pipelineComponent": "pipelinerun"},
)
STEP = Run(
    id="5a6b7c",
    properties={"azureml.runsource": "azureml.StepRun", "StepType": "PythonScriptStep", "ContentSnapshotId": "c"},
    tags={"azureml.pipelinerunid": "1f2e3d"},
)
CLI_PIPELINE = Run(
    id="bold_bean",
    job_type="Pipeline",
    properties={"azureml.runsource": "azureml.PipelineRun", "runSource": "MFE", "runType": "HTTP"},
    tags={"azureml.Designer": "true", "azureml.pipelineComponent": "pipelinerun"},
)
PUBLISHED_PIPELINE = Run(
    id="p1",
    properties={"runSource": "SDK", "runType": "HTTP", "azureml.pipelineid": "x"},
    tags={"azureml.pipelineComponent": "pipelinerun"},
)
SCHEDULED_PIPELINE = Run(id="p2", properties={"runSource": "Unavailable", "runType": "Schedule"})
SCRIPT_RUN = Run(
    id="s1",
    properties={
        "_azureml.ComputeTargetType": "amlcompute",
        "ContentSnapshotId": "c",
        "azureml.git.dirty": "False",
        "mlflow.source.git.branch": "master",
    },
)
COMMAND_JOB = Run(
    id="heroic_heart",
    job_type="Command",
    properties={"ContentSnapshotId": "c", "_azureml.ClusterName": "cpu", "_azureml.ComputeTargetType": "amlctrain"},
)
SWEEP_JOB = Run(
    id="ashy_gyro", job_type="Sweep", properties={"runTemplate": "HyperDrive", "azureml.runsource": "hyperdrive"}
)
HYPERDRIVE_V1 = Run(
    id="HD_5e2a",
    properties={
        "runTemplate": "HyperDrive",
        "azureml.runsource": "hyperdrive",
        "user_agent": "python/3.8.5 Hyperdrive.SDK/core.1.51.0",
        "best_child_run_id": "HD_5e2a_1",
    },
)
NOTEBOOK_RUN = Run(id="b7e1", tags={"mlflow.user": "me"})
BATCH_RUN = Run(
    id="batchjob-1",
    job_type="Pipeline",
    properties={
        "azureml.DevPlatv2": "true",
        "azureml.runsource": "azureml.PipelineRun",
        "runSource": "BatchDeployment",
        "azureml.runLineageType": "batchDeployment",
    },
    tags={"azureml.batchrun": "true", "azureml.jobtype": "azureml.pipelinejob"},
)
BATCH_STEP = Run(
    id="batchjob-1-step",
    properties={"azureml.runsource": "azureml.StepRun", "azureml.moduleName": "batchscoring"},
)

# --- Files: (size, text if intake reads it) --------------------------------------------------------------------------

Files = Mapping[str, int | str]

AUTOML_SCORE = (
    "import joblib\nfrom azureml.automl.core.shared import logging_utilities, log_server\n"
    "from inference_schema.schema_decorators import input_schema, output_schema\n"
)
NLP_SCORE = "from azureml.automl.dnn.nlp.common.io.utils import load_model_wrapper\n"
IMAGE_SCORE = "from azureml.automl.dnn.vision.common.model_export_utils import load_model, run_inference_batch\n"
AUTOML_CONDA = (
    "# Conda environment specification.\nname: project_environment\ndependencies:\n- python=3.8.17\n"
    "- pip:\n  - azureml-train-automl-runtime==1.52.0\n  - inference-schema\n"
)
NLP_CONDA = "dependencies:\n- python=3.7\n- pip:\n  - azureml-automl-dnn-nlp==1.42.0\n"
PLAIN_CONDA = "dependencies:\n- python=3.10\n- pip:\n  - mlflow\n  - scikit-learn==1.5.1\n"
MODEL_META = (
    "type: ModelDirectory\nextension: {}\nmodel: model_spec.yaml\nregisterModel: true\n"
    "modelOutputPath: trained_model_outputs\n"
)
DESIGNER_SCORE = (
    "import os\nimport json\n"
    "from azureml.studio.core.io.model_directory import ModelDirectory\n"
    "from azureml.studio.modules.ml.score.score_generic_module.score_generic_module import ScoreModelModule\n"
    "model_path = os.path.join(os.getenv('AZUREML_MODEL_DIR'), 'trained_model_outputs')\n"
)
PYTORCH_SCORE = "from azureml.designer.modules.dl.pytorch.score.score_image_model import ScoreImageModelModule\n"
DESIGNER_CONDA = (
    "name: project_environment\nchannels:\n- conda-forge\ndependencies:\n- python=3.8.10\n- pip=20.2\n- pip:\n"
    "  - azureml-defaults\n  - azureml-designer-classic-modules==0.0.182\n  - azureml-designer-serving==0.0.13\n"
)
OWN_SCORE = "import json, os, joblib\n\n\ndef init(): ...\n\n\ndef run(data): ...\n"

AUTOML_FULL: Files = {
    "conda_env_v_1_0_0.yml": AUTOML_CONDA,
    "engineered_feature_names.json": 2181,
    "env_dependencies.json": 6415,
    "featurization_summary.json": 8348,
    "generated_code/script.py": 15149,
    "internal_cross_validated_models.pkl": 2339359,
    "mlflow-model/MLmodel": 1094,
    "mlflow-model/conda.yaml": AUTOML_CONDA,
    "mlflow-model/model.pkl": 276593,
    "model.pkl": 276593,
    "pipeline_graph.json": 3931,
    "run_id.txt": 45,
    "scoring_file_pbi_v_1_0_0.py": 2707,
    "scoring_file_v_1_0_0.py": AUTOML_SCORE,
    "scoring_file_v_2_0_0.py": AUTOML_SCORE,
}
AUTOML_NO_MLFLOW: Files = {path: what for path, what in AUTOML_FULL.items() if not path.startswith("mlflow-model/")}
AUTOML_AND_A_STRANGER: Files = {**AUTOML_NO_MLFLOW, "model.joblib": 186221}
AUTOML_BELOW_OWN_CODE: Files = {
    "score.py": OWN_SCORE,
    "models/automl/outputs/conda_env_v_1_0_0.yml": AUTOML_CONDA,
    "models/automl/outputs/env_dependencies.json": 3900,
    "models/automl/outputs/model.onnx": 1951207,
    "models/automl/outputs/model_onnx.json": 12209,
    "models/automl/outputs/scoring_file_v_1_0_0.py": AUTOML_SCORE,
}
AUTOML_DOWNLOAD: Files = {
    "conda_env_v_1_0_0.yml": AUTOML_CONDA,
    "model.pkl": 2536451,
    "scoring_file_v_2_0_0.py": AUTOML_SCORE,
}
DESIGNER_FLAT: Files = {
    "_meta.yaml": MODEL_META,
    "_samples.json": 887,
    "_schema.json": 1781,
    "conda_env.yaml": DESIGNER_CONDA,
    "data.ilearner": 5064,
    "model_spec.yaml": 52,
    "score.py": DESIGNER_SCORE,
}
DESIGNER_FOLDER: Files = {f"trained_model_outputs/{name}": what for name, what in DESIGNER_FLAT.items()}
PACKED_GRAPH: Files = {"studiomodelpackage/modelpackage.json": 4711, "studiomodelpackage/data/1": 5064}
MLFLOW: Files = {
    "MLmodel": 1056,
    "conda.yaml": PLAIN_CONDA,
    "model.pkl": 117149,
    "python_env.yaml": 121,
    "requirements.txt": 68,
}
MLMODEL: dict[str, Any] = {
    "flavors": {"sklearn": {"pickled_model": "model.pkl"}, "python_function": {"loader_module": "mlflow.sklearn"}},
    "run_id": "heroic_heart",
}
OWN_MODEL: Files = {"environment.yml": 170, "model.joblib": 186221, "score.py": OWN_SCORE}


def evidence(*runs: Run, files: Files | None = None, **fields: Any) -> Evidence:
    """A model of these runs and files."""
    files = files or {}
    sizes = {path: len(what) if isinstance(what, str) else what for path, what in files.items()}
    texts = {path: what for path, what in files.items() if isinstance(what, str)}
    return Evidence.model_validate({"runs": runs, "files": sizes, "texts": texts} | fields)


def _dataset(kind: str) -> Files:
    return {"_meta.yaml": f"type: {kind}\ndata: data.dataset.parquet\n", "data.dataset.parquet": 9001}


def _tagged(value: str, key: str = OVERRIDE_TAG) -> dict[str, str]:
    return {key: value}


JOBS = (
    Case("an AutoML job of the studio", evidence(STUDIO_AUTOML), AUTOML, "Its type and every property say so.", AUTOML),
    Case(
        "an AutoML job of SDK v2 in its first minute",
        evidence(AUTOML_JOB_JUST_CREATED),
        AUTOML,
        "Properties come later than the job; its type is there from the beginning.",
        AUTOML,
    ),
    Case(
        "an AutoML run of which only the run source is known",
        evidence(AUTOML_HISTORY_ONLY),
        AUTOML,
        "azureml.runsource is automl in runs of every client.",
        AUTOML,
    ),
    Case(
        "an AutoML run of which only the attribution is known",
        evidence(AUTOML_BY_ATTRIBUTION),
        AUTOML,
        "root_attribution names what the whole tree of runs belongs to.",
        AUTOML,
    ),
    Case(
        "a trial of AutoML by itself",
        evidence(AUTOML_TRIAL),
        AUTOML,
        "It looks like a command job with a script; runTemplate tells.",
        AUTOML,
    ),
    Case("a trial and its AutoML job", evidence(AUTOML_TRIAL, STUDIO_AUTOML), AUTOML, "Both say the same.", AUTOML),
    Case(
        "an unmarked run below an AutoML job",
        evidence(Run(id="x", job_type="Command"), STUDIO_AUTOML),
        AUTOML,
        "Whatever runs below an AutoML job was started by it.",
        AUTOML,
    ),
    Case(
        "a trial as the event of its end describes it",
        evidence(AUTOML_TRIAL_OF_THE_EVENT),
        AUTOML,
        "Old runs spell it run_template as well.",
        AUTOML,
    ),
    Case("an AutoML experiment of SDK v1", evidence(AUTOML_V1), AUTOML, "No job type, but the template.", AUTOML),
    Case(
        "an AutoML step of a Designer pipeline",
        evidence(AUTOML_TRIAL, STUDIO_AUTOML, DESIGNER_PIPELINE),
        AUTOML,
        "The nearest run that tells says more than the root.",
        AUTOML,
    ),
    Case(
        "an AutoML step of a CLI pipeline",
        evidence(AUTOML_TRIAL, STUDIO_AUTOML, CLI_PIPELINE),
        AUTOML,
        "The pipeline was code; the model was still made by Automated ML.",
        AUTOML,
    ),
    Case(
        "AutoML in a pipeline that a batch endpoint ran",
        evidence(AUTOML_TRIAL, STUDIO_AUTOML, BATCH_RUN),
        AUTOML,
        "A batch endpoint can run a pipeline that trains; the AutoML step proves that it did.",
        AUTOML,
    ),
    Case(
        "a code step after AutoML in one pipeline",
        evidence(STEP, CLI_PIPELINE),
        NOTEBOOK,
        "A neighbour is no parent: what this step wrote, its own code wrote.",
        NOTEBOOK,
    ),
    Case("a Designer pipeline", evidence(DESIGNER_PIPELINE), DESIGNER, "runSource says it.", DESIGNER),
    Case(
        "a step of a Designer pipeline",
        evidence(STEP, DESIGNER_PIPELINE),
        DESIGNER,
        "The step looks like any script; its root tells.",
        DESIGNER,
    ),
    Case(
        "Designer in another spelling",
        evidence(Run(id="d", properties={"RunSource": "DESIGNER"})),
        DESIGNER,
        "Services differ in the case of keys and values.",
        DESIGNER,
    ),
    Case(
        "a CLI pipeline with the tag azureml.Designer",
        evidence(CLI_PIPELINE),
        NOTEBOOK,
        "`az ml job create` sets that tag too; runSource is MFE.",
        NOTEBOOK,
    ),
    Case(
        "the tag azureml.Designer and nothing else",
        evidence(Run(id="t", tags={"azureml.Designer": "true"})),
        None,
        "The tag proves nothing, for Designer or for code.",
        says=("run t is without a type, and nothing in it tells what made it",),
    ),
    Case(
        "a run of which nothing is known yet",
        evidence(Run(id="r")),
        None,
        "An AutoML run in its first minute looks like this to SDK v1; so may any other.",
        says=("run r is without a type",),
    ),
    Case(
        "a run of an unheard-of source",
        evidence(Run(id="r", properties={"azureml.runsource": "azureml.NewService"})),
        None,
        "What is not known to be code is not called code.",
        says=("nothing in it tells",),
    ),
    Case(
        "a job of an unheard-of type",
        evidence(Run(id="ft", job_type="FineTuning")),
        None,
        "Azure ML trains there, and none of the three asked for it.",
        says=("run ft is of type FineTuning",),
    ),
    Case(
        "a pipeline without a run source",
        evidence(STEP, Run(id="p", job_type="Pipeline")),
        None,
        "Pipelines of Designer and of code look alike but for it.",
        says=("run p is a pipeline, and who submitted it is not known: it has no runSource",),
    ),
    Case(
        "a pipeline of an unheard-of run source",
        evidence(Run(id="p", job_type="Pipeline", properties={"runSource": "Canvas2"})),
        None,
        "It may be the next Designer.",
        says=("its runSource 'canvas2' is none that tells",),
    ),
    Case(
        "a command below a run that cannot be read",
        evidence(Run(id="c", job_type="Command", properties={"ContentSnapshotId": "c"}, parent="gone")),
        None,
        "A trial of AutoML is a command too; what started it is told above it.",
        says=("run c is part of a run that cannot be read",),
    ),
    Case(
        "a trial of AutoML whose job cannot be read",
        evidence(AUTOML_TRIAL.model_copy(update={"parent": "mllearn-bike-automl"})),
        AUTOML,
        "The trial says it by itself.",
        AUTOML,
    ),
    Case(
        "a step that names Designer below a CLI pipeline",
        evidence(Run(id="s", properties={"runSource": "Designer"}), CLI_PIPELINE),
        NOTEBOOK,
        "Who submitted a pipeline is told by its root.",
        NOTEBOOK,
    ),
    Case(
        "a step whose pipeline cannot be read",
        evidence(STEP),
        None,
        "Steps of Designer and of code look alike.",
        says=("5a6b7c is part of a run that cannot be read",),
    ),
    Case("a published pipeline", evidence(PUBLISHED_PIPELINE), NOTEBOOK, "Code called its REST endpoint.", NOTEBOOK),
    Case(
        "a pipeline on a v1 schedule",
        evidence(SCHEDULED_PIPELINE),
        None,
        "A pipeline that was drawn can be published and scheduled like one of code.",
        says=("its runSource 'unavailable' is none that tells",),
    ),
    Case("a script run of SDK v1", evidence(SCRIPT_RUN), NOTEBOOK, "Snapshot and git, no run source.", NOTEBOOK),
    Case("a command job", evidence(COMMAND_JOB), NOTEBOOK, "Code in a container.", NOTEBOOK),
    Case("a sweep", evidence(SWEEP_JOB), NOTEBOOK, "Hyperdrive tunes somebody's script.", NOTEBOOK),
    Case(
        "a trial of a sweep",
        evidence(COMMAND_JOB, SWEEP_JOB),
        NOTEBOOK,
        "Trials of a sweep are the script itself.",
        NOTEBOOK,
    ),
    Case("hyperdrive of SDK v1", evidence(HYPERDRIVE_V1), NOTEBOOK, "As a sweep, with HD_ ids.", NOTEBOOK),
    Case("a Spark job", evidence(Run(id="sp", job_type="Spark")), NOTEBOOK, "Every other job type is code.", NOTEBOOK),
    Case(
        "a run from a notebook",
        evidence(NOTEBOOK_RUN),
        NOTEBOOK,
        "MLflow in a notebook leaves a run without snapshot or source; nothing marks notebooks.",
        NOTEBOOK,
    ),
    Case(
        "a command job that is named like AutoML",
        evidence(Run(id="AutoML_or_not", job_type="Command", tags={"automl_best_child_run_id": "x_1"})),
        NOTEBOOK,
        "Ids and tags are given by people.",
        NOTEBOOK,
    ),
    Case(
        "a run of a batch endpoint",
        evidence(BATCH_RUN),
        None,
        "It scores.",
        says=("batchjob-1 is of a batch endpoint: it scores with models and trains none",),
    ),
    Case(
        "the scoring step of a batch endpoint's run",
        evidence(BATCH_STEP, BATCH_RUN),
        None,
        "Anywhere in the chain it means scoring.",
        says=("trains none",),
    ),
    Case(
        "a batch endpoint's run by its lineage only",
        evidence(Run(id="b", properties={"azureml.runlineagetype": "BatchDeployment"})),
        None,
        "One of the marks is enough.",
        says=("trains none",),
    ),
    Case(
        "a batch endpoint's run by its tag only",
        evidence(Run(id="b", job_type="Pipeline", tags={"azureml.batchrun": "True"})),
        None,
        "One of the marks is enough.",
        says=("trains none",),
    ),
    Case(
        "a batch endpoint's run by its deployment only",
        evidence(Run(id="b", properties={"azureml.deploymentname": "blue", "azureml.endpointname": "churn"})),
        None,
        "Only runs of endpoints have a deployment.",
        says=("trains none",),
    ),
    Case(
        "a job that is tagged as no batch run",
        evidence(Run(id="b", job_type="Command", tags={"azureml.batchrun": "false"})),
        NOTEBOOK,
        "The value counts, not the key.",
        NOTEBOOK,
    ),
)

AUTOML_FILES = (
    Case(
        "all outputs of AutoML regression, with MLflow",
        evidence(files=AUTOML_FULL, mlmodel=MLMODEL),
        AUTOML,
        "Scoring files and conda file prove it, though this MLmodel has no metadata.",
        files=AUTOML,
    ),
    Case(
        "all outputs of AutoML classification of SDK v1",
        evidence(files=AUTOML_NO_MLFLOW),
        AUTOML,
        "SDK v1 writes no mlflow-model; internal_cross_validated_models.pkl is its own.",
        files=AUTOML,
    ),
    Case(
        "outputs of AutoML and a model of hyperdrive beside them",
        evidence(files=AUTOML_AND_A_STRANGER),
        None,
        "Two models in one folder, and nothing says which is meant.",
        says=("written by Automated ML", "model.joblib, a model that Automated ML does not write"),
    ),
    Case(
        "outputs of AutoML and a joblib of no bytes",
        evidence(files={**AUTOML_NO_MLFLOW, "model.joblib": 0}),
        AUTOML,
        "An empty file is no second model.",
        files=AUTOML,
    ),
    Case("AutoML's download of the studio", evidence(files=AUTOML_DOWNLOAD), AUTOML, "Three files.", files=AUTOML),
    Case(
        "own scoring script over an AutoML model",
        evidence(files=AUTOML_BELOW_OWN_CODE),
        AUTOML,
        "The script serves the model and did not make it; it is named, for it may have to serve.",
        files=AUTOML,
        says=("against it: files: score.py, a scoring script that Automated ML does not write",),
    ),
    Case(
        "AutoML for text, without its model",
        evidence(files={"conda_env_v_1_0_0.yml": NLP_CONDA, "scoring_file_v_1_0_0.py": NLP_SCORE}),
        AUTOML,
        "The origin is clear; that there is nothing to serve is another question.",
        files=AUTOML,
    ),
    Case(
        "AutoML in an application, its conda file edited",
        evidence(
            files={
                "app.py": 900,
                "conda_env_v_1_0_0.yml": AUTOML_CONDA.replace("- python", "# - python"),
                "model.pkl": 2266747,
                "scoring_file_v_2_0_0.py": 3015,
                "script_run_notebook.py": 900,
            }
        ),
        AUTOML,
        "Files beside it that are no models say nothing.",
        files=AUTOML,
    ),
    Case(
        "both names of AutoML, texts not read",
        evidence(files={"conda_env_v_1_0_0.yml": 737, "scoring_file_v_2_0_0.py": 4117, "model.pkl": 9}),
        AUTOML,
        "Nobody gives both names by accident.",
        files=AUTOML,
    ),
    Case(
        "AutoML for images",
        evidence(
            files={"model.pt": 9, "mlflow-model/MLmodel": 9, "scoring_file_v_1_0_0.py": IMAGE_SCORE},
            mlmodel={"flavors": {"python_function": {}}, "metadata": {"is_automl_model": True}},
        ),
        AUTOML,
        "It writes no conda file; metadata and the script's imports tell.",
        files=AUTOML,
    ),
    Case(
        "both names of AutoML over plain texts",
        evidence(
            files={"conda_env_v_1_0_0.yml": PLAIN_CONDA, "scoring_file_v_2_0_0.py": OWN_SCORE, "model.pkl": 9},
        ),
        None,
        "Somebody kept the names for a model of their own; Automated ML is not needed.",
        says=("conda_env_v_1_0_0.yml, scoring_file_v_2_0_0.py: named as Automated ML names its own",),
    ),
    Case(
        "both names of AutoML, a plain conda file, the script not read",
        evidence(
            files={"conda_env_v_1_0_0.yml": PLAIN_CONDA, "scoring_file_v_2_0_0.py": 900_000, "model.pkl": 9},
        ),
        AUTOML,
        "The text that would deny it was not read.",
        files=AUTOML,
    ),
    Case(
        "outputs of AutoML and a model in another folder",
        evidence(files={**AUTOML_NO_MLFLOW, "hyperdrive/model.joblib": 186221}),
        None,
        "Which of the two is meant does not depend on the folder.",
        says=("hyperdrive/model.joblib, a model that Automated ML does not write",),
    ),
    Case(
        "outputs of AutoML and a model of the same name in another folder",
        evidence(files={**AUTOML_NO_MLFLOW, "mine/model.pkl": 9}),
        None,
        "Automated ML writes one into its own folder, and one into the MLflow model below it.",
        says=("mine/model.pkl, a model that Automated ML does not write",),
    ),
    Case(
        "an AutoML scoring file alone",
        evidence(files={"scoring_file_v_2_0_0.py": AUTOML_SCORE, "model.pkl": 9}),
        AUTOML,
        "Its imports are those of Automated ML.",
        files=AUTOML,
    ),
    Case(
        "an AutoML conda file alone",
        evidence(files={"conda_env_v_1_0_0.yml": NLP_CONDA, "model.pkl": 9}),
        AUTOML,
        "It pins packages of Automated ML.",
        files=AUTOML,
    ),
    Case(
        "somebody's script that is named as AutoML's",
        evidence(files={"scoring_file_v_2_0_0.py": OWN_SCORE, "model.pkl": 9}),
        None,
        "A name alone proves nothing, and it is no score.py either.",
    ),
    Case(
        "somebody's conda file that is named as AutoML's",
        evidence(files={"conda_env_v_1_0_0.yml": PLAIN_CONDA, "score.py": OWN_SCORE, "model.pkl": 9}),
        NOTEBOOK,
        "People reuse the file's name with their own script.",
        files=NOTEBOOK,
        says=("noted: conda_env_v_1_0_0.yml: named as Automated ML names its own",),
    ),
    Case(
        "both names of AutoML in different folders",
        evidence(files={"env/conda_env_v_1_0_0.yml": PLAIN_CONDA, "code/scoring_file_v_1_0_0.py": OWN_SCORE}),
        None,
        "Automated ML writes them side by side.",
    ),
    Case(
        "the names of AutoML with no bytes",
        evidence(files=dict.fromkeys(AUTOML_FULL, 0)),
        None,
        "Empty files prove nothing.",
    ),
    Case(
        "AutoML's MLflow model with metadata",
        evidence(files=MLFLOW, mlmodel=MLMODEL | {"metadata": {"azureml.engine": "automl"}}),
        AUTOML,
        "The curated environment of Automated ML writes it.",
        files=AUTOML,
    ),
    Case(
        "MLmodel metadata in another spelling",
        evidence(files=MLFLOW, mlmodel=MLMODEL | {"metadata": {"AzureML.Engine": "AutoML"}}),
        AUTOML,
        "Case does not matter.",
        files=AUTOML,
    ),
    Case(
        "AutoML's forecasting model",
        evidence(files=MLFLOW, mlmodel={"flavors": {"python_function": {}, "automl-forecasting": {}}}),
        AUTOML,
        "Only Automated ML writes that flavor.",
        files=AUTOML,
    ),
    Case(
        "AutoML's MLflow model without metadata",
        evidence(files={**MLFLOW, "conda.yaml": AUTOML_CONDA}, mlmodel=MLMODEL),
        None,
        "Models of one's own can be built on AutoML's runtime, from its generated code for one.",
        says=("conda.yaml needs packages of Automated ML, and nothing else is its own",),
    ),
    Case(
        "an MLmodel that denies AutoML",
        evidence(files=MLFLOW, mlmodel=MLMODEL | {"metadata": {"is_automl_model": "False"}}),
        NOTEBOOK,
        "The value counts, not the key.",
        files=NOTEBOOK,
    ),
    Case(
        "an MLmodel of another engine",
        evidence(files=MLFLOW, mlmodel=MLMODEL | {"metadata": {"azureml.engine": "custom"}}),
        NOTEBOOK,
        "The value counts, not the key.",
        files=NOTEBOOK,
    ),
    Case(
        "an MLmodel whose metadata is no map",
        evidence(files=MLFLOW, mlmodel=MLMODEL | {"metadata": ["azureml.engine", "automl"]}),
        NOTEBOOK,
        "What cannot be read proves nothing.",
        files=NOTEBOOK,
    ),
    Case(
        "an MLflow model of somebody who submits AutoML jobs",
        evidence(files={**MLFLOW, "conda.yaml": "- pip:\n  - azureml-train-automl-client==1.52.0\n"}, mlmodel=MLMODEL),
        NOTEBOOK,
        "The client is in every environment of SDK v1 and makes no models.",
        files=NOTEBOOK,
    ),
    Case(
        "own scoring script that loads an AutoML model",
        evidence(files={"model.pkl": 9, "score.py": f"{OWN_SCORE}\nimport azureml.automl.runtime\n"}),
        None,
        "It may come from AutoML or from its generated code.",
        says=("score.py needs packages of Automated ML",),
    ),
    Case(
        "own scoring script that mentions AutoML in a comment",
        evidence(files={"model.pkl": 9, "score.py": f"# replaces azureml.automl\n{OWN_SCORE}"}),
        NOTEBOOK,
        "A comment is no import.",
        files=NOTEBOOK,
    ),
    Case(
        "own conda file for an AutoML forecast",
        evidence(files={"model.pkl": 9, "score.py": OWN_SCORE, "conda.yaml": "- azureml-training-tabular==1.62.0\n"}),
        None,
        "It may come from AutoML or from its generated code.",
        says=("conda.yaml needs packages of Automated ML",),
    ),
    Case("model.pkl", evidence(files={"model.pkl": 276593}), None, "Anything could have written it."),
    Case("model.onnx", evidence(files={"model.onnx": 1951207}), None, "Anything could have written it."),
    Case(
        "a folder mlflow-model without MLmodel",
        evidence(files={"mlflow-model/model.pkl": 9, "mlflow-model/requirements.txt": 9}),
        None,
        "The name of a folder proves nothing.",
    ),
)

DESIGNER_FILES = (
    Case(
        "trained_model_outputs",
        evidence(files=DESIGNER_FOLDER),
        DESIGNER,
        "As Register model leaves it.",
        files=DESIGNER,
    ),
    Case("the same files, flattened", evidence(files=DESIGNER_FLAT), DESIGNER, "As downloaded.", files=DESIGNER),
    Case(
        "flattened, without _meta.yaml and model_spec.yaml, datasets beside",
        evidence(
            files={
                "churn.csv": 99,
                "conda_env.yaml": DESIGNER_CONDA,
                "data.ilearner": 6842,
                "score.py": DESIGNER_SCORE,
            }
        ),
        DESIGNER,
        "The script's imports and the conda file's packages are two marks of one tool.",
        files=DESIGNER,
    ),
    Case(
        "flattened, a whole conda environment beside",
        evidence(files={**DESIGNER_FLAT, "venv/conda-meta/history": 9, "venv/lib/conda.yaml": PLAIN_CONDA}),
        DESIGNER,
        "Noise in other folders changes nothing.",
        files=DESIGNER,
    ),
    Case(
        "flattened, a stray file beside",
        evidence(files={**DESIGNER_FLAT, "j": 1, "data.ilearner": 239487}),
        DESIGNER,
        "Noise in the same folder changes nothing.",
        files=DESIGNER,
    ),
    Case(
        "Poisson regression, only _meta.yaml and model_spec.yaml telling",
        evidence(files={"_meta.yaml": MODEL_META, "model_spec.yaml": 52, "data.ilearner": 10015}),
        DESIGNER,
        "The directory describes itself.",
        files=DESIGNER,
    ),
    Case(
        "the scoring script edited beyond use",
        evidence(files={**DESIGNER_FLAT, "score.py": "url = 'https://x'\ndef run(data:\n"}),
        DESIGNER,
        "Whoever edited the script did not make the model.",
        files=DESIGNER,
    ),
    Case(
        "a PyTorch model",
        evidence(files={"_meta.yaml": MODEL_META, "model.pkl": 9, "score.py": PYTORCH_SCORE}),
        DESIGNER,
        "Its script imports azureml.designer.",
        files=DESIGNER,
    ),
    Case(
        "_meta.yaml in another spelling",
        evidence(files={"_meta.yaml": "type: 'modeldirectory'\n", "model_spec.yaml": 52}),
        DESIGNER,
        "Case and quotes do not matter.",
        files=DESIGNER,
    ),
    Case(
        "a model directory whose model_spec.yaml is lost",
        evidence(files={"_meta.yaml": MODEL_META, "data.ilearner": 5064}),
        DESIGNER,
        "The directory describes itself, and nothing tells otherwise.",
        files=DESIGNER,
    ),
    Case(
        "Designer's scoring script alone",
        evidence(files={"score.py": DESIGNER_SCORE, "model.bin": 9}),
        None,
        "A script can be copied to any model.",
        says=("score.py as Designer writes it, without the rest of its model directory",),
    ),
    Case(
        "Designer's environment alone",
        evidence(files={"conda_env.yaml": DESIGNER_CONDA, "score.py": OWN_SCORE, "data.ilearner": 5064}),
        None,
        "Whose model it is that the script loads is open.",
        says=("conda_env.yaml as Designer writes it",),
    ),
    Case(
        "the scoring script edited beyond use, without _meta.yaml and model_spec.yaml",
        evidence(
            files={
                "_samples.json": 887,
                "_schema.json": 1781,
                "conda_env.yaml": DESIGNER_CONDA,
                "data.ilearner": 5064,
                "score.py": "url = 'https://x'\ndef run(data:\n",
            }
        ),
        None,
        "One mark is left, and a script that anybody may have written.",
        says=("conda_env.yaml as Designer writes it",),
    ),
    Case(
        "model_spec.yaml alone",
        evidence(files={"model_spec.yaml": 52, "data.ilearner": 9}),
        None,
        "Names that anybody may use; a custom module may write data.ilearner.",
    ),
    Case(
        "model_spec.yaml, and _meta.yaml that was not read",
        evidence(files={"_meta.yaml": 117, "model_spec.yaml": 52}),
        None,
        "What _meta.yaml is of, only its text says.",
    ),
    Case(
        "own script that mentions azureml.studio in a comment",
        evidence(files={"score.py": f"# from azureml.studio import x\n{OWN_SCORE}"}),
        NOTEBOOK,
        "A comment is no import.",
        files=NOTEBOOK,
    ),
    Case(
        "a dataset",
        evidence(files=_dataset("DataFrameDirectory")),
        None,
        "A Designer dataset has a _meta.yaml too.",
        says=("_meta.yaml says DataFrameDirectory: a dataset, no trained model",),
    ),
    Case(
        "a dataset with the files of a model beside it",
        evidence(files={**DESIGNER_FLAT, **_dataset("DataFrameDirectory")}),
        None,
        "The directory says what it is, and the files in it say otherwise.",
        says=(
            "a dataset, no trained model, though model_spec.yaml, score.py, conda_env.yaml beside it "
            "are as Designer writes them for a model",
        ),
    ),
    Case(
        "images",
        evidence(files=_dataset("ImageDirectory")),
        None,
        "Not a model.",
        says=("a set of images, no trained",),
    ),
    Case(
        "a transformation",
        evidence(files=_dataset("TransformationDirectory")),
        None,
        "Normalizes data and predicts nothing.",
        says=("a transformation of data, no trained model",),
    ),
    Case(
        "any folder",
        evidence(files=_dataset("AnyDirectory")),
        None,
        "A module may put anything there.",
        says=("AnyDirectory: any folder of a module, no trained model",),
    ),
    Case(
        "a model directory with a dataset in another folder",
        evidence(
            files=dict(DESIGNER_FOLDER)
            | {f"data/{name}": what for name, what in _dataset("DataFrameDirectory").items()}
        ),
        DESIGNER,
        "Each folder speaks for itself.",
        files=DESIGNER,
        says=("data/_meta.yaml says DataFrameDirectory",),
    ),
    Case(
        "type in a nested key of _meta.yaml",
        evidence(files={"_meta.yaml": "extension:\n  type: ModelDirectory\n", "model_spec.yaml": 52}),
        None,
        "Only the key of the document itself counts.",
    ),
    Case(
        "the names of Designer with no bytes",
        evidence(files=dict.fromkeys(DESIGNER_FOLDER, 0)),
        None,
        "Empty files prove nothing.",
    ),
    Case(
        "files of Designer and of AutoML",
        evidence(files={**AUTOML_DOWNLOAD, **DESIGNER_FOLDER}),
        None,
        "Two proofs of two origins.",
        says=("a Designer model directory", "written by Automated ML"),
    ),
)

PACKED = (
    Case(
        "a packed graph by its name",
        evidence(name="amlstudio-test4"),
        None,
        "So Designer names it, and so may anybody.",
        says=("its name is that of a packed Designer graph, and nothing else says so",),
    ),
    Case(
        "a packed graph by its name, in another spelling",
        evidence(name="AMLStudio-test4", files={"model.zip": 9}),
        None,
        "Case does not matter, nor does a file that says nothing.",
        says=("its name is that of a packed Designer graph",),
    ),
    Case(
        "a packed graph by its name and its tag",
        evidence(name="amlstudio-test4", tags={"CreatedByAMLStudio": "true"}, files={"model.zip": 9}),
        DESIGNER,
        "The tag is Designer's own, and no file is another model's.",
        files=DESIGNER,
        is_packed_graph=True,
    ),
    Case(
        "own scoring script that is named like a packed graph",
        evidence(name="amlstudio-mine", files=OWN_MODEL),
        NOTEBOOK,
        "A name is given by people; the files show another model.",
        files=NOTEBOOK,
        says=("its name is that of a packed Designer graph, but the files are another model",),
    ),
    Case(
        "own scoring script with the tag of a packed graph",
        evidence(tags={"CreatedByAMLStudio": "true"}, files=OWN_MODEL),
        NOTEBOOK,
        "The files show another model, which can be served.",
        files=NOTEBOOK,
        says=("tag CreatedByAMLStudio is that of a packed Designer graph, but the files are another model",),
    ),
    Case(
        "half a model directory with the tag of a packed graph",
        evidence(tags={"CreatedByAMLStudio": "true"}, files={"_meta.yaml": MODEL_META, "data.ilearner": 9}),
        DESIGNER,
        "Designer either way, and no packed graph.",
        files=DESIGNER,
    ),
    Case(
        "a packed graph by its tag",
        evidence(name="price", tags={"CreatedByAMLStudio": "True"}),
        DESIGNER,
        "Code that registers such a package again keeps the tag.",
        files=DESIGNER,
        is_packed_graph=True,
    ),
    Case(
        "a packed graph by its files",
        evidence(name="price", files=PACKED_GRAPH),
        DESIGNER,
        "The package describes its graph.",
        files=DESIGNER,
        is_packed_graph=True,
    ),
    Case(
        "a packed graph in a folder",
        evidence(files={f"download/{path}": what for path, what in PACKED_GRAPH.items()}),
        DESIGNER,
        "Downloads have a folder more.",
        files=DESIGNER,
        is_packed_graph=True,
    ),
    Case(
        "a package of no bytes",
        evidence(files={"studiomodelpackage/modelpackage.json": 0}),
        None,
        "Empty files prove nothing.",
    ),
    Case(
        "modelpackage.json elsewhere", evidence(files={"modelpackage.json": 9}), None, "The folder belongs to the name."
    ),
    Case(
        "tagged as not created by the studio",
        evidence(tags={"CreatedByAMLStudio": "false"}),
        None,
        "The value counts, not the key.",
    ),
    Case(
        "an MLflow model that is named like a packed graph",
        evidence(name="amlstudio-mine", files=MLFLOW, mlmodel=MLMODEL),
        NOTEBOOK,
        "A name is given by people; the files show another model.",
        files=NOTEBOOK,
        says=("its name is that of a packed Designer graph, but the files are another model",),
    ),
    Case(
        "a model directory that is tagged like a packed graph",
        evidence(tags={"CreatedByAMLStudio": "true"}, files=DESIGNER_FOLDER),
        DESIGNER,
        "Designer either way, but this one can be served.",
        files=DESIGNER,
    ),
    Case(
        "a name that only begins alike",
        evidence(name="amlstudiomodel", files={"model.pkl": 9}),
        None,
        "The hyphen belongs to Designer's prefix.",
    ),
    Case(
        "a packed graph from a Designer pipeline",
        evidence(DESIGNER_PIPELINE, name="amlstudio-test4", files=PACKED_GRAPH),
        DESIGNER,
        "Both sides agree.",
        DESIGNER,
        DESIGNER,
        is_packed_graph=True,
    ),
    Case(
        "a packed graph that a command job registered",
        evidence(COMMAND_JOB, files=PACKED_GRAPH),
        None,
        "Job and files contradict each other.",
        NOTEBOOK,
        DESIGNER,
        is_packed_graph=True,
    ),
)

CODE_FILES = (
    Case(
        "an MLflow model",
        evidence(files=MLFLOW, mlmodel=MLMODEL),
        NOTEBOOK,
        "Nothing marks it otherwise.",
        files=NOTEBOOK,
    ),
    Case(
        "an MLflow model with an input example, uploaded from a folder",
        evidence(
            files={"MLmodel": 645, "conda.yaml": PLAIN_CONDA, "input_example.json": 471, "model.pkl": 4179},
            mlmodel=MLMODEL,
            tags={"foo": "bar"},
        ),
        NOTEBOOK,
        "An upload has no job; only the files can tell.",
        files=NOTEBOOK,
    ),
    Case(
        "an MLmodel written by hand",
        evidence(files={"MLmodel": 287}, mlmodel={"flavors": {"python_function": {}}}),
        NOTEBOOK,
        "Short, but an MLflow model.",
        files=NOTEBOOK,
    ),
    Case(
        "a model with a scoring script",
        evidence(files=OWN_MODEL),
        NOTEBOOK,
        "Nothing marks it otherwise.",
        files=NOTEBOOK,
    ),
    Case(
        "a scoring script in a folder",
        evidence(files={"code/score.py": OWN_SCORE, "model/model.h5": 9}),
        NOTEBOOK,
        "Where it lies does not matter.",
        files=NOTEBOOK,
    ),
    Case(
        "a scoring script that was not read",
        evidence(files={"score.py": 900_000, "model.h5": 9}),
        None,
        "What it imports is not known.",
        says=("score.py is too large to be read as a scoring script",),
    ),
    Case("a scoring script of no bytes", evidence(files={"score.py": 0, "model.h5": 9}), None, "Nothing in it."),
    Case("a Triton model", evidence(files={"m/1/model.onnx": 9, "m/config.pbtxt": 9}), None, "No tool signed it."),
    Case(
        "what a downloader leaves",
        evidence(files={"registered_model_meta": 40, "model.joblib": 9}),
        None,
        "registered_model_meta is written when a model is fetched, not when it is made.",
    ),
    Case("nothing at all", evidence(), None, "No evidence."),
    Case(
        "only what the event of registration has",
        evidence(name="sklearn_regression_model", tags={"area": "diabetes"}, properties={"type": "test"}),
        None,
        "Names and free tags tell no origin.",
        says=("no evidence",),
    ),
    Case(
        "model properties that look like a run's",
        evidence(properties={"runSource": "Designer", "runTemplate": "AutoML"}),
        None,
        "Properties of a model are given by whoever registers it.",
    ),
)

TOGETHER = (
    Case(
        "AutoML, job and files",
        evidence(AUTOML_TRIAL, STUDIO_AUTOML, files=AUTOML_FULL, mlmodel=MLMODEL),
        AUTOML,
        "Both sides agree.",
        AUTOML,
        AUTOML,
    ),
    Case(
        "AutoML's model.pkl alone, as SDK v1 registers it",
        evidence(AUTOML_V1, files={"model.pkl": 9}),
        AUTOML,
        "The file is mute, the job tells.",
        AUTOML,
    ),
    Case(
        "AutoML's MLflow model without any mark",
        evidence(STUDIO_AUTOML, files=MLFLOW, mlmodel=MLMODEL),
        AUTOML,
        "Files that anything could have written do not contradict a job.",
        AUTOML,
        NOTEBOOK,
    ),
    Case(
        "Designer, step and files",
        evidence(STEP, DESIGNER_PIPELINE, name="electricity_model", files=DESIGNER_FOLDER),
        DESIGNER,
        "Both sides agree.",
        DESIGNER,
        DESIGNER,
    ),
    Case(
        "an MLflow model from a Designer pipeline",
        evidence(STEP, DESIGNER_PIPELINE, files=MLFLOW, mlmodel=MLMODEL),
        DESIGNER,
        "A custom component writes what it likes; only the job tells Designer.",
        DESIGNER,
        NOTEBOOK,
    ),
    Case(
        "own scoring script from a Designer pipeline",
        evidence(DESIGNER_PIPELINE, files=OWN_MODEL),
        DESIGNER,
        "A scoring script says little beside a job.",
        DESIGNER,
        NOTEBOOK,
    ),
    Case(
        "a transformation from a Designer pipeline",
        evidence(DESIGNER_PIPELINE, files=_dataset("TransformationDirectory")),
        DESIGNER,
        "Made in Designer it is; that it is no model is said.",
        DESIGNER,
        says=("no trained model",),
    ),
    Case("code, job and files", evidence(COMMAND_JOB, files=OWN_MODEL), NOTEBOOK, "Both agree.", NOTEBOOK, NOTEBOOK),
    Case(
        "hyperdrive and a joblib",
        evidence(HYPERDRIVE_V1, files={"model.joblib": 186221}),
        NOTEBOOK,
        "The file is mute, the job tells.",
        NOTEBOOK,
    ),
    Case(
        "AutoML's generated code, run as a job of one's own",
        evidence(COMMAND_JOB, files={**MLFLOW, "conda.yaml": AUTOML_CONDA}, mlmodel=MLMODEL),
        NOTEBOOK,
        "Needing AutoML's packages proves nothing; the job tells.",
        NOTEBOOK,
        says=("noted: conda.yaml needs packages of Automated ML",),
    ),
    Case(
        "a command job with Designer's scoring script",
        evidence(COMMAND_JOB, files={"score.py": DESIGNER_SCORE}),
        NOTEBOOK,
        "One mark that can be copied proves nothing; the job tells.",
        NOTEBOOK,
        says=("noted: score.py as Designer writes it",),
    ),
    Case(
        "AutoML's files from a command job",
        evidence(COMMAND_JOB, files=AUTOML_DOWNLOAD),
        None,
        "Was it copied, or made again? Both sides are named.",
        NOTEBOOK,
        AUTOML,
        says=("heroic_heart is a Command job submitted by code", "written by Automated ML"),
    ),
    Case(
        "one of AutoML's files from a command job",
        evidence(COMMAND_JOB, files={"scoring_file_v_1_0_0.py": NLP_SCORE, "model.pkl": 9}),
        None,
        "Its name and its imports together prove; the contradiction stays.",
        NOTEBOOK,
        AUTOML,
    ),
    Case(
        "two marks of Designer from a command job",
        evidence(COMMAND_JOB, files={"_meta.yaml": MODEL_META, "model_spec.yaml": 52}),
        None,
        "Two marks in one folder prove; the contradiction stays.",
        NOTEBOOK,
        DESIGNER,
    ),
    Case(
        "AutoML's metadata from a code step of a pipeline",
        evidence(STEP, CLI_PIPELINE, files=MLFLOW, mlmodel=MLMODEL | {"metadata": {"azureml.engine": "automl"}}),
        None,
        "A step that passes on the model of another step; Automated ML is no parent of it.",
        NOTEBOOK,
        AUTOML,
        says=("bold_bean", "MLmodel: its metadata"),
    ),
    Case(
        "AutoML's files from a Designer pipeline",
        evidence(DESIGNER_PIPELINE, files=AUTOML_DOWNLOAD),
        None,
        "Contradiction.",
        DESIGNER,
        AUTOML,
        says=("submitted by Designer", "written by Automated ML"),
    ),
    Case(
        "Designer's files from an AutoML job",
        evidence(STUDIO_AUTOML, files=DESIGNER_FOLDER),
        None,
        "Contradiction.",
        AUTOML,
        DESIGNER,
        says=("affable_rail is of type AutoML", "a Designer model directory"),
    ),
    Case(
        "Designer's files from a published pipeline",
        evidence(STEP, PUBLISHED_PIPELINE, files=DESIGNER_FOLDER),
        None,
        "A Designer pipeline may have been published and started by code; the evidence does not say so.",
        NOTEBOOK,
        DESIGNER,
        says=("p1 is a run submitted by code", "a Designer model directory"),
    ),
    Case(
        "Designer's files from a CLI pipeline with the tag azureml.Designer",
        evidence(STEP, CLI_PIPELINE, files=DESIGNER_FOLDER),
        None,
        "Code can use Designer's components; the tag does not settle it.",
        NOTEBOOK,
        DESIGNER,
    ),
    Case(
        "files of two origins from a Designer pipeline",
        evidence(DESIGNER_PIPELINE, files={**AUTOML_DOWNLOAD, **DESIGNER_FOLDER}),
        None,
        "The job does not take away what the files prove.",
        DESIGNER,
    ),
    Case(
        "AutoML's outputs and a stranger, from the AutoML job",
        evidence(AUTOML_TRIAL, STUDIO_AUTOML, files=AUTOML_AND_A_STRANGER),
        AUTOML,
        "The job tells which of the two is meant; the stranger is named.",
        AUTOML,
        says=("against it: files: model.joblib",),
    ),
    Case(
        "AutoML's outputs and a stranger, from a hyperdrive run",
        evidence(HYPERDRIVE_V1, files=AUTOML_AND_A_STRANGER),
        None,
        "Contradiction.",
        NOTEBOOK,
        says=("HD_5e2a", "written by Automated ML", "model.joblib"),
    ),
    Case(
        "own scoring script over an AutoML model, from the AutoML job",
        evidence(STUDIO_AUTOML, files=AUTOML_BELOW_OWN_CODE),
        AUTOML,
        "As without the job.",
        AUTOML,
        AUTOML,
        says=("against it: files: score.py",),
    ),
    Case(
        "Designer's files from a batch endpoint's run",
        evidence(BATCH_RUN, files=DESIGNER_FOLDER),
        DESIGNER,
        "The run tells nothing, so the files decide.",
        files=DESIGNER,
        says=("trains none",),
    ),
    Case(
        "an MLflow model from a batch endpoint's run",
        evidence(BATCH_STEP, BATCH_RUN, files=MLFLOW, mlmodel=MLMODEL),
        NOTEBOOK,
        "The run tells nothing, so the files decide.",
        files=NOTEBOOK,
    ),
    Case(
        "Designer's files from a step whose pipeline cannot be read",
        evidence(STEP, files=DESIGNER_FOLDER),
        DESIGNER,
        "An unreadable pipeline contradicts nothing.",
        files=DESIGNER,
    ),
    Case(
        "traces of two origins",
        evidence(files={"score.py": DESIGNER_SCORE, "conda.yaml": AUTOML_CONDA}),
        None,
        "Neither proves anything.",
        says=("score.py as Designer writes it", "conda.yaml needs packages of Automated ML"),
    ),
)

TAGGED = (
    Case(
        "a tag against the job",
        evidence(STUDIO_AUTOML, tags=_tagged("designer")),
        DESIGNER,
        "The operator knows best; what contradicts is told.",
        AUTOML,
        says=("tag promotion-origin says so", "against it: job affable_rail is of type AutoML"),
    ),
    Case(
        "a tag in another spelling",
        evidence(STUDIO_AUTOML, tags=_tagged(" NoteBook ", "Promotion-Origin")),
        NOTEBOOK,
        "Case and blanks do not matter.",
        AUTOML,
        says=("against it: job affable_rail",),
    ),
    Case(
        "a tag where nothing else tells",
        evidence(files={"model.pkl": 9}, tags=_tagged("automl")),
        AUTOML,
        "It is enough.",
    ),
    Case(
        "a tag settles a contradiction",
        evidence(COMMAND_JOB, files=AUTOML_DOWNLOAD, tags=_tagged("automl")),
        AUTOML,
        "That is what it is for.",
        NOTEBOOK,
        AUTOML,
        says=("against it: heroic_heart",),
    ),
    Case(
        "a tag settles which of two models is meant",
        evidence(files=AUTOML_AND_A_STRANGER, tags=_tagged("notebook")),
        NOTEBOOK,
        "That is what it is for.",
        says=("against it: files: written by Automated ML",),
    ),
    Case(
        "a tag does not hide that there are two models",
        evidence(files=AUTOML_AND_A_STRANGER, tags=_tagged("automl")),
        AUTOML,
        "The tag decides; what it leaves aside is named.",
        says=("against it: files: model.joblib, a model that Automated ML does not write",),
    ),
    Case(
        "a tag that names no origin",
        evidence(STUDIO_AUTOML, tags=_tagged("auto-ml")),
        None,
        "Falling back to the evidence would hide the mistake.",
        AUTOML,
        says=("tag promotion-origin is 'auto-ml', not one of designer, notebook, automl",),
    ),
    Case("an empty tag", evidence(STUDIO_AUTOML, tags=_tagged(" ")), AUTOML, "Says nothing.", AUTOML),
    Case(
        "two tags that contradict each other",
        evidence(STUDIO_AUTOML, tags=_tagged("automl") | _tagged("designer", "Promotion-Origin")),
        None,
        "Tags are case-sensitive in Azure ML, so both can be there.",
        AUTOML,
        says=("is 'automl' and 'designer'",),
    ),
    Case(
        "a tag on a packed graph",
        evidence(name="amlstudio-test4", files=PACKED_GRAPH, tags=_tagged("notebook")),
        NOTEBOOK,
        "The tag decides the origin; that it cannot be served stays true.",
        says=("against it: a packed inference graph of Designer",),
        files=DESIGNER,
        is_packed_graph=True,
    ),
)

CASES = (*JOBS, *AUTOML_FILES, *DESIGNER_FILES, *PACKED, *CODE_FILES, *TOGETHER, *TAGGED)
