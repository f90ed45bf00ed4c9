"""The guard's decisions, without a network: who is admitted, what is refused, and that it never breaks an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from studio.guard import LOGIN_SECONDS, MAX_JSON_BYTES, MAX_LOGINS, Guard, LoginThrottle, Policy

LOCAL = Policy()
LISTED = Policy(allowed_hosts=("Studio.lan", "studio.example:8443"), max_upload_bytes=8 * 1024 * 1024)


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body and answers with its length, as an app would."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    status = 400 if scope["path"].endswith("/login") else 200
    headers = [(b"content-type", b"text/plain"), (b"X-Content-Type-Options", b"sniff")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(
    guard: Guard,
    path: str = "/",
    *,
    method: str = "GET",
    chunks: tuple[bytes, ...] = (b"",),
    client: str = "127.0.0.1",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """One request through the guard: status, headers, body."""
    named = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
        "client": (client, 50000),
    }
    bodies = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    bodies[-1]["more_body"] = False
    sent: list[Any] = []

    async def receive() -> Any:
        return bodies.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}, sent[1]["body"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost", "LOCALHOST:7860", "[::1]", "[::1]:7860"])
def test_this_machines_own_names_are_admitted(host: str) -> None:
    assert ask(Guard(_echo, LOCAL), host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "localhost@evil.example", "10.0.0.5",
     "localhost:port", "evil.example#localhost", "a b", "studio.lan", "[::1", "x" * 300],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    status, _, body = ask(Guard(_echo, LOCAL), host=host)
    assert status == 421
    assert b"--allowed-hosts" in body


def test_the_owner_lists_names_with_or_without_a_port() -> None:
    guard = Guard(_echo, LISTED)
    for host in ("studio.lan", "studio.lan:1234", "STUDIO.LAN", "studio.example:8443"):
        assert ask(guard, host=host)[0] == 200
    for host in ("studio.example", "studio.example:8444", "other.lan"):
        assert ask(guard, host=host)[0] == 421


def test_a_numeric_address_is_admitted_only_when_listening_wider() -> None:
    assert ask(Guard(_echo, Policy(any_address=True)), host="10.0.0.5:7860")[0] == 200
    assert ask(Guard(_echo, Policy(any_address=True)), host="evil.example")[0] == 421


def test_what_a_proxy_says_the_host_was_counts_as_well() -> None:
    guard = Guard(_echo, LISTED)
    assert ask(guard, x_forwarded_host="studio.lan")[0] == 200
    assert ask(guard, x_forwarded_host="evil.example")[0] == 421
    assert ask(guard, x_forwarded_host="studio.lan, evil.example")[0] == 421
    assert ask(guard, x_forwarded_host="studio.lan", origin="https://studio.lan")[0] == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("https://127.0.0.1:7860", 200),
        ("http://127.0.0.1:3000", 403),
        ("http://localhost:7860", 403),
        ("http://evil.example", 403),
        ("http://127.0.0.1:7860.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://studio.lan", 200),
        ("https://studio.lan:9", 200),
    ],
)
def test_only_the_studios_own_page_may_ask(origin: str, status: int) -> None:
    assert ask(Guard(_echo, LISTED), method="POST", origin=origin)[0] == status


def test_another_sites_page_may_link_here_but_not_reach_in() -> None:
    guard = Guard(_echo, LOCAL)
    assert ask(guard, sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert ask(guard, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    assert ask(guard, method="POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 403
    assert ask(guard, sec_fetch_site="same-origin", sec_fetch_mode="cors")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://10.0.0.1/", "/gradio_api/file=https://x/y.png", "/gradio_api/file=HTTP://x",
     "/gradio_api/file=http:/x", "/gradio_api/file=http%3A%2F%2Fx", "/gradio_api/file=http%253A//x",
     "/gradio_api/file= http://x", "/gradio_api/file=ftp://x", "/gradio_api/file/http://x", "/file=http://x",
     "/gradio_api/proxy=https://x.hf.space/", "/gradio_api/PROXY=https://x"],
)  # fmt: skip
def test_the_studio_fetches_nothing_for_a_page(path: str) -> None:
    assert ask(Guard(_echo, LOCAL), path)[0] == 403


def test_ordinary_files_pass() -> None:
    assert ask(Guard(_echo, LOCAL), "/gradio_api/file=/served/abc/00001-5.png")[0] == 200


def test_bodies_are_limited_whether_announced_or_not() -> None:
    guard = Guard(_echo, LISTED)
    large = b"x" * (MAX_JSON_BYTES // 2 + 1)
    assert ask(guard, "/gradio_api/queue/join", method="POST", content_length=str(MAX_JSON_BYTES + 1))[0] == 413
    assert ask(guard, "/gradio_api/queue/join", method="POST", chunks=(large, large))[0] == 413
    assert ask(guard, "/gradio_api/queue/join", method="POST", chunks=(large,))[2] == str(len(large)).encode()
    assert ask(guard, "/gradio_api/upload", method="POST", chunks=(large, large))[0] == 200
    assert ask(guard, "/gradio_api/upload", method="POST", chunks=(large,) * 5)[0] == 413
    assert ask(guard, "/login", method="POST", chunks=(b"x" * 20_000,))[0] == 413
    for length in ("-1", "a", "1e3", "\xb2"):
        assert ask(guard, method="POST", content_length=length)[0] == 413


def test_every_answer_carries_the_headers_once() -> None:
    for status, headers, _ in (ask(Guard(_echo, LOCAL)), ask(Guard(_echo, LOCAL), host="evil.example")):
        assert status in (200, 421)
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
    framed = ask(
        Guard(_echo, Policy(check_hosts=False, frame_ancestors=("https://huggingface.co",))), host="x.hf.space"
    )
    assert framed[1]["content-security-policy"].endswith("frame-ancestors 'self' https://huggingface.co")


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(Guard(_echo, LOCAL)({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_failed_logins_are_throttled_by_client_and_forgiven_in_time() -> None:
    now = [0.0]
    guard = Guard(_echo, LOCAL, clock=lambda: now[0])
    statuses = [ask(guard, "/login", method="POST")[0] for _ in range(MAX_LOGINS + 2)]
    assert statuses == [400] * MAX_LOGINS + [429] * 2
    assert ask(guard, "/login/", method="POST")[0] == 429
    assert ask(guard, "/login", method="POST", client="10.0.0.9")[0] == 400
    assert ask(guard, "/")[0] == 200
    now[0] += LOGIN_SECONDS
    assert ask(guard, "/login", method="POST")[0] == 400


def test_the_throttle_remembers_a_bounded_number_of_clients() -> None:
    throttle = LoginThrottle(clock=lambda: 0.0)
    for number in range(3000):
        throttle.seconds_to_wait(f"10.0.{number // 256}.{number % 256}")
    assert len(throttle._failures) <= 1000
