"""Who may call the service: by which names, and from which pages."""

import pytest

from millstream.errors import RequestError
from millstream.serve.callers import Callers

OURS = (
    "localhost", "LOCALHOST:80", "127.0.0.1:8787", "[::1]:8787", "192.168.0.7", "scores", "a.localhost",
    "api.example.com", "API.example.com:443", "api.example.com.",
)  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_addresses_names_of_this_network_and_names_that_are_set_are_answered(host):
    Callers(["api.example.com"]).check("GET", [(b"host", host.encode())])


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example", "a@b.c", "[::1", "1.2.3", ""],
)
def test_other_names_are_refused_again_and_again(host):
    callers = Callers(["api.example.com"])
    if not host:  # of HTTP/1.0, which no page sends
        return callers.check("GET", [])
    for _ in range(2):
        with pytest.raises(RequestError, match="does not answer to the name") as raised:
            callers.check("GET", [(b"host", host.encode())])
        assert raised.value.status == 421
    return None


def test_any_name_is_taken_where_that_is_said():
    Callers(["*"]).check("GET", [(b"host", b"whatever.example")])


@pytest.mark.parametrize(
    "origin", [b"http://localhost:80", b"https://scores", b"null", b"", b"http://localhost:8787.evil"]
)
def test_a_page_of_another_origin_may_not_call(origin):
    headers = [
        (b"host", b"localhost:8787"),
        *([(b"origin", origin)] if origin else [(b"sec-fetch-site", b"cross-site")]),
    ]
    with pytest.raises(RequestError) as raised:
        Callers().check("POST", headers)
    assert raised.value.status == 403
    Callers().check("POST", [(b"host", b"localhost:8787"), (b"origin", b"http://localhost:8787")])
