"""The runner of parallel steps, as a process in the image of model servers: its contract with entry scripts."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from emulator.azure_ml.steps import RUNNER, THRESHOLDS
from emulator.serving.servers import IMAGE_PYTHON

QUIET = "def init(): pass\n"
ECHO = QUIET + "def run(batch): return batch\n"
SCORES = QUIET + "def run(batch): return [1 for path in batch if 'bad' not in path]\n"


class Runner:
    """Runs one entry script over files; `output` is what it printed, `rows` what it appended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.input = folder / "in"
        self.input.mkdir()
        self.output = ""

    def files(self, *names: str) -> None:
        for name in names:
            (self.input / name).parent.mkdir(parents=True, exist_ok=True)
            (self.input / name).write_text(name)

    def run(self, script: str, *arguments: str, place: Path | None = None, **more: Any) -> int:
        code = self._folder / "code"
        code.mkdir(exist_ok=True)
        (code / "score.py").write_text(script)
        step = {
            "entry_script": "score.py",
            "arguments": list(arguments),
            "input": str(place or self.input),
            "mini_batch_size": 1,
            "max_retries": 0,
            "timeout": 30,
            "append_row_to": str(self._folder / "rows"),
        }
        file = self._folder / "step.json"
        file.write_text(json.dumps(step | THRESHOLDS | more))
        ended = subprocess.run(
            [str(IMAGE_PYTHON), str(RUNNER), str(file)],
            cwd=code,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        self.output = ended.stdout
        return ended.returncode

    @property
    def rows(self) -> list[str]:
        return (self._folder / "rows").read_text().splitlines()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_files_come_sorted_in_mini_batches(runner: Runner) -> None:
    runner.files("b", "a", "c/d", "c/e", "f")
    script = QUIET + "def run(batch):\n    print('batch of', len(batch))\n    return batch\n"
    assert runner.run(script, mini_batch_size=2) == 0
    assert runner.rows == [str(runner.input / name) for name in ("a", "b", "c/d", "c/e", "f")]
    assert [runner.output.count(f"batch of {size}") for size in (1, 2)] == [1, 2]


def test_a_single_file_is_an_input_of_its_own(runner: Runner) -> None:
    runner.files("a", "b")
    assert runner.run(ECHO, place=runner.input / "a") == 0
    assert runner.rows == [str(runner.input / "a")]


def test_without_any_file_it_fails_before_the_script_is_loaded(runner: Runner) -> None:
    (runner.input / "only-a-folder").mkdir()
    assert runner.run("raise SystemExit('loaded')") != 0
    assert "is empty" in runner.output
    assert "loaded" not in runner.output


def test_a_script_gets_its_arguments_and_some_of_the_runners(runner: Runner) -> None:
    """So a script that insists on knowing all of them fails, as on the service."""
    runner.files("a")
    script = (
        "import argparse\n"
        "def init():\n"
        "    global name\n"
        "    parser = argparse.ArgumentParser()\n"
        "    parser.add_argument('--name')\n"
        "    name = parser.{parse}.name\n"
        "def run(batch): return [name]\n"
    )
    assert runner.run(script.replace("{parse}", "parse_known_args()[0]"), "--name", "with space") == 0
    assert runner.rows == ["with space"]
    assert runner.run(script.replace("{parse}", "parse_args()"), "--name", "x") != 0
    assert "unrecognized arguments" in runner.output


def test_what_fails_is_tried_again(runner: Runner) -> None:
    runner.files("a")
    script = (
        "def init():\n"
        "    global tries\n"
        "    tries = 0\n"
        "def run(batch):\n"
        "    global tries\n"
        "    tries += 1\n"
        "    if tries < 3: raise ValueError(f'try {tries}')\n"
        "    return [tries]\n"
    )
    assert runner.run(script, max_retries=2, mini_batch_error_threshold=0) == 0
    assert runner.rows == ["3"]
    assert runner.run(script, max_retries=1, mini_batch_error_threshold=0) != 0
    assert "ValueError: try 2" in runner.output


def test_a_timeout_is_a_failure_that_the_script_cannot_catch(runner: Runner) -> None:
    runner.files("a", "b")
    script = QUIET + (
        "import time\n"
        "def run(batch):\n"
        "    try:\n"
        "        time.sleep(60 if batch[0].endswith('a') else 0)\n"
        "    except Exception:\n"
        "        pass\n"
        "    return batch\n"
    )
    assert runner.run(script, timeout=0.3) == 0
    assert runner.rows == [str(runner.input / "b")]
    assert "1 of 2 mini-batches" in runner.output


@pytest.mark.parametrize(
    ("thresholds", "fails"),
    [
        ({}, False),
        ({"error_threshold": 0}, True),
        ({"error_threshold": 1}, True),
        ({"error_threshold": 2}, False),
        ({"mini_batch_error_threshold": 0}, True),
        ({"mini_batch_error_threshold": 1}, False),
        ({"allowed_failed_percent": 33}, True),
        ({"allowed_failed_percent": 34}, False),
    ],
)
def test_thresholds(runner: Runner, thresholds: dict[str, Any], fails: bool) -> None:
    """Two of six files fail, in one of three mini-batches; a threshold is what may fail, not what may not."""
    runner.files("1-bad", "2-bad", "3", "4", "5", "6")
    assert bool(runner.run(SCORES, mini_batch_size=2, **thresholds)) is fails
    assert "1 of 3 mini-batches and 2 of 6 items failed" in runner.output


@pytest.mark.parametrize("returned", ["None", "7", "'text'"])
def test_what_cannot_be_counted_is_a_failure(runner: Runner, returned: str) -> None:
    runner.files("a")
    assert runner.run(QUIET + f"def run(batch): return {returned}\n", mini_batch_error_threshold=0) != 0
    assert "must return a list, a tuple or a DataFrame" in runner.output


def test_rows_of_a_data_frame(runner: Runner) -> None:
    runner.files("a")
    script = QUIET + "import pandas\ndef run(batch): return pandas.DataFrame({'x': [1], 'y': ['b']})\n"
    assert runner.run(script, mini_batch_error_threshold=0) == 0
    assert runner.rows == ["1 b"]


def test_it_says_good_bye(runner: Runner) -> None:
    runner.files("a")
    assert runner.run(ECHO + "def shutdown(): print('good-bye')\n") == 0
    assert "good-bye" in runner.output


def test_a_script_sees_its_own_modules_and_none_of_ours(runner: Runner) -> None:
    """Ours lie beside the runner, under names that a script may well import from elsewhere."""
    runner.files("a")
    assert runner.run("import schedules\n" + ECHO) != 0
    assert "No module named 'schedules'" in runner.output
    dataclass = (
        "from __future__ import annotations\nimport dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: int\n"
    )
    script = dataclass + QUIET + "def run(batch): return [pickle.loads(pickle.dumps(P(1)))]\n"
    assert runner.run(script, mini_batch_error_threshold=0) == 0
    assert runner.rows == ["P(x=1)"]
