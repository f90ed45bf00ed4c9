"""The shipped weights through the real API: drawings follow their maps, references pull, one picture becomes a mesh.

A default run asks that a condition clearly matters in four steps; the slow part compares four steps with the
unaccelerated original's fifty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image

from benchmarks.following import Eyes, Subject, edge_f1
from tests.studio_process import ROOT, StudioProcess
from trainer.controls import control_of_scene, image_from
from trainer.tabletop.captions import full_caption
from trainer.tabletop.data import TEST_SEEDS
from trainer.tabletop.objects import frame_of, object_scene, views_of
from trainer.tabletop.reader import has_one_figure
from trainer.tabletop.renderer import render
from trainer.tabletop.scenes import random_scene

ASSETS = ROOT / "assets"
GUIDANCE = 1.5
EYES = Eyes(ASSETS)
MEASURES: dict[str, Callable[[Image.Image, Subject], float | None]] = {
    "canny": edge_f1,
    "depth": EYES.depth,
    "pose": EYES.joints,
}


class Studio:
    """Draws through the API of a real studio."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self._folder = client, folder

    def upload(self, image: Image.Image) -> str:
        """The id of a picture, taken as it is."""
        path = self._folder / "picture.png"
        image.save(path)
        return self.client.predict(handle_file(str(path)), api_name="/annotate")["id"]

    def draw(self, prompt: str, **conditions: object) -> Image.Image:
        """One picture by PeRFlow in four steps, unless said otherwise; seed 1."""
        chosen = {"seed": 1, "guidance": GUIDANCE, **conditions}
        files, _ = self.client.predict(prompt, **chosen, api_name="/control")
        return Image.open(files[0]).convert("RGB")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("real")
    with StudioProcess(folder / "data", "--engine", "diffusion") as process:
        client = Client(process.url, verbose=False, download_files=str(folder / "downloads"))
        yield Studio(client, folder)
        client.close()


def subjects(control: str, count: int) -> list[Subject]:
    """Unseen scenes with their maps."""
    found = map(random_scene, range(TEST_SEEDS + 500, TEST_SEEDS + 900))
    chosen = islice((each for each in found if control != "pose" or has_one_figure(each)), count)
    made = []
    for scene in chosen:
        seen = render(scene, 128)
        pixels = (seen.rgb * 255).round().to(torch.uint8)
        made.append(Subject(scene=scene, seen=seen, picture=image_from(control_of_scene(control, seen, pixels))))
    return made


def followed(real: Studio, control: str, count: int, **way: object) -> tuple[float, float]:
    """The mean measure with the map, and with a map of weight 0 (which is the prompt alone)."""
    found: dict[float, list[float]] = {1.0: [], 0.0: []}
    for subject in subjects(control, count):
        for weight, values in found.items():
            unit = {"control": f"tabletop-{control}", "image": real.upload(subject.picture), "weight": weight}
            drawn = real.draw(full_caption(subject.scene), controls=[unit], **way)
            value = MEASURES[control](drawn, subject)
            values += [] if value is None else [value]
    return float(np.mean(found[1.0])), float(np.mean(found[0.0]))


@pytest.mark.parametrize("control", MEASURES)
def test_four_steps_follow_the_map(real: Studio, control: str) -> None:
    with_map, without = followed(real, control, 4)
    if control == "pose":
        assert with_map < 0.7 * without
    else:  # even without a map the ground lies as deep as ever: what counts is how much of the rest is gone
        assert 1 - with_map < 0.75 * (1 - without)


@pytest.mark.slow
@pytest.mark.parametrize("control", MEASURES)
def test_four_steps_follow_within_five_percent_of_the_originals_fifty(real: Studio, control: str) -> None:
    few, _ = followed(real, control, 16)
    many, _ = followed(real, control, 16, accelerator="ddim", steps=50)
    assert few < 1.05 * many if control == "pose" else few > 0.95 * many


def test_a_reference_pulls_the_more_the_higher_its_scale(real: Studio) -> None:
    likeness: dict[float, list[float]] = {0.0: [], 0.5: [], 1.0: []}
    for number in range(3):
        scene = random_scene(TEST_SEEDS + 700 + number)
        seen = render(scene, 128)
        picture = image_from((seen.rgb * 255).round().to(torch.uint8))
        subject = Subject(scene=scene, seen=seen, picture=picture)
        image = real.upload(picture)
        for scale, values in likeness.items():
            reference = {"adapter": "tabletop-ip", "image": image, "scale": scale}
            values.append(EYES.likeness(real.draw("a picture", references=[reference]), subject))
    none, half, whole = (float(np.mean(values)) for values in likeness.values())
    assert none < half < whole


def test_one_picture_becomes_twelve_views_and_a_watertight_coloured_mesh(real: Studio, tmp_path: Path) -> None:
    scene = object_scene(TEST_SEEDS + 2)
    front = views_of(scene, frame_of(scene), 128).colours[0]
    path = tmp_path / "front.png"
    Image.fromarray((front.clip(0, 1) * 255).round().astype(np.uint8)).save(path)
    files, report = real.client.predict(handle_file(str(path)), seed=3, api_name="/multiview")
    sheet, glb, turntable = map(Path, files)
    with Image.open(sheet) as views:
        assert views.size == (6 * 128, 2 * 128)
    assert glb.read_bytes()[:4] == b"glTF"
    assert turntable.suffix == ".webp"
    assert report["num_network_calls"] == 4
    assert report["mesh"]["is_watertight"]
    assert report["mesh"]["normal_error_degrees"] < report["mesh"]["hull_normal_error_degrees"] + 5
    assert report["mesh"]["seconds"] < 20


@pytest.mark.slow
def test_a_small_picture_becomes_1024_pixels_without_a_seam(real: Studio, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    seen = render(random_scene(TEST_SEEDS + 7), 128)
    image_from((seen.rgb * 255).round().to(torch.uint8)).save(path)
    prompt = full_caption(random_scene(TEST_SEEDS + 7))
    files, report = real.client.predict(handle_file(str(path)), factor=8, prompt=prompt, seed=1, api_name="/upscale")
    with Image.open(files[0]) as large:
        assert large.size == (1024, 1024)
    measured = report["receipt"]["upscale"]
    print(measured, report["timings"]["seconds"])
    assert measured["num_refined"] == measured["num_tiles"]
    assert measured["seam_ratio"] < 1.0
    assert measured["psnr"] > 28
