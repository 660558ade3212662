"""A function app of each trigger, which the tests of the local host drive. What runs is told in the file RECORD."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any, List  # noqa: UP035 -- the worker library refuses list[...]

import azure.functions as func

app = func.FunctionApp()


def record(**entry: Any) -> None:
    with Path(os.environ["RECORD"]).open("a") as lines:
        lines.write(json.dumps(entry) + "\n")


def obey(order: dict[str, Any]) -> None:
    """Do to this invocation what the test wants: wait at a named pipe until it is opened, or fail."""
    if gate := order.get("gate"):
        Path(gate).read_bytes()
    if error := order.get("error"):
        raise RuntimeError(error)


@app.route("echo/{name}/{number:int?}", methods=["GET", "POST"], auth_level=func.AuthLevel.FUNCTION)
def echo(req: func.HttpRequest) -> func.HttpResponse:
    logging.getLogger("echo").info("echo of %s", req.method)
    seen = {
        "method": req.method,
        "url": req.url,
        "route": dict(req.route_params),
        "query": dict(req.params),
        "principal": req.headers.get("X-MS-CLIENT-PRINCIPAL"),
        "body": list(req.get_body()),
    }
    return func.HttpResponse(
        json.dumps(seen),
        status_code=201,
        mimetype="application/json",
        headers={"X-Seen": "yes", "Set-Cookie": "a=b; Path=/"},
    )


@app.route("echo/first", auth_level=func.AuthLevel.ANONYMOUS)
async def more_specific(req: func.HttpRequest) -> func.HttpResponse:
    await asyncio.sleep(0)
    return func.HttpResponse(b"\x00\xff" + req.get_body(), mimetype="application/octet-stream")


@app.route("files/{*path}", auth_level=func.AuthLevel.ANONYMOUS)
def files(req: func.HttpRequest) -> str:
    return str(req.route_params.get("path", ""))


@app.route("administer", auth_level=func.AuthLevel.ADMIN)
def administer(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(status_code=204)


@app.route("obedient", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
def obedient(req: func.HttpRequest) -> func.HttpResponse:
    obey(req.get_json())
    return func.HttpResponse("done")


@app.event_grid_trigger(arg_name="event")
def on_event(event: func.EventGridEvent) -> None:
    kind = event.type if isinstance(event, func.CloudEvent) else event.event_type
    record(function="on_event", id=event.id, kind=kind, schema=type(event).__name__, data=event.get_json())
    obey(event.get_json())


@app.service_bus_queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="ServiceBus", is_sessions_enabled=True)
def on_session_message(msg: func.ServiceBusMessage) -> None:
    order = json.loads(msg.get_body())
    only = order.get("only_delivery", msg.delivery_count)
    record(
        function="on_session_message",
        order=order,
        id=msg.message_id,
        session=msg.session_id,
        delivery=msg.delivery_count,
        enqueued=msg.enqueued_time_utc.isoformat() if msg.enqueued_time_utc else None,
        sequence=msg.sequence_number,
        properties=msg.user_properties,
    )
    logging.getLogger("sessions").info("Received %s", msg.message_id)
    if msg.delivery_count == only:
        obey(order)


@app.service_bus_queue_trigger(arg_name="msg", queue_name="%PLAIN_QUEUE%", connection="ServiceBus")
async def on_message(msg: func.ServiceBusMessage) -> None:
    record(function="on_message", body=msg.get_body().decode(), id=msg.message_id)


@app.service_bus_queue_trigger(arg_name="msgs", queue_name="%BATCH_QUEUE%", connection="ServiceBus", cardinality="many")
def on_batch(msgs: List[func.ServiceBusMessage]) -> None:  # noqa: UP006
    record(function="on_batch", bodies=[msg.get_body().decode() for msg in msgs], ids=[msg.message_id for msg in msgs])


@app.timer_trigger(arg_name="timer", schedule="%SCHEDULE%", run_on_startup=True)
def on_timer(timer: func.TimerRequest) -> None:
    record(function="on_timer", past_due=timer.past_due)
