"""Orders that break off anywhere and come again, at once or late; and promotions that people ask for."""

import threading
from collections.abc import Callable

import pytest

from core.ledger import Promotion, State
from tests import models
from tests.functions.api import ADA, BOB, PLACE, Api

# -------------------------------------------------------------------------------------- crashes, and the same order again

Case = tuple[str, Callable[[Api], tuple[Promotion, str]], list[str]]


def _retry(api: Api) -> tuple[Promotion, str]:
    row = api.promotion(State.REFUSED)
    return row, f"promotions/{row.id}/retry"


def _redeploy(api: Api) -> tuple[Promotion, str]:
    row = api.promotion(State.SUCCEEDED)
    return row, f"promotions/{row.id}/redeploy"


def _cancel(api: Api) -> tuple[Promotion, str]:
    row = api.promotion(State.WAITING)
    return row, f"promotions/{row.id}/cancel"


def _roll_back(api: Api) -> tuple[Promotion, str]:
    row = api.live_versions(State.SUCCEEDED, State.SUCCEEDED)[0]
    return row, f"{PLACE}/{row.endpoint}/rollback"


def _retire(api: Api) -> tuple[Promotion, str]:
    (row,) = api.live_versions(State.SUCCEEDED)
    return row, f"{PLACE}/{row.endpoint}/retire"


@pytest.mark.parametrize("phase", [pytest.param("before", marks=pytest.mark.exhaustive), "after"])
@pytest.mark.parametrize(
    ("asked", "done", "sent"),
    [
        (_retry, ["retry"], ["ID:2:0"]),
        (_redeploy, ["redeploy"], ["ID:2:0"]),
        (_cancel, ["cancel"], ["cancel"]),
        (_roll_back, ["hold", "roll_back"], ["hold", "ID:2:0"]),
        (_retire, ["hold", "retire"], ["hold", "ID:2:0"]),
    ],
)
def test_an_order_that_broke_off_anywhere_is_completed_by_repeating_it(
    api: Api, asked: Callable[[Api], tuple[Promotion, str]], done: list[str], sent: list[str], phase: str
) -> None:
    """Each write in turn fails, or is done without anybody hearing of it."""
    for fault in ({"service": "table", "method": "PUT"}, {"service": "service_bus", "method": "SEND"}):
        for skip in range(20):
            row, path = asked(api)
            began = len(api.actions(row))
            number = api.azure.control.plant(**fault, phase=phase, skip=skip, status=503)
            first = api.post(path, {"reason": "r"}, **{"Idempotency-Key": "once", **ADA})
            is_past_the_end = not api.azure.control.fault(number)["met"]
            api.azure.control.clear_faults()
            again = api.post(path, {"reason": "r"}, **{"Idempotency-Key": "once", **ADA})

            assert (first.status, again.status) in ((503, 202), (202, 202)), (first.json, again.json)
            assert sorted(api.actions(row)[began:]) == done, (fault, skip)
            messages = [name.replace(row.id, "ID") for name in api.sent(row)]
            assert [name if name.startswith("ID") else name.partition(":")[0] for name in messages] == sent
            assert api.now(row.id).attempt == (1 if done == ["cancel"] else 2)
            if is_past_the_end:
                break
        else:
            pytest.fail(f"{path} never came to its end")


def test_keys_that_differ_and_callers_that_differ_are_different_orders(api: Api) -> None:
    row = api.promotion(State.WAITING)
    for headers in ({"Idempotency-Key": "1"}, {"Idempotency-Key": "2"}, {"Idempotency-Key": "1", **ADA}, {}, {}):
        assert api.post(f"promotions/{row.id}/cancel", **headers).status == 202
    assert len(set(api.sent(row))) == 5


def test_of_two_orders_at_once_one_is_accepted(api: Api) -> None:
    row = api.promotion(State.REFUSED)
    start, statuses = threading.Barrier(4), []

    def retry() -> None:
        start.wait()
        statuses.append(api.post(f"promotions/{row.id}/retry").status)

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(202) == 1
    assert set(statuses) <= {202, 409, 503}
    assert api.now(row.id).attempt == 2
    assert api.sent(row) == [f"{row.id}:2:0"]


# --------------------------------------------------------------------------------------------- promotions that are asked for


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> models.SavedModel:
    return models.regression_with_example(tmp_path_factory.mktemp("models"))


@pytest.fixture
def registered(api: Api, saved: models.SavedModel) -> Callable[[str], dict[str, str]]:
    """Registers a model in the source, with the real SDK."""

    def register(name: str) -> dict[str, str]:
        from azure.ai.ml.entities import Model

        client = api.azure.ml_client(api.azure.endpoints["source"])
        model = client.models.create_or_update(Model(name=name, path=str(saved.folder), type="mlflow_model"))
        return {"source": "dev", "model": name, "version": str(model.version)}

    return register


def test_a_person_asks_for_a_promotion(api: Api, registered: Callable[[str], dict[str, str]]) -> None:
    asked = registered("asked-once") | {"reason": "we need it", "rule": "people-only"}
    answers = [api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA}) for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202], answers
    row = api.now(answers[0]["id"])
    assert (row.trigger, row.rule, row.requested_by, row.attempt) == ("requested", "people-only", "Ada", 1)
    assert row.order is not None
    assert (row.order.verb, row.order.reason) == ("promote", "we need it")
    assert api.sent(row) == [f"{row.id}:0"]
    assert api.actions(row) == ["promote"]
    assert api.command(row).generation_time == row.order.at

    under_way = api.post("promotions", asked, **BOB)
    assert (under_way.status, under_way["id"], under_way["order"]["by"]) == (202, row.id, "Ada")
    assert api.actions(row) == ["promote"]

    api.ledger.save(api.now(row.id).model_copy(update={"state": State.REFUSED}))
    assert api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})["state"] == "refused", "the same order"
    anew = api.post("promotions", asked, **{"Idempotency-Key": "q", **BOB})
    assert (anew["id"], anew["attempt"], anew["state"], anew["order"]["by"]) == (row.id, 2, "requested", "Bob")
    assert api.sent(row) == [f"{row.id}:0", f"{row.id}:2:0"]
    api.ledger.save(api.now(row.id).model_copy(update={"state": State.REFUSED}))
    late = api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})
    assert (late["attempt"], api.now(row.id).attempt) == (2, 2), "an old order that comes late"


@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_request_that_broke_off_anywhere_is_completed_by_repeating_it(
    api: Api, registered: Callable[[str], dict[str, str]], phase: str
) -> None:
    for fault in (
        {"service": "table", "method": "POST"},
        {"service": "table", "method": "PUT"},
        {"service": "service_bus", "method": "SEND"},
    ):
        for skip in range(9):
            asked = registered(f"asked-{phase}-{fault['method'].lower()}-{skip}")
            number = api.azure.control.plant(**fault, phase=phase, skip=skip, status=503)
            first = api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})
            is_past_the_end = not api.azure.control.fault(number)["met"]
            api.azure.control.clear_faults()
            row = api.now(api.post("promotions", asked, **{"Idempotency-Key": "p", **ADA})["id"])
            assert first.status in (202, 503)
            assert (row.attempt, api.actions(row), api.sent(row)) == (1, ["promote"], [f"{row.id}:0"])
            if is_past_the_end:
                break


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"source": "moon"}, "source_unknown", "none of the policy's sources: dev"),
        ({"model": "nobody-s"}, "not_allowed", "no rule is about models named"),
        ({"model": "secret-one"}, "not_allowed", "no rule is about models named"),
        ({"model": "asked-never"}, "model_not_found", "asked-never"),
        ({"version": "99"}, "model_not_found", "99"),
        ({"rule": "guarded"}, "not_allowed", "rule 'guarded' is not the one that decides"),
    ],
)
def test_what_nobody_can_ask_for(
    api: Api, registered: Callable[[str], dict[str, str]], changes: dict[str, str], reason: str, detail: str
) -> None:
    asked = registered("asked-in-vain") | changes
    answer = api.post("promotions", asked)
    assert (answer.status, answer["reason"], detail in answer["detail"]) == (422, reason, True), answer.json
