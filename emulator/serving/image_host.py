"""Runs in the serving image's own Python and starts one inference server for each deployment.

Importing the server, MLflow, pandas and scikit-learn takes seconds, so this process imports them once and forks; each
child then enters `azureml_inference_server_http.amlserver.run()`, which is all that the `azmlinfsrv` command does. A
server that needs another Python environment is this file again, run by that environment's interpreter with the entry
script as its argument.

Orders come as JSON lines on stdin, reports leave as JSON lines on stdout. When stdin ends, because whoever started us
stopped or was killed, every server is killed and this process ends.
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.abc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

# What a deployment would otherwise import at its start. `server.config` is left out: it reads the environment.
PRELOADED = (
    "azureml_inference_server_http.amlserver",
    "azureml_inference_server_http.amlserver_linux",
    "gunicorn.workers.sync",
    "flask",
    "flask_cors",
    "pydantic_settings",
    "azure.monitor.opentelemetry.exporter",
    "opentelemetry.sdk._logs.export",
    "inference_schema.schema_decorators",
    "inference_schema.schema_util",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "mlflow.utils.proto_json_utils",
    "pandas",
    "joblib",
    "skops.io",
    "sklearn.pipeline",
    "sklearn.linear_model",
    "sklearn.ensemble",
)
# The descriptor at which a server finds its listening socket: the convention of systemd's socket activation, which
# gunicorn follows. So the server answers on a free loopback port instead of on all interfaces, its own default.
LISTENER = 3
PR_SET_PDEATHSIG = 1


def main() -> None:
    reports = os.dup(1)
    os.dup2(2, 1)
    for module in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _know_packages()
    gc.collect()
    gc.freeze()
    Host(reports).run()


def _know_packages() -> None:
    """MLflow compares a model's requirements with what is installed when it loads one, and reads that once a process."""
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("mlflow.utils.requirements_utils")._init_packages_to_modules_map()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Host:
    """One single-threaded loop over orders, and over the ends of servers."""

    def __init__(self, reports: int) -> None:
        self._reports = reports
        self._servers: dict[int, str] = {}  # process id -> the name under which it was ordered
        self._unread = b""

    def run(self) -> None:
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ, self._read_orders)
        selector.register(woken, selectors.EVENT_READ, lambda: os.read(woken, 4096))
        while True:
            for key, _ in selector.select():
                key.data()
            self._reap()

    def _read_orders(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self._end()
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        if order["order"] == "start":
            self._start(order)
        else:
            self._signal(order["name"], {"stop": signal.SIGTERM, "kill": signal.SIGKILL}[order["order"]])

    def _start(self, order: dict[str, Any]) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        process = os.fork()
        if process == 0:
            _serve(order, listener.fileno())
        self._servers[process] = order["name"]
        self._report({"started": order["name"], "process": process, "port": listener.getsockname()[1]})
        listener.close()

    def _signal(self, name: str, number: signal.Signals) -> None:
        """TERM goes to the server's master, which lets requests finish; KILL to its whole process group."""
        for process in [process for process, of in self._servers.items() if of == name]:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(process, number)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                process, status = ended
                # A master that was killed leaves its workers behind.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                if name := self._servers.pop(process, None):
                    self._report({"exited": name, "code": os.waitstatus_to_exitcode(status)})

    def _report(self, report: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._reports, json.dumps(report).encode() + b"\n")

    def _end(self) -> NoReturn:
        for process in self._servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        os._exit(0)


class Absent(importlib.abc.MetaPathFinder):
    """Hides modules of the image that a deployment's own environment would not have."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _serve(order: dict[str, Any], listener: int) -> NoReturn:
    """Become the server of one deployment. Never returns into the host's loop."""
    code: object = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _take_over_descriptors(order["log"], listener)
        os.environ.clear()
        os.environ.update(order["environment"], LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        if not order["python"]:
            # gunicorn's control socket has one path, fixed when it was imported: it would be shared by all servers.
            os.environ.setdefault("GUNICORN_CMD_ARGS", "--no-control-socket")
        os.chdir(order["directory"])
        if order["python"]:
            os.execv(order["python"], [order["python"], "-P", __file__, order["entry_script"]])  # noqa: S606
        sys.meta_path.insert(0, Absent(order["absent"]))
        _enter_server(order["entry_script"])
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _enter_server(entry_script: str) -> None:
    sys.argv = ["azmlinfsrv", "--entry_script", entry_script]
    from azureml_inference_server_http import amlserver

    amlserver.run()


def _take_over_descriptors(log: str, listener: int) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    kept = os.dup(listener)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(kept, LISTENER)
    os.closerange(LISTENER + 1, 256)


if __name__ == "__main__":
    os.register_at_fork(after_in_child=_die_with_parent)
    if sys.argv[1:]:
        _enter_server(sys.argv[1])
    else:
        main()
