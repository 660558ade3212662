"""Schedules that the unmodified client library writes; they fire when the local Azure's clock says so."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import CronTrigger, JobSchedule, RecurrencePattern, RecurrenceTrigger
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from emulator.azure_ml.schedules import CATCH_UP
from emulator.topology import DEV
from tests.wire.azure_ml_clients import Azure, azure
from tests.wire.batch_workspace import BatchWorkspace, until

__all__ = ["azure"]

FOLDER = {"type": "uri_folder"}
HOUR = 3600


class Scheduled(BatchWorkspace):
    """A pipeline that notes when it was asked for, and schedules of it."""

    pipeline_id: str

    def prepare(self, command: str = "echo ${{inputs.asked}} > ${{outputs.note}}/asked") -> None:
        step = self.command("note", command, inputs={"asked": {"type": "string"}}, outputs={"note": FOLDER})
        node = {
            "component": step,
            "inputs": {"asked": "${{parent.inputs.asked}}"},
            "outputs": {"note": "${{parent.outputs.note}}"},
        }
        inputs = {"asked": {"type": "string", "default": "by hand"}}
        self.pipeline_id = self.pipeline("pipe", {"note": node}, inputs=inputs, outputs={"note": FOLDER})

    def schedule(self, trigger: Any, **more: Any) -> JobSchedule:
        job = self.job(
            self.pipeline_id,
            inputs={"asked": "${{creation_context.trigger_time}}"},
            outputs={"note": self.place("notes/${{name}}/")},
            tags={"of": "the job"},
        )
        return JobSchedule(name=self.name, trigger=trigger, create_job=job, **more)

    def write(self, schedule: JobSchedule) -> Any:
        return self.ml.schedules.begin_create_or_update(schedule).result()

    def advance(self, seconds: float) -> None:
        self.azure.control("POST", "/clock/advance", {"seconds": seconds})

    def now(self) -> datetime:
        return datetime.fromisoformat(self.azure.control("GET", "/clock")["now"])

    def jobs(self) -> list[Any]:
        """The jobs of the schedule, oldest first."""
        return list(self.ml.jobs.list(scheduled_job_name=self.name))[::-1]

    def fired(self, count: int) -> list[Any]:
        """Its jobs, once there are as many as that and all have ended."""
        until(lambda: len(self.jobs()) >= count, f"{count} jobs of {self.name}")
        return [self.ended(job.name) for job in self.jobs()]


@pytest.fixture
def work(azure: Azure, tmp_path: Path) -> Iterator[Scheduled]:
    """Whatever was planted is lifted, and the schedule switched off: the next test advances the same clock."""
    work = Scheduled(azure, DEV, tmp_path)
    work.prepare()
    yield work
    azure.control("DELETE", "/azure-ml/outcomes")
    if work.name in {each.name for each in work.ml.schedules.list()}:
        work.ml.schedules.begin_disable(work.name).result()


def hourly() -> RecurrenceTrigger:
    return RecurrenceTrigger(frequency="hour", interval=1)


def test_it_fires_at_its_time_with_its_job(work: Scheduled) -> None:
    tomorrow = (work.now() + timedelta(days=1)).replace(hour=3, minute=15, second=0, microsecond=0)
    pattern = RecurrencePattern(hours=[3], minutes=[15])
    made = work.write(work.schedule(RecurrenceTrigger(frequency="day", interval=1, schedule=pattern)))
    assert (made.provisioning_state, made.is_enabled) == ("Succeeded", True)
    left = (
        min(each for each in (tomorrow, tomorrow - timedelta(days=1)) if each > work.now()) - work.now()
    ).total_seconds()
    work.advance(left - 300)
    assert work.jobs() == []
    work.advance(600)
    (job,) = work.fired(1)
    asked = datetime.fromisoformat(work.files(f"notes/{job.name}/")["asked"].strip())
    assert f"{asked:%H:%M:%S}" == "03:15:00"
    assert (job.status, job.display_name) == ("Completed", f"{work.name}-{asked:%Y%m%dT%H%M%SZ}")
    assert (job.tags, job.experiment_name) == ({"of": "the job"}, work.name)
    assert job.properties["azureml.scheduleName"] == work.name
    assert job.name != job.display_name
    assert job.name in {each.name for each in work.ml.jobs.list(schedule_defined=True)}


def test_times_that_the_clock_jumps_over_are_made_up_for_in_their_order(work: Scheduled) -> None:
    work.write(work.schedule(hourly()))
    work.advance(3 * HOUR)
    times = [work.files(f"notes/{job.name}/")["asked"].strip() for job in work.fired(3)]
    moments = [datetime.fromisoformat(text) for text in times]
    assert [later - earlier for earlier, later in pairwise(moments)] == [timedelta(hours=1)] * 2


def test_it_makes_up_for_so_many_only(azure: Azure, work: Scheduled) -> None:
    """And goes on from the present."""
    azure.control("POST", "/azure-ml/outcomes", {"kind": "job", "job": f"{work.name}*", "times": 1000})
    work.write(work.schedule(RecurrenceTrigger(frequency="day", interval=1)))
    work.advance(400 * 24 * HOUR)
    until(lambda: len(work.jobs()) >= CATCH_UP, "it has made up for what it can")
    assert len(work.jobs()) == CATCH_UP
    work.advance(24 * HOUR)
    until(lambda: len(work.jobs()) > CATCH_UP, "it fires again")
    assert len(work.jobs()) == CATCH_UP + 1


def test_it_rests_while_it_is_disabled(work: Scheduled) -> None:
    work.write(work.schedule(hourly()))
    work.ml.schedules.begin_disable(work.name).result()
    assert work.ml.schedules.get(work.name).is_enabled is False
    work.advance(5 * HOUR)
    work.ml.schedules.begin_enable(work.name).result()
    work.advance(HOUR)
    work.fired(1)
    assert len(work.jobs()) == 1, "what was due meanwhile is not made up for"


def test_it_is_changed_as_a_whole(work: Scheduled) -> None:
    work.write(work.schedule(hourly(), tags={"a": "b"}, description="before"))
    schedule: Any = work.ml.schedules.get(work.name)
    assert schedule.create_job.component == work.pipeline_id
    assert schedule.create_job.settings.default_compute.endswith("/computes/cpu-cluster")
    schedule.trigger = CronTrigger(expression="15 3 * * 1-5", time_zone="W. Europe Standard Time")
    schedule.tags = {"c": "d"}
    work.write(schedule)
    changed: Any = work.ml.schedules.get(work.name)
    assert (changed.trigger.expression, changed.tags, changed.description) == ("15 3 * * 1-5", {"c": "d"}, "before")


def test_it_is_triggered_by_hand(work: Scheduled) -> None:
    work.write(work.schedule(hourly()))
    started = work.ml.schedules.trigger(work.name, schedule_time=work.now().isoformat())
    (job,) = work.fired(1)
    assert (job.name, job.status) == (started.job_name, "Completed")
    assert job.display_name.startswith(f"{work.name}-")


def test_it_is_deleted_once_it_is_disabled(work: Scheduled) -> None:
    work.write(work.schedule(hourly()))
    with pytest.raises(HttpResponseError, match="disable it before") as refused:
        work.ml.schedules.begin_delete(work.name)
    assert refused.value.status_code == 400
    work.ml.schedules.begin_disable(work.name).result()
    assert work.name not in {each.name for each in work.ml.schedules.list()}
    work.ml.schedules.begin_delete(work.name).result()
    with pytest.raises(ResourceNotFoundError):
        work.ml.schedules.get(work.name)


def test_a_failed_schedule_does_not_fire(azure: Azure, work: Scheduled) -> None:
    azure.control("POST", "/azure-ml/outcomes", {"kind": "schedule", "endpoint": work.name, "message": "Not today"})
    with pytest.raises(HttpResponseError, match="Not today"):
        work.write(work.schedule(hourly()))
    assert work.ml.schedules.get(work.name).provisioning_state == "Failed"
    work.advance(2 * HOUR)
    assert work.jobs() == []


def test_while_it_changes_nothing_else_may(azure: Azure, work: Scheduled) -> None:
    path = f"{DEV.arm_id}/schedules/{work.name}"
    work.write(work.schedule(hourly(), is_enabled=False))
    body = azure.arm("GET", path).json()
    held = azure.control("POST", "/azure-ml/outcomes", {"kind": "schedule", "endpoint": work.name, "outcome": "stick"})
    first = azure.arm("PUT", path, json=body)
    assert (first.status_code, first.json()["properties"]["provisioningState"]) == (200, "Updating")
    assert azure.arm("PUT", path, json=body).status_code == 409
    assert azure.arm("DELETE", path).status_code == 409
    azure.control("DELETE", f"/azure-ml/outcomes/{held['number']}")
    assert azure.finished(first) == {"status": "Succeeded"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"componentId": "nowhere"}, "nowhere"),
        (
            {"inputs": {"asked": {"jobInputType": "custom_model", "uri": f"{DEV.arm_id}/models/gone/versions/1"}}},
            "gone",
        ),
        ({"settings": {"default_compute": f"{DEV.arm_id}/computes/gpu"}}, "gpu"),
        ({"jobType": "Command"}, "pipeline jobs"),
    ],
)
def test_what_could_never_run_is_refused(azure: Azure, work: Scheduled, change: dict[str, Any], named: str) -> None:
    body: Any = {"properties": work.schedule(hourly())._to_rest_object().as_dict()["properties"]}
    body["properties"]["action"]["jobDefinition"] |= change
    answer = azure.arm("PUT", f"{DEV.arm_id}/schedules/{work.name}", json=body)
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["error"]["message"]
    assert azure.arm("GET", f"{DEV.arm_id}/schedules/{work.name}").status_code == 404


def test_a_trigger_that_is_not_understood_is_refused(work: Scheduled) -> None:
    with pytest.raises(HttpResponseError, match="Europe/Berlin") as refused:
        work.write(work.schedule(CronTrigger(expression="0 3 * * *", time_zone="Europe/Berlin")))
    assert refused.value.status_code == 400
