"""One local Azure for the whole run, started as `make up` starts it: a process of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.topology import PROMOTION_SERVICE
from tests import permissions
from tests.leaks import leaks, written
from tests.local import LocalAzure, started

REPOSITORY = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="also what differs from other tests in little (`make test-all`): every kill point, each fault at each place",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked as exhaustive are left out of `make test`, which has ten minutes on two cores."""
    if config.getoption("--exhaustive"):
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A folder for this run: short, because sockets and certificates live in it, and gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="promotion-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def _local_azure(directory: Path) -> Iterator[LocalAzure]:
    policy = REPOSITORY / "tests" / "promotion.yaml"
    with started(directory / "azure", app=REPOSITORY, policy=policy) as azure:
        yield azure
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
