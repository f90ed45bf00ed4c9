"""What stands between the network and gradio: one ASGI middleware that refuses what no honest page would send.

Closed here (measured open in gradio 6.31): any Host with any Origin, so that a page in the same browser, or a name
rebound to this address, could drive the studio; bodies of any size; fetching of strangers' addresses through
`/file=http...` and `/proxy=`; logins without limit. Every answer gets security headers.
Pure ASGI: it knows neither gradio nor the studio, and reads no body, it only counts its bytes.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SPACE_FRAMES = ("https://huggingface.co", "https://*.hf.space")
MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_LOGIN_BYTES = 16 * 1024
_ELSEWHERE = re.compile(r"/proxy=|/file[=/]\s*https?:|/file[=/].*://", re.IGNORECASE)
MAX_LOGINS, LOGIN_SECONDS, MAX_LOGIN_CLIENTS = 5, 60.0, 1000


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who may ask for what. `allowed_hosts` are names with or without a port; `any_address` admits numeric addresses
    as Host, which a rebound name never is; `frame_ancestors` are the origins that may show the page in a frame."""

    allowed_hosts: tuple[str, ...] = ()
    any_address: bool = False
    max_upload_bytes: int = 64 * 1024 * 1024
    frame_ancestors: tuple[str, ...] = ()
    check_hosts: bool = True

    def admits(self, host: str) -> bool:
        """Whether a Host header names this studio."""
        name = _name_of(host)
        if name is None:
            return False
        return name in LOCAL_NAMES or self.lists(host) or (self.any_address and _is_address(name))

    def lists(self, host: str) -> bool:
        """Whether the owner named a host, with this port or without any."""
        return not {host.lower(), _name_of(host)}.isdisjoint(each.lower() for each in self.allowed_hosts)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of every answer. gradio's page has inline scripts and builds functions from text, hence `unsafe-*`;
        what counts is that nothing is loaded from, or sent to, any other host."""
        ancestors = " ".join(("'self'", *self.frame_ancestors))
        policy = (
            "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
            "style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
            "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
            f"form-action 'self'; frame-ancestors {ancestors}"
        )
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(self), microphone=(), geolocation=()",
        }
        return tuple((name.encode(), value.encode()) for name, value in headers.items())


class Guard:
    """`Guard(app, policy)` is the app, less what the policy refuses."""

    def __init__(self, app: App, policy: Policy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._policy = policy
        self._logins = LoginThrottle(clock=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # gradio needs no WebSocket, and a browser sends one to any host without asking.
            await send({"type": "websocket.close", "code": 1008})
            return
        request = _Request(scope)
        send = self._with_headers(send)
        refusal = self._refuse(request)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        limit = self._limit(request)
        if request.is_login:
            send = self._logins.watching(request.client, send)
        await _counting(self._app, scope, receive, send, limit)

    def _refuse(self, request: _Request) -> tuple[int, str] | None:
        """The status and sentence of a refusal, `None` for an honest request."""
        if self._policy.check_hosts:
            for host in request.hosts or ("",):
                if not self._policy.admits(host):
                    return 421, f"The host {host[:80]!r} is not one of this studio's: start it with --allowed-hosts."
        if not self._is_own_page(request):
            return 403, "This request comes from another site's page, and only the studio's own may ask."
        if request.fetches_elsewhere:
            return 403, "The studio fetches nothing from other hosts on a page's behalf."
        length = request.length
        if length is None or length > self._limit(request):
            return 413, f"The request is larger than {self._limit(request)} bytes."
        if request.is_login and (seconds := self._logins.seconds_to_wait(request.client)):
            return 429, f"Too many failed logins: try again in {seconds:.0f} s."
        return None

    def _is_own_page(self, request: _Request) -> bool:
        """A browser says where a request comes from; programs say nothing and are welcome."""
        navigates = request.method in ("GET", "HEAD") and request.header("sec-fetch-mode") == "navigate"
        if request.header("sec-fetch-site") == "cross-site" and not navigates:
            return False
        origin = request.header("origin")
        if origin is None:
            return True
        host = urlsplit(origin).netloc.lower()
        return bool(host) and (host in {each.lower() for each in request.hosts} or self._policy.lists(host))

    def _limit(self, request: _Request) -> int:
        if request.is_login:
            return MAX_LOGIN_BYTES
        return self._policy.max_upload_bytes if request.is_upload else MAX_JSON_BYTES

    def _with_headers(self, send: Send) -> Send:
        own = self._policy.headers
        names = {name for name, _ in own}

        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        return wrapped


class _Request:
    """The few facts of a scope that decisions are made on."""

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path = _decoded(scope["path"]).rstrip("/")
        self.client: str = (scope.get("client") or ("unknown", 0))[0]
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]

    def header(self, name: str) -> str | None:
        values = self.header_values(name)
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self._headers if key == name.encode()]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Host header and what a proxy says it was, since gradio believes both."""
        forwarded = [part for value in self.header_values("x-forwarded-host") for part in value.split(",")]
        return tuple(host.strip() for host in (*self.header_values("host"), *forwarded))

    @property
    def is_login(self) -> bool:
        return self.method == "POST" and self.path.endswith("/login")

    @property
    def is_upload(self) -> bool:
        return self.method == "POST" and self.path.endswith("/upload")

    @property
    def fetches_elsewhere(self) -> bool:
        """`/file=http://...` under any spelling, and every `/proxy=`."""
        return _ELSEWHERE.search(self.path) is not None

    @property
    def length(self) -> int | None:
        """The announced size, 0 when it is not announced, `None` when it is not a number."""
        values = self.header_values("content-length")
        if not values:
            return 0
        return int(values[0]) if len(values) == 1 and values[0].isascii() and values[0].isdigit() else None


class LoginThrottle:
    """At most five failed logins a minute and client; a success clears the account."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}

    def seconds_to_wait(self, client: str) -> float:
        """0 when the client may try."""
        recent = self._recent(client)
        return max(0.0, recent[0] + LOGIN_SECONDS - self._clock()) if len(recent) >= MAX_LOGINS else 0.0

    def watching(self, client: str, send: Send) -> Send:
        """Count the attempt now, so that a hundred at once do not pass together, and forgive it on success."""
        self._recent(client).append(self._clock())

        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._failures.pop(client, None)
            await send(message)

        return wrapped

    def _recent(self, client: str) -> deque[float]:
        while len(self._failures) >= MAX_LOGIN_CLIENTS and client not in self._failures:
            self._failures.pop(next(iter(self._failures)))
        recent = self._failures.setdefault(client, deque(maxlen=MAX_LOGINS))
        while recent and recent[0] + LOGIN_SECONDS <= self._clock():
            recent.popleft()
        return recent


async def _counting(app: App, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
    """Run the app; once the body outgrows the limit it is cut off, and the answer, if none began, is 413."""
    seen, started = 0, False

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                return {"type": "http.disconnect"}
        return message

    async def answered(message: Message) -> None:
        nonlocal started
        if seen > limit and not started:
            return
        started = True
        await send(message)

    try:
        await app(scope, counted, answered)
    finally:
        if seen > limit and not started:
            await _answer(send, 413, f"The request is larger than {limit} bytes.")


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence, "detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def _decoded(path: str) -> str:
    """The path after every layer of percent-encoding, so that no spelling slips past."""
    for _ in range(4):
        plain = unquote(path)
        if plain == path:
            break
        path = plain
    return path


def _name_of(host: str) -> str | None:
    """The name of a Host header without its port; `None` for what is not a host."""
    if not host or len(host) > 255 or any(mark in host for mark in "/@?# \\"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
