"""The HTTP API, once for all tests that order something by it."""

from collections.abc import Iterator

import pytest

from tests.functions.api import Api, running
from tests.local import started


@pytest.fixture(scope="session")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("api")
    with started(directory / "azure") as azure, running(azure, directory / "host") as app:
        yield app


@pytest.fixture
def api(_api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The app, with this process pointed at its local Azure as the data scientist."""
    for name in ("CURL_CA_BUNDLE", "HTTP_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in _api.azure.client_environment.items():
        monkeypatch.setenv(name, value)
    yield _api
    _api.azure.control.clear_faults()
