"""`python -m emulator` from outside: what it says when it is ready, and that nothing is left of it, however it ends."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.identity import ManagedIdentityCredential
from azure.storage.blob import BlobServiceClient

from emulator.control_client import ControlClient

REPOSITORY = Path(__file__).parents[2]
READY = "endpoints.json"
# Starts a local Azure and waits for it: the parent whose death it has to notice.
PARENT = """
import subprocess, sys
azure = subprocess.Popen([sys.executable, "-m", "emulator", "--directory", sys.argv[1], "--die-with-parent"],
                         stdin=subprocess.PIPE)
azure.wait()
"""
# Spawns the command of its arguments on a leash, tells that it runs, and waits for it.
HOLDER = """
import asyncio, os, sys
from pathlib import Path
from emulator.processes import spawn
async def main():
    child = await spawn("child", sys.argv[2:], environment=os.environ, log=Path(sys.argv[1]))
    print(child.pid, flush=True)
    print(await child.wait(), flush=True)
asyncio.run(main())
"""
# A child that ignores requests to end, with a child of its own that does as well.
STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print("runs", file=sys.stderr, flush=True)
signal.pause()
"""


def everything_under(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@contextmanager
def running(*command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of its own group; killed with all that it started, if the test has left any."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
    )
    started: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "it ended before it was ready"
        started = everything_under(process)
        yield process
    finally:
        for left in started:
            if left.is_running():
                left.kill()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_endpoints_json_is_all_that_a_client_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running("-m", "emulator", "--directory", str(tmp_path)) as process:
        endpoints: dict[str, Any] = json.loads((tmp_path / READY).read_text())
        assert stat.S_IMODE((tmp_path / READY).stat().st_mode) == 0o600
        assert set(endpoints["targets"]) == {"prod", "test"}
        assert set(endpoints["source"]) == {"subscription_id", "resource_group", "workspace"}
        assert set(endpoints["storage_accounts"]) == {"stmldev", "stmlprod", "stmltest", "stpromotion"}

        monkeypatch.setenv("HTTPS_PROXY", endpoints["https_proxy"])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", endpoints["ca_bundle"])
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name, value in endpoints["credential"].items():
            monkeypatch.setenv(name, value)
        blobs = BlobServiceClient(endpoints["ledger"]["blob_url"], credential=ManagedIdentityCredential())
        with pytest.raises(ResourceNotFoundError):
            blobs.get_container_client("nobody-made-this").get_container_properties()
        control = ControlClient(endpoints["control_url"])
        assert control.requests(service="blob")[-1]["principal"] == "data-scientist"

        listening = {
            connection.laddr.ip
            for each in everything_under(process)
            for connection in each.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_no_secret(tmp_path: Path, number: signal.Signals) -> None:
    with running("-m", "emulator", "--directory", str(tmp_path)) as process:
        processes = everything_under(process)
        assert len(processes) >= 3  # itself, a leash and Azurite
        process.send_signal(number)
        assert process.wait(30) == 0
        assert_gone(processes)
    assert not (tmp_path / READY).exists()
    assert not (tmp_path / "azurite").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


def test_a_signal_before_it_is_ready_ends_it_as_well(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "emulator", "--directory", str(tmp_path)], cwd=REPOSITORY)
    try:
        log = tmp_path / "azurite.log"
        wait_until(log.exists)
        processes = everything_under(process)
        process.terminate()
        assert process.wait(30) == 0
        assert_gone(processes)
        assert not (tmp_path / READY).exists()
    finally:
        process.kill()
        process.wait()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    with running("-c", PARENT, str(tmp_path)) as parent:
        processes = everything_under(parent)
        assert len(processes) >= 4
        parent.kill()
        assert_gone(processes)
    assert not (tmp_path / READY).exists()


def test_its_children_die_with_it(tmp_path: Path) -> None:
    with running("-m", "emulator", "--directory", str(tmp_path)) as process:
        processes = everything_under(process)
        process.kill()
        process.wait()
        assert_gone(processes)


def wait_until(holds: Callable[[], bool]) -> None:
    """Look until this holds; the tests' own time limit ends it."""
    while not holds():
        os.sched_yield()


def test_a_stubborn_child_and_its_own_child_die_with_the_holder_of_the_leash(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running("-c", HOLDER, str(log), sys.executable, "-c", STUBBORN) as holder:
        wait_until(lambda: log.read_text().count("runs") == 2)
        processes = everything_under(holder)
        assert len(processes) == 4  # the holder, the leash, the child and its child
        holder.kill()
        assert_gone(processes)


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("sleep 300 & exit 3", 3)])
def test_a_child_that_ends_is_noticed_with_its_status(tmp_path: Path, command: str, status: int) -> None:
    """And what it leaves behind goes with it."""
    with running("-c", HOLDER, str(tmp_path / "log"), "/bin/sh", "-c", command) as holder:
        processes = everything_under(holder)
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) == status
        assert_gone(processes)
