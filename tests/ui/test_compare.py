"""The Compare tab without a browser: from the page's values to contests, votes and grids, with the fake engine."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio.adherence import Adherence
from studio.comparing.grid import CONTESTANT, Grid
from studio.comparing.numbers import Numbers
from studio.comparing.sheet import OWN_CHUNK
from studio.conditions import InitialImage
from studio.engine import fake
from studio.errors import InvalidRequest
from studio.services import Services
from studio.types import GenerationRequest
from studio.ui import layout
from studio.ui.catalog_lists import CatalogLists
from studio.ui.compare import grid
from studio.ui.compare.contest import BUSY
from studio.ui.compare.fields import CardError, read_guidance
from studio.ui.compare.grid import Grids, diversity
from studio.ui.compare.numbers import ROWS, best_of, numbers_html
from studio.ui.compare.sweeps import SCALES, STEPS, SWEEPS
from studio.ui.compare.tab import build_compare
from studio.ui.compare.view import ShownContest
from studio.ui.compare.vote import COLUMNS, Ballot, cast, new_ballot, tally, tally_html, vote_html, votes_csv
from studio.ui.destinations import Destination
from tests.ui.test_control import after

SESSION: Any = SimpleNamespace(session_hash="a session")
PROMPT = "a red cube & a <blue> cone"


@pytest.fixture(scope="module")
def built(services: Services) -> tuple[Grids, Destination]:
    with gr.Blocks() as page, gr.Tabs(), gr.Tab("Compare") as tab:
        _, place = build_compare(services, tab)
    handlers = {getattr(block.fn, "__name__", ""): block.fn for block in page.fns.values()}
    grids: Grids = handlers["draw_built"].__self__  # type: ignore[union-attr]
    return grids, place


@pytest.fixture
def grids(built: tuple[Grids, Destination]) -> Grids:
    return built[0]


@pytest.fixture(autouse=True)
def every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine is quicker than a page needs to be told."""
    monkeypatch.setattr(grid, "SECONDS_BETWEEN_UPDATES", 0.0)


def page(grids: Grids, changes: dict[Any, Any] | None = None) -> dict[Any, Any]:
    """The page's values at first sight with a prompt and a seed, and these changed."""
    contest = grids.contest
    cards = (each for card in contest.fields.cards for each in card.values)
    values = {each: each.value for each in {*contest.inputs, *grids.inputs, *cards}}
    return values | {contest.fields.prompt: PROMPT, contest.fields.seed: 7} | (changes or {})


def drawn(grids: Grids, changes: dict[Any, Any] | None = None) -> tuple[dict[Any, Any], list[dict[Any, Any]]]:
    """The page's values after a contest, and the updates that led there."""
    values = page(grids, changes)
    updates = list(grids.contest.draw(values, SESSION))
    for each in updates:
        values = after(values, each)
    return values, updates


def picking(what: str) -> Any:
    return SimpleNamespace(pick=what)


# --- what the left side says ------------------------------------------------------------------------------------------


def test_at_first_sight_lcm_meets_perflow_and_the_teacher_is_the_measure(grids: Grids) -> None:
    comparison = grids.contest.act.comparison(page(grids))
    accelerators = [each.accelerator for each in comparison.contestants]
    assert accelerators == ["lcm-tabletop", "perflow-tabletop", "ddim"]
    assert (comparison.reference, comparison.contestants[2].steps, comparison.equal) == (2, 50, "own")
    assert {each.seed for each in comparison.contestants} == {7}


def test_every_contestants_grid_and_calls_stand_there_before_the_click(grids: Grids) -> None:
    fields, act = grids.contest.fields, grids.contest.act
    changes = {fields.equal: "calls", fields.budget: 8.0, fields.cards[0].guidance: "1", fields.cards[1].guidance: "3"}
    plans = act.refresh(page(grids, changes))
    words = [plans[card.plan] for card in fields.cards]
    assert "8 steps, 8 network calls" in words[0]
    assert "4 steps, 8 network calls" in words[1]
    assert words[1].count("grid-dot") == 4
    assert "50 steps" in words[2]
    assert "All others are measured against it." in words[2]
    assert words[3] == ""


def test_an_error_stands_in_its_own_card_or_beside_its_field(grids: Grids) -> None:
    fields, act = grids.contest.fields, grids.contest.act
    cases = [
        ({fields.cards[1].steps: 0}, fields.cards[1].error, "Steps: expected"),
        ({fields.cards[1].steps: None}, fields.cards[1].error, "an empty field"),
        ({fields.cards[2].guidance: "strong"}, fields.cards[2].error, "CFG: expected a number"),
        ({fields.cards[0].guidance: "3, 3"}, fields.cards[0].error, "CFG: expected"),
        ({fields.equal: "calls", fields.budget: None}, fields.errors["budget"], "Budget: expected"),
        ({fields.equal: "calls", fields.budget: 0}, fields.errors["budget"], "Budget: expected"),
        ({fields.width: 7}, fields.errors["width"], "Width: expected"),
        ({fields.rounds: 99}, fields.errors["rounds"], "Rounds: expected"),
        ({fields.seed: None}, fields.errors["seed"], "an empty field"),
    ]
    for changes, place, words in cases:
        updates = act.refresh(page(grids, changes)) if fields.seed not in changes else None
        if updates is None:
            with pytest.raises(InvalidRequest) as refused:
                act.comparison(page(grids, changes))
            updates = act.errors(refused.value)
        assert words in updates[place]
        assert [each for each in fields.error_places if updates[each]] == [place]


def test_a_guidance_is_a_number_or_one_for_each_window() -> None:
    assert read_guidance("3") == 3.0
    assert read_guidance("7.5, 4;4 4") == [7.5, 4.0, 4.0, 4.0]
    for wrong in ("", "much", "3,x"):
        with pytest.raises(InvalidRequest, match="guidance"):
            read_guidance(wrong)


def test_recommendations_fill_what_nobody_has_set(grids: Grids, services: Services) -> None:
    card, act = grids.contest.fields.cards[1], grids.contest.act
    spec = services.catalog.accelerator("ddim")
    free = act.change_accelerator(1, page(grids, {card.accelerator: "ddim"}))
    assert free[card.steps] == spec.recommended_steps
    assert free[card.guidance] == f"{spec.recommended_guidance[0]:g}"
    kept = act.change_accelerator(1, page(grids, {card.accelerator: "ddim", card.kept: frozenset({"steps"})}))
    assert kept[card.steps] == gr.skip()
    assert kept[card.guidance] == free[card.guidance]


def test_another_model_brings_its_own_accelerators(grids: Grids, services: Services) -> None:
    card = grids.contest.fields.cards[0]
    updates = grids.contest.act.change_model(0, page(grids, {card.model: "sd15"}))
    offered = [id for _, id in updates[card.accelerator]["choices"]]
    assert offered == [each.id for each in services.accelerators("sd15")]
    assert updates[card.accelerator]["value"] == services.catalog.model("sd15").default_accelerator


def test_contestants_come_and_go_and_keep_their_letters_in_order(grids: Grids) -> None:
    fields, act = grids.contest.fields, grids.contest.act
    values = page(grids)
    values = after(values, act.remove(0, values))
    assert values[fields.count] == 2
    assert [values[card.accelerator] for card in fields.cards[:2]] == ["perflow-tabletop", "ddim"]
    assert act.reference(values) == 1
    for count in (3, 4):
        values = after(values, act.add(values))
        assert values[fields.count] == count
    assert act.reference(values) == 1  # the new ones are no reference
    assert act.show(act._rows(values))[fields.add] == gr.update(visible=False)


def test_no_answer_writes_back_what_it_was_asked_with(grids: Grids, services: Services) -> None:
    fields, act = grids.contest.fields, grids.contest.act
    first, second = fields.cards[:2]
    lists = CatalogLists(services, [(card.model, card.accelerator) for card in fields.cards])
    asked = page(grids) | {each: each.value for card in fields.cards for each in card.values} | {lists.made_for: ""}
    late = lists.refresh(asked)
    assert len(late) == 2 * len(fields.cards) + 1
    assert not any("value" in late[each] for card in fields.cards for each in (card.model, card.accelerator))
    changing = act.change_model(0, page(grids, {first.model: "sd15", first.accelerator: "ddim"}))
    assert "value" not in changing[first.accelerator]  # it fits, and so it stays
    for updates, card in ((act.add(page(grids)), second), (act.remove(1, page(grids)), first)):
        assert all(updates[each] == gr.skip() for each in card.values)
    assert "value" not in grids.wishes.change_count(3, 2)[grids.parts.like]
    assert grids.wishes.change_count(2, 2)[grids.parts.like]["value"] == 1


def test_only_one_is_the_reference(grids: Grids) -> None:
    fields, act = grids.contest.fields, grids.contest.act
    values = after(page(grids, {fields.cards[0].is_reference: True}), act.mark_reference(0, True))
    assert [values[card.is_reference] for card in fields.cards] == [True, False, False, False]
    assert act.comparison(after(values, {fields.cards[0].is_reference: False})).reference is None


# --- contests ---------------------------------------------------------------------------------------------------------


def test_a_contest_shows_previews_then_pictures_then_numbers(grids: Grids) -> None:
    parts = grids.contest.parts
    values, updates = drawn(grids)
    stages = [each[parts.stage] for each in updates if parts.stage in each]
    words = [each[parts.words] for each in updates if parts.words in each]
    assert any("C: preview after step 1 of 50" in each for each in stages)
    assert any("Timing, round 3 of 3: A" in each for each in words)
    assert words[-1] == "3 pictures from seed 7, 3 timed rounds."
    shown: ShownContest = values[parts.shown]
    assert [picture.letter for picture in shown.pictures] == ["A", "B", "C"]
    assert all(len(picture.seconds_rounds) == 3 for picture in shown.pictures)
    assert "a red cube &amp; a &lt;blue&gt; cone" in values[parts.stage]
    assert "it is the reference" in values[parts.numbers]
    assert updates[-1][grids.contest.fields.compare] == gr.update(visible=True)


def test_each_picture_is_the_one_that_text_to_image_makes_alone(grids: Grids, services: Services) -> None:
    shown: ShownContest = drawn(grids)[0][grids.contest.parts.shown]
    for picture in shown.pictures:
        entry = services.history.get(picture.history_id or "")
        assert entry.tab == "compare"
        *_, alone = services.generate(entry.request)
        with Image.open(entry.path) as file:
            assert file.tobytes() == alone.images[0].image.tobytes()  # type: ignore[union-attr]


def test_the_reference_settings_are_restored_by_the_plain_tab(services: Services) -> None:
    takers = [SimpleNamespace(tab_id=name, outputs=[], take=dict, tab_for=lambda _, n=name: n) for name in "abcd"]
    request = services.resolve(prompt=PROMPT, accelerator="lcm-tabletop")
    assert layout.settings_of(*takers).tab_for(request) == "a"  # type: ignore[arg-type]


def test_nothing_is_drawn_without_a_prompt_and_it_says_so_there(grids: Grids) -> None:
    contest = grids.contest
    [update] = contest.draw(page(grids, {contest.fields.prompt: "  "}), SESSION)
    assert "some words on what to draw" in update[contest.fields.errors["prompt"]]


def test_the_example_of_the_empty_page_is_drawn_by_one_button(grids: Grids) -> None:
    contest = grids.contest
    updates = list(contest.pick(page(grids, {contest.fields.prompt: ""}), picking("example"), SESSION))
    assert updates[0][contest.fields.prompt].startswith("a glossy red cube")
    assert len(updates[-1][contest.parts.shown].pictures) == 3


@pytest.mark.parametrize(("after_pictures", "left"), [(0, 0), (1, 1), (3, 3)])
def test_cancel_keeps_what_is_there_and_the_next_one_works(grids: Grids, after_pictures: int, left: int) -> None:
    contest, parts = grids.contest, grids.contest.parts
    values, done, is_told, each = page(grids), 0, False, {}
    for each in contest.draw(values, SESSION):
        values = after(values, each)
        done = max(done, str(each.get(parts.stage, "")).count('class="result"'))
        if done >= after_pictures and "step" in str(each.get(parts.words)) and not is_told:
            is_told = True
            assert contest.cancel(SESSION)[contest.fields.cancel]["value"] == "Stopping…"
    shown = values[parts.shown]
    assert (len(shown.pictures) if shown else 0) == left
    assert values[parts.words].startswith("Cancelled")
    assert each[parts.bar] == gr.update(visible=left > 1)
    assert len(drawn(grids)[0][parts.shown].pictures) == 3
    assert contest.cancel(SESSION)[contest.fields.cancel] == gr.skip()


def test_one_piece_of_work_at_a_time_and_it_says_so(grids: Grids) -> None:
    contest, values = grids.contest, page(grids)
    running = contest.draw(values, SESSION)
    next(running)
    [refused] = contest.draw(values, SESSION)
    assert refused == {contest.parts.words: BUSY}
    [refused] = grids.draw_built(values, SESSION)
    assert refused == {grids.parts.words: BUSY}
    running.close()  # type: ignore[attr-defined]
    assert len(drawn(grids)[0][contest.parts.shown].pictures) == 3


def test_with_equal_time_cards_tell_the_steps_that_were_found(grids: Grids, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own, on which a step takes a millisecond."""
    ticks = itertools.count()
    monkeypatch.setattr(fake, "time", SimpleNamespace(sleep=lambda _: None, perf_counter=lambda: next(ticks) / 1000))
    fields, parts = grids.contest.fields, grids.contest.parts
    values, updates = drawn(grids, {fields.equal: "time", fields.budget: 0.05, fields.rounds: 0})
    assert any("Measuring the pace of A" in str(each.get(parts.words)) for each in updates)
    assert any("as many steps as the time allows" in str(each.get(parts.stage)) for each in updates)
    shown: ShownContest = values[parts.shown]
    assert shown.pictures[0].request.steps > 8
    assert f"{shown.pictures[0].request.steps} steps" in values[parts.stage]


# --- looking ----------------------------------------------------------------------------------------------------------


def looked(grids: Grids, values: dict[Any, Any], view: str, **more: Any) -> dict[Any, Any]:
    parts = grids.contest.parts
    changes = {parts.view: view, **{getattr(parts, name): value for name, value in more.items()}}
    return after(values | changes, grids.contest.looks.look(values | changes))


def test_each_view_shows_the_chosen_two_and_says_which(grids: Grids) -> None:
    parts = grids.contest.parts
    values, _ = drawn(grids)
    assert (values[parts.left], values[parts.right]) == (0, 1)
    slider = looked(grids, values, "slider", left=1, right=2)[parts.stage]
    assert slider.index("Right: Generated") < slider.index("Left: Generated")
    assert 'type="range"' in slider
    assert "How much of B covers C" in slider
    flicker = looked(grids, values, "flicker")[parts.stage]
    assert 'data-key="x"' in flicker
    assert "Seen now: <b>A · LCM LoRA" in flicker
    difference = looked(grids, values, "difference")[parts.stage]
    assert "White: 85 of 255 levels or more apart" in difference
    same = looked(grids, values, "difference", left=1, right=1)[parts.stage]
    assert "B stands on both sides" in same
    assert "duel-frame" in looked(grids, values, "grid")[parts.stage]


def test_a_click_on_a_picture_chooses_it(grids: Grids, services: Services) -> None:
    contest, parts = grids.contest, grids.contest.parts
    values, _ = drawn(grids)
    [update] = contest.pick(values, picking("card-2"), SESSION)
    assert services.history.get(update[parts.chosen]).accelerator == "ddim"
    assert update[parts.stage].count('aria-pressed="true"') == 1
    [nothing] = contest.pick(values, picking("card-9"), SESSION)
    assert nothing == {parts.stage: gr.skip()}


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_best_is_marked_by_what_is_read(grids: Grids) -> None:
    shown: ShownContest = drawn(grids)[0][grids.contest.parts.shown]
    found = Adherence(num_asked=3, num_found=2, missing=("red cube",))
    numbers = (
        Numbers(latent_error=0.5, psnr=20.0, adherence=found),
        Numbers(latent_error=0.4, psnr=20.01),
        Numbers(),
    )
    measured = zip(shown.pictures, numbers, (0.1, 0.2, 3.0), strict=True)
    pictures = tuple(replace(each, numbers=own, seconds=seconds) for each, own, seconds in measured)
    best = {row.key: best_of(row, pictures) for row in ROWS}
    assert best["latent_error"] == {1}
    assert best["psnr"] == set()  # both read 20.0 dB
    assert best["adherence"] == set()  # only one has any
    assert best["seconds"] == {0}
    table = numbers_html(replace(shown, pictures=pictures))
    assert "missing: red cube" in table
    assert "<td>–<small>it is the reference</small></td>" in table
    assert "CLIP score" not in table


# --- votes ------------------------------------------------------------------------------------------------------------


def test_a_vote_is_blind_until_it_is_cast_and_counts_once(grids: Grids) -> None:
    contest, parts = grids.contest, grids.contest.parts
    values, _ = drawn(grids)
    values = looked(grids, values, "vote")
    for telling in ("LCM LoRA", "PeRFlow (", "4 steps", "drawn by"):  # none of them can be in a picture's base64
        assert telling not in values[parts.stage]
    assert values[parts.numbers] == ""
    assert values[parts.ballots] == looked(grids, values, "vote")[parts.ballots]  # sides stay
    [update] = contest.pick(values, picking("vote-left"), SESSION)
    values = after(values, update)
    [vote] = values[parts.votes]
    ballot = values[parts.ballots][(0, 1)]
    assert vote.requests[0] == values[parts.shown].picture(ballot.left).request
    assert vote.winner_name in values[parts.stage]
    assert "1 vote in this session" in values[parts.numbers]
    assert "it is the reference" in values[parts.numbers]
    [again] = contest.pick(values, picking("vote-right"), SESSION)
    assert again == {parts.words: gr.skip()}


def test_the_next_one_is_drawn_blind_on_another_seed(grids: Grids) -> None:
    contest, parts = grids.contest, grids.contest.parts
    values = looked(grids, drawn(grids)[0], "vote")
    values = after(values, next(iter(contest.pick(values, picking("vote-tie"), SESSION))))
    updates = list(contest.draw_blind(values, SESSION))
    for each in updates:
        pictures = str(each.get(parts.stage))
        assert "LCM LoRA" not in pictures
        assert 'class="preview"' not in pictures
        values = after(values, each)
    assert values[parts.shown].pictures[0].request.seed != 7
    assert values[parts.view] == "vote"
    assert len(values[parts.votes]) == 1
    assert values[parts.ballots][(0, 1)].winner is None


def test_sides_are_by_chance() -> None:
    sides = {(each.left, each.right) for each in (new_ballot((1, 2), Random(seed)) for seed in range(20))}
    assert sides == {(1, 2), (2, 1)}


def test_votes_are_tallied_and_leave_as_a_table(grids: Grids) -> None:
    shown: ShownContest = drawn(grids)[0][grids.contest.parts.shown]
    ballot = Ballot(left=1, right=0)
    votes = [cast(ballot, side, shown) for side in ("left", "left", "tie", "right")]
    first, second = tally(votes)
    assert (first.name, first.num_won, first.num_tied, first.num_votes) == (votes[0].names[0], 2, 1, 4)
    assert (first.share, second.share) == (0.625, 0.375)
    rows = list(csv.DictReader(io.StringIO(votes_csv(votes).decode())))
    assert tuple(rows[0]) == COLUMNS
    assert [row["winner_side"] for row in rows] == ["left", "left", "tie", "right"]
    assert rows[0]["winner"].startswith("PeRFlow")
    assert rows[2]["winner"] == "tie"
    assert (rows[0]["prompt"], rows[0]["seed"], rows[0]["left_accelerator"]) == (PROMPT, "7", "perflow-tabletop")
    assert (rows[3]["winner"], rows[0]["right_steps"]) == (votes[0].names[1], "4")
    assert "62%" in tally_html(votes)
    assert "You chose B · PeRFlow" in vote_html(shown, replace(ballot, winner="left"))


# --- grids ------------------------------------------------------------------------------------------------------------


def gridded(grids: Grids, values: dict[Any, Any], updates: Iterator[dict[Any, Any]]) -> dict[Any, Any]:
    for each in updates:
        values = after(values, each)
    return values


def test_one_click_draws_every_contestant_over_eight_seeds_with_its_diversity(grids: Grids) -> None:
    parts = grids.parts
    values = page(grids)
    values = gridded(grids, values, grids.draw_sweep(values, picking("seeds"), SESSION))
    shown = values[parts.shown]
    assert shown.grid.shape == (8, 3, 1)
    assert shown.grid.x.values == tuple(range(7, 15))
    assert values[parts.stage].count("data-pick") == 24
    assert shown.numbers[2].share == 1.0
    assert all(1 <= row.vendi <= 8 for row in shown.numbers)
    assert "the reference&#x27;s being 100 %" in values[parts.stage]
    assert "C · None (DDIM), 50 steps, CFG" in values[parts.stage]


@pytest.mark.parametrize(("which", "axis", "told", "hidden"), [("steps", STEPS, "CFG", "steps"),
                                                               ("scales", SCALES, "4 steps", "CFG 1")])  # fmt: skip
def test_sweeps_leave_their_own_parameter_out_of_the_names(
    grids: Grids, which: str, axis: tuple[Any, ...], told: str, hidden: str
) -> None:
    comparison = grids.contest.act.comparison(page(grids))
    sweep = next(each for each in SWEEPS if each.id == which)
    asked = grids.wishes.sweep(page(grids), sweep)
    assert asked.grid.x.values == axis
    assert (asked.grid.num_cells, asked.reference_row) == (15, comparison.reference)
    label = asked.grid.y.label(1)  # type: ignore[union-attr]
    assert told in label
    assert hidden not in label


def test_diversity_is_told_relative_to_the_reference() -> None:
    wide, narrow = np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0]])
    rows = diversity([wide, narrow], reference=0)
    assert [row.share for row in rows] == [1.0, 0.25]
    assert diversity([wide, narrow], reference=None)[0].share is None


def test_the_builders_grid_fills_and_a_cell_goes_to_the_plain_tab(grids: Grids, services: Services) -> None:
    parts = grids.parts
    values = page(grids)
    before = grids.wishes.estimate(values)
    assert "9 pictures, " in before[parts.estimate]
    updates = list(grids.draw_built(values, SESSION))
    assert any(0 < str(each.get(parts.stage)).count("<img") < 9 for each in updates)
    values = gridded(grids, values, iter(updates))
    shown = values[parts.shown]
    assert (shown.grid.x.values, shown.grid.y.values) == ((2, 4, 8), (1.0, 3.0, 5.0))
    update = grids.pick(shown, picking("cell-5"))
    entry = services.history.get(update[parts.chosen])
    assert (entry.request.steps, entry.request.guidance.scales, entry.accelerator) == (8, (3.0,), "perflow-tabletop")
    assert "Steps 8, CFG 3" in update[parts.cell]
    with Image.open(grids.export(shown)) as sheet:
        assert OWN_CHUNK in sheet.text  # type: ignore[attr-defined]
    assert "9 pictures (9 there already), 0 network calls" in grids.wishes.estimate(values)[parts.estimate]


def test_a_grid_that_was_cancelled_goes_on_where_it_was(grids: Grids, services: Services) -> None:
    parts, fields = grids.parts, grids.contest.fields
    values = page(grids, {fields.seed: -1, parts.axes["x"].values: "1-6"})
    for each in grids.draw_built(values, SESSION):
        values = after(values, each)
        if str(each.get(parts.stage)).count("<img") >= 2:
            grids.cancel(SESSION)
    kept = len(values[parts.shown].ids)
    assert 2 <= kept < 18
    assert values[parts.words] == f"Cancelled: {kept} of 18 cells are there and stay."
    seed = values[parts.shown].grid.base["seed"]
    before = len(services.history.search(tab="grid", limit=500))
    values = gridded(grids, values, grids.resume(values, SESSION))
    assert len(values[parts.shown].ids) == 18
    assert values[parts.shown].grid.base["seed"] == seed
    assert len(services.history.search(tab="grid", limit=500)) - before == 18 - kept
    assert f"{kept} of them were there already" in values[parts.words]


def test_what_is_wrong_with_an_axis_stands_beside_it(grids: Grids) -> None:
    parts = grids.parts
    x, y, z = parts.axes.values()
    cases = [
        ({x.values: "two"}, x.error, "numbers between commas"),
        ({y.values: ""}, y.error, "values between commas"),
        ({z.name: "seed", z.values: "1-40"}, z.error, "1 to 24 values on an axis"),
        ({x.values: "1-20", y.values: "1,2,3,4,5,6,7,8"}, parts.error, "at most 144 cells"),
        ({y.name: "steps", y.values: "1, 2"}, parts.error, "a different parameter on each axis"),
        ({x.values: "4, 99"}, parts.error, "in the cell Steps 99, CFG 1"),
        ({x.name: "prompt_replace", x.values: "green, red"}, parts.error, "the words that stand in the prompt"),
    ]
    for changes, place, words in cases:
        told = grids.wishes.estimate(page(grids, changes))
        assert words in told[place]
        assert [each for each in parts.error_places if told[each]] == [place]
        *_, refused = grids.draw_built(page(grids, changes), SESSION)
        assert words in refused[place]


def test_contestants_models_and_accelerators_can_be_axes(grids: Grids) -> None:
    parts = grids.parts
    x, y, _ = parts.axes.values()
    of_all: Grid = grids.wishes.built(page(grids, {y.name: CONTESTANT})).grid
    assert of_all.y is not None
    assert [of_all.y.label(i)[0] for i in range(3)] == ["A", "B", "C"]
    assert "steps" not in of_all.y.label(0)
    changes = {x.name: "accelerator", x.values: "lcm-tabletop, ddim", y.name: "none"}
    prepared = grids.services.grids.prepare(grids.wishes.built(page(grids, changes)).grid)
    recommended = [grids.services.catalog.accelerator(each).recommended_steps for each in ("lcm-tabletop", "ddim")]
    assert [request.steps for request in prepared.requests] == recommended
    example = grids.wishes.change_axis("x", page(grids, {x.name: "accelerator"}))[x.values]
    assert "perflow-tabletop" in example["value"]
    assert grids.wishes.change_axis("x", page(grids, {x.name: CONTESTANT}))[x.values]["visible"] is False


def test_a_sweep_without_a_prompt_or_with_a_wrong_card_says_so_at_the_left(grids: Grids) -> None:
    fields = grids.contest.fields
    [update] = grids.draw_sweep(page(grids, {fields.prompt: ""}), picking("seeds"), SESSION)
    assert "some words" in update[fields.errors["prompt"]]
    [update] = grids.draw_sweep(page(grids, {fields.cards[0].steps: 0}), picking("seeds"), SESSION)
    assert "Steps: expected" in update[fields.cards[0].error]


# --- between tabs -----------------------------------------------------------------------------------------------------


def test_a_picture_of_another_tab_becomes_the_first_contestant(
    built: tuple[Grids, Destination], services: Services
) -> None:
    grids, place = built
    *_, result = services.generate(
        services.resolve(prompt="a mug", accelerator="pcm-tabletop", steps=6, seed=3, accelerator_strength=0.5)
    )
    updates = place.receive(result.images[0].history_id)  # type: ignore[union-attr]
    assert set(updates) <= set(place.outputs)
    comparison = grids.contest.act.comparison(after(page(grids), updates))
    first = comparison.contestants[0]
    assert first == result.request  # type: ignore[union-attr]
    assert [each.accelerator for each in comparison.contestants[1:]] == ["lcm-tabletop", "perflow-tabletop", "ddim"]
    assert comparison.reference == 3


def test_a_picture_that_followed_another_is_refused(grids: Grids) -> None:
    followed = GenerationRequest(prompt="x", initial=InitialImage(image="0" * 64))
    with pytest.raises(InvalidRequest, match="from a prompt alone"):
        grids.contest.act.receive(followed)


def test_a_cards_error_knows_its_card(grids: Grids) -> None:
    with pytest.raises(CardError) as refused:
        grids.contest.act.contestants(page(grids, {grids.contest.fields.cards[1].steps: 1000}))
    assert refused.value.index == 1


def test_the_whole_page_is_built_with_the_tab(services: Services) -> None:
    with layout.build(services) as built:
        labels = [block.label for block in built.blocks.values() if isinstance(block, gr.Tab)]
    assert labels[2:4] == ["Upscale", "Compare"]
