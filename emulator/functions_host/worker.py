"""Microsoft's Python worker library, and the part of the host's contract with it that needs no trigger.

The library is five coroutines that take the requests of the FunctionRpc protocol. It keeps its state in its modules, and
imports an app as `function_app`, so a process can hold one app only.
"""

import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import azure_functions_runtime as library

from emulator.functions_host.configuration import resolve_settings

PROTOS = "_functions_rpc"


def _load_protos() -> tuple[ModuleType, ModuleType]:
    """The protocol's message types: the namespace that the library expects, and the module with all of them.

    The wheel of `azure-functions-runtime-v1` holds them as `tests.protos`, a name that any project's own tests shadow;
    so they are loaded by file, under a name of ours.
    """
    directory = Path(
        str(importlib.metadata.distribution("azure-functions-runtime-v1").locate_file("tests/protos"))  # the only copy
    )
    spec = importlib.util.spec_from_file_location(
        PROTOS, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    if spec is None or spec.loader is None or not (directory / "__init__.py").is_file():
        raise ImportError(
            "azure-functions-runtime-v1 ships no tests/protos; install the version that the Makefile pins"
        )
    namespace = importlib.util.module_from_spec(spec)
    sys.modules[PROTOS] = namespace
    spec.loader.exec_module(namespace)
    return namespace, sys.modules[f"{PROTOS}.FunctionRpc_pb2"]


NAMESPACE, rpc = _load_protos()
TypedData = Any  # rpc.TypedData; protobuf's classes are made at run time and unknown to type checkers


class IndexingError(Exception):
    """The worker library refused the app, in its words."""


class UnsupportedFunctionError(Exception):
    """The app is valid, but needs something of the host that this one does not do."""


@dataclass(frozen=True)
class Function:
    """An indexed function. `trigger` is its trigger binding, with app settings resolved."""

    name: str
    function_id: str
    trigger: Mapping[str, Any]

    @property
    def trigger_type(self) -> str:
        return str(self.trigger["type"])

    @property
    def is_batch(self) -> bool:
        return str(self.trigger.get("cardinality", "one")).lower() == "many"


@dataclass(frozen=True)
class InvocationResult:
    """What came of one invocation: its return value, or the error's text and stack trace as the worker gave them."""

    succeeded: bool
    value: TypedData | None = None
    error: str = ""
    stack_trace: str = ""


def _request(**message: Any) -> SimpleNamespace:
    return SimpleNamespace(
        request=rpc.StreamingMessage(**message), properties={"host": "127.0.0.1", "protos": NAMESPACE}
    )


async def index(app: Path) -> list[Function]:
    """Start the worker and have it index the app; raise IndexingError with its text if it refuses."""
    sys.path.insert(0, str(app))
    library.start_threadpool_executor()
    started = await library.worker_init_request(
        _request(worker_init_request=rpc.WorkerInitRequest(function_app_directory=str(app)))
    )
    if started.result.status != rpc.StatusResult.Success:
        exception = started.result.exception
        raise IndexingError(f"{exception.message}\n{exception.stack_trace}".strip())
    if "HttpUri" in started.capabilities:
        raise UnsupportedFunctionError("The app streams HTTP (azurefunctions-extensions-http-fastapi).")
    metadata = (await library.functions_metadata_request(_request())).function_metadata_results
    if not metadata:
        raise IndexingError(f"No functions were found in {app / 'function_app.py'}.")
    return [await _load(function) for function in metadata]


async def _load(metadata: Any) -> Function:
    function_id = metadata.function_id
    await library.function_load_request(
        _request(function_load_request=rpc.FunctionLoadRequest(function_id=function_id))
    )
    bindings = [json.loads(binding) for binding in metadata.raw_bindings]
    outputs = [binding["type"] for binding in bindings if binding["direction"].upper() == "OUT"]
    if unsupported := [binding for binding in outputs if binding != "http"]:
        raise UnsupportedFunctionError(f"The '{metadata.name}' function has output bindings: {', '.join(unsupported)}.")
    if metadata.HasField("retry_options"):
        raise UnsupportedFunctionError(f"The '{metadata.name}' function has a retry policy.")
    trigger = next(binding for binding in bindings if binding["type"].endswith("Trigger"))
    return Function(
        name=metadata.name,
        function_id=function_id,
        trigger={key: resolve_settings(value, metadata.name) for key, value in trigger.items()},
    )


async def invoke(
    function: Function, invocation_id: str, data: TypedData, metadata: Mapping[str, TypedData], traceparent: str
) -> InvocationResult:
    """Run the function once with `data` as what its trigger brings. Never raises for an error of the function."""
    library.invocation_id_cv.set(invocation_id)
    answer = await library.invocation_request(
        _request(
            invocation_request=rpc.InvocationRequest(
                invocation_id=invocation_id,
                function_id=function.function_id,
                input_data=[rpc.ParameterBinding(name=function.trigger["name"], data=data)],
                trigger_metadata=metadata,
                trace_context=rpc.RpcTraceContext(trace_parent=traceparent),
            )
        )
    )
    if answer.result.status == rpc.StatusResult.Success:
        return InvocationResult(True, value=answer.return_value if answer.HasField("return_value") else None)
    exception = answer.result.exception
    return InvocationResult(False, error=exception.message, stack_trace=exception.stack_trace)
