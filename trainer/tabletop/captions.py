"""Scenes in words: captions of varied wording, and wrong ones that differ in a detail.

All lower case. Colour and shape are always said, other attributes often. What a caption leaves unsaid may be anything.
Knows nothing of pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainer.tabletop.scenes import COLOURS, FLOORS, SHAPES, Scene, Thing

SHAPE_WORDS = {
    "ball": ("ball", "sphere"),
    "cube": ("cube", "box"),
    "cone": ("cone",),
    "cylinder": ("cylinder",),
    "house": ("house",),
    "tree": ("tree",),
    "mug": ("mug", "cup"),
    "figure": ("figure", "person"),
}
MATERIAL_WORDS = {"matte": ("matte",), "glossy": ("glossy", "shiny"), "metal": ("metal", "metallic")}
SIZE_WORDS = {"small": ("small", "little"), "medium": ("",), "large": ("large", "big")}
FLOOR_WORDS = {
    "grey": ("on a grey floor", "on a plain grey floor"),
    "checkered": ("on a checkered floor", "on a black and white checkered floor"),
    "wooden": ("on a wooden floor", "on wooden boards"),
    "grassy": ("on grass", "on a grassy lawn"),
    "sandy": ("on sand", "on a sandy beach"),
    "brick": ("on a brick floor", "on red bricks"),
}
SKY_WORDS = {
    "blue": ("under a blue sky", "on a sunny day"),
    "sunset": ("at sunset", "under a sunset sky"),
    "night": ("at night", "under a night sky"),
    "cloudy": ("under a cloudy sky", "on a cloudy day"),
    "studio": ("in a bright studio", "in front of a white backdrop"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "behind": ("behind",),
    "on top of": ("on top of", "on"),
}
OPENINGS = ("", "", "", "a picture of ", "a render of ", "a photo of ")


def full_caption(scene: Scene) -> str:
    """The caption that leaves nothing unsaid, for measuring: sizes, materials, floor and sky of every scene."""
    names = [" ".join(filter(None, _all_words(thing))) for thing in scene.things]
    text = names[0]
    if scene.relations:
        text = f"{names[1]} {RELATION_WORDS[scene.relations[0]][0]} {names[0]}"
    return f"{text} {FLOOR_WORDS[scene.floor][0]} {SKY_WORDS[scene.sky][0]}"


def _all_words(thing: Thing) -> tuple[str, ...]:
    size, material = SIZE_WORDS[thing.size][0], MATERIAL_WORDS[thing.material][0]
    pattern = "" if thing.pattern == "plain" else thing.pattern
    return ("a", size, material, pattern, thing.colour, SHAPE_WORDS[thing.shape][0])


def caption(scene: Scene, seed: int) -> str:
    """One of many captions of a scene; the same for the same seed."""
    rng = np.random.default_rng([seed, 77])
    text = str(rng.choice(OPENINGS)) + _group(scene, rng)
    if rng.random() < 0.6:
        text += " " + str(rng.choice(FLOOR_WORDS[scene.floor]))
    if rng.random() < 0.45:
        text += " " + str(rng.choice(SKY_WORDS[scene.sky]))
    return text


def wrong_caption(scene: Scene, seed: int) -> str:
    """A caption that is wrong in one detail: colours swapped, sides swapped, another shape, colour or floor."""
    rng = np.random.default_rng([seed, 78])
    things = list(scene.things)
    choices = ["colour", "shape", "floor"] if len(things) == 1 else ["swap", "swap", "relation", "colour", "shape"]
    kind = str(rng.choice(choices))
    if kind == "swap":
        if things[0].colour != things[1].colour:
            things[0], things[1] = (
                replace(things[0], colour=things[1].colour),
                replace(things[1], colour=things[0].colour),
            )
        else:
            things[0], things[1] = replace(things[0], shape=things[1].shape), replace(things[1], shape=things[0].shape)
    elif kind == "relation":
        mirrored = {"left of": "right of", "right of": "left of", "behind": "left of", "on top of": "behind"}
        scene = replace(scene, relations=(mirrored[scene.relations[0]], *scene.relations[1:]))
    elif kind == "floor":
        scene = replace(scene, floor=_other(rng, FLOORS, scene.floor))
        return f"{_group(scene, rng)} {FLOOR_WORDS[scene.floor][0]}"
    else:
        which = int(rng.integers(len(things)))
        values = {"colour": tuple(COLOURS), "shape": SHAPES}[kind]
        things[which] = replace(things[which], **{kind: _other(rng, values, getattr(things[which], kind))})
    return caption(replace(scene, things=tuple(things)), seed)


def _other(rng: np.random.Generator, values: tuple[str, ...], not_this: str) -> str:
    return str(rng.choice([value for value in values if value != not_this]))


def _group(scene: Scene, rng: np.random.Generator) -> str:
    """The things and how they stand: `A`, `B left of A`, `B left of A and C behind it`."""
    names = [_noun(thing, rng) for thing in scene.things]
    if len(names) == 1:
        return names[0]
    relation = scene.relations[0]
    turned = {"left of": "right of", "right of": "left of"}
    if relation in turned and rng.random() < 0.35:
        text = f"{names[0]} {rng.choice(RELATION_WORDS[turned[relation]])} {names[1]}"
    else:
        text = f"{names[1]} {rng.choice(RELATION_WORDS[relation])} {names[0]}"
    if len(names) == 3:
        anchor = f"the {_bare(scene.things[0])}"
        text += f" and {names[2]} {rng.choice(RELATION_WORDS[scene.relations[1]])} {anchor}"
    return text


def _noun(thing: Thing, rng: np.random.Generator) -> str:
    """ "a small glossy striped red cube waving": colour and shape always, the rest often."""
    words = []
    if thing.size != "medium" and rng.random() < 0.8:
        words.append(str(rng.choice(SIZE_WORDS[thing.size])))
    if rng.random() < 0.7:
        words.append(str(rng.choice(MATERIAL_WORDS[thing.material])))
    if thing.pattern != "plain":
        words.append(thing.pattern)
    words += [thing.colour, str(rng.choice(SHAPE_WORDS[thing.shape]))]
    if thing.shape == "figure" and thing.pose != "standing" and rng.random() < 0.7:
        words.append(thing.pose)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def _bare(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def vocabulary() -> list[str]:
    """Every word that captions use, for the tokenizer's merges."""
    groups = [SHAPE_WORDS, MATERIAL_WORDS, SIZE_WORDS, FLOOR_WORDS, SKY_WORDS, RELATION_WORDS]
    text = " ".join(" ".join(options) for group in groups for options in group.values())
    others = "a an and the picture render photo of striped dotted plain waving cheering walking standing"
    return sorted(set(f"{text} {' '.join(COLOURS)} {others}".split()))
