"""What was trained here, drawn by the real engine: delta weights, LoRAs and fine-tunes from runs' export folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio.catalog import Catalog
from studio.conditions import ControlUnit
from studio.engine.diffusion import DiffusionEngine
from studio.inputs import PictureStore
from studio.runs.exports import Export, accelerator_of, control_of, model_of, read_export, write_export
from studio.runs.folder import RunFolder
from studio.specs import DeltaSpec
from studio.types import GenerationRequest
from tests.engine.conftest import result_of
from tests.tiny import tiny_controlnet, tiny_delta, tiny_lora, tiny_pipeline_folder


def described(kind: Any, sampler: Any, **fields: Any) -> Export:
    values: dict[str, Any] = {"step": 4, "sha256": "0" * 64, "delta": DeltaSpec(family="sd15"), **fields}
    return Export(kind=kind, sampler=sampler, family="sd15", base_id="tiny-sd15", title="Mine", **values)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "mine")
    folder.export_dir.mkdir(parents=True)
    return folder


@pytest.fixture
def shown(catalog: Catalog) -> Iterator[Callable[[RunFolder], str]]:
    """Lists a run's result in the catalogue, and takes it out again in the end."""

    def show(run: RunFolder) -> str:
        export = read_export(run)
        assert export is not None
        model = model_of(run, export, default_accelerator="perflow-sd15")
        accelerator = accelerator_of(run, export)
        control = control_of(run, export)
        catalog.show_results(
            models=filter(None, [model]), accelerators=filter(None, [accelerator]), controls=filter(None, [control])
        )
        return "run-mine"

    yield show
    catalog.show_results(models=(), accelerators=())


@pytest.mark.parametrize("sampler", ["perflow", "lcm", "ddim"])
def test_delta_weights_draw_with_every_sampler_they_may_be_trained_for(
    engine: DiffusionEngine,
    assets: Path,
    ask: Callable[..., GenerationRequest],
    run: RunFolder,
    shown: Any,
    sampler: str,
) -> None:
    tiny_delta(run.export_dir, assets / "sd15", family="sd15")
    write_export(run, described("perflow_delta", sampler))
    result = result_of(engine.generate(ask("sd15", accelerator=shown(run))))
    assert result.receipt.delta_sha256
    assert engine.is_on_disk("run-mine")


@pytest.mark.parametrize("sampler", ["perflow", "lcm"])
def test_a_lora_draws(
    engine: DiffusionEngine,
    assets: Path,
    ask: Callable[..., GenerationRequest],
    run: RunFolder,
    shown: Any,
    sampler: str,
) -> None:
    tiny_lora(run.export_dir, assets / "sd15", family="sd15")
    write_export(run, described("lora", sampler))
    bare = result_of(engine.generate(ask("sd15", accelerator="ddim")))
    drawn = result_of(engine.generate(ask("sd15", accelerator=shown(run))))
    assert drawn.images[0].image.tobytes() != bare.images[0].image.tobytes()


def test_a_fine_tune_draws_with_its_familys_accelerators(
    engine: DiffusionEngine, ask: Callable[..., GenerationRequest], run: RunFolder, shown: Any
) -> None:
    shutil.rmtree(run.export_dir)
    tiny_pipeline_folder(run.export_dir, "sd15", seed=11)
    write_export(run, described("model", "dpmpp", delta=None, native_width=64, native_height=64))
    result = result_of(engine.generate(ask("sd15", model=shown(run))))
    other = result_of(engine.generate(ask("sd15")))
    assert result.receipt.base_sha256 != other.receipt.base_sha256


def test_a_run_trained_on_is_drawn_with_its_new_weights(
    engine: DiffusionEngine, assets: Path, ask: Callable[..., GenerationRequest], run: RunFolder, shown: Any
) -> None:
    hashes = []
    for step, seed in ((4, 1), (8, 2)):
        tiny_delta(run.export_dir, assets / "sd15", family="sd15", seed=seed)
        write_export(run, described("perflow_delta", "perflow", step=step))
        hashes.append(result_of(engine.generate(ask("sd15", accelerator=shown(run)))).receipt.delta_sha256)
    assert hashes[0] != hashes[1]


def test_the_engine_says_how_much_memory_a_picture_needs(
    engine: DiffusionEngine, ask: Callable[..., GenerationRequest]
) -> None:
    before = engine.room(ask("sd15"))
    result_of(engine.generate(ask("sd15")))
    after = engine.room(ask("sd15"))
    assert before.device == "cpu"
    assert 0 < after.needed_bytes < before.needed_bytes < before.free_bytes
    engine.make_room()  # a processor's memory is the machine's: nothing is unloaded
    assert engine.room(ask("sd15")).needed_bytes == after.needed_bytes


def test_a_controlnet_trained_here_is_listed_and_followed(
    engine: DiffusionEngine, assets: Path, run: RunFolder, shown: Callable[[RunFolder], str], catalog: Catalog,
    ask: Callable[..., GenerationRequest], pictures: PictureStore,
) -> None:  # fmt: skip
    tiny_controlnet(run.export_dir / "controlnet", assets / "sd15")
    write_export(run, described("controlnet", "dpmpp", delta=None, control="canny"))
    id = shown(run)
    spec = catalog.control(id)
    assert (spec.annotator, spec.family, spec.title) == ("canny", "sd15", "Mine (trained here)")
    assert engine.is_on_disk(id)
    edges = Image.new("RGB", (64, 64))
    edges.paste("white", (10, 10, 40, 12))
    unit = ControlUnit(control=id, image=pictures.keep(edges))
    followed = result_of(engine.generate(ask(controls=(unit,))))
    plain = result_of(engine.generate(ask()))
    assert followed.images[0].image.tobytes() != plain.images[0].image.tobytes()
    assert list(followed.receipt.controls_sha256) == [id]
