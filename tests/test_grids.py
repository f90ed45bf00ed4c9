"""Grids through the services: checked before any work, kept cell by cell, taken up again, one sheet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from studio.comparing.grid import Axis, Grid
from studio.comparing.sheet import OWN_CHUNK
from studio.errors import InvalidRequest, NotFound
from studio.grids import CellDone, GridResult
from studio.services import Services
from tests.test_comparisons import serving


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with serving(tmp_path) as services:
        yield services


def grid(**more) -> Grid:
    accelerators = Axis(name="accelerator", values=("ddim", "perflow-tabletop"))
    base = {"prompt": "a red cube", "seed": 3, "guidance": 3.0, **more}
    return Grid(base=base, x=accelerators, y=Axis(name="steps", values=(4, 5)))


def run(services: Services, asked: Grid) -> list:
    return list(services.grids.run(services.grids.prepare(asked)))


def test_every_cell_is_a_picture_of_the_history_with_its_own_settings(services: Services) -> None:
    events = run(services, grid())
    last = events[-1]
    assert isinstance(last, GridResult)
    requests = [services.history.get(id).request for id in last.history_ids]
    assert [(each.accelerator, each.steps) for each in requests] == [
        ("ddim", 4), ("perflow-tabletop", 4), ("ddim", 5), ("perflow-tabletop", 5),
    ]  # fmt: skip
    assert {each.seed for each in requests} == {3}


def test_cells_of_one_accelerator_are_drawn_together(services: Services) -> None:
    assert services.grids.prepare(grid()).missing == (0, 2, 1, 3)


def test_a_cancelled_grid_goes_on_where_it_was(services: Services) -> None:
    events = services.grids.run(services.grids.prepare(grid()))
    first = next(event for event in events if isinstance(event, CellDone))
    events.close()
    again = services.grids.prepare(grid())
    assert again.done == {first.cell: first.history_id}
    assert len(again.missing) == 3
    *_, last = services.grids.run(again)
    assert last.history_ids[first.cell] == first.history_id
    assert len(services.history.search(tab="grid")) == 4


def test_what_was_deleted_or_damaged_is_drawn_anew(services: Services, tmp_path: Path) -> None:
    last = run(services, grid())[-1]
    services.history.delete([last.history_ids[2]])
    assert services.grids.prepare(grid()).missing == (2,)
    [notes] = (tmp_path / "grids").iterdir()
    notes.write_text("{ half")
    assert len(services.grids.prepare(grid()).missing) == 4


def test_the_cost_is_told_before_and_the_time_once_known(services: Services) -> None:
    prepared = services.grids.prepare(grid())
    assert prepared.num_network_calls == sum(plan.num_network_calls for plan in prepared.plans) == 36
    assert prepared.seconds is None
    run(services, grid())
    assert services.grids.prepare(grid()).num_network_calls == 0


def test_a_random_seed_becomes_one_for_all_cells(services: Services) -> None:
    prepared = services.grids.prepare(grid(seed=-1))
    assert len({each.seed for each in prepared.requests}) == 1
    assert prepared.grid.base["seed"] == prepared.requests[0].seed >= 0


def test_a_cell_that_makes_no_sense_is_named_before_any_work(services: Services) -> None:
    asked = Grid(base={"prompt": "a cube"}, x=Axis(name="steps", values=(4, 51)))
    with pytest.raises(InvalidRequest, match=r"steps: expected a whole number from 1 to 50 \(in the cell Steps 51\)"):
        services.grids.prepare(asked)
    assert services.history.search(tab="grid") == ()


def test_too_much_work_is_refused_with_its_measure(services: Services) -> None:
    asked = Grid(
        base={"accelerator": "ddim", "guidance": 3.0},
        x=Axis(name="seed", values=tuple(range(24))),
        y=Axis(name="steps", values=(45, 46, 47, 48, 49, 50)),
    )
    assert services.grids.prepare(asked).num_network_calls == 13680
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studio.grids.MAX_CALLS", 10_000)
        with pytest.raises(InvalidRequest, match="at most 10,000 network calls"):
            services.grids.prepare(asked)


def test_the_sheet_leaves_as_one_picture_with_all_settings(services: Services) -> None:
    prepared = services.grids.prepare(grid())
    with pytest.raises(NotFound, match="Nothing of this grid"):
        services.grids.export(prepared)
    run(services, grid())
    with Image.open(services.grids.export(prepared)) as sheet:
        notes = json.loads(sheet.info[OWN_CHUNK])
        assert sheet.width > 2 * 128
    assert Grid.from_json(notes["grid"]).id == prepared.grid.id
    assert notes["cells"]["3"]["accelerator"] == "perflow-tabletop"


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"prompt": 5}, "prompt: expected"),
        ({"model": 5}, "model: expected"),
        ({"model": "castle"}, "model: expected one of"),
        ({"seed": "lucky"}, "seed: expected"),
        ({"width": [1]}, "width: expected"),
        ({"guidance": "much"}, "guidance: expected"),
        ({"accelerator_strength": float("nan")}, "accelerator_strength: expected"),
    ],
)
def test_a_base_that_makes_no_sense_is_refused_by_field(services: Services, base: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        services.grids.prepare(Grid(base=base, x=Axis(name="steps", values=(4,))))
