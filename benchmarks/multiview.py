"""How good few calls are on views: `python -m benchmarks.multiview` measures Tabletop's multiview network and its mesh.

On objects no network ever saw (TEST_SEEDS), from the exact front view and from a perspective picture, the same noise:
* against its own unaccelerated 50-step result (DDIM): PSNR of the colours, angle between the normals;
* against the world: PSNR, normal error in degrees over what both call object, overlap of the outlines;
* the mesh made of the views: overlap of its volume with the true solid, and whether it is watertight.

Rows: the true views themselves (the floor of the mesh), the autoencoder's rendering of them (the floor of the views),
DDIM and DPM-Solver++ without training, PeRFlow's ΔW added by name with 4, 2 and 1 network calls, and ΔW also on the
first channels of conv_in. Writes `benchmarks/results/multiview.json`, `.md` and `multiview.png`.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from studio.catalog import Catalog
from studio.engine.hub import Hub
from studio.engine.multiview_drawing import decode_sheet, draw_latents, encode
from studio.engine.multiview_files import MultiviewFiles, Networks, read_networks
from studio.engine.samplers import make_sampler
from studio.errors import InvalidRequest
from studio.multiview.mesh import is_inside
from studio.multiview.sculpt import sculpt
from studio.multiview.views import ViewSet
from studio.perflow import DeltaWeights, KeptBase
from trainer.tabletop.data import TEST_SEEDS
from trainer.tabletop.objects import frame_of, object_scene, perspective_picture, solid_of, views_of

log = logging.getLogger(__name__)

MODEL = "tabletop-multiview"
REFERENCE_STEPS = 50
AXIS = np.linspace(-1, 1, 64)
RESULTS = Path(__file__).parent / "results"
# name -> accelerator of the catalogue, calls, whether ΔW also goes onto conv_in
SETTINGS = {
    "DDIM, 4 calls": ("ddim", 4, False),
    "DPM-Solver++, 4 calls": ("dpmpp", 4, False),
    "DDIM, 1 call": ("ddim", 1, False),
    "PeRFlow ΔW, 4 calls": ("perflow-tabletop", 4, False),
    "PeRFlow ΔW, 2 calls": ("perflow-tabletop", 2, False),
    "PeRFlow ΔW, 1 call": ("perflow-tabletop", 1, False),
    "PeRFlow ΔW with conv_in, 4 calls": ("perflow-tabletop", 4, True),
}
COLUMNS = (
    "psnr_own_db", "normal_own_degrees", "psnr_true_db", "normal_true_degrees", "outline_overlap", "mesh_overlap",
    "watertight", "seconds",
)  # fmt: skip


class Bench:
    """The network, its kept base, and the ways to draw with it."""

    def __init__(self, assets: Path, presets: Path) -> None:
        self.catalog = Catalog.load(presets)
        self.spec = self.catalog.multiview_model(MODEL)
        files = MultiviewFiles(Hub(offline=True), assets)
        self.networks: Networks = read_networks(self.spec, files.folders(self.spec, lambda *_: None))
        self.networks.unet.float()
        self.base = KeptBase(self.networks.unet)
        self.delta = DeltaWeights.read(assets / "perflow-tabletop")

    def draw(self, picture: Image.Image, seed: int, accelerator: str, calls: int, widen: bool) -> ViewSet:
        """Views of a picture with a given number of network calls, CFG off."""
        how = self.catalog.accelerator(accelerator)
        if how.kind == "none":
            self.base.restore()
        else:
            self.base.apply(self.delta, 1.0, widen=widen)
        facts = None if how.kind == "none" else self.delta.spec
        sampler = make_sampler(self.networks.noise_schedule, self.spec, how, facts)
        given = encode(self.networks, picture, begins_near=self.spec.begins_near)
        latents = draw_latents(self.networks, sampler, given, (1.0,) * calls, seed, lambda *_: None)
        return ViewSet.of_sheet(decode_sheet(self.networks.vae, latents))

    @torch.inference_mode()
    def redrawn(self, views: ViewSet) -> ViewSet:
        """The views through the autoencoder and back: no network can be better than this."""
        pixels = torch.from_numpy(np.concatenate([views.normals, views.colours])).permute(0, 3, 1, 2) * 2 - 1
        vae = self.networks.vae
        scale = vae.config.scaling_factor
        latents = torch.cat([vae.encode(row[None]).latent_dist.mode() * scale for row in pixels])
        return ViewSet.of_sheet(decode_sheet(vae, latents))


def psnr(a: ViewSet, b: ViewSet) -> float:
    """Of the colours, in dB."""
    return float(-10 * np.log10(np.mean((a.colours - b.colours) ** 2) + 1e-10))


def normal_angle(a: ViewSet, b: ViewSet) -> float:
    """The mean angle over what both call object, in degrees."""
    both = a.masks() & b.masks()
    cosine = (a.vectors() * b.vectors()).sum(axis=-1)[both].clip(-1, 1)
    return float(np.degrees(np.arccos(cosine)).mean()) if both.any() else 180.0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def measured(views: ViewSet, own: ViewSet, truth: ViewSet, solid: np.ndarray) -> dict[str, float]:
    """All figures of one result; views that no object can have count as no mesh."""
    try:
        made = sculpt(views)
        mesh = {"mesh_overlap": overlap(is_inside(made.mesh, AXIS), solid), "watertight": float(made.is_watertight)}
    except InvalidRequest:
        mesh = {"mesh_overlap": 0.0, "watertight": 0.0}
    return {
        "psnr_own_db": psnr(views, own),
        "normal_own_degrees": normal_angle(views, own),
        "psnr_true_db": psnr(views, truth),
        "normal_true_degrees": normal_angle(views, truth),
        "outline_overlap": overlap(views.masks(), truth.masks()),
        **mesh,
    }


def run(bench: Bench, num_objects: int) -> tuple[dict[str, dict[str, float]], Image.Image]:
    """Mean figures by row, and the first object's sheets."""
    size = bench.spec.native_width
    found: dict[str, list[dict[str, float]]] = {}
    sheets: list[Image.Image] = []
    for number in range(num_objects):
        seed = TEST_SEEDS + number
        scene = object_scene(seed)
        frame = frame_of(scene)
        truth, solid = views_of(scene, frame, size), solid_of(scene, frame, AXIS)
        perspective = (perspective_picture(scene, frame, size) * 255).round().astype(np.uint8)
        given = Image.fromarray((truth.colours[0].clip(0, 1) * 255).round().astype(np.uint8))
        own = bench.draw(given, seed, "ddim", REFERENCE_STEPS, False)
        rows: dict[str, Callable[[], ViewSet]] = {
            "the true views": lambda t=truth: t,
            "the true views through the autoencoder": partial(bench.redrawn, truth),
            f"unaccelerated, DDIM {REFERENCE_STEPS} calls": lambda o=own: o,
        }
        for name, (accelerator, calls, widen) in SETTINGS.items():
            rows[name] = partial(bench.draw, given, seed, accelerator, calls, widen)
        seen = Image.fromarray(perspective)
        rows["PeRFlow ΔW, 4 calls, from a perspective picture"] = partial(
            bench.draw, seen, seed, "perflow-tabletop", 4, False
        )
        for name, make in rows.items():
            started = time.perf_counter()
            views = make()
            seconds = time.perf_counter() - started
            found.setdefault(name, []).append({**measured(views, own, truth, solid), "seconds": seconds})
            if number == 0:
                sheets.append(views.sheet())
        log.info("object %d of %d", number + 1, num_objects)
    means = {
        name: {key: float(np.mean([each[key] for each in figures])) for key in COLUMNS}
        for name, figures in found.items()
    }
    return means, stacked(sheets)


def stacked(sheets: list[Image.Image]) -> Image.Image:
    """Sheets below each other."""
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height + 6 for sheet in sheets)), "white")
    for number, sheet in enumerate(sheets):
        whole.paste(sheet, (0, number * (sheet.height + 6)))
    return whole


def table(means: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    head = "| views | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS)
    rows = [f"| {name} | " + " | ".join(f"{row[key]:.3g}" for key in COLUMNS) + " |" for name, row in means.items()]
    return "\n".join([head, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multiview", description=__doc__)
    parser.add_argument("--objects", type=int, default=24)
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--presets", type=Path, default=Path("presets"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    means, picture = run(Bench(arguments.assets, arguments.presets), arguments.objects)
    arguments.results.mkdir(parents=True, exist_ok=True)
    facts = {"num_objects": arguments.objects, "rows": means}
    (arguments.results / "multiview.json").write_text(json.dumps(facts, indent=1))
    (arguments.results / "multiview.md").write_text(table(means))
    picture.save(arguments.results / "multiview.png")
    log.info("\n%s", table(means))


if __name__ == "__main__":
    main()
