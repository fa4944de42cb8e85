import asyncio
from typing import Any

import pytest

from al_dagster.resources.guard import Guard

OWN = "127.0.0.1:3000"
JSON = {"content-type": "application/json"}


def asked(
    method: str = "GET", path: str = "/", kind: str = "http", hosts: tuple[str, ...] = (), **headers: str
) -> tuple[int, str]:
    """Ask the guard in front of an application that allows everything; the status and what it said."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": f"{kind}.reached"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": f"{kind}.request"}

    given = {"host": OWN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Guard(application, hosts)(scope, receive, send))
    if sent[0]["type"].endswith("reached"):
        return 200, ""
    if kind == "websocket":
        return sent[0]["code"], sent[0]["reason"]
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize("host", [OWN, "localhost:3000", "LOCALHOST", "[::1]:3000"])
def test_a_page_of_this_machine_is_served(host):
    assert asked(host=host)[0] == 200
    assert asked("POST", "/graphql", host=host, origin=f"http://{host.lower()}", **JSON)[0] == 200
    assert asked("GET", "/graphql", "websocket", host=host, origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:3000", "", "[", "192.168.1.7:3000"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_foreign_name_is_refused(host, kind):
    status, said = asked(kind=kind, path="/graphql", host=host, accept="text/html")
    assert status == (1008 if kind == "websocket" else 403)
    assert "AL_UI_HOSTS" in said


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1:8080", "http://localhost:3000", "null", "http://127.0.0.1:3000@x"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_foreign_origin_is_refused(origin, kind):
    status, said = asked("POST", "/graphql", kind, origin=origin, **JSON)
    assert status == (1008 if kind == "websocket" else 403)
    assert repr(origin) in said


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_fetches_is_refused_but_a_link_may_open_a_page(site):
    assert asked(path="/logs/a", sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest="image")[0] == 403
    assert asked("POST", "/graphql", sec_fetch_site=site, **JSON)[0] == 403
    navigation = {"sec_fetch_site": site, "sec_fetch_mode": "navigate"}
    assert asked(path="/runs", sec_fetch_dest="document", **navigation)[0] == 200
    assert asked(path="/runs", sec_fetch_dest="iframe", **navigation)[0] == 403
    assert asked(path="/graphql", sec_fetch_dest="document", accept="text/html", **navigation)[0] == 403


def test_graphql_is_not_asked_by_get_but_its_page_is_shown():
    status, said = asked(path="/graphql")
    assert (status, said) == (403, "refused: GraphQL is asked by POST with application/json\n")
    assert asked(path="/graphql/", accept="application/json")[0] == 403
    assert asked(path="/graphql", accept="text/html,application/xhtml+xml")[0] == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain;application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/masks"])
def test_what_a_form_can_send_is_refused(kind, path):
    assert asked("POST", path, content_type=kind)[0] == 403


def test_graphql_without_a_content_type_is_refused():
    assert asked("POST", "/graphql")[0] == 403
    assert asked("POST", "/report_asset_materialization/masks")[0] == 200


def test_behind_a_proxy_the_names_that_were_given_are_its_own():
    names = ("labels.example.org",)
    proxied = {"host": "labels.example.org", "origin": "https://labels.example.org"}
    assert asked("POST", "/graphql", hosts=names, **proxied, **JSON)[0] == 200
    assert asked("POST", "/graphql", hosts=names, origin="https://labels.example.org", **JSON)[0] == 200
    assert asked("POST", "/graphql", hosts=names, host="other.example.org", **JSON)[0] == 403
