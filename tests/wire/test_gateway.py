"""The way in to the local Azure, with clients that know nothing of it but their environment variables."""

import http.client
import logging
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

from emulator.control_client import ControlError
from emulator.identity import IdentityProvider, UnauthorizedError
from emulator.topology import DATA_SCIENTIST, PROMOTION_SERVICE, TENANT_ID
from tests.wire.conftest import AUDIENCE, ECHO, Front

OPEN = "https://open.test"


def authorized(front: Front) -> dict[str, str]:
    return {"Authorization": f"Bearer {front.token()}"}


# ------------------------------------------------------------------------------------------------------------ tokens


def test_a_request_with_a_token_for_this_service_arrives_with_its_caller(
    front: Front, session: requests.Session
) -> None:
    answer = session.get(f"{ECHO}/hello", headers=authorized(front))
    assert (answer.status_code, answer.json()) == (200, {"caller": "data-scientist", "length": 0, "path": "/hello"})
    entry = front.last("echo")
    assert (entry["principal"], entry["status"], entry["host"]) == ("data-scientist", 200, "echo.test")


@pytest.mark.parametrize("header", [None, "Bearer", "Basic dTpw", "Bearer not.a.token"])
def test_no_token_is_refused_as_azure_does(front: Front, session: requests.Session, header: str | None) -> None:
    answer = session.get(ECHO, headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer authorization_uri=")
    assert (front.last("echo")["principal"], front.last("echo")["status"]) == (None, 401)


def test_a_token_for_another_service_is_refused_and_both_are_named(front: Front, session: requests.Session) -> None:
    token = front.token("https://storage.azure.com")
    answer = session.get(ECHO, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert "the token is for https://storage.azure.com, not for https://echo.test" in answer.json()["error"]["message"]


def test_a_token_that_somebody_else_signed_is_refused(front: Front, session: requests.Session) -> None:
    now = int(time.time())
    claims = {"aud": AUDIENCE, "iss": f"https://sts.windows.net/{TENANT_ID}/", "oid": DATA_SCIENTIST.object_id}
    claims |= {"tid": TENANT_ID, "iat": now, "nbf": now, "exp": now + 3600}  # type: ignore[dict-item]
    for foreign in (jwt.encode(claims, "x" * 32, algorithm="HS256"), jwt.encode(claims, "", algorithm="none")):
        answer = session.get(ECHO, headers={"Authorization": f"Bearer {foreign}"})
        assert (answer.status_code, front.last("echo")["principal"]) == (401, None)


def test_an_expired_token_is_refused() -> None:
    provider = IdentityProvider([DATA_SCIENTIST], lifetime=timedelta(seconds=-10))
    token, _ = provider.issue(DATA_SCIENTIST, AUDIENCE)
    with pytest.raises(UnauthorizedError, match="expired"):
        provider.verify(f"Bearer {token}", [AUDIENCE])


def test_each_identity_has_its_own_header_and_token(front: Front) -> None:
    provider = IdentityProvider([DATA_SCIENTIST, PROMOTION_SERVICE])
    headers = {provider.environment(who)["IDENTITY_HEADER"] for who in (DATA_SCIENTIST, PROMOTION_SERVICE)}
    assert len(headers) == 2
    for who in (DATA_SCIENTIST, PROMOTION_SERVICE):
        token, _ = provider.issue(who, AUDIENCE + "/")
        assert provider.verify(f"Bearer {token}", [AUDIENCE]) == who
        with pytest.raises(UnauthorizedError, match="not one of this Azure"):
            front.identities.verify(f"Bearer {token}", [AUDIENCE])


def test_the_default_credential_finds_the_identity(front: Front) -> None:
    """As in an App Service: the endpoint and its secret are in the environment, and nothing else is set."""
    token = DefaultAzureCredential().get_token(f"{AUDIENCE}/.default")
    claims = jwt.decode(token.token, options={"verify_signature": False})
    assert (claims["aud"], claims["tid"], claims["oid"]) == (AUDIENCE, TENANT_ID, DATA_SCIENTIST.object_id)
    assert claims["appid"] == DATA_SCIENTIST.client_id
    assert token.expires_on > time.time() + 3600
    entry = front.last("identity")
    assert (entry["principal"], entry["query"]["resource"]) == ("data-scientist", AUDIENCE)


def test_the_token_endpoint_refuses_a_wrong_secret(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "a guess")
    with pytest.raises(ClientAuthenticationError):
        ManagedIdentityCredential().get_token(f"{AUDIENCE}/.default")
    assert (front.last("identity")["status"], front.last("identity")["principal"]) == (401, None)


def test_the_token_endpoint_can_fail_as_any_service(front: Front) -> None:
    """The client library retries by itself, and then has its token."""
    front.control.plant(service="identity", status=500, times=1)
    before = front.last_number()
    assert ManagedIdentityCredential(retry_backoff_factor=0).get_token(f"{AUDIENCE}/.default").token
    statuses = [entry["status"] for entry in front.control.requests(before, service="identity")]
    assert statuses == [500, 200]


# ------------------------------------------------------------------------------------------------------------- proxy


def connect(front: Front, first_line: str) -> str:
    """The first bytes that the proxy answers to this request line."""
    port = urlsplit(front.gateway.proxy_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{first_line}\r\nHost: x\r\n\r\n".encode())
        received = b""
        while data := connection.recv(4096):
            received += data
        return received.decode()


def test_a_host_that_is_not_here_is_refused_and_logged(
    front: Front, session: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "emulator.gateway"), pytest.raises(requests.exceptions.ProxyError):
        session.get("https://example.com/")
    assert "nothing here answers for example.com:443" in caplog.text
    answer = connect(front, "CONNECT example.com:443 HTTP/1.1")
    assert answer.startswith("HTTP/1.1 502 ")
    assert "no example.com:443, and nothing leaves this machine" in answer


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("CONNECT echo.test:22 HTTP/1.1", "502"),
        ("CONNECT nonsense HTTP/1.1", "502"),
        ("GET http://echo.test/ HTTP/1.1", "405"),
    ],
)
def test_only_tls_to_port_443_is_tunnelled(front: Front, line: str, status: str) -> None:
    assert connect(front, line).startswith(f"HTTP/1.1 {status} ")


def test_a_host_header_of_a_host_that_is_not_here_is_refused(front: Front, session: requests.Session) -> None:
    answer = session.get(f"{OPEN}/", headers={"Host": "example.com"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "HostNotFound")


def test_clients_that_do_not_trust_our_authority_get_nowhere(
    front: Front, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(requests.exceptions.SSLError):
        session.get(f"{OPEN}/")


def test_the_certificate_is_for_the_host_that_was_asked_for(front: Front) -> None:
    proxy = urlsplit(front.gateway.proxy_url)
    connection = http.client.HTTPSConnection(
        proxy.hostname or "", proxy.port, context=ssl.create_default_context(cafile=str(front.ca.ca_bundle))
    )
    connection.set_tunnel("stsource.blob.core.windows.net", 443)
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert() or {}
    connection.close()
    assert certificate["subjectAltName"] == (("DNS", "stsource.blob.core.windows.net"),)


def test_large_bodies_stream_through(front: Front, session: requests.Session) -> None:
    size, chunk = 48 * 1024 * 1024, b"x" * (1024 * 1024)
    answer = session.put(f"{OPEN}/large", data=(chunk for _ in range(size // len(chunk))))
    assert answer.json()["length"] == size


def test_two_hundred_clients_at_once(front: Front) -> None:
    """Each with a connection of its own that it keeps for a second request."""
    headers, gate = authorized(front), threading.Barrier(200)

    def client(number: int) -> list[tuple[int, str]]:
        with requests.Session() as session:
            gate.wait(60)
            answers = [session.get(f"{ECHO}/{number}/{n}", headers=headers, timeout=60) for n in range(2)]
            return [(answer.status_code, answer.json()["path"]) for answer in answers]

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(client, range(200)))
    assert found == [[(200, f"/{number}/0"), (200, f"/{number}/1")] for number in range(200)]


# ---------------------------------------------------------------------------------------------------------- the log


def test_the_log_holds_no_secret(front: Front, session: requests.Session) -> None:
    secret = "c2VjcmV0LW9mLXRoaXMtdGVzdA"
    session.get(f"{OPEN}/a?sv=2026&sig={secret}&Code={secret}&key={secret}&api-version=1")
    query = front.last("open")["query"]
    assert query == {"sv": "2026", "sig": "...", "Code": "...", "key": "...", "api-version": "1"}
    assert secret not in str(front.control.requests())
    token = front.token()
    session.get(ECHO, headers={"Authorization": f"Bearer {token}"})
    assert token not in str(front.control.requests())
    assert front.identities.environment(DATA_SCIENTIST)["IDENTITY_HEADER"] not in str(front.control.requests())


def test_a_service_that_fails_answers_500_and_is_logged(
    front: Front, session: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    answer = session.get(f"{OPEN}/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "InternalServerError")
    assert "a defect in a service" in caplog.text
    assert front.last("open")["status"] == 500


# ------------------------------------------------------------------------------------------------------------ faults


def test_a_fault_replaces_the_answer_of_the_request_that_it_meets(front: Front, session: requests.Session) -> None:
    body = {"error": {"code": "TooManyRequests", "message": "slow down"}}
    front.control.plant(
        service="open",
        method="GET",
        path="^/a$",
        query="v=1",
        skip=1,
        times=2,
        status=429,
        headers={"Retry-After": "7"},
        body=body,
    )
    assert session.post(f"{OPEN}/a?v=1").status_code == 200
    answers = [session.get(f"{OPEN}/a?v=1") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 200]
    assert (answers[1].headers["Retry-After"], answers[1].json()) == ("7", body)
    assert session.get(f"{OPEN}/a?v=2").status_code == 200


@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_dropped_connection_reaches_the_client_as_one(front: Front, session: requests.Session, phase: str) -> None:
    front.control.plant(service="open", phase=phase, drop=True)
    with pytest.raises(requests.exceptions.ConnectionError):
        session.get(f"{OPEN}/a")
    entry = front.last("open")
    assert (entry["status"], entry["detail"].get("status_lost")) == (0, 200 if phase == "after" else None)
    assert session.get(f"{OPEN}/a").status_code == 200


def test_a_fault_can_be_for_one_caller_only(front: Front, session: requests.Session) -> None:
    front.control.plant(service="echo", principal="promotion-service", status=503)
    assert session.get(ECHO, headers=authorized(front)).status_code == 200
    front.control.plant(service="echo", principal="data-scientist", status=503)
    assert session.get(ECHO, headers=authorized(front)).status_code == 503


def test_a_delay_is_on_the_local_clock(front: Front, session: requests.Session) -> None:
    front.control.plant(service="open", delay=3600)
    before = front.last_number()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.get, f"{OPEN}/late", timeout=60)
        assert front.control.requests(before, wait=30)[0]["status"] is None
        assert not answer.done()
        front.control.advance(3601)
        assert answer.result(30).status_code == 200


def test_a_held_request_goes_on_when_it_is_released(front: Front, session: requests.Session) -> None:
    number = front.control.plant(service="open", path="/held", phase="after", hold=True)
    before = front.last_number()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.get, f"{OPEN}/held", timeout=60)
        entry = front.control.requests(before, wait=30)[0]["number"]
        front.wait_until(lambda: front.control.fault(number)["held"] == [entry])
        assert requests.get(f"{OPEN}/other", timeout=30).status_code == 200  # nobody else waits
        assert not answer.done()
        front.control.release(number)
        assert answer.result(30).status_code == 200
    assert front.control.fault(number)["met"] == 1


def test_a_removed_fault_lets_go_what_it_holds(front: Front, session: requests.Session) -> None:
    number = front.control.plant(service="open", hold=True)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.get, f"{OPEN}/held", timeout=60)
        front.wait_until(lambda: bool(front.control.fault(number)["held"]))
        front.control.remove(number)
        assert answer.result(30).status_code == 200
    assert front.control.faults() == []


# ------------------------------------------------------------------------------------------------------- control API


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"statsu": 500}, "statsu"),
        ({"phase": "during"}, "phase"),
        ({"times": "three"}, "times"),
        ({"path": "("}, "path"),
        ({"headers": ["Retry-After"]}, "headers"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_by_field(front: Front, fault: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ControlError, match=rf"400.*{complaint}"):
        front.control.plant(**fault)
    assert front.control.faults() == []


def test_what_is_not_there_is_not_found(front: Front) -> None:
    for call in (front.control.release, front.control.remove):
        with pytest.raises(ControlError, match=r"404.*no fault 4711"):
            call(4711)


def test_the_clock_only_moves_forward(front: Front) -> None:
    before = front.control.now()
    front.control.advance(86400)
    assert timedelta(seconds=86400) <= front.control.now() - before < timedelta(seconds=86460)
    assert front.control.now() > datetime.now(UTC) + timedelta(hours=23)
    for seconds in (-1, "soon", None):
        with pytest.raises(ControlError, match=r"400.*seconds"):
            front.control.post("/clock/advance", {"seconds": seconds})


def test_a_body_that_is_no_json_is_refused(front: Front) -> None:
    for path in ("/faults", "/clock/advance", "/storage/copies"):
        answer = requests.post(front.api.control_url + path, data="{", timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidBody")


def test_the_log_can_be_narrowed_and_waited_for(front: Front, session: requests.Session) -> None:
    before = front.last_number()
    session.get(f"{OPEN}/1")
    session.put(f"{OPEN}/2")
    session.get(ECHO, headers=authorized(front))
    paths = [entry["path"] for entry in front.control.requests(before, service="open", method="PUT")]
    assert paths == ["/2"]
    assert [e["service"] for e in front.control.requests(before, principal="data-scientist")][-1] == "echo"
    assert front.control.requests(before, service="nobody", wait=0.05) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(front.control.requests, front.last_number(), service="open", wait=30)
        session.get(ECHO, headers=authorized(front))  # not what is waited for
        session.get(f"{OPEN}/3")
        assert [entry["path"] for entry in waiting.result(30)] == ["/3"]
    with pytest.raises(ControlError, match=r"400.*since"):
        front.control.get("/requests", since="yesterday")


def test_health(front: Front) -> None:
    assert front.control.get("/health") == {"status": "ok"}
