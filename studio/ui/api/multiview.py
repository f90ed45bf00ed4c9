"""The typed endpoint /multiview: a picture of one object in, its views and a mesh out; where a network can draw.

Annotations are evaluated here (no `from __future__ import annotations`), because gradio documents the API from them.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from studio import conditions
from studio.conditions import ViewsOf
from studio.errors import StorageError
from studio.multiviews import RANDOM_SEED, MeshFiles
from studio.services import Services
from studio.types import GenerationEvent, GenerationResult, Loading, StepDone, Waiting
from studio.ui.uploads import uploaded_file

Files = list[FileData]
Json = dict[str, Any]
MIME_TYPES = {".png": "image/png", ".webp": "image/webp", ".glb": "model/gltf-binary"}


def multiview_endpoints(services: Services) -> tuple[Callable[..., Any], ...]:
    """The function that draws; none where no network can."""
    views = services.multiview
    if views is None or not views.models():
        return ()

    def multiview(
        image: FileData,
        background: str = "auto",
        model: str | None = None,
        accelerator: str | None = None,
        accelerator_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = RANDOM_SEED,
        mesh: bool = True,
    ) -> Iterator[tuple[Files, Json]]:
        """Draw six views of the object in a picture, with normal maps, and make a mesh of them.

        Files: the sheet of views (PNG, normal maps above colours), and with mesh a watertight GLB and a turntable
        (animated WebP). The JSON says how often the network was really asked, and the mesh's mean angle to the normal
        maps. background is auto, alpha, plain or grabcut; guidance 1 is off; seed -1 is random.
        """
        picture = views.keep(uploaded_file(image, "image", services.settings.served_dir))
        prepared = views.prepare(picture, model, background)
        request = views.resolve(
            model=model, accelerator=accelerator, accelerator_strength=accelerator_strength, steps=steps,
            guidance=guidance, seed=seed,
            views_of=conditions.from_json(ViewsOf, "image", {"image": picture, "background": background}),
        )  # fmt: skip
        for event in views.draw(request, previews=False):
            if not isinstance(event, GenerationResult):
                yield [], _state(event)
                continue
            id = event.images[0].history_id
            if id is None:
                raise StorageError(f"The views were drawn but could not be saved. {event.receipt.warnings[-1]}")
            files = [services.history.export(id)]
            report = {**_report(event, id), "background": prepared.way, "notes": list(prepared.notes)}
            if mesh:
                yield [], {"state": "carving"}
                made = views.mesh(id)
                files += [made.glb, made.turntable]
                report["mesh"] = _mesh(made)
            yield [_file(each) for each in files], report

    return (multiview,)


def _file(path: Path) -> FileData:
    kind = MIME_TYPES[path.suffix]
    return FileData(path=str(path), orig_name=path.name, mime_type=kind, size=path.stat().st_size)


def _report(result: GenerationResult, id: str) -> Json:
    receipt = result.receipt
    return {
        "state": "finished",
        "parameters": result.request.to_json(),
        "history_id": id,
        "seconds": result.seconds,
        "num_network_calls": receipt.num_network_calls,
        "grid": asdict(receipt.plan),
        "receipt": {name: value for name, value in asdict(receipt).items() if name != "plan"},
    }


def _mesh(made: MeshFiles) -> Json:
    sculpture = made.sculpture
    return {
        "num_faces": len(sculpture.mesh.faces),
        "is_watertight": sculpture.is_watertight,
        "normal_error_degrees": sculpture.normal_error_degrees,
        "hull_normal_error_degrees": sculpture.hull_normal_error_degrees,
        "seconds": sculpture.seconds,
    }


def _state(event: GenerationEvent) -> Json:
    if isinstance(event, Waiting):
        return {"state": "waiting", "num_ahead": event.num_ahead, "seconds": event.seconds}
    if isinstance(event, Loading):
        return {"state": "loading", "message": event.message, "fraction": event.fraction}
    assert isinstance(event, StepDone)
    return {"state": "drawing", "step": event.step, "num_steps": event.num_steps, "window": event.window}
