"""Does ΔW work under what it never saw: `python -m benchmarks.transfer` draws each workflow with and without it.

Tabletop's ControlNets, IP-Adapter and multiview network, and a base that was fine-tuned in another style, were all
trained beside or from the *unaccelerated* base. Each is drawn by the studio's own engine from the same prompts, seeds
and pictures of unseen scenes (TEST_SEEDS): by the original in 50 steps (DDIM), by PeRFlow's ΔW in four, and by the
original in four (DDIM, DPM-Solver++). Two questions a row:
* does it follow its picture as well as the 50-step original: F1 of edges (within a pixel), rank correlation of depth,
  joint error in pixels (both as the reader reads them), PSNR to the tile at its own size, CLIP similarity to the
  reference; beside it the same without the picture, and what true renders reach;
* how near is it to the original's own picture: PSNR.

The other style is trained here, once, into the cache (`--style-minutes`). Multiview's row is that of
`benchmarks.multiview`, on fewer objects. Writes `benchmarks/results/transfer.json`, `.md` and a strip of pictures a
workflow: its picture, then the four ways in the order above.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.following import Eyes, Subject, edge_f1, psnr_of, tile_psnr
from benchmarks.multiview import MODEL, REFERENCE_STEPS, Bench, normal_angle
from benchmarks.multiview import psnr as views_psnr
from benchmarks.styled_base import STYLE, styled_base
from studio.catalog import Catalog
from studio.conditions import ControlUnit, Reference
from studio.engine.diffusion import DiffusionEngine
from studio.types import GenerationRequest, GenerationResult, Guidance
from trainer.controls import control_of_scene, image_from
from trainer.tabletop.captions import full_caption
from trainer.tabletop.data import IMAGE_SIZE, TEST_SEEDS, default_cache
from trainer.tabletop.objects import frame_of, object_scene, views_of
from trainer.tabletop.reader import has_one_figure
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

log = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
WAYS = {
    "original, 50": ("ddim", REFERENCE_STEPS),
    "ΔW, 4": ("perflow-tabletop", 4),
    "DDIM, 4": ("ddim", 4),
    "DPM++, 4": ("dpmpp", 4),
}
ALONE = "ΔW, 4, without its picture"
TRUE = "true renders"
VIEWS = "multiview (CFG 1)"
NUM_SHOWN = 3

Measure = Callable[[Image.Image, Subject], float | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A workflow: what is attached to which base, and what is measured of its following."""

    name: str
    slug: str
    measure_name: str = ""
    measure: Measure | None = None
    map_of: str = ""
    control: str = ""
    adapter: str = ""
    model: str = "tabletop"

    def request(self, subject: Subject, seed: int, guidance: float) -> GenerationRequest:
        """In four steps by ΔW; a reference is drawn without words."""
        return GenerationRequest(
            prompt="" if self.adapter else full_caption(subject.scene), model=self.model, seed=seed,
            width=IMAGE_SIZE, height=IMAGE_SIZE, guidance=Guidance.of(guidance),
            controls=(ControlUnit(control=self.control, image=PICTURE),) if self.control else (),
            references=(Reference(adapter=self.adapter, image=PICTURE),) if self.adapter else (),
        )  # fmt: skip


PICTURE = "0" * 64
"""The name of the one picture at hand."""


def cases(eyes: Eyes) -> tuple[Case, ...]:
    """Every workflow on the diffusion engine."""
    return (
        _following("canny", "edge F1", edge_f1),
        _following("depth", "depth rank correlation", eyes.depth),
        _following("pose", "joint error, px", eyes.joints),
        _following("tile", "PSNR at the tile's size, dB", tile_psnr),
        Case(
            name="IP-Adapter, scale 0.6", slug="ip-adapter", measure_name="CLIP similarity", measure=eyes.likeness,
            adapter="tabletop-ip",
        ),
        Case(name="a base in another style", slug="style", model=STYLE),
    )  # fmt: skip


def _following(map_of: str, measure_name: str, measure: Measure) -> Case:
    return Case(
        name=f"ControlNet {map_of}", slug=map_of, measure_name=measure_name, measure=measure, map_of=map_of,
        control=f"tabletop-{map_of}",
    )  # fmt: skip


def subjects(case: Case, count: int) -> Iterator[Subject]:
    """Unseen scenes; for poses those with one figure."""
    found = (random_scene(TEST_SEEDS + number) for number in range(100 * count))
    for scene in islice((each for each in found if case.map_of != "pose" or has_one_figure(each)), count):
        seen = render(scene, IMAGE_SIZE)
        pixels = (seen.rgb * 255).round().to(torch.uint8)
        picture = control_of_scene(case.map_of, seen, pixels) if case.map_of else pixels
        yield Subject(scene=scene, seen=seen, picture=image_from(picture))


class Studio:
    """The studio's own engine, with one picture at hand."""

    def __init__(self, assets: Path, presets: Path, style: Path) -> None:
        listed = Catalog.load(presets)
        base = listed.model("tabletop")
        styled = replace(base, id=STYLE, title="Tabletop in another style", kind="folder", source=str(style))
        catalog = Catalog(models=(*listed.models, styled), accelerators=listed.accelerators, controls=listed.controls)
        self.picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
        self.engine = DiffusionEngine(
            catalog, assets_dir=assets, device="cpu", dtype="fp32", offline=True, open_picture=lambda _: self.picture
        )

    def draw(self, request: GenerationRequest, picture: Image.Image) -> Image.Image:
        """One picture."""
        self.picture = picture
        *_, result = self.engine.generate(request, previews=False)
        assert isinstance(result, GenerationResult)
        return result.images[0].image


def follow(studio: Studio, case: Case, count: int, guidance: float) -> tuple[dict, list[list[Image.Image]]]:
    """A row's figures, and the pictures of the first subjects."""
    follows: dict[str, list[float | None]] = {}
    nears: dict[str, list[float]] = {}
    shown = []
    for number, subject in enumerate(subjects(case, count)):
        asked = case.request(subject, seed=number, guidance=guidance)
        drawn = {
            name: studio.draw(replace(asked, accelerator=accelerator, steps=steps), subject.picture)
            for name, (accelerator, steps) in WAYS.items()
        }
        own = np.asarray(drawn["original, 50"], float)
        for name, image in drawn.items():
            nears.setdefault(name, []).append(psnr_of(np.asarray(image, float), own))
        if case.measure:
            drawn[ALONE] = studio.draw(replace(asked, controls=(), references=()), subject.picture)
            for name, image in {**drawn, TRUE: subject.true}.items():
                follows.setdefault(name, []).append(case.measure(image, subject))
        if number < NUM_SHOWN:
            shown.append([subject.picture, *(drawn[name] for name in WAYS)])
        log.info("%s: %d of %d", case.name, number + 1, count)
    figures = {
        "follows": {name: _mean(values) for name, values in follows.items()},
        "psnr_to_original_db": {name: _mean(values) for name, values in nears.items() if name != "original, 50"},
    }
    return {"name": case.name, "measure": case.measure_name, **figures}, shown


def _mean(values: list) -> float:
    return float(np.mean([each for each in values if each is not None]))


def views_row(assets: Path, presets: Path, count: int) -> dict:
    """Multiview: angle between the normals and the true ones, and PSNR of the colours to the original's own."""
    bench = Bench(assets, presets)
    angles: dict[str, list[float]] = {}
    nears: dict[str, list[float]] = {}
    for number in range(count):
        scene = object_scene(TEST_SEEDS + number)
        truth = views_of(scene, frame_of(scene), bench.spec.native_width)
        given = Image.fromarray((truth.colours[0].clip(0, 1) * 255).round().astype(np.uint8))
        drawn = {
            name: bench.draw(given, number, accelerator, steps, False) for name, (accelerator, steps) in WAYS.items()
        }
        for name, views in {**drawn, TRUE: bench.redrawn(truth)}.items():
            angles.setdefault(name, []).append(normal_angle(views, truth))
        for name, views in drawn.items():
            nears.setdefault(name, []).append(views_psnr(views, drawn["original, 50"]))
        log.info("multiview: %d of %d", number + 1, count)
    near = {name: _mean(values) for name, values in nears.items() if name != "original, 50"}
    follows = {name: _mean(values) for name, values in angles.items()}
    return {"name": VIEWS, "measure": "normal error, degrees", "follows": follows,
            "psnr_to_original_db": near}  # fmt: skip


# --- the report -------------------------------------------------------------------------------------------------------


def table(rows: list[dict]) -> str:
    """Markdown: how each follows, then how near it is to the original's own picture."""
    columns = [*WAYS, ALONE, TRUE]
    near = [name for name in WAYS if name != "original, 50"]
    head = ["workflow", "measure", *columns, *(f"{name}: PSNR to the original, dB" for name in near)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [f"{row['follows'][name]:.3g}" if name in row["follows"] else "" for name in columns]
        cells += [f"{row['psnr_to_original_db'][name]:.1f}" for name in near]
        lines.append(f"| {row['name']} | {row['measure']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def strip(examples: list[list[Image.Image]]) -> Image.Image:
    """Examples side by side: the picture followed, then each way of drawing."""
    gap, side = 12, IMAGE_SIZE
    wide = len(examples[0]) * side + gap
    whole = Image.new("RGB", (len(examples) * wide - gap, side), "white")
    for across, pictures in enumerate(examples):
        for place, picture in enumerate(pictures):
            whole.paste(picture.resize((side, side)), (across * wide + place * side, 0))
    return whole


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32, help="scenes a workflow")
    parser.add_argument("--objects", type=int, default=12, help="objects of the multiview row")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--style-minutes", type=float, default=4.0)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="WORD",
        help="measure rows whose name has one of these words, keep the last report's others",
    )
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--presets", type=Path, default=Path("presets"))
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = arguments.out / "transfer.json"
    rows = json.loads(report.read_text()) if report.exists() else []
    kept = {row["name"]: row for row in rows}
    for row in measured_rows(arguments):
        kept[row["name"]] = row
        report.write_text(json.dumps(list(kept.values()), indent=1))
    text = f"{setting(arguments)}\n\n{table(list(kept.values()))}\n"
    (arguments.out / "transfer.md").write_text(text)
    print(text)


def measured_rows(arguments: argparse.Namespace) -> Iterator[dict]:
    """Every workflow that is asked for and whose weights are there; its pictures go to a file of its own."""
    style = styled_base(arguments.assets, arguments.cache, arguments.style_minutes)
    studio = Studio(arguments.assets, arguments.presets, style)
    with contextlib.closing(studio.engine):
        for case in cases(Eyes(arguments.assets)):
            attached = case.control or case.adapter
            if is_asked(case.name, arguments.only) and (not attached or studio.engine.is_on_disk(attached)):
                row, shown = follow(studio, case, arguments.count, arguments.guidance)
                strip(shown).save(arguments.out / f"transfer-{case.slug}.png")
                yield row
    if is_asked(VIEWS, arguments.only) and (arguments.assets / MODEL).is_dir():
        yield views_row(arguments.assets, arguments.presets, arguments.objects)


def is_asked(name: str, words: list[str]) -> bool:
    """Whether a row is to be measured."""
    return any(word.lower() in name.lower() for word in words)


def setting(arguments: argparse.Namespace) -> str:
    """What the figures were measured on and with."""
    return (
        f"{arguments.count} unseen scenes a workflow at CFG {arguments.guidance:g}, {arguments.objects} objects for "
        f"multiview, one seed each. {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
