"""What a deployment that takes ten minutes costs the worker, against a function that waits for it.

On the real clock: the local Azure takes ten minutes to create the deployment, and so does this benchmark. Compared with
the SDK's own poller, which holds a thread (and with it a function) all the while and asks every five seconds, by the
constants of azure-ai-ml 1.35.2. Worker seconds are the durations of the function's invocations, as the host logs them.
"""

import argparse
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests import models
from tests.e2e.test_realtime import register
from tests.local import REPOSITORY, LocalAzure, started

INVOCATION = re.compile(r"Executed 'Functions\.worker' \(Succeeded, .*Duration=(\d+)ms\)")
SDK_POLL_SECONDS = 5.0
POLICY = REPOSITORY / "promotion.sample.yaml"


def promoted(azure: LocalAzure, name: str, folder: Path) -> None:
    register(azure, name, models.regression_with_example(folder), **{"promote-to": "prod"})


def measure(azure: LocalAzure, folder: Path, minutes: float) -> dict[str, Any]:
    promoted(azure, "warm-up", folder)
    azure.wait_for_end("warm-up")  # imports and connections are not what is measured
    azure.control.put("/azure-ml/durations", {"deployment": minutes * 60})
    host = psutil.Process(azure.control.get("/function-app")["pid"])
    log = Path(azure.control.get("/function-app")["log"])
    logged = log.stat().st_size
    newest = max(int(entry["number"]) for entry in azure.control.requests())
    began = time.monotonic()
    most_threads = 0
    promoted(azure, "ten-minutes", folder)
    seen = newest
    while not any(row["state"] == "succeeded" for row in azure.promotions_of("ten-minutes")):
        most_threads = max(most_threads, host.num_threads())
        seen = azure.control.next_write(seen, seconds=60.0)
    invocations = [int(found) for found in INVOCATION.findall(log.read_bytes()[logged:].decode(errors="replace"))]
    asked = azure.control.requests(newest, principal="promotion-service", service="arm")
    requests = [entry for entry in asked if "ten-minutes" in entry["path"]]
    return {
        "worker": sum(invocations) / 1000,
        "hops": len(invocations),
        "requests": len(requests),
        "threads": most_threads,
        "wall": time.monotonic() - began,
    }


def main(minutes: float = 10.0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with started(directory / "azure", app=REPOSITORY, policy=POLICY) as azure:
            os.environ.update(azure.client_environment)
            os.environ.pop("CURL_CA_BUNDLE", None)
            found = measure(azure, directory, minutes)
    waited = minutes * 60.0
    table = Table(title=f"A deployment of {minutes:.0f} minutes (real clock)", title_justify="left")
    for column in ("", "promotion", "SDK poller in a function", "ratio"):
        table.add_column(column)
    polls = waited / SDK_POLL_SECONDS
    table.add_row(
        "requests to Resource Manager", str(found["requests"]), f"{polls:.0f}", f"{found['requests'] / polls:.2f}"
    )
    table.add_row("worker seconds", f"{found['worker']:.2f}", f"{waited:.0f}", f"{found['worker'] / waited:.4f}")
    Console(width=100).print(table)
    summary = (
        f"{found['hops']} hops, at most {found['threads']} threads in the host, {found['wall']:.0f} s of real time"
    )
    Console(width=100).print(summary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a long deployment costs the worker.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the deployment takes")
    main(parser.parse_args().minutes)
