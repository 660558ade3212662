"""One local Azure for the whole run, started as `make up` starts it: a process of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emulator.topology import PROMOTION_SERVICE
from tests import permissions
from tests.leaks import leaks, written
from tests.local import LocalAzure, started

REPOSITORY = Path(__file__).parent.parent
POLICY = REPOSITORY / "tests" / "promotion.yaml"
END_TO_END = REPOSITORY / "tests" / "e2e"


@dataclass
class Evidence:
    """What a run tells of the roles: permissions that were used, and which files of tests/e2e were there to use them."""

    permissions: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)

    def is_whole(self, config: pytest.Config) -> bool:
        """Whether the run had all end-to-end tests: no file was left out, and no test of one by what was asked for."""
        narrowed = config.option.keyword or config.option.markexpr or any("::" in each for each in config.args)
        return not narrowed and self.files >= {path.name for path in END_TO_END.glob("test_*.py")}


EVIDENCE = pytest.StashKey[Evidence]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="also what differs from other tests in little (`make test-all`): every kill point, each fault at each place",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[EVIDENCE] = Evidence()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked as exhaustive are left out of `make test`, which has ten minutes on two cores."""
    config.stash[EVIDENCE].files |= {item.path.name for item in items if item.path.parent == END_TO_END}
    if config.getoption("--exhaustive"):
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In a worker: what it has seen goes to the controller. There: a run of all tests, if it was good, must have used the roles.

    A run with failures, or without all end-to-end tests, proves nothing of what is not used.
    """
    config, evidence = session.config, session.config.stash[EVIDENCE]
    if hasattr(config, "workeroutput"):
        config.workeroutput["evidence"] = {"permissions": sorted(evidence.permissions), "files": sorted(evidence.files)}
    elif exitstatus == pytest.ExitCode.OK and evidence.is_whole(config):
        evidence.found = permissions.disagreements(evidence.permissions, POLICY)
        if evidence.found:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker of pytest-xdist has a local Azure of its own; together they are the run. One that crashed has no say."""
    told = getattr(node, "workeroutput", {}).get("evidence", {})
    evidence = node.config.stash[EVIDENCE]
    evidence.permissions |= {*told.get("permissions", [])}
    evidence.files |= {*told.get("files", [])}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    evidence = config.stash[EVIDENCE]
    if evidence.found:
        terminalreporter.section("roles of infra/roles, and what this run has used of them")
        for line in evidence.found:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A folder for this run: short, because sockets and certificates live in it, and gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="promotion-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def _local_azure(directory: Path, request: pytest.FixtureRequest) -> Iterator[LocalAzure]:
    with started(directory / "azure", app=REPOSITORY, policy=POLICY) as azure:
        yield azure
        asked = azure.control.requests(principal=PROMOTION_SERVICE.name)
        request.config.stash[EVIDENCE].permissions |= permissions.used(asked, POLICY)
        _check_permissions(azure)
        _check_secrets(azure)


def _check_permissions(azure: LocalAzure) -> None:
    """Whatever the tests made the service do, the roles of infra/roles allow."""
    refused = permissions.refused(azure.control.requests(principal=PROMOTION_SERVICE.name))
    assert not refused, f"infra/roles lack what the service has asked for: {refused}"


def _check_secrets(azure: LocalAzure) -> None:
    """Whatever the tests made the service write, no key, signature or token is in it."""
    found = leaks(written(azure), azure.control.get("/secrets")["secrets"])
    assert not found, "secrets were written down:\n" + "\n".join(found[:20])


@pytest.fixture
def local_azure(_local_azure: LocalAzure, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAzure]:
    """The local Azure with the function app running in it, and this process pointed at it as the data scientist."""
    for name in ("CURL_CA_BUNDLE", "HTTP_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in _local_azure.client_environment.items():
        monkeypatch.setenv(name, value)
    yield _local_azure
    _local_azure.control.clear_faults()
    assert os.environ["HTTPS_PROXY"] == _local_azure.endpoints["https_proxy"]
