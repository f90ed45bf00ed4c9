"""The catalogue: what ships is sound, and what is malformed is refused by file, entry and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from studio.catalog import Catalog
from studio.errors import CatalogError, InvalidRequest
from studio.specs import AcceleratorSpec
from studio.types import GenerationRequest

PRESETS = Path(__file__).resolve().parents[1] / "presets"

MODEL = '[toy]\ntitle="Toy"\nfamily="tabletop"\nsource="toy"\nkind="builtin"\ndefault_accelerator="ddim"\n'
ACCELERATOR = '[ddim]\ntitle="DDIM"\nkind="none"\nsampler="ddim"\nfamilies=["tabletop"]\n'
LORA = ACCELERATOR.replace("none", "lora") + 'source="someone/loras"\n'


def write(folder: Path, models: str = MODEL, accelerators: str = ACCELERATOR, **presets: str) -> Path:
    (folder / "generation").mkdir(parents=True, exist_ok=True)
    (folder / "models.toml").write_text(models, encoding="utf-8")
    (folder / "accelerators.toml").write_text(accelerators, encoding="utf-8")
    for name, text in presets.items():
        (folder / "generation" / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_what_ships_is_sound():
    catalog = Catalog.load(PRESETS)
    assert catalog.models[0].id == "tabletop"
    for model in catalog.models:
        assert catalog.accelerators_for(model), model.id
        assert model.license != "unknown"
    assert {preset.id for preset in catalog.presets} >= {"quick-sketch", "careful", "paper-cfg-sync", "paper-cfg-fixed"}
    for preset in catalog.presets:
        GenerationRequest.from_json({"prompt": "a cube", **preset.request})


def test_every_defaults_are_a_valid_request():
    catalog = Catalog.load(PRESETS)
    for model in catalog.models:
        for accelerator in catalog.accelerators_for(model):
            GenerationRequest.from_json(
                {
                    "prompt": "a cube",
                    "model": model.id,
                    "accelerator": accelerator.id,
                    "steps": accelerator.recommended_steps,
                    "guidance": list(accelerator.recommended_guidance),
                    "width": model.native_width,
                    "height": model.native_height,
                }
            )


def test_published_weights_show_their_licence_and_head():
    catalog = Catalog.load(PRESETS)
    published = [each for each in catalog.accelerators if (each.source or "").startswith("hansyan/")]
    published += [each for each in catalog.accelerators if each.kind == "perflow_merged"]
    assert published
    assert all(each.license == "cc-by-nc-4.0" for each in published)
    heads = {(each.delta.family, each.delta.prediction_type) for each in published if each.delta}
    assert heads == {("sd15", "diff_eps"), ("sd21", "velocity"), ("sdxl", "ddim_eps")}


@pytest.mark.parametrize(
    ("id", "sampler", "steps", "guidance", "license"),
    [
        ("sdxl-lightning-4", "euler", 4, 1.0, "openrail++"),
        ("sdxl-lightning-8", "euler", 8, 1.0, "openrail++"),
        ("hyper-sd15-1", "tcd", 1, 1.0, "openrail++"),
        ("hyper-sd15-4", "ddim", 4, 1.0, "openrail++"),
        ("hyper-sd15-8", "ddim", 8, 5.0, "openrail++"),
        ("hyper-sdxl-1", "tcd", 1, 1.0, "openrail++"),
        ("hyper-sdxl-4", "ddim", 4, 1.0, "openrail++"),
        ("hyper-sdxl-8", "ddim", 8, 5.0, "openrail++"),
        ("tcd-sd15", "tcd", 4, 1.0, "mit"),
        ("tcd-sdxl", "tcd", 4, 1.0, "mit"),
        ("pcm-sd15", "ddim", 4, 1.0, "unknown"),
        ("pcm-sdxl", "ddim", 4, 1.0, "unknown"),
    ],
)
def test_others_loras_are_used_as_their_authors_say(id: str, sampler: str, steps: int, guidance: float, license: str):
    spec = Catalog.load(PRESETS).accelerator(id)
    assert (spec.kind, spec.sampler, spec.recommended_steps, spec.license) == ("lora", sampler, steps, license)
    assert spec.recommended_guidance == (guidance,)
    assert spec.download_bytes
    if spec.file and sampler != "tcd":
        assert f"{steps}step" in spec.file  # a file is for its own number of steps
    assert all(family in f"{id} {spec.file}".lower() for family in spec.families)


def test_a_merged_model_offers_no_delta_a_second_time():
    catalog = Catalog.load(PRESETS)
    kinds = {each.kind for each in catalog.accelerators_for("perflow-sd15-dreamshaper")}
    assert kinds == {"perflow_merged"}
    assert "perflow-sd15" in {each.id for each in catalog.accelerators_for("dreamshaper-8")}


def test_unknown_ids_name_the_choices():
    catalog = Catalog.load(PRESETS)
    with pytest.raises(InvalidRequest, match=r"model: expected one of tabletop, sd15.*got 'sd3'"):
        catalog.model("sd3")
    with pytest.raises(InvalidRequest, match=r"accelerator: .*perflow-tabletop"):
        catalog.accelerator("warp")


def test_an_extra_folder_adds_and_replaces(tmp_path: Path):
    base = write(tmp_path / "base")
    extra = write(
        tmp_path / "extra",
        MODEL.replace("Toy", "Better toy") + MODEL.replace("[toy]", "[toy2]"),
        "",
        mine='title="Mine"\ndescription="d"\n[request]\nsteps=8\n',
    )
    catalog = Catalog.load(base, [extra])
    assert [model.title for model in catalog.models] == ["Better toy", "Toy"]
    assert catalog.presets[0].request["steps"] == 8


@pytest.mark.parametrize(
    ("models", "accelerators", "words"),
    [
        (MODEL + "colour=1\n", ACCELERATOR, "models.toml, toy, colour: unknown key"),
        (MODEL.replace('"tabletop"', '"sd3"'), ACCELERATOR, "models.toml, toy, family: expected one of 'tabletop'"),
        (MODEL + 'native_width="wide"\n', ACCELERATOR, "native_width: expected a whole number, got 'wide'"),
        (MODEL + "native_width=true\n", ACCELERATOR, "native_width: expected a whole number, got True"),
        (MODEL.replace('source="toy"\n', ""), ACCELERATOR, "toy, source: expected this key"),
        (MODEL + 'id="x"\n', ACCELERATOR, "the table's name is the id"),
        (MODEL, ACCELERATOR.replace("[ddim]", "[other]"), "default_accelerator: expected one that fits"),
        (MODEL, ACCELERATOR + 'models=["nothing"]\n', "ddim, models: expected an id of models.toml, got 'nothing'"),
        (MODEL, ACCELERATOR.replace('"ddim"\nfam', '"perflow"\nfam'), "sampler: expected 'perflow' for PeRFlow"),
        (MODEL, ACCELERATOR + '[ddim.delta]\nfamily="tabletop"\nwindows=3\n', "ddim, delta, windows: unknown key"),
        (MODEL, ACCELERATOR + '[ddim.delta]\nfamily="sdxl"\n', "families: expected to contain 'sdxl'"),
        (MODEL, ACCELERATOR + 'file="a.safetensors"\n', "ddim, file: expected the .safetensors file of a LoRA"),
        (MODEL, LORA + 'file="a.ckpt"\n', "file: .* inside its source, got 'a.ckpt' with kind 'lora'"),
        (MODEL, LORA + 'file="../a.safetensors"\n', "file: .* inside its source"),
        (MODEL, LORA + 'file="/a.safetensors"\n', "file: .* inside its source"),
        ("[toy", ACCELERATOR, "expected a readable TOML file"),
        ("", ACCELERATOR, "at least one model"),
        ('toy = "x"\n', ACCELERATOR, r"expected a table \[toy\]"),
    ],
)
def test_malformed_entries_are_refused_by_name(tmp_path: Path, models: str, accelerators: str, words: str):
    with pytest.raises(CatalogError, match=words):
        Catalog.load(write(tmp_path, models, accelerators))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('title="t"\n', "bad.toml, description: expected text"),
        ('title="t"\ndescription="d"\nsteps=4\n', "bad.toml, steps: expected only"),
        ('title="t"\ndescription="d"\n[request]\nsteps=99\n', "request: steps: expected a whole number from 1 to 50"),
        ('title="t"\ndescription="d"\n[request]\nwarp=1\n', "request: warp: expected one of"),
    ],
)
def test_malformed_presets_are_refused_by_name(tmp_path: Path, text: str, words: str):
    with pytest.raises(CatalogError, match=words):
        Catalog.load(write(tmp_path, bad=text))


def test_what_was_trained_here_stands_behind_the_files_and_replaces_none_of_them():
    catalog = Catalog.load(PRESETS)
    of_files = catalog.accelerators
    mine = AcceleratorSpec(id="run-mine", title="Mine", kind="lora", sampler="lcm", families=("sd15",), source="x")
    shadow = replace(mine, id=of_files[0].id)
    revision = catalog.revision
    catalog.show_results(models=(), accelerators=(shadow, mine))
    assert catalog.accelerators == (*of_files, mine)
    assert mine in catalog.accelerators_for("dreamshaper-8")
    assert mine not in catalog.accelerators_for("tabletop")
    catalog.show_results(models=(), accelerators=(mine,))
    assert catalog.revision == revision + 1
    catalog.show_results(models=(), accelerators=())
    assert catalog.accelerators == of_files
    assert catalog.revision == revision + 2
