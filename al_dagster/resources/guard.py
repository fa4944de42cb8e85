"""The guard in front of the Dagster webserver: only its own pages may drive it.

The webserver has no login, answers whatever name it is called by, and executes mutations that a form or a link of any
page can send. A browser that has another page open would so launch runs; see "Cross-Site Request Forgery" and "DNS
rebinding" at https://cheatsheetseries.owasp.org, whose defences these are. It is no login: whoever reaches the port by
other means than a browser can run anything.
"""

from collections.abc import Collection, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
READING = ("GET", "HEAD", "OPTIONS")
GRAPHQL_TYPES = ("application/json", "application/graphql")
TYPES_OF_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
POLICY_VIOLATION = 1008


class Guard:
    """ASGI middleware that refuses requests of other sites, and answers them with one sentence.

    Args:
        app: what is guarded.
        hosts: names that it may be called by beside those of this machine, as behind a proxy.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = LOCAL_HOSTS | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reason = self.refusal(scope)
        if reason is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(POLICY_VIOLATION, reason)(scope, receive, send)
        else:
            await PlainTextResponse(f"refused: {reason}\n", HTTPStatus.FORBIDDEN)(scope, receive, send)

    def refusal(self, scope: Scope) -> str | None:
        """Why a request or a WebSocket is refused, or None."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return (
                f"the name {host!r} is not one of this server; AL_UI_HOSTS lists those that it may have behind a proxy"
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, host):
            return f"the request comes from a page of {origin!r}"
        if scope["type"] == "websocket":
            return None
        return self._of_another_site(headers, scope) or _not_as_pages_ask(headers, scope)

    def _is_own(self, origin: str, host: str) -> bool:
        address = urlsplit(origin).netloc.lower()
        return bool(address) and (address == host.lower() or _name(address) in self._hosts - LOCAL_HOSTS)

    def _of_another_site(self, headers: Mapping[str, str], scope: Scope) -> str | None:
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return None
        # A link from elsewhere may open a page, which does nothing by itself.
        opens_a_page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if scope["method"] == "GET" and opens_a_page and not _is_graphql(scope):
            return None
        return "the request comes from a page of another site"


def _not_as_pages_ask(headers: Mapping[str, str], scope: Scope) -> str | None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] in READING:
        if _is_graphql(scope) and scope["method"] == "GET" and "text/html" not in headers.get("accept", ""):
            return "GraphQL is asked by POST with application/json"
        return None
    if kind in TYPES_OF_FORMS or (_is_graphql(scope) and kind not in GRAPHQL_TYPES):
        return f"the content type {kind!r} is one that a form of any page can send; send application/json"
    return None


def _is_graphql(scope: Scope) -> bool:
    return str(scope["path"]).rstrip("/").endswith("/graphql")


def _name(host: str) -> str:
    """The name of a host without its port, lower case; IPv6 without brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
