"""PeRFlow Studio's composition root: settings -> catalogue, engine, history, services -> page -> server."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  # pyright: ignore[reportMissingImports]  # ZeroGPU wants it before torch

from studio.catalog import Catalog
from studio.errors import StudioError
from studio.gpu import DeviceLease
from studio.history import History
from studio.services import Services
from studio.settings import Settings
from studio.training import TrainingServices


def make_engines(settings: Settings, catalog: Catalog, history: History):
    """The engines for pictures and for views; torch is imported only for the real ones, and the fake draws no views."""
    if settings.engine == "fake":
        from studio.engine.fake import FakeEngine

        return FakeEngine(catalog, open_picture=history.inputs.open), None
    from studio.engine.diffusion import DiffusionEngine
    from studio.engine.multiview import WonderEngine

    where = {name: getattr(settings, name) for name in ("assets_dir", "device", "dtype", "hub_cache", "offline")}
    return DiffusionEngine(catalog, open_picture=history.inputs.open, **where), WonderEngine(catalog, **where)


def run(settings: Settings) -> None:
    """Build everything once and serve until told to stop."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")  # read when they are imported
    catalog = Catalog.load(settings.presets_dir)
    with contextlib.ExitStack() as held:
        history = held.enter_context(History(settings.data_dir, served_dir=settings.served_dir))
        engine, views = make_engines(settings, catalog, history)
        held.callback(engine.close)
        held.callback((views or engine).close)
        training = held.enter_context(TrainingServices(settings, catalog, make_room=engine.make_room))
        from studio.ui import layout, server

        server.prepare(settings)
        lease = DeviceLease(max_waiting=settings.max_queue)
        services = Services(settings, catalog, engine, history, lease, training, views)
        server.serve(layout.build(services), settings, options=layout.launch_options(), on_stop=services.stop)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        run(Settings.load(sys.argv[1:], os.environ))
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
