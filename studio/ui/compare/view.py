"""The contest as pictures: who draws now, the finished ones side by side, over each other, and where they differ.

Each function turns values into HTML text; buttons carry `data-pick`, which the page's `select` event hands back, and
`data-key` is a key that presses them. The slider and the flicker are moved by assets/studio.js. Knows no gradio, and
nothing of how pictures are made; the table of numbers is numbers.py, votes are vote.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from studio.comparing.numbers import Numbers, difference_map
from studio.pixels import psnr
from studio.types import GenerationRequest, StepPlan, StepPreview
from studio.ui.feedback import bytes_in_words, seconds_in_words
from studio.ui.form_layout import EXAMPLES
from studio.ui.stage import SCENE
from studio.ui.theme import STOPS
from studio.ui.windows_view import data_uri, grid_html, progress_html

LETTERS = "ABCD"
VIEWS = (("Grid", "grid"), ("Slider", "slider"), ("Flicker", "flicker"), ("Difference", "difference"),
         ("Blind vote", "vote"))  # fmt: skip
PAIRED = ("slider", "flicker", "difference", "vote")
"""Views of two pictures."""
DIFFERENCE_GAIN = 3.0
STREAMED_SIDE_PIXELS = 640
EXAMPLE = EXAMPLES[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One contestant's finished picture as the page shows it; `source` is a data URI of the original file.

    `why` says, for each number that is not there, why it is not.
    """

    index: int
    name: str
    settings: str
    source: str
    image: Image.Image
    alt: str
    request: GenerationRequest
    history_id: str | None
    plan: StepPlan
    numbers: Numbers
    seconds: float
    seconds_rounds: tuple[float, ...] = ()
    memory_bytes: int | None = None
    why: Mapping[str, str]

    @property
    def letter(self) -> str:
        """What it is called on the page."""
        return LETTERS[self.index]

    @property
    def title(self) -> str:
        """Its letter, name and settings in one line."""
        return f"{self.letter} · {self.name}, {self.settings}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownContest:
    """What the stage holds after a contest: the pictures that were drawn, and which one is the reference."""

    pictures: tuple[Picture, ...]
    reference: int | None
    chosen: int = 0

    def picture(self, index: int) -> Picture:
        """The contestant of this index. Raises `StopIteration` where it was not drawn."""
        return next(each for each in self.pictures if each.index == index)

    def has(self, index: object) -> bool:
        """Whether the contestant of this index was drawn."""
        return any(each.index == index for each in self.pictures)

    @property
    def pair(self) -> tuple[int, int] | None:
        """Who is looked at in pairs at first: the first two that are not the reference."""
        order = sorted(self.pictures, key=lambda each: each.index == self.reference)
        return (order[0].index, order[1].index) if len(order) > 1 else None


# --- before and while drawing -----------------------------------------------------------------------------------------


def _empty_html() -> str:
    """Before the first contest: two little drawings of one scene, an example, one button."""
    tiles = "".join(f'<span style="--w:{STOPS[i]}; --grain:{grain}">{SCENE}</span>' for i, grain in ((0, 0.3), (3, 0)))
    return (
        f'<div class="stage empty"><div class="stage-tiles versus" aria-hidden="true">{tiles}</div>'
        f"<h2>Same noise, same prompt. Who draws it better?</h2>"
        f"<p>Two to four contestants draw in turn. To begin with: LCM against PeRFlow, measured by the bare model in "
        f"many steps.</p>"
        f'<p class="stage-example">“{escape(EXAMPLE)}”</p>'
        f'<button type="button" class="pill primary" data-pick="example">Draw this duel</button></div>'
    )


EMPTY = _empty_html()


def failed_html(words: str) -> str:
    """What went wrong, in place of the pictures."""
    return f'<div class="stage failed" role="alert"><h2>No contest this time</h2><p>{escape(words)}</p></div>'


def contest_html(cards: Sequence[str], request: GenerationRequest, *, busy: bool = False) -> str:
    """Cards side by side, in the canvas' proportions."""
    ratio = f"--ratio:{request.width}/{request.height}"
    columns = 2 if len(cards) in (2, 4) else len(cards)
    return (
        f'<div class="stage duel{" busy" if busy else ""}" style="{ratio}; --columns:{columns}">{"".join(cards)}</div>'
    )


def waiting_card_html(index: int, title: str, *, is_reference: bool, is_next: bool) -> str:
    """A contestant whose turn has not come, or has just come."""
    inner = '<div class="stage-noise"></div>' if is_next else ""
    words = "its turn" if is_next else "waits for its turn"
    return _card_html(index, title, f'<div class="duel-frame">{inner}</div>', f"<span>{words}</span>", is_reference)


def preview_card_html(
    index: int, title: str, preview: StepPreview, windows: Sequence[int], *, is_reference: bool
) -> str:
    """A contestant at work: the prediction of its picture so far, over its progress."""
    alt = f"{LETTERS[index]}: preview after step {preview.step} of {preview.num_steps}"
    image = f'<img class="preview" src="{data_uri(preview.image, STREAMED_SIDE_PIXELS)}" alt="{alt}" decoding="sync">'
    frame = f'<div class="duel-frame">{image}{progress_html(preview, windows)}</div>'
    return _card_html(index, title, frame, f"<span>step {preview.step} of {preview.num_steps}</span>", is_reference)


def done_card_html(picture: Picture, *, is_reference: bool, is_chosen: bool | None = None) -> str:
    """A finished contestant: picture, effective grid, what it cost. `is_chosen` makes the picture a button."""
    source = picture.source if is_chosen is not None else data_uri(picture.image, STREAMED_SIDE_PIXELS)
    image = f'<img class="result" src="{source}" alt="{escape(picture.alt)}" decoding="sync">'
    frame = f'<div class="duel-frame">{image}</div>'
    if is_chosen is not None:
        frame = (
            f'<button type="button" class="duel-frame" data-pick="card-{picture.index}" '
            f'aria-pressed="{str(is_chosen).lower()}" title="Choose this picture">{image}</button>'
        )
    title = f"{picture.name}|{picture.settings}"
    return _card_html(picture.index, title, frame, _cost_html(picture), is_reference, grid_html(picture.plan))


def _cost_html(picture: Picture) -> str:
    memory = "" if picture.memory_bytes is None else f"<span>{bytes_in_words(picture.memory_bytes)}</span>"
    return f"<span>{time_in_words(picture.seconds)}</span>{memory}"


def _card_html(index: int, title: str, frame: str, foot: str, is_reference: bool, grid: str = "") -> str:
    name, _, settings = title.partition("|")
    mark = '<em class="tag">reference</em>' if is_reference else ""
    return (
        f'<article class="duel-card" aria-label="{LETTERS[index]}: {escape(name)}">{frame}'
        f'<header><b class="letter">{LETTERS[index]}</b><div><h3>{escape(name)}</h3>'
        f"<p>{escape(settings)}{mark}</p></div></header>{grid}"
        f'<p class="facts duel-cost">{foot}</p></article>'
    )


def time_in_words(seconds: float) -> str:
    """`84 ms` below a second, else `1.2 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else seconds_in_words(seconds)


def blind_running_html(num_done: int, num_contestants: int, request: GenerationRequest) -> str:
    """Drawing out of sight: nothing tells who is who."""
    frame = '<div class="duel-frame"><div class="stage-noise"></div></div>'
    cards = [f'<article class="duel-card blind" aria-label="{side}">{frame}</article>' for side in ("Left", "Right")]
    words = f"{num_done} of {num_contestants} pictures are drawn, out of sight until you have voted."
    return contest_html(cards, request, busy=True) + f'<p class="facts centred">{words}</p>'


# --- ways to look -----------------------------------------------------------------------------------------------------


def grid_view_html(shown: ShownContest) -> str:
    """All finished pictures; each is a button that chooses it."""
    cards = [
        done_card_html(each, is_reference=each.index == shown.reference, is_chosen=each.index == shown.chosen)
        for each in shown.pictures
    ]
    return contest_html(cards, shown.pictures[0].request)


def _pair_frame(shown: ShownContest) -> str:
    request = shown.pictures[0].request
    return f"--ratio:{request.width}/{request.height}; --aspect:{request.width / request.height:.4f}"


def _names_html(left: Picture, right: Picture) -> str:
    return (
        f'<div class="pair-names"><span>{escape(left.title)}</span><span>{escape(right.title)}</span></div>'
    )  # fmt: skip


def slider_html(shown: ShownContest, left: int, right: int) -> str:
    """One over the other, parted by a line that pointer, touch and arrow keys move."""
    first, second = shown.picture(left), shown.picture(right)
    return (
        f'<div class="stage pair"><div class="ab stage-frame" style="{_pair_frame(shown)}; --at:50%">'
        f'<img class="result" src="{second.source}" alt="Right: {escape(second.alt)}" decoding="sync">'
        f'<img class="result over" src="{first.source}" alt="Left: {escape(first.alt)}" decoding="sync">'
        f'<i class="ab-line" aria-hidden="true"></i>'
        f'<input type="range" min="0" max="100" value="50" data-ab aria-label="How much of '
        f'{first.letter} covers {second.letter}" aria-valuetext="50 %"></div>{_names_html(first, second)}</div>'
    )


def flicker_html(shown: ShownContest, left: int, right: int) -> str:
    """The same place, one picture or the other: hover, click, touch or the key X swaps them."""
    first, second = shown.picture(left), shown.picture(right)
    return (
        f'<div class="stage pair"><button type="button" class="flicker stage-frame" style="{_pair_frame(shown)}" '
        f'data-flicker data-key="x" aria-pressed="false" aria-label="Swap the two pictures">'
        f'<img class="result" src="{first.source}" alt="{escape(first.alt)}" decoding="sync">'
        f'<img class="result over" src="{second.source}" alt="{escape(second.alt)}" decoding="sync"></button>'
        f'<p class="seen-now" role="status" aria-live="polite" data-first="{escape(first.title)}" '
        f'data-second="{escape(second.title)}">Seen now: <b>{escape(first.title)}</b></p>'
        f'<p class="facts centred"><span>Hover, click or press <kbd>X</kbd> to swap.</span></p></div>'
    )


def difference_html(shown: ShownContest, left: int, right: int) -> str:
    """Where two pictures differ, between the two."""
    first, second = shown.picture(left), shown.picture(right)
    gap = data_uri(difference_map(first.image, second.image, gain=DIFFERENCE_GAIN), max(first.image.size))
    words = f"Black: the same. White: {255 / DIFFERENCE_GAIN:.0f} of 255 levels or more apart in some channel."
    alt = f"Difference of {first.title} and {second.title}"
    return (
        f'<div class="stage pair"><div class="difference" style="{_pair_frame(shown)}">'
        f"{_side_html(first)}"
        f'<figure class="gap"><img src="{gap}" alt="{escape(alt)}"><figcaption>Difference</figcaption></figure>'
        f'{_side_html(second)}</div><p class="facts centred">{words}</p>'
        f'<p class="facts centred">PSNR between the two: {psnr(first.image, second.image):.1f} dB.</p></div>'
    )


def _side_html(picture: Picture) -> str:
    image = f'<img src="{picture.source}" alt="{escape(picture.alt)}" decoding="sync">'
    return f"<figure>{image}<figcaption>{picture.letter} · {escape(picture.name)}</figcaption></figure>"


PAIR_VIEWS = {"slider": slider_html, "flicker": flicker_html, "difference": difference_html}
