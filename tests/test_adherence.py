"""Prompts in a judged world's words, and what of them a picture kept; by the real judge on real renders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.adherence import Asked, Seen, Vocabulary, adherence, asked_for
from studio.engine.judging import Judges
from trainer.tabletop.captions import caption, full_caption
from trainer.tabletop.data import TEST_SEEDS, image_of
from trainer.tabletop.judge import VOCABULARY
from trainer.tabletop.scenes import random_scene

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def test_the_labels_that_ship_are_the_worlds() -> None:
    assert Vocabulary.from_json(json.loads((ASSETS / "judge" / "labels.json").read_text())) == VOCABULARY


@pytest.mark.parametrize("seed", range(40))
def test_every_caption_of_the_world_is_read_as_its_scene(seed: int) -> None:
    scene = random_scene(seed)
    for words in (caption(scene, seed), full_caption(scene) if len(scene.things) < 3 else caption(scene, seed + 1)):
        asked = asked_for(words, VOCABULARY)
        assert asked is not None
        assert set(asked.things) == {(thing.shape, thing.colour) for thing in scene.things}, words
        assert set(asked.materials) <= {(thing.shape, thing.material) for thing in scene.things}
        assert asked.floor in (None, scene.floor)
        assert asked.sky in (None, scene.sky)


def test_what_a_full_caption_names_is_all_found() -> None:
    asked = asked_for("a small glossy red cube on a wooden floor at night", VOCABULARY)
    assert asked == Asked(things=(("cube", "red"),), materials=(("cube", "glossy"),), floor="wooden", sky="night")


@pytest.mark.parametrize("prompt", ["", "a castle", "red", "a cube", "blue sky"])
def test_a_prompt_without_a_coloured_thing_is_not_judged(prompt: str) -> None:
    assert asked_for(prompt, VOCABULARY) is None


def test_found_and_missing_are_counted() -> None:
    pairs = np.zeros(80)
    pairs[[VOCABULARY.pair("cube", "red"), VOCABULARY.pair("cone", "green")]] = 5, 4
    surfaces, floor, sky = np.zeros(24), np.zeros(6), np.zeros(5)
    floor[2] = 1
    seen = Seen(pairs=pairs, surfaces=surfaces, floor=floor, sky=sky, features=np.zeros(160))
    asked = asked_for("a red cube and a blue cone on wooden boards at night", VOCABULARY)
    assert asked is not None
    found = adherence(asked, seen, VOCABULARY)
    assert (found.num_asked, found.num_found) == (4, 2)
    assert found.missing == ("blue cone", "night sky")
    assert found.share == 0.5


def test_the_judge_finds_in_true_renders_what_their_captions_say_and_not_what_others_say() -> None:
    judges = Judges(ASSETS)
    scenes = [random_scene(TEST_SEEDS + 4_000_000 + i, num_things=1) for i in range(12)]
    pictures = [Image.fromarray(image_of(scene).transpose(1, 2, 0)) for scene in scenes]
    seen = judges.see("tabletop", pictures)
    assert seen is not None
    asked = [asked_for(full_caption(scene), VOCABULARY) for scene in scenes]

    def mean_share(shift: int) -> float:
        pairs = [(asked[(i + shift) % 12], seen[i]) for i in range(12)]
        return float(np.mean([adherence(words, look, VOCABULARY).share for words, look in pairs if words]))

    assert mean_share(0) > 0.9
    assert mean_share(1) < 0.5


def test_a_family_without_a_judge_says_nothing(tmp_path: Path) -> None:
    assert Judges(ASSETS).see("sd15", []) is None
    assert Judges(tmp_path).vocabulary("tabletop") is None
    assert Judges(tmp_path, hub_cache=tmp_path).clip_score("a cube", []) is None


# --- CLIP, where its weights are --------------------------------------------------------------------------------------


def tiny_clip(folder: Path, seed: int) -> None:
    """A CLIP of random weights in the published layout."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from trainer.tabletop.models import write_tokenizer

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small, "vocab_size": len(tokenizer), "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)


def test_clip_scores_pictures_once_its_weights_are_in_the_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--openai--clip-vit-large-patch14" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    tiny_clip(snapshot, seed=3)  # whose cosines are positive
    pictures = [Image.new("RGB", (48, 40), colour) for colour in ("red", "blue", "red")]
    scores = Judges(tmp_path, hub_cache=tmp_path).clip_score("a red cube", pictures)
    assert scores is not None
    assert scores[0] == pytest.approx(scores[2])
    assert scores[0] != pytest.approx(scores[1])
    assert all(0 <= score <= 100 for score in scores)
    others = Judges(tmp_path, hub_cache=tmp_path).clip_score("a blue ball on sand at night", pictures)
    assert others != pytest.approx(scores)
