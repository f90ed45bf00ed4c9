"""Labels of scenes and the words of the world."""

from __future__ import annotations

from trainer.tabletop.captions import vocabulary
from trainer.tabletop.judge import asked, pair_index
from trainer.tabletop.models import write_tokenizer
from trainer.tabletop.scenes import random_scene


def test_labels_tell_what_is_there() -> None:
    scene = random_scene(11, num_things=2)
    labels = asked([scene])
    assert labels["pairs"].sum() == 2
    assert all(labels["pairs"][0, pair_index(t.shape, t.colour)] == 1 for t in scene.things)


def test_every_word_of_the_world_is_one_token_and_any_text_is_accepted(tmp_path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word
    odd = tokenizer("Zebra, naïve 猫 \x00!").input_ids
    assert tokenizer.unk_token_id not in odd[1:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id
    assert len(odd) > 10
