"""Serving, with real requests to real processes: HARDENING's rules 1 to 5, sub-path proxies, and clean ends.

Rule 3 (what the trainer process may see) is in runs/test_monitor, rule 2's code walk in test_architecture.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import pickle
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client

from tests.conftest import MAX_BODY_BYTES, MAX_QUEUE
from tests.studio_process import ROOT, StudioProcess

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    """A studio with a login, listening on all addresses, named by its owner."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "users").write_text(f"ada:{PASSWORD}\n")
    flags = ("--host", "0.0.0.0", "--auth-file", str(folder / "users"), "--allowed-hosts", "studio.lan")
    with StudioProcess(folder / "data", *flags) as process:
        process.url = process.url.replace("0.0.0.0", "127.0.0.1")
        yield process


def draw(url: str, **choices: object) -> list[str]:
    client = Client(url, verbose=False)
    files, _ = client.predict(**{"prompt": "a red cube", **choices}, api_name="/text_to_image")
    client.close()
    return files


# --- rule 1: ids, never paths -----------------------------------------------------------------------------------


def test_no_file_of_the_data_folder_or_the_machine_is_served_by_its_path(
    studio: StudioProcess, studio_data_dir: Path
) -> None:
    draw(studio.url)
    picture = next((studio_data_dir / "outputs").rglob("*.png"))
    paths = [
        picture,
        studio_data_dir / "history.sqlite3",
        studio_data_dir / "studio.lock",
        ROOT / "app.py",
        Path("/etc/passwd"),
    ]
    for path in (
        *paths,
        studio_data_dir / "served" / ".." / "history.sqlite3",
        "app.py",
        "../../etc/passwd",
        studio_data_dir,
    ):
        answer = httpx.get(f"{studio.url}/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path


def test_what_a_stranger_uploads_never_comes_back_as_a_page(studio: StudioProcess) -> None:
    page = {"files": ("evil.html", b"<script>alert(1)</script>", "text/html")}
    (path,) = httpx.post(f"{studio.url}/gradio_api/upload", files=page).json()
    answer = httpx.get(f"{studio.url}/gradio_api/file={path}")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_uploads_of_the_last_run_are_gone_at_the_next_start_and_pictures_stay(tmp_path: Path) -> None:
    with StudioProcess(tmp_path) as first:
        upload = {"files": ("x.png", b"left behind", "image/png")}
        (path,) = httpx.post(f"{first.url}/gradio_api/upload", files=upload).json()
        assert Path(path).is_relative_to(tmp_path / "served")
        draw(first.url, seed=7)
        first.terminate(signal.SIGKILL)
    with StudioProcess(tmp_path) as second:
        assert not Path(path).exists()
        client = Client(second.url, verbose=False)
        assert [entry["parameters"]["seed"] for entry in client.predict(api_name="/history")] == [7]
        client.close()


# --- rule 2: no code from strangers -----------------------------------------------------------------------------


class Bomb:
    """Unpickling this touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_dressed_as_a_picture_runs_nothing(studio: StudioProcess, tmp_path: Path) -> None:
    harmed = tmp_path / "harmed"
    asked: set[str] = set()
    content = pickle.dumps(Bomb(harmed))
    (path,) = httpx.post(f"{studio.url}/gradio_api/upload", files={"files": ("x.png", content, "image/png")}).json()
    config = httpx.get(f"{studio.url}/config").json()
    # Every private endpoint runs over HTTP too: hand the file to each one that takes a single file.
    for function in config["dependencies"]:
        if len(function["inputs"]) == 1:
            file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}
            body = {"data": [file], "fn_index": function["id"], "session_hash": "stranger"}
            asked.add(httpx.post(f"{studio.url}/gradio_api/queue/join", json=body).json()["event_id"])
    assert asked
    where = f"{studio.url}/gradio_api/queue/data?session_hash=stranger"
    with httpx.stream("GET", where, timeout=60) as answers:
        for line in answers.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                asked.discard(message["event_id"])
            if not asked:
                break
    assert not asked  # every one of them has run to its end
    assert not harmed.exists()
    assert studio.process.poll() is None


# --- rule 4: who may come in ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.5"])
def test_a_name_rebound_to_this_address_gets_nothing(studio: StudioProcess, host: str) -> None:
    assert httpx.get(studio.url, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
def test_a_page_of_another_site_gets_nothing_done(studio: StudioProcess, origin: str) -> None:
    body = {"data": ["x"], "fn_index": 0, "session_hash": "x"}
    answer = httpx.post(f"{studio.url}/gradio_api/queue/join", json=body, headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    upload = httpx.post(f"{studio.url}/gradio_api/upload", files={"files": ("x", b"x")}, headers={"origin": origin})
    assert upload.status_code == 403
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    assert httpx.options(f"{studio.url}/gradio_api/queue/join", headers=preflight).status_code == 403


def test_the_page_itself_is_served_with_headers_and_nothing_from_elsewhere(studio: StudioProcess) -> None:
    answer = httpx.get(studio.url, headers={"origin": studio.url})
    assert answer.status_code == 200
    assert "PeRFlow Studio" in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


@pytest.mark.parametrize("path", ["file=http://127.0.0.1:9/x", "file=https%3A//x/y.png", "proxy=https://x.hf.space/"])
def test_the_studio_is_nobodys_proxy(studio: StudioProcess, path: str) -> None:
    assert httpx.get(f"{studio.url}/gradio_api/{path}").status_code == 403


@pytest.mark.parametrize(
    "path", ["config", "gradio_api/info", "gradio_api/queue/data?session_hash=x", "gradio_api/file=x"]
)
def test_without_a_login_nothing_is_told(guarded: StudioProcess, path: str) -> None:
    assert httpx.get(f"{guarded.url}/{path}").status_code == 401


def test_a_login_opens_the_studio_under_its_names_only(guarded: StudioProcess) -> None:
    client = Client(guarded.url, auth=("ada", PASSWORD), verbose=False)
    assert client.predict("x", api_name="/text_to_image")[1]["state"] == "finished"
    client.close()
    for host, status in (("studio.lan", 200), ("10.1.2.3:7860", 200), ("evil.example", 421)):
        assert httpx.get(guarded.url, headers={"host": host}).status_code == status


def test_passwords_cannot_be_guessed_at_speed(guarded: StudioProcess) -> None:
    statuses = [
        httpx.post(f"{guarded.url}/login", data={"username": "ada", "password": f"guess {number}"}).status_code
        for number in range(7)
    ]
    assert statuses == [400] * 5 + [429] * 2
    right = httpx.post(f"{guarded.url}/login", data={"username": "ada", "password": PASSWORD})
    assert right.status_code == 429
    assert "try again in" in right.json()["detail"]


# --- rule 5: limits before work ---------------------------------------------------------------------------------


def status_of_unannounced(studio: StudioProcess, size: int) -> int:
    """Upload a chunked body, reading the answer even when the server hangs up before all is sent."""
    head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    connection = http.client.HTTPConnection(studio.host, timeout=30)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("content-type", "multipart/form-data; boundary=x")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    with contextlib.suppress(ConnectionError):
        for piece in (head, *[b"x" * 65536] * (size // 65536), b"\r\n--x--\r\n"):
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.send(b"0\r\n\r\n")
    status = connection.getresponse().status
    connection.close()
    return status


def test_large_bodies_are_refused_announced_or_not(studio: StudioProcess) -> None:
    large = b"x" * (MAX_BODY_BYTES + 1)
    url = f"{studio.url}/gradio_api/upload"
    assert httpx.post(url, files={"files": ("x.png", large)}).status_code == 413
    # A text field of a form is not a file, and gradio does not count it.
    assert httpx.post(url, data={"note": large.decode()}, files={"files": ("x.png", b"x")}).status_code == 413
    assert status_of_unannounced(studio, 2 * MAX_BODY_BYTES) == 413
    assert status_of_unannounced(studio, MAX_BODY_BYTES // 2) == 200


def test_a_full_line_is_a_sentence_for_the_one_and_no_harm_to_the_others(studio: StudioProcess) -> None:
    client = Client(studio.url, verbose=False)
    jobs = [client.submit("x", steps=16, api_name="/text_to_image") for _ in range(MAX_QUEUE + 4)]
    refused = [str(error) for job in jobs if (error := job.exception(timeout=60)) is not None]
    client.close()
    assert len(refused) == 3
    assert all("waiting for the device" in sentence for sentence in refused)


# --- behind a proxy, on a Space ---------------------------------------------------------------------------------


class StrippingProxy(http.server.BaseHTTPRequestHandler):
    """Shows the studio under /studio, as nginx's `location /studio/ { proxy_pass http://host/; }` does."""

    target = ""

    def _forward(self) -> None:
        if not self.path.startswith("/studio"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        upstream = http.client.HTTPConnection(self.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        headers |= {"Host": self.target, "X-Forwarded-Host": self.headers["host"], "Accept-Encoding": "identity"}
        upstream.request(self.command, self.path.removeprefix("/studio") or "/", body or None, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        while piece := answer.read1(65536):
            self.wfile.write(piece)
            self.wfile.flush()
        upstream.close()

    do_GET = do_POST = _forward

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def test_it_works_under_a_sub_path_of_a_proxy(tmp_path: Path) -> None:
    with StudioProcess(tmp_path, "--root-path", "/studio") as studio:
        handler = type("Proxy", (StrippingProxy,), {"target": studio.host.removesuffix("/studio")})
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{proxy.server_port}/studio"
            assert httpx.get(f"{url}/config").json()["root"] == url
            assert Path(draw(url)[0]).stat().st_size > 100
            assert studio.terminate(signal.SIGINT) == 0
        finally:
            proxy.shutdown()
            proxy.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_on_a_space_gradio_serves_and_the_guard_rides_along(tmp_path: Path) -> None:
    port = free_port()
    space = {"SPACE_ID": "someone/studio", "GRADIO_SERVER_NAME": "127.0.0.1"}
    with StudioProcess(tmp_path, "--host", "127.0.0.1", "--port", str(port), environment=space) as studio:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(studio.url, headers={"host": "someone-studio.hf.space"})
                break
            except httpx.TransportError:
                time.sleep(0.2)
        assert answer.status_code == 200
        assert "https://huggingface.co" in answer.headers["content-security-policy"]
        assert httpx.get(f"{studio.url}/gradio_api/file=http://127.0.0.1:9/").status_code == 403
        draw(studio.url)
        assert studio.terminate() == 0
        assert "Traceback" not in studio.log


# --- ends -------------------------------------------------------------------------------------------------------


def test_a_signal_ends_it_cleanly_while_it_draws_and_pages_are_open(tmp_path: Path) -> None:
    with StudioProcess(tmp_path) as studio:
        client = Client(studio.url, verbose=False)
        job = client.submit("x", steps=32, num_images=16, api_name="/text_to_image")
        assert next(iter(job))[1]["state"] == "loading"
        with httpx.stream("GET", f"{studio.url}/gradio_api/heartbeat/abc", timeout=30) as page:
            assert next(page.iter_lines()).startswith("data")
            began = time.monotonic()
            status = studio.terminate(signal.SIGTERM)
        assert status == 0
        assert time.monotonic() - began < 20
        assert "being stopped" in str(job.exception(timeout=10))
        assert "Traceback" not in studio.log
        assert "Error" not in studio.log
        assert not list((tmp_path / "outputs").rglob("*.png*"))


def test_a_second_studio_and_a_taken_port_are_refused_with_status_2(
    studio: StudioProcess, studio_data_dir: Path, tmp_path: Path
) -> None:
    for flags, folder, sentence in (
        ((), studio_data_dir, "Another studio is using the data folder"),
        (("--port", studio.host.split(":")[1]), tmp_path, "give another --port"),
    ):
        second = StudioProcess(folder, *flags)
        try:
            assert second.process.wait(timeout=120) == 2
        finally:
            second.__exit__()
        assert sentence in second.log
        assert "Traceback" not in second.log
