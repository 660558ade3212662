"""Stages of a rule, triggers above all: what Azure ML would ignore or misread in silence is refused by name."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from core.policy_file import PolicyInvalid, parse
from core.schedules import JobSchedule
from core.time_zones import TIME_ZONES
from tests.unit.builders import a_batch_stage, a_policy_with

CRON = {"type": "cron", "expression": "0 3 * * *"}
DAILY = {"type": "recurrence", "frequency": "day", "interval": 1, "schedule": {"hours": 3, "minutes": 0}}


def a_trigger(**trigger: Any) -> JobSchedule:
    return JobSchedule.model_validate({"trigger": trigger})


@pytest.mark.parametrize(
    "trigger",
    [
        CRON,
        CRON | {"expression": "*/15 8-18 * * 1-5"},
        CRON | {"expression": "0,30 3 * * 0,6"},
        CRON | {"expression": "0 0 * * 7"},
        CRON | {"time_zone": "W. Europe Standard Time", "start_time": "2026-12-01T03:00:00"},
        DAILY,
        DAILY | {"frequency": "minute", "interval": 15, "schedule": None},
        DAILY | {"frequency": "hour", "schedule": None},
        DAILY | {"frequency": "week", "schedule": {"hours": [3], "minutes": [0], "week_days": ["monday", "friday"]}},
        DAILY | {"frequency": "week", "schedule": {"hours": 3, "minutes": 0, "week_days": "sunday"}},
        DAILY | {"frequency": "month", "schedule": {"hours": [3], "minutes": [0, 30], "month_days": [1, 31]}},
        DAILY | {"start_time": datetime(2026, 12, 1, 3, 0), "end_time": "2027-12-01T03:00"},
    ],
)
def test_a_trigger_of_azure_ml_is_taken(trigger: dict[str, Any]) -> None:
    assert a_trigger(**trigger).trigger.type == trigger["type"]


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        (CRON | {"expression": "0 3 1 * *"}, "Azure ML ignores day of month and month"),
        (CRON | {"expression": "0 3 * 6 *"}, "Azure ML ignores day of month and month"),
        (CRON | {"expression": "0 3 * *"}, "must have five fields"),
        (CRON | {"expression": "61 3 * * *"}, "'61' is no minute (0 to 59)"),
        (CRON | {"expression": "0 3 * * mon"}, "'mon' is no day of week"),
        (CRON | {"expression": "*/0 3 * * *"}, "is no minute"),
        (CRON | {"expression": "30-10 3 * * *"}, "is no minute"),
        (CRON | {"time_zone": "Europe/Berlin"}, "use a Windows name, such as 'W. Europe Standard Time'"),
        (CRON | {"start_time": "2026-12-01T03:00:00Z"}, "must be a local time without offset"),
        (CRON | {"start_time": datetime(2026, 12, 1, tzinfo=UTC)}, "must be a local time without offset"),
        (CRON | {"start_time": "2026-13-01T03:00:00"}, "month must be in 1..12"),
        (DAILY | {"interval": 0}, "greater than or equal to 1"),
        (DAILY | {"frequency": "year"}, "'minute', 'hour', 'day', 'week' or 'month'"),
        (DAILY | {"frequency": "hour"}, "a recurrence by hour has no `schedule`"),
        (DAILY | {"frequency": "month"}, "a recurrence by month needs month_days"),
        (DAILY | {"schedule": {"hours": 3, "minutes": 0, "week_days": ["monday"]}}, "belong to a recurrence by week"),
        (DAILY | {"schedule": {"hours": 3, "minutes": 0, "month_days": [1]}}, "belong to a recurrence by month"),
        (DAILY | {"schedule": {"hours": 24, "minutes": 0}}, "less than or equal to 23"),
        (DAILY | {"schedule": {"hours": [], "minutes": 0}}, "at least 1 item"),
        ({"type": "once"}, "'cron', 'recurrence'"),
    ],
)
def test_a_trigger_that_would_not_do_what_it_says_is_refused(trigger: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        a_trigger(**trigger)
    assert why in str(refused.value)


def test_time_zones_are_those_of_the_sdk() -> None:
    from azure.ai.ml.constants import TimeZone

    assert {zone.value for zone in TimeZone} == set(TIME_ZONES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", "https://account.blob.core.windows.net/in/"),
        ("input", "azureml://datastores/d/paths/../secrets/"),
        ("input", "azureml://datastores/d/paths/in/{version}/"),
        ("output", "out/"),
        ("test_data", "azureml:my-data:1"),
        ("output_file_name", "predictions.xlsx"),
        ("output_file_name", "../predictions.csv"),
        ("error_threshold", -2),
        ("mini_batch_size", 0),
        ("compute", ""),
        ("overlap", "cancel"),
        ("overlap_timeout", "a day"),
        ("instance_type", "Standard_DS3_v2"),
    ],
)
def test_a_batch_stage_that_cannot_work_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        a_batch_stage(**{field: value})


def test_model_stands_for_the_models_name() -> None:
    stage = a_batch_stage(input="azureml://datastores/d/paths/in/{model}/", output="azureml://datastores/d/paths/out")
    assert (stage.input_for("churn"), stage.output_for("churn")) == (
        "azureml://datastores/d/paths/in/churn/",
        "azureml://datastores/d/paths/out/",
    )


BATCH = """\
      - target: prod
        serve: batch
        compute: cpu-cluster
        input: azureml://datastores/d/paths/in/
        output: azureml://datastores/d/paths/out/
        schedule:
          trigger:
            type: cron
            expression: 0 3 * * *
"""
REALTIME = """\
      - target: prod
        serve: realtime
        endpoint: "{model}"
        instance_count: 1
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("0 3 * * *", "0 3 1 * *", "line 25: rules.0.stages.0.schedule.trigger: Azure ML ignores"),
        ("compute: cpu-cluster", "computer: x", "rules.0.stages.0.compute: is required"),
        (
            "compute: cpu-cluster",
            "compute: x\n        instance_type: y",
            "line 22: rules.0.stages.0.instance_type: unknown",
        ),
        ("type: cron", "type: once", "line 25: rules.0.stages.0.schedule.trigger: is 'once', none of"),
        ("serve: batch", "serve: both", "line 19: rules.0.stages.0: is 'both', none of"),
    ],
)
def test_mistakes_in_a_batch_stage_are_told_by_line_and_field(old: str, new: str, problem: str) -> None:
    content = a_policy_with(REALTIME, BATCH.replace(old, new))
    with pytest.raises(PolicyInvalid) as invalid:
        parse(content)
    assert problem in str(invalid.value)


def test_real_time_and_batch_endpoints_may_have_one_name() -> None:
    assert len(parse(a_policy_with(REALTIME, REALTIME + BATCH)).policy.rules[0].stages) == 2
