"""The stages of a rule: how a model is served in one target. Field names are those of Azure ML's CLI v2 YAML."""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from core.durations import Duration as Duration
from core.durations import seconds as seconds
from core.freeze import Freezes
from core.quality import Gates
from core.schedules import JobSchedule

# Managed online endpoints: 3 to 32 characters, letters, digits and hyphens, starting with a letter
# (Azure ML, "manage resources and quotas for online endpoints").
ENDPOINT_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
ENDPOINT_NAME_LIMIT = 32
_DATASTORE_PATH = re.compile(r"azureml://datastores/[A-Za-z0-9_-]+/paths/[^?#{}]*")
_OUTPUT_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(csv|jsonl|parquet)")
_LATENCY = re.compile(r"(?P<number>[0-9]{1,6})\s*(?P<unit>ms|s)")


def _endpoint_template(value: str) -> str:
    names = re.findall(r"\{([^{}]*)\}", value)
    if unknown := [name for name in names if name != "model"]:
        raise ValueError(f"unknown placeholder {{{unknown[0]}}}: only {{model}} can be used in an endpoint name")
    plain = value.replace("{model}", "model")
    if not ENDPOINT_NAME.fullmatch(plain) and "{model}" not in value:
        raise ValueError(
            f"{value!r} is no valid endpoint name: 3 to 32 letters, digits and hyphens, starting with a letter"
        )
    return value


def _datastore_path(value: str) -> str:
    if not _DATASTORE_PATH.fullmatch(value) or ".." in value.split("/"):
        raise ValueError(f"{value!r} is no path in a datastore: write azureml://datastores/NAME/paths/FOLDER/")
    return value


def _path_template(value: str) -> str:
    _datastore_path(value.replace("{model}", "model"))
    return value


def _output_file(value: str) -> str:
    if not _OUTPUT_FILE.fullmatch(value):
        raise ValueError(f"{value!r} must be a file name that ends in .csv, .jsonl or .parquet")
    return value


def _milliseconds(text: str) -> float:
    found = _LATENCY.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no latency: write a number and ms or s, such as 250ms")
    return int(found["number"]) * (1000.0 if found["unit"] == "s" else 1.0)


def _latency(text: str) -> str:
    _milliseconds(text)
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestSettings(_Strict):
    """As Azure ML's `request_settings` of an online deployment."""

    request_timeout_ms: int = Field(5000, ge=1, le=180_000, strict=True, description="Of one scoring request.")
    max_concurrent_requests_per_instance: int = Field(1, ge=1, strict=True, description="At a time on one instance.")


class Deadlines(_Strict):
    """How long each phase of a promotion may take before it is given up; durations such as 60m."""

    artifacts: Duration = Field("6h", description="The copy of the files.")
    deploy: Duration = Field("60m", description="Endpoint, deployment and schedule, whatever Azure is busy with.")
    smoke: Duration = Field("10m", description="Until the deployment answers.")
    test: Duration = Field("2h", description="The test job of a batch stage.")
    park: Duration = Field("7d", description="Waiting for somebody, and transient faults in a row.")
    approval: Duration = Field("7d", description="Waiting for an approval.")


def _increasing(steps: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 1 <= step <= 99 for step in steps) or list(steps) != sorted(set(steps)):
        raise ValueError("steps are per cent of the live traffic, from 1 to 99, each larger than the one before")
    return steps


class Latency(_Strict):
    """A limit for a percentile of latencies: of the verification's requests, or of the endpoint's own metric."""

    percentile: Literal[50, 90, 95, 99] = Field(95, description="Of the latencies.")
    below: Annotated[str, AfterValidator(_latency)] = Field(description="Such as 250ms or 2s.")

    @property
    def milliseconds(self) -> float:
        return _milliseconds(self.below)


class RecordedRequest(_Strict):
    """A request that a new deployment must answer, with the answer that was recorded for it if there is one."""

    request: Any = Field(description="Body of a scoring request.")
    expected: Any = Field(None, description="The answer to it.")


class Golden(_Strict):
    """What answers are held against."""

    compare_with: Literal["expected", "live"] = Field(
        "expected", description="`expected` beside each request, or the answers of the version that is live."
    )
    tolerance: float = Field(1e-6, ge=0, description="Of numbers, absolute or relative; everything else must be equal.")
    allowed_differences: int = Field(0, ge=0, strict=True, description="Requests whose answers may differ.")


class Verification(_Strict):
    """What a new deployment must show before it gets traffic. Without requests, the model's own sample is asked with."""

    requests: tuple[RecordedRequest, ...] = Field((), max_length=100, description="What it is asked with.")
    file: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9{][A-Za-z0-9._/{}-]*\.jsonl$",
        description="JSON lines in the target's default datastore, each with `request` and perhaps `expected`; "
        "{model} stands for the model's name. The first hundred count.",
    )
    model_file: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*\.jsonl$",
        description="As `file`, in the model's own folder: what its author has recorded with it in the source.",
    )
    answer_schema: Mapping[str, Any] | None = Field(None, description="A JSON Schema that each answer must satisfy.")
    latency: Latency | None = Field(None, description="How fast it must answer these requests.")
    golden: Golden | None = Field(None, description="What its answers are held against.")

    @field_validator("model_file")
    @classmethod
    def _stays_below_its_model(cls, value: str | None) -> str | None:
        if value is not None and ".." in value:
            raise ValueError(f"{value!r} is no path in a model's folder")
        return value

    @field_validator("file")
    @classmethod
    def _stays_below_its_datastore(cls, value: str | None) -> str | None:
        if value is not None and (".." in value or value.replace("{model}", "").count("{")):
            raise ValueError(f"{value!r} is no path in a datastore: write verification/{{model}}.jsonl")
        return value


class Analysis(_Strict):
    """What the metrics of a new deployment must say while it bakes."""

    maximum_error_rate: float = Field(
        1.0, ge=0, le=100, description="Per cent of its requests that end with 408, 424, 429 or 5xx."
    )
    latency: Latency | None = Field(None, description="A limit for the endpoint's own latency.")
    minimum_requests: int = Field(20, ge=1, strict=True, description="Fewer requests say nothing about it.")
    inconclusive: Literal["pause", "proceed", "roll_back"] = Field(
        "pause", description="After the bake time without enough requests. pause: waits for them, parked."
    )


class Rollout(_Strict):
    """How live traffic moves to a new deployment. `{}`: all of it at once (blue/green), as without it."""

    steps: Annotated[tuple[int, ...], AfterValidator(_increasing)] = Field(
        (), description="Canary: per cent of the live traffic, from 1 to 99, in rising order; 100 follows by itself."
    )
    bake: Duration = Field("10m", description="How long it stays at each step.")
    soak: Duration = Field("0s", description="How long the deployment before it is kept once it has all traffic.")
    analysis: Analysis | None = Field(None, description="Without it, time alone decides.")
    failed_deployment: Literal["delete", "keep"] = Field(
        "delete", description="What becomes of a deployment whose analysis failed; its log is kept in any case."
    )


class Approval(_Strict):
    """Somebody must approve before anything is done in the target. `{}` takes the defaults."""

    role: str = Field("Promotion.Approver", min_length=1, description="App role that an approver must have.")
    requester_may_approve: bool = Field(False, description="Whether the person who asked may approve as well.")


class _Stage(_Strict):
    """What all stages have."""

    target: str = Field(description="Name of one of the targets.")
    endpoint: Annotated[str, AfterValidator(_endpoint_template)] = Field(
        "{model}", description="Name of the endpoint; {model} stands for the model's name, made fit for an endpoint."
    )
    target_model_name: str | None = Field(None, description="Name of the model in the target; the source's by default.")
    adopt: bool = Field(False, description="Take over an endpoint of this name that this service did not create.")
    preflight: bool = Field(
        True, description="Whether names, quota, compute and permissions are looked at before anything is done."
    )
    deadlines: Deadlines = Field(Deadlines(), description="How long each phase may take.")
    approval: Approval | None = Field(None, description="Somebody must approve before anything is done in the target.")
    gates: Gates | None = Field(None, description="What a version must have shown; those of the rule hold as well.")
    freeze: Freezes = Field((), description="When nothing is promoted by itself; the target's windows hold as well.")

    def endpoint_for(self, model: str) -> str:
        return endpoint_name(self.endpoint, model)


class RealtimeStage(_Stage):
    """A managed online endpoint in one target."""

    serve: Literal["realtime"] = Field(description="A managed online endpoint.")
    instance_type: str = Field("Standard_DS3_v2", description="As in Azure ML.")
    instance_count: int = Field(1, ge=1, strict=True, description="As in Azure ML.")
    auth_mode: Literal["key", "aml_token", "aad_token"] = Field("key", description="Of an endpoint that is created.")
    request_settings: RequestSettings | None = Field(None, description="Azure ML's own by default.")
    environment_variables: Mapping[str, str] = Field(
        default_factory=dict, description="Of the deployment. No place for secrets: they stand in messages and ledger."
    )
    verification: Verification | None = Field(None, description="What it must show before it gets traffic.")
    rollout: Rollout = Field(Rollout(), description="How traffic moves to it; by default all at once.")


class RetrySettings(_Strict):
    """As Azure ML's `retry_settings` of a parallel job: `timeout` in seconds for one mini-batch."""

    max_retries: int = Field(2, ge=0, le=10, strict=True, description="Of one mini-batch.")
    timeout: int = Field(600, ge=1, le=259_200, strict=True, description="Of one mini-batch; seconds.")


class Comparison(_Strict):
    """How the test job of a new version may differ from that of the version that is live, on the same `test_data`."""

    rows: float = Field(0.0, ge=0, le=100, description="Per cent by which the number of predictions may differ.")
    failed_files: int = Field(0, ge=0, strict=True, description="Input files that may fail more than before.")


class BatchStage(_Stage):
    """A batch endpoint in one target, and a schedule that runs it.

    Each run reads all files below `input` (CSV, Parquet, JSON lines) and writes into a folder of its own below `output`.
    """

    serve: Literal["batch"] = Field(description="A batch endpoint, and a schedule.")
    compute: str = Field(min_length=1, description="Name of a compute cluster of the target workspace.")
    input: Annotated[str, AfterValidator(_path_template)] = Field(
        description="What a run scores, such as azureml://datastores/workspaceblobstore/paths/in/{model}/."
    )
    output: Annotated[str, AfterValidator(_path_template)] = Field(
        description="Where predictions go; {model} stands for the model's name. Each run adds a folder of its own name."
    )
    schedule: JobSchedule | None = Field(None, description="Without it there is the batch endpoint alone.")
    test_data: Annotated[str, AfterValidator(_path_template)] | None = Field(
        None, description="What the test job scores; by default the model's own input example, else `input`."
    )
    instance_count: int = Field(1, ge=1, strict=True, description="Nodes of a run.")
    mini_batch_size: int = Field(10, ge=1, strict=True, description="Input files in one mini-batch.")
    max_concurrency_per_instance: int = Field(1, ge=1, strict=True, description="Mini-batches at a time on a node.")
    retry_settings: RetrySettings = Field(RetrySettings(), description="Of one mini-batch.")
    error_threshold: int = Field(
        0, ge=-1, strict=True, description="Input files that may fail before a run does; -1: any number."
    )
    output_file_name: Annotated[str, AfterValidator(_output_file)] = Field(
        "predictions.csv", description="Ends in .csv, .jsonl or .parquet."
    )
    comparison: Comparison | None = Field(None, description="With the version that is live; needs `test_data`.")
    overlap: Literal["allow", "skip"] = Field(
        "allow", description="skip: a run that starts while another one is under way scores nothing."
    )
    overlap_timeout: Duration = Field("24h", description="After this time a run is no longer believed to be under way.")

    @model_validator(mode="after")
    def _compares_on_the_same_data(self) -> Self:
        if self.comparison is not None and self.test_data is None:
            raise ValueError("comparison needs test_data: only on the same files do counts say something")
        return self

    def input_for(self, model: str) -> str:
        return self.input.replace("{model}", model)

    def output_for(self, model: str) -> str:
        """The folder of all runs, with a slash at its end."""
        return self.output.replace("{model}", model).rstrip("/") + "/"

    def test_data_for(self, model: str) -> str | None:
        return self.test_data.replace("{model}", model) if self.test_data else None


Stage = Annotated[RealtimeStage | BatchStage, Field(discriminator="serve")]


def asks_people(stage: Stage) -> bool:
    """Whether somebody may have to decide something about a promotion in this stage."""
    in_doubt = isinstance(stage, RealtimeStage) and (
        stage.verification is not None or stage.rollout.analysis is not None
    )
    return stage.approval is not None or in_doubt


def endpoint_name(template: str, model: str) -> str:
    """A valid endpoint name for this model: the same for the same model, another for another model.

    Endpoint names are lower case here, as they are compared without regard to case. Characters that an endpoint name
    cannot have become hyphens, and it is cut to 32; a name that had to be changed in any of these ways ends in six
    characters of a hash, so that two models never share one by accident. A template without `{model}` names the endpoint
    itself, for all models of its rule.
    """
    if "{model}" not in template:
        return template.lower()
    plain = template.replace("{model}", model)
    if plain == plain.lower() and ENDPOINT_NAME.fullmatch(plain):
        return plain
    fit = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9-]", "-", plain.lower())).strip("-")
    if not fit[:1].isalpha():
        fit = f"m-{fit}"
    digest = hashlib.sha256(plain.encode()).hexdigest()[:6]
    return f"{fit[: ENDPOINT_NAME_LIMIT - 7].strip('-')}-{digest}"
