"""Delta weights as files: formed, written, found, read, and refused where they do not belong."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from studio.errors import IncompatibleWeights, ModelUnavailable, UnsafeFile
from studio.perflow import DeltaWeights, check_fits, weights_sha256
from studio.specs import DeltaSpec

SPEC = DeltaSpec(family="sd15", prediction_type="ddim_eps", num_time_windows=4, name="trial", license="mit")


def random_tensors(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {f"block.{i}.weight": torch.randn(16, 40, generator=generator).to(dtype) for i in range(5)}


@pytest.fixture
def delta():
    return DeltaWeights(tensors=random_tensors(), spec=SPEC)


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name].float(), other[name].float(), **tolerance)


def test_difference_is_formed_in_fp32():
    teacher = {"w": torch.tensor([1.0, 2.0]).half()}
    student = {"w": torch.tensor([1.0 + 2**-12, 2.0])}
    delta = DeltaWeights.from_models(student, teacher, spec=SPEC)
    assert delta.tensors["w"].tolist() == [2**-12, 0.0]
    assert delta.tensors["w"].dtype == torch.float32


@pytest.mark.parametrize("other", [{"w": torch.ones(2), "extra": torch.ones(1)}, {"w": torch.ones(3)}, {}])
def test_difference_of_unlike_models_is_refused(other):
    with pytest.raises(IncompatibleWeights, match="same parameter"):
        DeltaWeights.from_models({"w": torch.ones(2)}, other, spec=SPEC)


def test_one_file_keeps_values_and_facts(tmp_path, delta):
    path = delta.write(tmp_path / "new" / "delta.safetensors", dtype=torch.float32)
    again = DeltaWeights.read(path)
    assert again.spec == SPEC
    assert_same(again.tensors, delta.tensors, rtol=0, atol=0)
    assert again.sha256 == delta.sha256


def test_shards_stay_below_the_limit_and_hash_like_one_file(tmp_path, delta):
    limit = 4000
    delta.write(tmp_path / "shards", max_shard_bytes=limit)
    delta.write(tmp_path / "one.safetensors")
    shards = list((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    assert max(shard.stat().st_size for shard in shards) <= limit
    sharded, single = DeltaWeights.read(tmp_path / "shards"), DeltaWeights.read(tmp_path / "one.safetensors")
    assert sharded.spec == single.spec == SPEC
    assert sharded.sha256 == single.sha256
    assert DeltaWeights.read(tmp_path / "shards" / "perflow_delta.safetensors.index.json").sha256 == single.sha256


def test_a_tensor_larger_than_a_shard_is_refused(tmp_path, delta):
    with pytest.raises(ValueError, match=r"block\.0\.weight"):
        delta.write(tmp_path, max_shard_bytes=1500)


def test_a_rewritten_folder_holds_only_the_new_shards(tmp_path, delta):
    delta.write(tmp_path, max_shard_bytes=4000)
    other = DeltaWeights(tensors=random_tensors(seed=1), spec=replace(SPEC, name="second"))
    index = other.write(tmp_path, max_shard_bytes=8000)
    listed = set(json.loads(index.read_text())["weight_map"].values())
    assert {file.name for file in tmp_path.iterdir()} == {index.name, *listed}
    assert DeltaWeights.read(tmp_path).spec.name == "second"


@pytest.mark.parametrize("sharded", [True, False])
def test_a_write_that_fails_anywhere_leaves_the_old_or_the_new(tmp_path, monkeypatch, delta, sharded):
    path = tmp_path / ("folder" if sharded else "delta.safetensors")
    other = DeltaWeights(tensors=random_tensors(seed=1), spec=replace(SPEC, name="second"))
    delta.write(path, max_shard_bytes=4000)
    hashes = {DeltaWeights.read(path).spec.name: DeltaWeights.read(path).sha256}
    other.write(tmp_path / "other.safetensors")
    hashes["second"] = DeltaWeights.read(tmp_path / "other.safetensors").sha256
    real, outcomes = os.fsync, []
    for failing in range(20):
        calls = iter(range(100))

        def full_disk(descriptor, failing=failing, calls=calls):
            if next(calls) == failing:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", full_disk)
        try:
            other.write(path, max_shard_bytes=4000)
        except OSError:
            outcomes.append("failed")
        now = DeltaWeights.read(path)
        assert now.sha256 == hashes[now.spec.name]
        monkeypatch.setattr(os, "fsync", real)
        delta.write(path, max_shard_bytes=4000)
    assert outcomes
    assert len(outcomes) < 20
    assert not list(tmp_path.rglob("*.part"))


def test_overflow_in_fp16_is_refused(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        DeltaWeights(tensors={"w": torch.tensor([1e6])}, spec=SPEC).write(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- other people's layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("diffusion_pytorch_model.safetensors", None),
        ("diffusion_pytorch_model.v0-1.safetensors", "v0-1"),
        ("delta_weights.safetensors", None),
    ],
)
def test_hub_and_older_layouts_need_facts_from_the_catalogue(tmp_path, name, variant):
    save_file(random_tensors(dtype=torch.float16), tmp_path / name)
    read = DeltaWeights.read(tmp_path, variant=variant, spec=SPEC)
    assert read.spec == SPEC
    assert_same(read.tensors, random_tensors(dtype=torch.float16), rtol=0, atol=0)
    with pytest.raises(IncompatibleWeights, match="prediction_type"):
        DeltaWeights.read(tmp_path, variant=variant)


def test_a_missing_variant_lists_what_is_there(tmp_path):
    save_file(random_tensors(), tmp_path / "diffusion_pytorch_model.v0-0.safetensors")
    with pytest.raises(ModelUnavailable, match=r"v0-1.*v0-0"):
        DeltaWeights.read(tmp_path, variant="v0-1", spec=SPEC)
    with pytest.raises(ModelUnavailable, match="variant"):
        DeltaWeights.read(tmp_path, variant="../v0-0", spec=SPEC)


def test_an_empty_or_missing_place_is_unavailable(tmp_path):
    with pytest.raises(ModelUnavailable, match="no safetensors files"):
        DeltaWeights.read(tmp_path)
    with pytest.raises(ModelUnavailable, match="got none"):
        DeltaWeights.read(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("fact", [{"family": "sdxl"}, {"prediction_type": "diff_eps"}, {"num_time_windows": 8}])
def test_a_catalogue_that_contradicts_the_file_is_refused(tmp_path, delta, fact):
    path = delta.write(tmp_path / "delta.safetensors")
    with pytest.raises(IncompatibleWeights, match=next(iter(fact))):
        DeltaWeights.read(path, spec=replace(SPEC, **fact))
    assert DeltaWeights.read(path, spec=replace(SPEC, license="another")).spec == SPEC


@pytest.mark.parametrize(
    "facts",
    [
        "not json",
        "[]",
        "{}",
        '{"family": "sd15", "surprise": 1}',
        '{"family": "sd99"}',
        '{"family": ["sd15"]}',
        '{"family": "sd15", "prediction_type": "noise"}',
        '{"family": "sd15", "num_time_windows": 0}',
        '{"family": "sd15", "num_time_windows": "4"}',
        '{"family": "sd15", "guidance_mode": "loud"}',
        '{"family": "sd15", "trained_guidance": NaN}',
        '{"family": "sd15", "name": {"a": 1}}',
    ],
)
def test_malformed_facts_are_refused(tmp_path, facts):
    save_file(random_tensors(), tmp_path / "x.safetensors", metadata={"perflow_delta_spec": facts})
    with pytest.raises(UnsafeFile, match="facts"):
        DeltaWeights.read(tmp_path / "x.safetensors")


# --- does it belong here? ---------------------------------------------------------------------------------------


def test_fitting_weights_raise_nothing():
    assert check_fits(SPEC, family="sd15") == ()
    assert check_fits(replace(SPEC, prediction_type="velocity"), family="sd15") == ()
    assert check_fits(replace(SPEC, base_sha256="a"), family="sd15", base_sha256="a") == ()


@pytest.mark.parametrize(
    ("spec", "base", "sentence"),
    [
        (SPEC, {"family": "sdxl"}, "made for sdxl"),
        (SPEC, {"family": "sd15", "merged_with": "perflow-dreamshaper"}, "already contains.*perflow-dreamshaper"),
        (SPEC, {"family": "sd15", "base_prediction_type": "v_prediction"}, "predicts epsilon.*predicts v_prediction"),
        (replace(SPEC, prediction_type="v_prediction"), {"family": "sd15"}, "predicts v_prediction"),
        (replace(SPEC, prediction_type="noise"), {"family": "sd15"}, "expected a head"),
    ],
)
def test_weights_that_cannot_work_are_refused_with_the_reason(spec, base, sentence):
    with pytest.raises(IncompatibleWeights, match=sentence):
        check_fits(spec, **base)


def test_another_base_of_the_family_is_a_warning():
    warnings = check_fits(replace(SPEC, base_sha256="a"), family="sd15", base_sha256="b")
    assert len(warnings) == 1
    assert "fine-tune" in warnings[0]


def test_hash_sees_every_bit_and_no_lossless_cast():
    half = random_tensors(dtype=torch.float16)
    reference = weights_sha256(half)
    assert weights_sha256({name: tensor.float() for name, tensor in half.items()}) == reference
    half["block.3.weight"].view(torch.int16)[3, 3] ^= 1
    assert weights_sha256(half) != reference
    assert weights_sha256({"a": torch.zeros(1)}) != weights_sha256({"a": -torch.zeros(1)})
    assert weights_sha256({"a": torch.zeros(2, 1)}) != weights_sha256({"a": torch.zeros(1, 2)})
