"""Runs the three steps of a batch job as Azure ML does: processes, one code folder, files between them."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.recipes.serving import BATCH_SCRIPTS

SCRIPTS = Path(__file__).parents[2] / "core" / "scoring"
# What the runner of a parallel step does in one of its processes, with mini-batches of one file.
# Each in a process of its own, forked from one that has imported what takes seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mlflow.pyfunc", "mlflow.sklearn", "pandas", "sklearn.linear_model"])
RUNNER = """
import importlib.util, json, sys
script, files, *sys.argv[1:] = sys.argv[1:]
spec = importlib.util.spec_from_file_location("driver", script)
driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driver)
driver.init()
for file in json.loads(files):
    assert len(driver.run([file])) == 1
"""


class ScoringJob:
    """A run of the pipeline in `folder`, with the state of its schedule in `state`."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        model: Path,
        *,
        scripts: Mapping[str, str] | None = None,
        run: str = "run-1",
        state: Path | None = None,
        python: Path | str = sys.executable,
    ) -> None:
        self.data, self.batches, self.parts, self.predictions = (
            folder / name for name in ("data", "batches", "parts", "predictions")
        )
        self.data.mkdir(parents=True)
        self.state = state or folder / "state"
        self._code, self._model, self._python = folder / "code", model, str(python)
        self._environment = {**os.environ, "AZUREML_ROOT_RUN_ID": run}
        self._code.mkdir()
        for name in BATCH_SCRIPTS:
            shutil.copy(SCRIPTS / name, self._code)
        for name, text in {**(scripts or {}), "scoring.json": json.dumps(settings)}.items():
            (self._code / name).parent.mkdir(parents=True, exist_ok=True)
            (self._code / name).write_text(text, encoding="utf-8")

    def put(self, name: str, content: str | bytes) -> None:
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def plan(self, *options: str, data: Path | None = None) -> dict[str, Any]:
        arguments = ("--data", str(data or self.data), "--batches", str(self.batches), "--state", str(self.state))
        self._run("promotion_plan.py", *arguments, *options)
        return dict(json.loads((self.batches / "plan.json").read_text()))

    def score(self, *, data: Path | None = None) -> None:
        files = json.dumps(sorted(str(path) for path in self.batches.iterdir()))
        arguments = ("--model", str(self._model), "--data", str(data or self.data), "--parts", str(self.parts))
        driver = str(self._code / "promotion_score.py")
        self._fork(driver, files, *arguments, "--runner_option", "1")

    def collect(self, *options: str) -> dict[str, Any]:
        folders = {"batches": self.batches, "parts": self.parts, "predictions": self.predictions, "state": self.state}
        arguments = [argument for name, path in folders.items() for argument in (f"--{name}", str(path))]
        self._run("promotion_collect.py", *arguments, *options)
        return self.summary()

    def all(self, *plan: str, collect: tuple[str, ...] = ()) -> dict[str, Any]:
        self.plan(*plan)
        self.score()
        return self.collect(*collect)

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.predictions / "summary.json").read_text()))

    def errors(self) -> dict[str, str]:
        path = self.predictions / "errors.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {line["file"]: line["error"] for line in lines}

    def part(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.parts / f"{name}.jsonl").read_text().splitlines()]

    def _fork(self, *arguments: str) -> None:
        """As `_run` with the code of the runner, which is not worth the imports of another Python if it is this one."""
        if self._python != sys.executable:
            self._run("-c", RUNNER, *arguments)
            return
        log = self._code.parent / "score.log"
        process = FORKS.Process(target=_run_runner, args=(str(self._code), self._environment, str(log), arguments))
        process.start()
        process.join(120)
        if process.exitcode != 0:
            process.kill()
            raise StepFailed(log.read_text(errors="replace"))

    def _run(self, *arguments: str) -> None:
        """Raises with what the step has written to its log, as far as anybody would read it."""
        done = subprocess.run(
            [self._python, *arguments],
            cwd=self._code,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise StepFailed(done.stderr)


def _run_runner(code: str, environment: dict[str, str], log: str, arguments: tuple[str, ...]) -> None:
    """What `python -c RUNNER arguments` does in the folder `code`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(code)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, "")
    sys.argv = ["-c", *arguments]
    exec(RUNNER, {"__name__": "__main__"})  # noqa: S102 - the text above


class StepFailed(Exception):
    pass
