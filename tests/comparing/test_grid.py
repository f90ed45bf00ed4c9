"""Grids as values: cells, what they choose, what is refused; and the sheet they become."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from studio.comparing.grid import Axis, Grid, read_values
from studio.comparing.sheet import OWN_CHUNK, compose, encode
from studio.errors import InvalidRequest

BASE = {"prompt": "a red cube", "seed": 3, "steps": 4}


def grid(**axes) -> Grid:
    return Grid(base=BASE, **{name: Axis(name=kind, values=tuple(values)) for name, (kind, values) in axes.items()})


def test_cells_count_x_fastest_and_choose_what_their_axes_say() -> None:
    found = grid(x=("steps", [1, 2]), y=("guidance", [1.0, 3.0, 5.0]), z=("seed", [7, 8]))
    assert found.num_cells == 12
    assert found.places()[:3] == [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
    assert found.choices(0) == {"prompt": "a red cube", "seed": 7, "steps": 1, "guidance": 1.0}
    assert found.choices(11) == {"prompt": "a red cube", "seed": 8, "steps": 2, "guidance": 5.0}


def test_another_axis_wins_over_a_contestant_and_a_contestant_over_the_base() -> None:
    one = {"name": "LCM", "accelerator": "lcm-tabletop", "steps": 8, "guidance": [1.0]}
    found = grid(x=("steps", [1, 2]), y=("contestant", [one, {"accelerator": "ddim"}]))
    assert found.choices(1) == {
        "prompt": "a red cube", "seed": 3, "steps": 2, "guidance": [1.0], "accelerator": "lcm-tabletop",
    }  # fmt: skip
    plain = grid(x=("contestant", [one, {"accelerator": "ddim"}]))
    assert plain.choices(0)["steps"] == 8
    assert plain.choices(1)["steps"] is None, "its own recommended steps, not the base's"
    assert [plain.x.label(0), plain.x.label(1)] == ["LCM", "ddim"]


def test_words_of_the_prompt_are_replaced() -> None:
    found = grid(x=("prompt_replace", ["red", "blue", "green"]))
    assert [found.choices(cell)["prompt"] for cell in range(3)] == ["a red cube", "a blue cube", "a green cube"]


def test_a_grid_survives_json_and_has_one_name() -> None:
    found = grid(x=("guidance", [1.5, [7.5, 4.0, 4.0, 4.0]]), y=("contestant", [{"accelerator": "ddim"}]))
    again = Grid.from_json(json.loads(json.dumps(found.to_json())))
    assert again.id == found.id
    assert again.choices(1)["guidance"] == [7.5, 4.0, 4.0, 4.0]
    assert grid(x=("guidance", [1.5])).id != found.id


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"x": {"name": "luck", "values": [1]}}, "axis: expected one of prompt"),
        ({"x": {"name": "steps", "values": []}}, "1 to 24 values"),
        ({"x": {"name": "steps", "values": list(range(1, 30))}}, "1 to 24 values"),
        ({"x": {"name": "steps", "values": ["four"]}}, "steps: expected whole numbers"),
        ({"x": {"name": "steps", "values": [True]}}, "steps: expected whole numbers"),
        ({"x": {"name": "guidance", "values": ["much"]}}, "guidance: expected numbers"),
        ({"x": {"name": "prompt", "values": [3]}}, "prompt: expected texts"),
        ({"x": {"name": "contestant", "values": [{"who": "me"}]}}, "contestant: expected objects of model"),
        ({"x": {"name": "prompt_replace", "values": ["blue", "green"]}}, "first the words that stand in the prompt"),
        ({"x": {"name": "steps", "values": [1]}, "y": {"name": "steps", "values": [2]}}, "a different parameter"),
        ({"x": {"name": "seed", "values": list(range(20))}, "y": {"name": "steps", "values": list(range(1, 9))}},
         "at most 144 cells"),
        ({"x": None}, "x: expected an axis"),
        ({"x": "steps"}, "axis: expected an object"),
        ({"x": {"name": "steps", "values": [1]}, "base": {"colour": 1}}, "colour: expected one of"),
        ({"x": {"name": "steps", "values": [1]}, "base": [1]}, "base: expected an object"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(values: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Grid.from_json({"base": BASE, **values})


def test_values_as_people_type_them() -> None:
    assert read_values("steps", "1, 2,4") == (1, 2, 4)
    assert read_values("seed", "1-4, 9") == (1, 2, 3, 4, 9)
    assert read_values("steps", "1-9 (+4)") == (1, 5, 9)
    assert read_values("guidance", "1, 2.5") == (1.0, 2.5)
    assert read_values("prompt", "a cube, red\na ball") == ("a cube, red", "a ball")
    assert read_values("accelerator", "ddim, dpmpp") == ("ddim", "dpmpp")
    for text in ("four", "1-x", "2.5"):
        with pytest.raises(InvalidRequest, match="numbers between commas"):
            read_values("steps", text)


def test_a_sheet_shows_every_cell_in_its_place_and_remembers_its_making() -> None:
    found = grid(x=("steps", [1, 2]), y=("guidance", [1.0, 3.0]), z=("seed", [7, 8]))
    colours = {cell: (30 * cell + 20, 0, 200) for cell in range(7)}  # the last is not drawn
    sheet = compose(found, {cell: Image.new("RGB", (64, 48), colour) for cell, colour in colours.items()})
    counts = {colour: count for count, colour in sheet.getcolors(1 << 20) or []}
    assert all(counts[colour] == 64 * 48 for colour in colours.values())
    places = {colour: sheet.convert("RGB").tobytes().find(bytes(colour)) for colour in colours.values()}
    assert sorted(places, key=lambda colour: places[colour]) == list(colours.values()), "row by row, sheet by sheet"
    png = encode(sheet, found, {0: {"prompt": "a red cube"}})
    import io

    with Image.open(io.BytesIO(png)) as image:
        notes = json.loads(image.info[OWN_CHUNK])
    assert Grid.from_json(notes["grid"]).id == found.id
    assert notes["cells"] == {"0": {"prompt": "a red cube"}}
