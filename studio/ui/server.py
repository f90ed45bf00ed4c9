"""Puts a built page on the network: the guard around gradio, uvicorn, and a clean end.

On a Space, gradio's own `launch()` serves instead, because ZeroGPU knows no other way; the guard rides along inside.
This module does not know what is on the page, and imports no engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any

import fastapi
import gradio as gr
import uvicorn
from gradio.routes import App
from starlette.middleware import Middleware
from starlette.routing import Mount

from studio.errors import StorageError
from studio.guard import SPACE_FRAMES, Guard, Policy
from studio.settings import Settings, is_loopback

LOG = logging.getLogger("studio")
GRACE_SECONDS = 10
KEPT_SECONDS, SWEPT_EVERY_SECONDS = 3600, 600


def prepare(settings: Settings) -> None:
    """Before any component is built: an empty folder for what is served."""
    try:
        shutil.rmtree(settings.served_dir, ignore_errors=True)
        settings.served_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{settings.served_dir} cannot be written ({error.strerror}): give another --data-dir."
        ) from error
    os.environ["GRADIO_TEMP_DIR"] = str(settings.served_dir)


def serve(page: gr.Blocks, settings: Settings, *, options: dict[str, Any], on_stop: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl+C; `on_stop` is called at once then, to end running work. Returns after the end."""
    # One line only, the device's: gradio's queue just carries events, and no route may walk around it.
    page.queue(max_size=None, default_concurrency_limit=None, api_open=False)
    page.delete_cache = (SWEPT_EVERY_SECONDS, KEPT_SECONDS)
    if settings.on_space:
        _serve_on_space(page, settings, options, on_stop)
        return
    listener = _listen(settings.host, settings.port)
    page.has_launched = (
        True  # else gradio lets a request name any file of this machine as its upload (mounting forgets)
    )
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(app, page, path="/", root_path=settings.root_path or None, **_arguments(settings, options))
    mounted = next(route.app for route in app.routes if isinstance(route, Mount))
    assert isinstance(mounted, App)
    config = uvicorn.Config(
        Guard(app, policy_of(settings)),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    _announce(host, port, settings.root_path)
    _Server(config, before_end=(on_stop, mounted.stop_event.set)).run(sockets=[listener])


def policy_of(settings: Settings) -> Policy:
    """The guard's rules for a way of serving."""
    if settings.on_space:
        # The Space's own proxy decides the host; what is left to guard are bodies, addresses and headers.
        return Policy(check_hosts=False, max_upload_bytes=settings.max_body_bytes, frame_ancestors=SPACE_FRAMES)
    return Policy(
        allowed_hosts=settings.allowed_hosts,
        any_address=not is_loopback(settings.host),
        max_upload_bytes=settings.max_body_bytes,
    )


def _serve_on_space(page: gr.Blocks, settings: Settings, options: dict[str, Any], on_stop: Callable[[], None]) -> None:
    def end(*_: object) -> None:
        on_stop()
        page.close(verbose=False)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    _announce(settings.host, settings.port, settings.root_path)
    page.launch(
        server_name=settings.host,
        server_port=settings.port,
        share=False,
        app_kwargs={"middleware": [Middleware(Guard, policy=policy_of(settings))]},
        **_arguments(settings, options),
    )


def _arguments(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """What both ways of serving tell gradio: the page's own looks, and what no page may loosen."""
    return {
        **options,
        "auth": list(settings.users) or None,
        "max_file_size": settings.max_body_bytes,
        "show_error": False,
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
        "allowed_paths": [],
    }


class _Server(uvicorn.Server):
    """uvicorn that ends running work and open streams before it waits for its connections, and exits with 0."""

    def __init__(self, config: uvicorn.Config, *, before_end: tuple[Callable[[], None], ...]) -> None:
        super().__init__(config)
        self._before_end = before_end

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but a signal that was obeyed is not raised again afterwards."""
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in handled}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for end in self._before_end:
            end()
        await super().shutdown(sockets)


def _announce(host: str, port: int, root_path: str) -> None:
    LOG.info("PeRFlow Studio listens at http://%s:%d%s", f"[{host}]" if ":" in host else host, port, root_path)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StorageError(f"{host}:{port} cannot be listened on ({error.strerror}): give another --port.") from error
    listener.set_inheritable(True)
    return listener
