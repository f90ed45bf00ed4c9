"""Files: what is fetched and what never is, what counts as on disk, and what is said when nothing can be had."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studio.catalog import Catalog
from studio.engine import hub as hub_module
from studio.engine.diffusion import DiffusionEngine
from studio.engine.hub import LORA_NAME, Hub, missing_parts, pipeline_files, weight_files
from studio.engine.weights import Weights
from studio.errors import ModelUnavailable, UnsafeFile
from studio.specs import AcceleratorSpec, DeltaSpec, ModelSpec
from studio.types import Loading
from tests.engine.conftest import result_of
from tests.tiny import tiny_delta

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/modeling.py",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_only_configuration_and_one_set_of_safetensors_is_chosen():
    chosen = pipeline_files("fp16")(REPOSITORY)
    assert sorted(chosen) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert not any(name.endswith(".safetensors") for name in pipeline_files(None, weights=False)(REPOSITORY))


@pytest.mark.parametrize(
    ("names", "variant", "expected"),
    [
        (["diffusion_pytorch_model.v0-1.safetensors"], "v0-1", ["diffusion_pytorch_model.v0-1.safetensors"]),
        (["diffusion_pytorch_model.safetensors"], "v0-1", ["diffusion_pytorch_model.safetensors"]),
        (["diffusion_pytorch_model.bin"], None, []),
        (
            [
                "model.fp16-00001-of-00002.safetensors",
                "model.fp16-00002-of-00002.safetensors",
                "model.safetensors",
                "model.safetensors.index.fp16.json",
            ],
            "fp16",
            [
                "model.fp16-00001-of-00002.safetensors",
                "model.fp16-00002-of-00002.safetensors",
                "model.safetensors.index.fp16.json",
            ],
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            None,
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
    ],
)
def test_weights_of_a_variant(names: list[str], variant: str | None, expected: list[str]):
    assert weight_files(names, variant) == expected


def test_a_folder_is_complete_only_with_every_part(assets: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(assets / "sd15", folder)
    assert missing_parts(folder, None) == []
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert missing_parts(folder, None) == ["vae"]
    (folder / "model_index.json").unlink()
    assert missing_parts(folder, None) == ["model_index.json"]


def test_a_shard_that_is_missing_is_noticed(tmp_path: Path):
    from tests.tiny import tiny_pipeline

    pipe = tiny_pipeline(tmp_path / "scratch")
    pipe.save_pretrained(tmp_path / "model", max_shard_size="300KB")
    shards = sorted((tmp_path / "model" / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert missing_parts(tmp_path / "model", None) == []
    shards[0].unlink()
    assert missing_parts(tmp_path / "model", None) == ["unet"]


def test_a_model_that_wants_code_of_its_own_is_refused(assets: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(assets / "sd15", folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_unet", "MyUNet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeFile, match="unet wants code from 'my_unet'"):
        missing_parts(folder, None)


# --- through the engine ---------------------------------------------------------------------------------------------


def hub_catalog() -> Catalog:
    model = ModelSpec(
        id="hub-model",
        title="Hub model",
        family="sd15",
        kind="hub",
        source="someone/model",
        variant="fp16",
        native_width=64,
        native_height=64,
    )
    delta = AcceleratorSpec(
        id="hub-delta",
        title="Hub delta",
        kind="perflow_delta",
        sampler="perflow",
        families=("sd15",),
        source="someone/delta",
        variant="v0-1",
        delta=DeltaSpec(family="sd15"),
    )
    loras = [
        AcceleratorSpec(
            id=id, title=id, kind="lora", sampler="lcm", families=("sd15",), source="someone/loras", file=file
        )
        for id, file in (("fast", "sd15/fast_4step.safetensors"), ("usual", ""), ("absent", "sd15/other.safetensors"))
    ]
    return Catalog(models=(model,), accelerators=(delta, *loras))


@pytest.fixture
def repositories(assets: Path, tmp_path: Path) -> dict[str, Path]:
    """What the stand-in for the hub has to offer."""
    delta = tmp_path / "repositories" / "delta"
    tiny_delta(delta / "diffusion_pytorch_model.v0-1.safetensors", assets / "sd15", family="sd15")
    loras = tmp_path / "repositories" / "loras"
    (loras / "sd15").mkdir(parents=True)
    shutil.copy(assets / "lora-sd15" / LORA_NAME, loras / "sd15" / "fast_4step.safetensors")
    (loras / "sd15" / "fast_8step.safetensors").write_bytes(b"not asked for")
    return {"someone/model": assets / "sd15", "someone/delta": delta, "someone/loras": loras}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, repositories: dict[str, Path]) -> list[str]:
    """The two network calls replaced by copies from `repositories` into a real cache layout; lists what was fetched."""
    fetched: list[str] = []

    class Api:
        def model_info(self, source: str, **_: Any) -> Any:
            root = repositories[source]
            files = [path for path in root.rglob("*") if path.is_file()]
            names = [SimpleNamespace(rfilename=str(path.relative_to(root)), size=path.stat().st_size) for path in files]
            return SimpleNamespace(sha=COMMIT, siblings=[*names, SimpleNamespace(rfilename="evil.bin", size=9)])

    def fetch(source: str, name: str, *, cache_dir: Path, tqdm_class: Any, **_: Any) -> str:
        fetched.append(name)
        root = Path(cache_dir) / f"models--{source.replace('/', '--')}"
        target = root / "snapshots" / COMMIT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(COMMIT)
        original = repositories[source] / name
        bar = tqdm_class(total=original.stat().st_size)
        bar.update(original.stat().st_size // 2)
        shutil.copy(original, target)
        bar.update(original.stat().st_size - original.stat().st_size // 2)
        return str(target)

    monkeypatch.setattr(hub_module, "HfApi", Api)
    monkeypatch.setattr(hub_module, "hf_hub_download", fetch)
    return fetched


def hub_engine(tmp_path: Path, *, offline: bool) -> DiffusionEngine:
    return DiffusionEngine(
        hub_catalog(),
        assets_dir=tmp_path / "assets",
        device="cpu",
        dtype="fp32",
        hub_cache=tmp_path / "cache",
        offline=offline,
    )


def test_a_hub_model_is_downloaded_with_progress_and_then_used_offline(hub: list[str], tmp_path: Path, ask):
    engine = hub_engine(tmp_path, offline=False)
    request = ask(model="hub-model", accelerator="hub-delta", steps=1)
    assert not engine.is_on_disk("hub-model")
    assert not engine.is_on_disk("hub-delta")
    events = list(engine.generate(request))
    fractions = [event.fraction for event in events if isinstance(event, Loading) and event.fraction is not None]
    assert fractions.count(1.0) >= 2
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert any("Downloading someone/model" in event.message for event in events if isinstance(event, Loading))
    assert "evil.bin" not in hub
    assert engine.is_on_disk("hub-model")
    assert engine.is_on_disk("hub-delta")

    fetched = len(hub)
    again = hub_engine(tmp_path, offline=True)
    assert result_of(again.generate(request)).receipt.base_sha256 == result_of(events).receipt.base_sha256
    assert len(hub) == fetched


def test_a_lora_in_a_file_of_its_own_name_is_fetched_alone_and_worn(
    hub: list[str], engine: DiffusionEngine, tmp_path: Path, ask
):
    fast = hub_engine(tmp_path, offline=False)
    request = ask(model="hub-model", accelerator="fast")
    assert not fast.is_on_disk("fast")
    drawn = result_of(fast.generate(request))
    assert [name for name in hub if "step" in name] == ["sd15/fast_4step.safetensors"]
    known = result_of(engine.generate(ask(accelerator="lcm-sd15")))
    assert drawn.receipt.delta_sha256 == known.receipt.delta_sha256
    assert drawn.images[0].image.tobytes() == known.images[0].image.tobytes()

    offline = hub_engine(tmp_path, offline=True)
    assert [offline.is_on_disk(id) for id in ("fast", "usual", "absent")] == [True, False, False]
    assert result_of(offline.generate(request)).receipt.delta_sha256 == known.receipt.delta_sha256


@pytest.mark.parametrize("id", ["usual", "absent"])
def test_a_repository_without_the_file_is_said(hub: list[str], tmp_path: Path, ask, id: str):
    with pytest.raises(ModelUnavailable, match="someone/loras cannot be used: the repository has none of the files"):
        list(hub_engine(tmp_path, offline=False).generate(ask(model="hub-model", accelerator=id)))
    assert not any("step" in name for name in hub)


def test_a_lora_lies_in_a_folder_by_its_name_and_is_safetensors(assets: Path, tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    spec = AcceleratorSpec(id="a", title="Mine", kind="lora", sampler="lcm", families=("sd15",), source=str(folder))
    named = replace(spec, id="b", file="mine.safetensors")
    pickled = replace(spec, id="c", source=str(folder / "mine.ckpt"))
    catalog = Catalog(models=(), accelerators=(spec, named, pickled))
    weights = Weights(catalog, Hub(tmp_path / "cache", offline=True), tmp_path)
    (folder / "mine.ckpt").write_bytes(b"pickle")
    shutil.copy(assets / "lora-sd15" / LORA_NAME, folder / "mine.safetensors")
    assert [weights.is_on_disk(id) for id in "abc"] == [False, True, False]
    assert weights.lora(named, lambda *_: None) == folder / "mine.safetensors"
    with pytest.raises(ModelUnavailable, match=r"Mine is not on disk: expected it at '.*pytorch_lora_weights"):
        weights.lora(spec, lambda *_: None)
    with pytest.raises(UnsafeFile, match=r"Mine: expected a safetensors file, got 'mine\.ckpt'"):
        weights.lora(pickled, lambda *_: None)


def test_closing_stops_a_download(hub: list[str], tmp_path: Path, ask):
    engine = hub_engine(tmp_path, offline=False)
    events = engine.generate(ask(model="hub-model", accelerator="hub-delta"))
    assert isinstance(next(events), Loading)
    events.close()
    assert not engine.is_on_disk("hub-model")


def test_offline_says_the_command_at_once(tmp_path: Path, ask):
    engine = hub_engine(tmp_path, offline=True)
    started = time.perf_counter()
    with pytest.raises(ModelUnavailable, match="hf download someone/model"):
        list(engine.generate(ask(model="hub-model", accelerator="hub-delta")))
    assert time.perf_counter() - started < 10


def test_a_hub_that_does_not_answer_is_told_within_seconds(tmp_path: Path, ask, monkeypatch: pytest.MonkeyPatch):
    class Api:
        def model_info(self, source: str, *, timeout: float, **_: Any) -> Any:
            assert timeout <= 5
            raise ConnectionError("no route to host")

    monkeypatch.setattr(hub_module, "HfApi", Api)
    engine = hub_engine(tmp_path, offline=False)
    with pytest.raises(ModelUnavailable, match=r"did not answer \(ConnectionError: no route to host\).*hf download"):
        list(engine.generate(ask(model="hub-model", accelerator="hub-delta")))


def test_a_single_file_that_is_a_pickle_is_refused_by_content(catalog: Catalog, tmp_path: Path, ask):
    disguised = tmp_path / "model.safetensors"
    disguised.write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00evil")
    model = ModelSpec(id="file", title="File", family="sd15", kind="single_file", source=str(disguised))
    engine = DiffusionEngine(
        Catalog(models=(model,), accelerators=catalog.accelerators), assets_dir=tmp_path, device="cpu", offline=True
    )
    assert not engine.is_on_disk("file")
    with pytest.raises(UnsafeFile, match="expected a safetensors file"):
        list(engine.generate(ask(model="file")))
