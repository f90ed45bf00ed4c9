"""Batches: a pure function of (seed, step, micro, rank), whoever asks, in whatever order, with whatever workers."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.datasets.store import StoredDataset
from studio.errors import InvalidRequest, NotFound, StorageError
from studio.runs.config import BaseModel, DatasetRef
from tests.datasets.making import picture, pixels
from tests.tiny import tiny_pipeline_folder
from tests.trainer.data_fakes import FakeEncoder, config_for, ref_to, stored
from trainer.cache import Encoder
from trainer.data import Batch, TrainingData
from trainer.framing import frame_of, framed
from trainer.networks import Networks
from trainer.order import Order


@pytest.fixture
def twenty(tmp_path: Path) -> StoredDataset:
    """Twenty square pictures, two of them without a caption."""
    files = {f"{n:02}.png": picture(n) for n in range(20)} | {f"{n:02}.txt": f"picture {n}" for n in range(18)}
    return stored(tmp_path, files)


def data_of(dataset: StoredDataset, encoder: Encoder | None = None, world: int = 1, **changes: object) -> TrainingData:
    config = config_for(ref_to(dataset), **changes)
    return TrainingData.of(config, encoder or FakeEncoder(), cache_dir=dataset.path.parent / "run", world=world)


def same(one: Batch, other: Batch) -> bool:
    return (
        (one.names, one.captions, one.sizes) == (other.names, other.captions, other.sizes)
        and torch.equal(one.latents, other.latents)
        and all(torch.equal(one.condition[key], other.condition[key]) for key in one.condition)
    )


# --- the same whoever asks --------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_its_place_alone(twenty: StoredDataset) -> None:
    first, second = data_of(twenty), data_of(twenty)
    straight = [first.batch(step) for step in range(8)]
    for step in (7, 0, 3, 3, 6):
        assert same(second.batch(step), straight[step])
    assert not same(straight[0], straight[1])
    assert not same(data_of(twenty, seed=1).batch(0), straight[0])


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(twenty: StoredDataset, num_workers: int) -> None:
    plain = data_of(twenty, gradient_accumulation=2)
    ahead = data_of(twenty, gradient_accumulation=2, num_workers=num_workers)
    for step in (0, 1, 2, 9, 3):
        for micro in range(2):
            assert same(plain.batch(step, micro=micro), ahead.batch(step, micro=micro))
    ahead.close()


def joined(batches: list[Batch]) -> list[tuple[str, str, tuple[float, ...]]]:
    return [
        (name, text, tuple(latents.flatten().tolist()))
        for batch in batches
        for name, text, latents in zip(batch.names, batch.captions, batch.latents, strict=True)
    ]


def test_two_processes_see_what_one_sees(twenty: StoredDataset) -> None:
    two = [data_of(twenty, world=2) for _ in range(2)]
    wide, accumulated = data_of(twenty, batch_size=8), data_of(twenty, gradient_accumulation=2)
    for step in range(6):
        apart = joined([data.batch(step, rank, 2) for rank, data in enumerate(two)])
        assert apart == joined([wide.batch(step)])
        assert apart == joined([accumulated.batch(step, micro=micro) for micro in range(2)])


def test_methods_that_reuse_pairs_get_the_same_batch_and_lose_none(twenty: StoredDataset) -> None:
    data = data_of(twenty, pair_reuse=3, method="perflow")
    plain = data_of(twenty, pair_reuse=1, method="perflow")
    for step in range(12):
        assert same(data.batch(step), plain.batch(step // 3))
    ways = data_of(twenty, pair_reuse=3, method="perflow", window_starts="teacher", num_time_windows=2)
    assert all(same(ways.batch(step), plain.batch(step // 6)) for step in range(12))
    other = data_of(twenty, pair_reuse=3, method="diffusion")
    assert not same(other.batch(0), other.batch(1))


def test_an_epoch_shows_every_picture_once(twenty: StoredDataset) -> None:
    data = data_of(twenty)
    held_out = set(data.held_out(3).names)
    seen = [name for step in range(17) for name in data.batch(step).names]  # 17 pictures, 4 a step: 4 epochs
    for first in range(0, 68, 17):
        assert len(set(seen[first : first + 17])) == 17
    assert len({tuple(seen[first : first + 17]) for first in range(0, 68, 17)}) == 4
    assert not held_out & set(seen)
    assert len(held_out) == 3


@pytest.mark.parametrize("place", [(-1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 1, 1)])
def test_a_place_outside_the_run_is_refused(twenty: StoredDataset, place: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected a forward of the run"):
        data_of(twenty).batch(*place)


# --- held out, dropped, mirrored --------------------------------------------------------------------------------


def test_held_out_pictures_are_chosen_by_content(twenty: StoredDataset, tmp_path: Path) -> None:
    one = data_of(twenty).held_out(3)
    other = data_of(twenty, seed=5, method="diffusion").held_out(3)
    assert one.names == other.names
    assert one.images is not None
    assert one.images.shape == (3, 3, 64, 64)
    renamed = stored(tmp_path, {f"x{(7 * n) % 20:02}.png": picture(n) for n in range(20)}, "Renamed")
    again = data_of(renamed).held_out(3).images
    assert again is not None
    assert torch.equal(one.images, again)
    assert one.captions == one.full_captions


def test_at_most_a_fifth_is_held_out_and_said(twenty: StoredDataset, tmp_path: Path) -> None:
    data = data_of(twenty, num_held_out=10)
    assert len(data.held_out(10).names) == 4
    assert "4 pictures are held out rather than 10" in " ".join(data.warnings)
    assert "2 of 16 pictures have no caption" in " ".join(data.warnings)
    single = data_of(stored(tmp_path, {"a.png": picture(1)}, "Single"))
    assert single.batch(0).names == ("a.png",) * 4
    assert single.held_out(3).names == ("a.png",)
    assert "holds one picture" in " ".join(single.warnings)


def test_captions_are_dropped_by_seed_at_the_asked_rate(twenty: StoredDataset) -> None:
    data = data_of(twenty, caption_dropout=0.3, batch_size=16)
    batches = [data.batch(step) for step in range(100)]
    dropped = sum(
        not text and bool(full) for b in batches for text, full in zip(b.captions, b.full_captions, strict=True)
    )
    present = sum(bool(full) for b in batches for full in b.full_captions)
    assert abs(dropped / present - 0.3) < 4 * math.sqrt(0.3 * 0.7 / present)
    for batch in batches[:5]:
        assert batch.full_condition is not None
        empty = FakeEncoder().embed([""])["prompt_embeds"][0]
        for row, text in enumerate(batch.captions):
            is_empty = torch.allclose(batch.condition["prompt_embeds"][row], empty, atol=1e-3)
            assert is_empty == (text == "")
    assert data_of(twenty, caption_dropout=0.0).batch(0).full_condition is None


def test_mirrored_only_where_wanted(twenty: StoredDataset) -> None:
    def means(**changes: object) -> dict[str, set[float]]:
        encoder = FakeEncoder()
        encoder.latents = lambda parameters, noise: parameters  # pyright: ignore[reportAttributeAccessIssue]
        data, found = data_of(twenty, encoder, **changes), {}
        for step in range(40):
            batch = data.batch(step)
            for name, latent in zip(batch.names, batch.latents, strict=True):
                found.setdefault(name, set()).add(float(latent[0, 0, 0]))
        return found

    assert {len(values) for values in means().values()} == {1}
    assert {len(values) for values in means(random_flip=True).values()} == {2}


# --- caches -----------------------------------------------------------------------------------------------------


def test_an_edited_picture_never_trains_on_a_stale_latent(twenty: StoredDataset) -> None:
    encoder = FakeEncoder()
    data_of(twenty, encoder).build()
    assert encoder.num_encoded == 20
    before = data_of(twenty, encoder)
    name = before.batch(0).names[0]
    index = next(i for i, entry in enumerate(twenty.manifest.kept) if entry.name == name)
    old = before.batch(0).latents[0]
    assert encoder.num_encoded == 20
    Image.fromarray(pixels(1234)).save(twenty.image_paths[index], format="PNG")
    after = data_of(twenty, encoder).batch(0)
    assert after.names[0] == name
    assert encoder.num_encoded == 21
    expected = FakeEncoder().encode(torch.tensor(pixels(1234)).permute(2, 0, 1)[None] / 127.5 - 1)
    assert torch.allclose(2 * after.latents[0], expected[0, :4], atol=0.3)
    assert not torch.allclose(old, after.latents[0], atol=0.1)


def test_a_picture_changed_in_mid_run_stops_it(twenty: StoredDataset) -> None:
    data = data_of(twenty)
    data.batch(0)
    for path in twenty.image_paths:
        Image.fromarray(pixels(77)).save(path, format="PNG")
    with pytest.raises(StorageError, match="changed while the run was reading it"):
        _ = [data.batch(step) for step in range(10)]


def test_other_weights_and_sizes_have_latents_of_their_own(twenty: StoredDataset) -> None:
    encoder = FakeEncoder()
    data_of(twenty, encoder).build()
    for other in (FakeEncoder(vae_sha256="w" * 64), FakeEncoder()):
        data_of(twenty, other, resolution=64 if other.vae_sha256[0] == "w" else 128).build()
        assert other.num_encoded == 20
    again = FakeEncoder()
    data_of(twenty, again).build()
    assert again.num_encoded == 0
    assert again.embedded == []
    words = FakeEncoder(text_sha256="u" * 64)
    data_of(twenty, words).build()
    assert (words.num_encoded, len(words.embedded)) == (0, 19)


def test_building_reports_stops_and_goes_on(twenty: StoredDataset) -> None:
    class Stopped(Exception):
        pass

    told: list[float] = []

    def stop_halfway(fraction: float) -> None:
        told.append(fraction)
        if fraction >= 0.5:
            raise Stopped

    encoder = FakeEncoder()
    with pytest.raises(Stopped):
        data_of(twenty, encoder).build(report=stop_halfway)
    assert encoder.num_encoded == 10
    data_of(twenty, encoder).build(report=told.append)
    assert encoder.num_encoded == 20
    assert told[-1] == 1.0
    assert all(one <= other for one, other in pairwise(told[11:]))


def test_two_processes_share_the_building(twenty: StoredDataset) -> None:
    ours, theirs = FakeEncoder(), FakeEncoder()
    data_of(twenty, ours, world=2).build(0, 2)
    data_of(twenty, theirs, world=2).build(1, 2)
    assert (ours.num_encoded, theirs.num_encoded) == (10, 10)


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_cache_is_made_again(twenty: StoredDataset, harm: str) -> None:
    data_of(twenty).build()
    whole = data_of(twenty).batch(0)
    for path in twenty.cache_dir.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes({"cut": content[:-9], "flip": content, "empty": b""}[harm])
    encoder = FakeEncoder()
    assert same(data_of(twenty, encoder).batch(0), whole)
    assert encoder.num_encoded == 4


def test_a_lost_dataset_picture_or_version_is_said(twenty: StoredDataset, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="import the pictures again"):
        TrainingData.of(config_for(DatasetRef(id="x", source=str(tmp_path / "x"))), FakeEncoder(), cache_dir=tmp_path)
    changed = DatasetRef(id="set", source=str(twenty.path), fingerprint="0" * 64)
    with pytest.raises(InvalidRequest, match="as it was when the run was made"):
        TrainingData.of(config_for(changed), FakeEncoder(), cache_dir=tmp_path)
    twenty.image_paths[0].unlink()
    with pytest.raises(StorageError, match=r"00000.png of dataset set cannot be read"):
        data_of(twenty).build()


# --- shapes -----------------------------------------------------------------------------------------------------


def test_every_batch_has_one_shape_and_no_picture_is_lost(tmp_path: Path) -> None:
    shapes = [(128, 64)] * 7 + [(64, 128)] * 9 + [(96, 96)] * 12 + [(64, 80)]
    files = {f"{n:02}.png": picture(n, *shape) for n, shape in enumerate(shapes)}
    data = data_of(stored(tmp_path, files, "Mixed"), gradient_accumulation=2, batch_size=2)
    seen: Counter[str] = Counter()
    for step in range(120):
        batches = [data.batch(step, micro=micro) for micro in range(2)]
        assert len({batch.latents.shape for batch in batches}) == 1
        seen.update(name for batch in batches for name in batch.names)
    assert len(seen) == 26
    assert max(seen.values()) < 2.5 * min(seen.values())
    batch = data.batch(0)
    assert batch.latents.shape[2:] == (batch.sizes[0][4] // 8, batch.sizes[0][5] // 8)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    num_samples=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_an_order_deals_fairly(sizes: list[int], num_samples: int, seed: int) -> None:
    edges = np.cumsum([0, *sizes])
    buckets = [range(int(low), int(high)) for low, high in pairwise(edges)]
    order = Order(buckets=buckets, num_samples=num_samples, seed=seed)
    counts: Counter[int] = Counter()
    for step in range(60):
        indices = order.indices(step)
        assert len(indices) == num_samples
        assert len({next(b for b, bucket in enumerate(buckets) if i in bucket) for i in indices}) == 1
        counts.update(indices)
    for bucket in buckets:
        seen = [counts[index] for index in bucket]
        assert max(seen) - min(seen) <= 1


@given(st.integers(32, 3000), st.integers(32, 3000), st.sampled_from([(64, 64), (96, 40), (128, 256)]))
@settings(max_examples=60, deadline=None)
def test_a_frame_lies_inside_the_scaled_picture(width: int, height: int, size: tuple[int, int]) -> None:
    original_height, original_width, top, left, target_height, target_width = frame_of((width, height), size)
    assert (original_width, original_height) == (width, height)
    assert (target_width, target_height) == size
    assert min(top, left) == 0
    assert top >= 0
    assert left >= 0
    if width * height < 500_000:
        assert framed(Image.new("RGB", (width, height)), size).shape == (3, size[1], size[0])


# --- controls and real networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["canny", "tile"])
def test_pictures_give_their_controls(twenty: StoredDataset, control: str) -> None:
    if control == "canny":
        pytest.importorskip("cv2")
    data = data_of(twenty, method="controlnet", control=control, caption_dropout=0.5)
    batch = data.batch(0)
    shown = batch.condition["control"]
    assert shown.shape == (4, 3, 64, 64)
    assert 0 <= shown.min() < shown.max() <= 1
    assert batch.full_condition is not None
    assert torch.equal(batch.full_condition["control"], shown)
    if control == "canny":
        assert set(shown.unique().tolist()) <= {0.0, 1.0}
    else:
        held_out = data.held_out(3)
        assert held_out.images is not None
        assert (held_out.condition["control"] * 2 - 1 - held_out.images).abs().mean() < 0.15


@pytest.mark.parametrize("control", ["depth", "pose"])
def test_pictures_do_not_know_depth(twenty: StoredDataset, control: str) -> None:
    with pytest.raises(InvalidRequest, match="canny or tile for these pictures"):
        data_of(twenty, method="controlnet", control=control)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_with_real_networks(twenty: StoredDataset, tmp_path: Path, family: str) -> None:
    folder = tiny_pipeline_folder(tmp_path / "base", family)  # pyright: ignore[reportArgumentType]
    base = BaseModel(id="tiny", family=family, source=str(folder), kind="folder")  # pyright: ignore[reportArgumentType]
    networks = Networks.load(base, "cpu", "fp32")
    data = data_of(twenty, networks, caption_dropout=0.0)
    data.build()
    batch = data.batch(0)
    direct = networks.embed(list(batch.captions), batch.sizes)
    assert batch.condition.keys() == direct.keys()
    for key, value in direct.items():
        assert torch.allclose(batch.condition[key], value, atol=2e-3, rtol=2e-3)
    held_out = data.held_out(2)
    assert held_out.images is not None
    parameters = networks.encode(held_out.images)
    exact = networks.latents(parameters, torch.zeros(2, 4, 8, 8))
    spread = (0.5 * parameters.chunk(2, dim=1)[1]).exp().max() * networks.vae.config["scaling_factor"]
    assert (held_out.latents - exact).abs().max() < 6 * spread
    answer = networks.network()(batch.latents, torch.full((4,), 500), batch.condition)
    assert answer.shape == batch.latents.shape
