"""Which output of a run is the model; which runs promote nothing; and that a run and its model are promoted once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from core import runs, tags
from core.commands import Command, PromoteModel
from core.errors import Reason, Refusal, Transient
from core.events import WorkspaceId
from core.intake import Intake
from core.ledger import AuditRecord, EventRecord, Memo, Promotion
from core.origin import Run
from core.packaging import File, Manifest
from core.policy_file import PolicyInvalid, parse
from core.ports import SourceModel, SourceRun, Training
from tests.unit.builders import DEV, NOON, PROD

PREFIX = "Microsoft.MachineLearningServices."
DESIGNER = {"azureml.runsource": "azureml.PipelineRun", "runSource": "Designer"}
STEP = {"azureml.runsource": "azureml.StepRun"}
MLMODEL = "flavors:\n  python_function: {loader_module: mlflow.sklearn}\n  sklearn: {}\n"
CONDA = "dependencies: [python=3.11, {pip: [mlflow-skinny==3.1.0, scikit-learn==1.7.2]}]\n"


def a_run(run_id: str = "job", job_type: str | None = "Command", **changes: Any) -> SourceRun:
    outputs = changes.pop("outputs", {})
    status, experiment = changes.pop("status", "Completed"), changes.pop("experiment", "churn-training")
    return SourceRun(
        run=Run.model_validate({"id": run_id, "job_type": job_type} | changes),
        status=status,
        experiment=experiment,
        outputs=outputs,
        created_at=NOON - timedelta(hours=1),
        ended_at=NOON,
        created_by="Data Scientist",
    )


def automl(**changes: Any) -> SourceRun:
    return a_run(job_type="AutoML", **({"tags": {"automl_best_child_run_id": "job_7"}} | changes))


def a_step(run_id: str, name: str, **properties: str) -> Run:
    return Run(id=run_id, parent="job", properties=STEP | {"azureml.moduleName": name} | properties)


@dataclass(frozen=True)
class Left:
    """`runs.Artifacts` as values: paths by run, steps by run."""

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    below: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)

    def steps(self, run_id: str) -> tuple[Run, ...]:
        return self.below.get(run_id, ())

    def paths(self, run_id: str) -> tuple[str, ...]:
        return self.files.get(run_id, ())


AUTOML_FILES = ("outputs/model.pkl", "outputs/scoring_file_v_2_0_0.py", "outputs/conda_env_v_1_0_0.yml", "logs/a.log")
DESIGNER_FILES = ("trained_model_outputs/_meta.yaml", "trained_model_outputs/data.ilearner", "logs/a.log")
PIPELINE = a_run(job_type="Pipeline", properties=DESIGNER)
STEPS = {"job": (a_step("s1", "Split Data"), a_step("s2", "Train Model"))}


def a_model_in(folder: str) -> dict[str, str]:
    return {f"{folder}/MLmodel": MLMODEL, f"{folder}/conda.yaml": CONDA, f"{folder}/model.pkl": "x"}


def artifacts(run_id: str, path: str) -> str:
    return f"azureml://jobs/{run_id}/outputs/artifacts/paths/{path}"


# --------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("run", "wanted", "left", "uri"),
    [
        pytest.param(
            automl(),
            None,
            Left({"job_7": (*AUTOML_FILES, "outputs/mlflow-model/MLmodel"), "job": ("outputs/mlflow-model/MLmodel",)}),
            artifacts("job_7", "outputs/mlflow-model"),
            id="Automated ML: the MLflow model of its best trial",
        ),
        pytest.param(
            automl(),
            None,
            Left({"job_7": AUTOML_FILES}),
            artifacts("job_7", "outputs"),
            id="Automated ML without MLflow",
        ),
        pytest.param(
            automl(outputs={"best_model": "mlflow_model"}),
            None,
            Left({"job_7": AUTOML_FILES}),
            artifacts("job_7", "outputs"),
            id="Automated ML: its trial goes before a named output",
        ),
        pytest.param(
            automl(outputs={"best_model": "mlflow_model"}),
            "best_model",
            Left(),
            "azureml://jobs/job/outputs/best_model",
            id="Automated ML: a named output, where the rule says so",
        ),
        pytest.param(
            PIPELINE,
            None,
            Left({"s1": ("logs/a.log", "Results_dataset1/data.parquet"), "s2": DESIGNER_FILES}, STEPS),
            artifacts("s2", "trained_model_outputs"),
            id="Designer: the one step that trained",
        ),
        pytest.param(
            PIPELINE,
            None,
            Left(
                {"earlier": DESIGNER_FILES, "s2": ("logs/a.log",)},
                {"job": (a_step("s2", "Train Model", **{"azureml.reusedrunid": "earlier"}),)},
            ),
            artifacts("earlier", "trained_model_outputs"),
            id="Designer: a step that was not run again",
        ),
        pytest.param(
            PIPELINE,
            None,
            Left(
                {"s2": DESIGNER_FILES},
                {
                    "job": (a_step("inner", "Part", **{"azureml.runsource": "azureml.PipelineRun"}),),
                    **{"inner": STEPS["job"]},
                },
            ),
            artifacts("s2", "trained_model_outputs"),
            id="a pipeline in a pipeline",
        ),
        pytest.param(
            PIPELINE,
            "Train again/trained_model_outputs",
            Left(
                {"s2": DESIGNER_FILES, "s3": DESIGNER_FILES},
                {"job": (*STEPS["job"], a_step("s3", "Train again"))},
            ),
            artifacts("s3", "trained_model_outputs"),
            id="Designer: the step is named by the rule",
        ),
        pytest.param(
            a_run(job_type="Pipeline", outputs={"trained": "mlflow_model", "scores": "uri_folder"}),
            None,
            Left(),
            "azureml://jobs/job/outputs/trained",
            id="a pipeline of code with an output of its own",
        ),
        pytest.param(
            a_run(job_type="Pipeline"),
            None,
            Left({"s2": ("model/MLmodel", "model/metadata/MLmodel")}, STEPS),
            artifacts("s2", "model"),
            id="a pipeline of code in whose step a model was logged",
        ),
        pytest.param(
            a_run(outputs={"trained": "custom_model", "log": "uri_file"}),
            None,
            Left({"job": ("model/MLmodel",)}),
            "azureml://jobs/job/outputs/trained",
            id="code: the named output that is a model goes before what was logged",
        ),
        pytest.param(
            a_run(),
            None,
            Left({"job": ("model/MLmodel", "model/data/MLmodel", "outputs/metrics.json")}),
            artifacts("job", "model"),
            id="code: the one MLflow model",
        ),
        pytest.param(
            a_run(), None, Left({"job": ("outputs/a.pkl", "logs/x")}), artifacts("job", "outputs"), id="code: outputs"
        ),
        pytest.param(
            a_run(),
            "outputs/second",
            Left({"job": ("outputs/first/MLmodel", "outputs/second/MLmodel")}),
            artifacts("job", "outputs/second"),
            id="code: the path that the rule names",
        ),
        pytest.param(
            a_run(outputs={"data": "uri_folder"}),
            "data",
            Left(),
            "azureml://jobs/job/outputs/data",
            id="code: an output of any type, where the rule names it",
        ),
        pytest.param(
            a_run(),
            "outputs/model.pkl",
            Left({"job": ("outputs/model.pkl", "outputs/model.pkl.bak")}),
            artifacts("job", "outputs/model.pkl"),
            id="code: one file",
        ),
        pytest.param(
            a_run(job_type="Sweep", properties={"best_child_run_id": "job_3"}),
            None,
            Left({"job_3": ("model/MLmodel",), "job": ("outputs/x",)}),
            artifacts("job_3", "model"),
            id="a sweep: its best trial",
        ),
    ],
)
def test_the_output_is_found_where_azure_ml_leaves_it(run: SourceRun, wanted: str | None, left: Left, uri: str) -> None:
    assert runs.find_output(run, wanted, left, rule="r").uri == uri


@pytest.mark.parametrize(
    ("run", "wanted", "left", "told", "remedy"),
    [
        (automl(tags={}), None, Left(), "names no best trial", "register the model by hand"),
        (automl(tags={"automl_best_child_run_id": "../x"}), None, Left(), "'../x', which is no id", "Correct the tag"),
        (automl(), None, Left({"job_7": ("logs/a.log",)}), "known to be a model; it has logs", "`output`"),
        (a_run(), None, Left(), "no outputs at all", "rule 'r'"),
        (
            a_run(outputs={"data": "uri_folder"}),
            None,
            Left({"job": ("logs/a", "MLmodel")}),
            "it has data, logs",
            "`output`",
        ),
        (
            a_run(outputs={"a": "custom_model", "b": "mlflow_model"}),
            None,
            Left(),
            "may be the model: a, b",
            "`output: a`",
        ),
        (a_run(), None, Left({"job": ("a/MLmodel", "b/MLmodel")}), "may be the model: a, b", "`output: a`"),
        (a_run(), "model", Left({"job": ("models/MLmodel",)}), "no artifacts 'model'; it has models", "rule 'r'"),
        (PIPELINE, None, Left({"s1": ("outputs/x",)}, STEPS), "it has Split Data/outputs", "an output of its own"),
        (
            PIPELINE,
            None,
            Left({"s1": DESIGNER_FILES, "s2": DESIGNER_FILES}, STEPS),
            "Split Data/trained_model_outputs, Train Model/trained_model_outputs",
            "`output: Split Data/trained_model_outputs`",
        ),
        (
            PIPELINE,
            None,
            Left({"s1": DESIGNER_FILES, "s2": DESIGNER_FILES}, {"job": (a_step("s1", "T"), a_step("s2", "T"))}),
            "T/trained_model_outputs (run s1), T/trained_model_outputs (run s2)",
            "names of their own",
        ),
        (
            PIPELINE,
            None,
            Left(below={"job": tuple(a_step(f"s{number}", "T") for number in range(101))}),
            "101 steps",
            "an output of the pipeline",
        ),
        (a_run(), None, Left({"job": tuple(f"f{n:02}/MLmodel" for n in range(20))}), "f11 and 8 more", "`output: f00`"),
    ],
)
def test_none_or_several_are_refused_with_what_was_found(
    run: SourceRun, wanted: str | None, left: Left, told: str, remedy: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        runs.find_output(run, wanted, left, rule="r")
    assert refusal.value.reason is Reason.RUN_OUTPUT_UNCLEAR
    assert told in str(refusal.value)
    assert remedy in refusal.value.remedy


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (Run(id="r"), None),
        (Run(id="r", job_type="AutoML", properties={"runTemplate": "AutoML", "azureml.runsource": "automl"}), None),
        (Run(id="r", properties=DESIGNER), None),
        (Run(id="r", parent="above"), Reason.NOT_A_TRIGGER),
        (Run(id="r", properties=STEP), Reason.NOT_A_TRIGGER),
        (Run(id="r", properties={"runTemplate": "automl_child"}), Reason.NOT_A_TRIGGER),
        (Run(id="r", properties={"run_template": "automl_child"}), Reason.NOT_A_TRIGGER),
        (Run(id="r", properties={"runSource": "BatchDeployment"}), Reason.NOT_A_TRIGGER),
        (Run(id="r", tags={"azureml.batchrun": "true"}), Reason.NOT_A_TRIGGER),
        (Run(id="r", tags={tags.SOURCE: "s", tags.MANIFEST: "m"}), Reason.OWN_COPY),
    ],
)
def test_parts_scoring_and_what_we_started_promote_nothing(run: Run, reason: Reason | None) -> None:
    found = runs.nothing_by_itself(run)
    assert (found[0] if found else None) is reason


@pytest.mark.parametrize(
    ("run_id", "version"),
    [
        ("affable_rail_8tpp33k4cb", "affable_rail_8tpp33k4cb"),
        ("a" * 30, "a" * 30),
        ("a" * 31, "aaaaaaaaaaaaaaaaaaa-61c60b487d"),
        ("AutoML_ad912b2d-6467-4f32-a616-dbe4af6dd8fc", "AutoML_ad912b2d-646-42bf072caf"),
        ("12", "12-6b51d431df"),
        ("a:b", "a-b-6783a31eab"),
    ],
)
def test_the_version_is_the_runs_own_where_it_can_be(run_id: str, version: str) -> None:
    assert runs.version_of(run_id) == version


def test_only_the_version_of_that_run_was_registered_for_it() -> None:
    model = runs.as_model(a_run("nice_name"), runs.Output("nice_name", "azureml://x", "x"), name="churn")
    registered = model.model_copy(update={"tags": {tags.RUN: "nice_name"}})
    assert runs.registered_for(registered) == "nice_name"
    assert runs.registered_for(model) is None
    assert runs.registered_for(registered.model_copy(update={"version": "3"})) is None
    assert runs.registered_for(registered.model_copy(update={"tags": {tags.RUN: "../x"}, "version": "../x"})) is None


# --------------------------------------------------------------------------------------------------------------- intake


class Died(BaseException):
    """The process ends here."""


@dataclass
class World:
    """A source workspace, a ledger and a queue as values; the process dies at effect number `dies_at`."""

    runs_: dict[str, SourceRun] = field(default_factory=dict)
    children: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    models: dict[tuple[str, str], SourceModel] = field(default_factory=dict)
    rows: dict[str, Promotion] = field(default_factory=dict)
    memos: dict[str, Memo] = field(default_factory=dict)
    sent: list[PromoteModel] = field(default_factory=list)
    registrations: int = 0
    requests: int = 0
    effects: int = 0
    dies_at: int | None = None

    def effect(self) -> None:
        self.effects += 1
        if self.effects - 1 == self.dies_at:
            raise Died

    # source

    def run(self, workspace: WorkspaceId, run_id: str) -> SourceRun:
        self.requests += 1
        if run_id not in self.runs_:
            raise Refusal(Reason.MODEL_NOT_FOUND, f"no run {run_id}", remedy="none")
        return self.runs_[run_id]

    def runs(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        self.requests += 1
        own = self.runs_.get(run_id)
        if own is not None:
            return (own.run,)
        below = [step for steps in self.children.values() for step in steps if step.id == run_id]
        return (*below, *(self.runs_[step.parent].run for step in below if step.parent))

    def training(self, workspace: WorkspaceId, run_id: str) -> Training | None:
        return None

    def steps(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        return self.children.get(run_id, ())

    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel:
        self.requests += 1
        return self.models[name, version]

    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest:
        self.requests += 1
        found = self._folder(uri.replace("azureml://jobs/", "").replace("/outputs/artifacts/paths/", "/"))
        assert found is not None, uri
        return found

    def run_folder(self, workspace: WorkspaceId, run_id: str, path: str) -> Manifest | None:
        self.requests += 1
        return self._folder(f"{run_id}/{path}".rstrip("/"))

    def _folder(self, root: str) -> Manifest | None:
        below = {name[len(root) + 1 :]: text for name, text in self.files.items() if name.startswith(f"{root}/")}
        files = tuple(File(path=name, size=len(text), etag=text[:9]) for name, text in sorted(below.items()))
        return Manifest(account_url="a", container="c", root=root, folder="m", files=files) if files else None

    def read(self, manifest: Manifest, path: str) -> bytes:
        return self.files[f"{manifest.root}/{path}"].encode()

    def register(self, workspace: WorkspaceId, model: SourceModel, *, flavors: Mapping[str, Any]) -> SourceModel:
        key = model.name, model.version
        if key not in self.models:
            self.effect()
            self.models[key] = model
            self.registrations += 1
        self.effect()
        return self.models[key]

    # ledger and queue

    def record_event(self, event: EventRecord) -> None:
        self.effect()

    def keep(self, kind: str, digest: str, content: str) -> None:
        self.effect()

    def open(self, promotion: Promotion) -> Promotion:
        self.effect()
        return self.rows.setdefault(promotion.id, promotion)

    def promotion(self, promotion_id: str) -> Promotion | None:
        return self.rows.get(promotion_id)

    def audit(self, record: AuditRecord) -> None:
        self.effect()

    def memo(self, kind: str, key: str) -> Memo | None:
        return self.memos.get(key)

    def save_memo(self, memo: Memo) -> Memo:
        self.effect()
        if memo.etag is None and memo.key in self.memos:
            raise Transient("somebody else was there first")
        self.memos[memo.key] = memo.model_copy(update={"etag": "1"})
        return self.memos[memo.key]

    def send(self, command: Command, *, not_before: object = None) -> None:
        self.effect()
        assert isinstance(command, PromoteModel)
        self.sent.append(command)

    def intake(self, policy: bytes) -> Intake:
        ports: Any = self
        return Intake(
            policy=parse(policy), source=ports, ledger=ports, queue=ports, now=lambda: NOON + timedelta(days=1)
        )

    def promoted(self) -> set[tuple[str, str]]:
        return {(row.model, row.version) for row in self.rows.values()}


def a_policy(rules: str, *, register_models: bool = False) -> bytes:
    source, target = (f"subscription_id: {w.subscription_id}, resource_group: {w.resource_group}" for w in (DEV, PROD))
    may = "true" if register_models else "false"
    return f"""\
version: 1
sources: {{dev: {{{source}, workspace: ml-dev, register_models: {may}}}}}
targets: {{prod: {{{target}, workspace: ml-prod}}}}
rules:
{rules}""".encode()


BOTH = """\
  - name: churn
    match: {trigger: [model_registered, run_completed]}
    register_as: churn
    stages: [{target: prod, serve: realtime}]
"""
RUNS_ONLY = """\
  - name: runs
    match: {trigger: [run_completed], experiment: "churn-*"}
    register_as: "{experiment}-model"
    stages: [{target: prod, serve: realtime}]
"""


def completed(run_id: str = "job", event_id: str = "1", kind: str = "RunCompleted", **data: Any) -> dict[str, Any]:
    return {
        "id": event_id,
        "topic": DEV.arm_id,
        "subject": f"experiments/e/runs/{run_id}",
        "eventType": f"{PREFIX}{kind}",
        "eventTime": NOON,
        "data": {"runId": run_id, "experimentName": "churn-training", "runTags": {}, "runProperties": {}} | data,
    }


def registered(name: str, version: str) -> dict[str, Any]:
    return {
        "id": "2",
        "topic": DEV.arm_id,
        "subject": f"models/{name}:{version}",
        "eventType": f"{PREFIX}ModelRegistered",
        "eventTime": NOON,
        "data": {"ModelName": name, "ModelVersion": version},
    }


def a_world(**changes: Any) -> World:
    """A command job that has logged a model, and somebody's registration of it as churn:1."""
    world = World(runs_={"job": a_run(**changes)}, files=a_model_in("job/model"))
    uri = artifacts("job", "model")
    by_hand = runs.as_model(world.runs_["job"], runs.Output("job", uri, "model"), name="churn")
    world.models["churn", "1"] = by_hand.model_copy(update={"version": "1", "tags": {}})
    return world


@pytest.mark.parametrize(
    ("envelope", "reason", "told"),
    [
        (completed(experimentName="other"), Reason.NOT_A_TRIGGER, "a registered model does"),
        (completed(runProperties=STEP), Reason.NOT_A_TRIGGER, "is a part"),
        (completed(runProperties={"runTemplate": "automl_child"}), Reason.NOT_A_TRIGGER, "is a part"),
        (completed(runProperties={"runSource": "BatchDeployment"}), Reason.NOT_A_TRIGGER, "batch endpoint"),
        (completed(runTags={tags.SOURCE: "s", tags.MANIFEST: "m"}), Reason.OWN_COPY, "a promotion put there"),
        (completed(kind="RunStatusChanged", runStatus="failed"), Reason.RUN_FAILED, "run job failed"),
    ],
)
def test_the_ends_of_most_runs_cost_no_request(envelope: dict[str, Any], reason: Reason, told: str) -> None:
    world = a_world()
    record = world.intake(a_policy(RUNS_ONLY)).receive(envelope)
    assert (record.outcome, record.reason, world.requests) == ("ignored", reason, 0)
    assert told in record.why


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (a_run(parent="above"), Reason.NOT_A_TRIGGER),
        (a_run(status="Failed"), Reason.RUN_FAILED),
        (a_run(status="Canceled"), Reason.RUN_FAILED),
        (a_run(experiment="other"), Reason.NO_RULE_MATCHES),
    ],
)
def test_what_the_event_does_not_tell_the_run_does(run: SourceRun, reason: Reason) -> None:
    world = a_world()
    world.runs_["job"] = run
    record = world.intake(a_policy(RUNS_ONLY)).receive(completed())
    assert (record.outcome, record.reason, world.rows) == ("ignored", reason, {})


@pytest.mark.parametrize("status", ["Running", "Finalizing", "Unknown"])
def test_a_run_that_has_not_ended_for_azure_is_looked_at_later(status: str) -> None:
    world = a_world(status=status)
    with pytest.raises(Transient, match=status):
        world.intake(a_policy(RUNS_ONLY)).receive(completed())


def test_a_run_is_promoted_from_its_output_with_its_lineage() -> None:
    world = a_world(tags={"team": "sales"})
    record = world.intake(a_policy(RUNS_ONLY)).receive(completed())
    (command,) = world.sent
    assert (record.outcome, record.promotion_id) == ("accepted", command.promotion_id)
    assert (command.model, command.version, command.run_id) == ("churn-training-model", "job", "job")
    assert (command.model_created_at, command.requested_by) == (NOON, "Data Scientist")
    assert tags.provenance(command)[tags.RUN] == "job"
    assert (
        f"run job completed, its output is {artifacts('job', 'model')}; notebook"
        in world.rows[command.promotion_id].evidence
    )
    assert world.registrations == 0


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (RUNS_ONLY.replace("trigger:", "tags: {team: hr}, trigger:"), Reason.NO_RULE_MATCHES),
        (RUNS_ONLY.replace("trigger:", "origin: automl, trigger:"), Reason.NO_RULE_MATCHES),
        (RUNS_ONLY.replace("trigger:", 'model: "other-*", trigger:'), Reason.NO_RULE_MATCHES),
        (RUNS_ONLY.replace("register_as:", "output: none\n    register_as:"), Reason.RUN_OUTPUT_UNCLEAR),
    ],
)
def test_everything_that_a_rule_asks_of_a_run_must_hold(rules: str, reason: Reason) -> None:
    world = a_world(tags={"team": "sales"})
    assert world.intake(a_policy(rules)).receive(completed()).reason is reason
    assert world.rows == {}


def test_an_experiment_whose_name_is_none_for_a_model_is_refused() -> None:
    world = a_world(experiment="churn-of all")
    record = world.intake(a_policy(RUNS_ONLY)).receive(completed(experimentName="churn-of all"))
    assert (record.outcome, record.reason) == ("refused", Reason.POLICY_INVALID)
    assert "'churn-of all-model'" in record.why


def test_what_the_job_does_not_tell_and_the_output_does_is_no_match() -> None:
    """A rule for code, and a job of code whose output is a model of Automated ML."""
    world = a_world()
    world.files["job/model/MLmodel"] += "metadata: {azureml.engine: automl}\n"
    record = world.intake(a_policy(RUNS_ONLY)).receive(completed())
    assert (record.outcome, record.reason) == ("refused", Reason.ORIGIN_UNKNOWN)


DELIVERIES = {
    "run, then model": [completed(), registered("churn", "1")],
    "model, then run": [registered("churn", "1"), completed()],
}


@pytest.mark.parametrize("order", DELIVERIES)
def test_of_a_run_and_its_registered_output_the_first_is_promoted(order: str) -> None:
    world = a_world()
    first, second = DELIVERIES[order]
    intake = world.intake(a_policy(BOTH))
    asked = intake.receive(first)
    record = intake.receive(second)
    assert asked.outcome == "accepted"
    assert (record.outcome, record.reason) == ("ignored", Reason.PROMOTED_FROM_RUN)
    assert record.promotion_id == asked.promotion_id
    assert len(world.rows) == 1


def test_other_files_and_other_endpoints_are_no_repetition() -> None:
    world = a_world()
    world.files |= a_model_in("job/other")
    other = world.models["churn", "1"].model_copy(update={"version": "2", "uri": artifacts("job", "other")})
    world.models["churn", "2"] = other
    elsewhere = world.models["churn", "1"].model_copy(update={"name": "churn-b"})
    world.models["churn-b", "1"] = elsewhere
    rules = BOTH.replace("register_as: churn", "output: model\n    register_as: churn")
    intake = world.intake(a_policy(rules))
    intake.receive(completed())
    assert intake.receive(registered("churn", "2")).outcome == "accepted"
    assert intake.receive(registered("churn-b", "1")).outcome == "accepted"
    assert world.promoted() == {("churn", "job"), ("churn", "2"), ("churn-b", "1")}


@pytest.mark.parametrize("register_models", [False, True])
@pytest.mark.parametrize("order", DELIVERIES)
def test_a_crash_anywhere_doubles_and_loses_nothing(order: str, register_models: bool) -> None:
    """The process dies at each effect in turn; Event Grid delivers again, in whatever order, and one promotion stands."""
    policy = a_policy(BOTH, register_models=register_models)
    died = 0
    for point in range(40):
        world = a_world()
        world.dies_at = point
        intake = world.intake(policy)
        for envelope in (*DELIVERIES[order], *DELIVERIES[order]):
            try:
                intake.receive(envelope)
            except Died:
                died += 1
        assert len(world.rows) == 1, (point, world.promoted())
        assert {command.promotion_id for command in world.sent} == set(world.rows), point
        assert world.registrations <= int(register_models), point
        assert world.registrations == 1 or not (register_models and world.promoted() == {("churn", "job")}), point
    assert died > 10


def test_where_the_source_allows_it_the_output_is_registered_once() -> None:
    world = a_world()
    intake = world.intake(a_policy(BOTH, register_models=True))
    asked = [intake.receive(completed(event_id=event_id)) for event_id in ("1", "1", "3")]
    echo = intake.receive(registered("churn", "job"))
    model = world.models["churn", "job"]
    assert (model.uri, model.model_type, model.job_name) == (artifacts("job", "model"), "mlflow_model", "job")
    assert (model.tags, world.registrations) == ({tags.RUN: "job"}, 1)
    assert {record.promotion_id for record in asked} == set(world.rows)
    assert (echo.outcome, echo.reason, echo.promotion_id) == (
        "ignored",
        Reason.PROMOTED_FROM_RUN,
        asked[0].promotion_id,
    )


def test_the_registration_alone_brings_about_what_the_run_had_asked_for() -> None:
    """The run's event got as far as the registration and never came again."""
    world = a_world()
    policy = a_policy(BOTH, register_models=True)
    world.intake(policy).receive(completed())
    lost = a_world()
    lost.models["churn", "job"] = world.models["churn", "job"]
    assert lost.intake(policy).receive(registered("churn", "job")).promotion_id in world.rows
    assert lost.rows.keys() == world.rows.keys()
    assert len(lost.sent) == 1


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({"tags": {}}, "refused", Reason.MODEL_NAME_TAKEN),
        ({"tags": {tags.RUN: "another"}}, "refused", Reason.MODEL_NAME_TAKEN),
        ({"tags": {tags.RUN: "job"}, "archived": True}, "ignored", Reason.MODEL_ARCHIVED),
    ],
)
def test_a_version_that_is_not_the_runs_is_left_alone(changes: dict[str, Any], outcome: str, reason: Reason) -> None:
    world = a_world()
    world.models["churn", "job"] = world.models["churn", "1"].model_copy(update={"version": "job"} | changes)
    record = world.intake(a_policy(BOTH, register_models=True)).receive(completed())
    assert (record.outcome, record.reason, world.rows) == (outcome, reason, {})


def test_a_designer_pipeline_is_promoted_from_the_step_that_trained() -> None:
    world = World(runs_={"job": PIPELINE}, children=STEPS)
    world.files = a_model_in("s2/model")
    record = world.intake(a_policy(RUNS_ONLY)).receive(completed())
    assert (record.outcome, world.sent[0].origin) == ("accepted", "designer")


# --------------------------------------------------------------------------------------------------------------- policy


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        (BOTH.replace("    register_as: churn\n", ""), "register_as: is required with trigger run_completed"),
        (BOTH.replace(", run_completed", ""), "register_as: is for completed runs"),
        (BOTH.replace("trigger:", 'experiment: "a-*", trigger:'), "match.experiment: is known of completed runs alone"),
        (BOTH.replace("trigger:", 'model: "b-*", trigger:'), "match.model: does not match 'churn'"),
        (BOTH.replace("register_as: churn", "register_as: a b"), "register_as: 'a b' is no name for a model"),
        (BOTH.replace("register_as: churn", 'register_as: "{run}"'), "register_as: '{run}' is no name"),
        (
            BOTH.replace("register_as:", "output: ../x\n    register_as:"),
            "output: '../x' must be the name of an output",
        ),
        (BOTH.replace("register_as:", "output: /x\n    register_as:"), "output: '/x' must be"),
    ],
)
def test_a_rule_about_runs_is_complete_and_about_runs(rule: str, mistake: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse(a_policy(rule))
    assert mistake in str(caught.value)
