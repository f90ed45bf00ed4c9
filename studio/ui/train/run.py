"""The right side of the Train tab: one run as its folder tells it, what can be asked of it, and what came of it.

Nothing of a run is kept on the page: a look reads the folder, so a refresh, a closed tab or another viewer sees the
same. A part is made again only when what it shows has changed. This module does not know how runs are configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import NotFound, StudioError
from studio.runs.digest import RunDigest
from studio.ui.feedback import failure_html
from studio.ui.plain_html import live_html, pickable_html, picked, plain_html
from studio.ui.train import samples, view
from studio.ui.train.view import RunState

if TYPE_CHECKING:
    from studio.training import RunStatus, TrainingServices

LOG_LINES = 60
BUSY_SECONDS, IDLE_SECONDS = 2.0, 6.0
SILENT_SECONDS = 120
DRAWABLE = ("perflow_delta", "lora", "model")
Updates = dict[Any, Any]
EMPTY = (
    '<div class="run-empty"><svg viewBox="0 0 340 110" aria-hidden="true">'
    '<path class="level" d="M4 30h76" stroke="var(--stop-0)"/>'
    '<path d="M4 30q16-18 28 8t48 26" stroke="var(--stop-0)"/>'
    '<path class="level" d="M92 30h76" stroke="var(--stop-1)"/>'
    '<path d="M92 30q14-14 26 14t50 32" stroke="var(--stop-1)"/>'
    '<path class="level" d="M180 30h76" stroke="var(--stop-2)"/>'
    '<path d="M180 30q14-10 26 18t50 36" stroke="var(--stop-2)"/>'
    '<path class="level" d="M268 30h68" stroke="var(--stop-3)"/>'
    '<path d="M268 30q12-8 24 22t44 40" stroke="var(--stop-3)"/>'
    "</svg><h2>No run yet</h2><p>A run shows here what it learns, window by window, beside what the untrained student "
    "can do. It goes on when you close this page, and nothing of it is lost.</p>"
    "<p>Begin with the recipe at hand: <b>Estimate</b>, then <b>Start training</b>.</p></div>"
)


@dataclass(frozen=True, kw_only=True)
class ResultPart:
    """What more may be done with a result; `rank` and `make` are for delta weights."""

    fold: gr.Accordion
    repo: gr.Textbox
    token: gr.Textbox
    send: gr.Button
    rank: gr.Number
    make: gr.Button


@dataclass(frozen=True, kw_only=True)
class RunPanel:
    """The components of a run. `seen` remembers what each part shows, `at` the step of the shown samples."""

    picker: gr.Dropdown
    empty: gr.HTML
    body: gr.Column
    head: gr.HTML
    actions: gr.Row
    buttons: dict[str, gr.Button]
    confirm: gr.Row
    delete_now: gr.Button
    keep: gr.Button
    words: gr.HTML
    card: gr.Markdown
    card_fold: gr.Accordion
    result: ResultPart
    windows: gr.HTML
    scrubber: gr.HTML
    samples: gr.HTML
    loss: gr.HTML
    numbers: gr.HTML
    log: gr.HTML
    timer: gr.Timer
    seen: gr.State
    at: gr.State

    @property
    def shown(self) -> list[Any]:
        """Everything a look may change."""
        return [
            self.picker, self.empty, self.body, self.head, *self.buttons.values(), self.card, self.card_fold,
            self.result.fold, self.result.rank, self.result.make, self.windows, self.scrubber, self.samples, self.loss,
            self.numbers, self.log, self.timer, self.seen,
        ]  # fmt: skip


BUTTONS = {
    "try": "Try it now", "download": "Download the result", "save": "Save now", "sample": "Sample now",
    "pause": "Let the next one first", "stop": "Stop", "resume": "Resume", "duplicate": "Use these settings",
    "delete": "Delete",
}  # fmt: skip


def build_run() -> RunPanel:
    """Put the right side on the page, in the current context."""
    picker = gr.Dropdown([], label="Run", filterable=False, elem_id="train-run", visible=False)
    empty = plain_html(EMPTY, elem_id="train-empty")
    with gr.Column(visible=False, elem_classes="run-panel", elem_id="train-run-panel") as body:
        head = plain_html(elem_id="train-head")
        with gr.Row(elem_classes="actions run-actions") as actions:
            buttons = {
                name: gr.Button(title, size="sm", min_width=80, visible=False, elem_id=f"train-{name}",
                                variant="primary" if name == "try" else "secondary")
                for name, title in BUTTONS.items()
            }  # fmt: skip
        with gr.Row(visible=False, elem_classes="actions confirm") as confirm:
            plain_html("<p>Delete this run for good, with its checkpoints, samples and result?</p>")
            delete_now = gr.Button("Delete", variant="stop", size="sm", min_width=80, elem_id="train-delete-now")
            keep = gr.Button("Keep", size="sm", min_width=80)
        words = live_html(elem_id="train-run-words", elem_classes="words")
        with gr.Accordion("Publish, or make LoRA files", open=False, elem_classes="fold", visible=False) as fold:
            repo = gr.Textbox("", label="Repository", placeholder="owner/name", max_length=200,
                              info="Made if it is new, and then private.", elem_id="train-repo")  # fmt: skip
            token = gr.Textbox("", label="Token", type="password", placeholder="hf_...", max_length=300,
                               info="One that may write; used once, kept nowhere.", elem_id="train-token")  # fmt: skip
            send = gr.Button("Publish on the Hugging Face Hub", size="sm", elem_id="train-publish")
            rank = gr.Number(32, label="Rank of the LoRA", precision=0, minimum=1, maximum=1024, visible=False,
                             info="By singular values: a higher rank loses less of the delta weights. For diffusers, "
                             "kohya and what reads its files.", elem_id="train-lora-rank-wanted")  # fmt: skip
            make = gr.Button("Make LoRA files", size="sm", visible=False, elem_id="train-lora")
        with gr.Accordion("Model card", open=False, elem_classes="fold", visible=False) as card_fold:
            card = gr.Markdown(elem_id="train-card", sanitize_html=True)
        windows = plain_html(elem_id="train-windows")
        scrubber = pickable_html(elem_id="train-scrubber")
        samples = plain_html(elem_id="train-samples")
        loss = plain_html(elem_id="train-loss")
        numbers = plain_html(elem_id="train-numbers")
        with gr.Accordion("Log", open=False, elem_classes="fold"):
            log = plain_html(elem_id="train-log")
    return RunPanel(
        picker=picker, empty=empty, body=body, head=head, actions=actions, buttons=buttons, confirm=confirm,
        delete_now=delete_now, keep=keep, words=words, card=card, card_fold=card_fold,
        result=ResultPart(fold=fold, repo=repo, token=token, send=send, rank=rank, make=make), windows=windows,
        scrubber=scrubber, samples=samples, loss=loss, numbers=numbers, log=log, timer=gr.Timer(IDLE_SECONDS),
        seen=gr.State({}), at=gr.State(None),
    )  # fmt: skip


def state_of(status: RunStatus) -> RunState:
    """A run's state and what there is to say about it."""
    words = status.reason
    if status.state == "queued" and status.num_ahead is not None:
        words = f"{status.num_ahead} ahead" if status.num_ahead else "next"
    if status.is_at_work and status.silent_seconds > SILENT_SECONDS:
        words = f"nothing was heard of it for {view.duration_in_words(status.silent_seconds)}"
    return RunState(name=status.state, words=words)


def run_choices(runs: tuple[RunStatus, ...]) -> list[tuple[str, str]]:
    """What the picker offers: names and states, newest first."""
    return [(f"{each.config.name} · {_where(each)}", each.id) for each in runs]


def _where(status: RunStatus) -> str:
    if status.state == "running":
        return f"training, {status.step / max(1, status.num_steps or 1):.0%}"
    return {"queued": "waiting"}.get(status.state, status.state)


def first_choice(runs: tuple[RunStatus, ...]) -> str | None:
    """What a fresh page shows: the run at work, else the newest."""
    working = [each.id for each in runs if each.is_at_work]
    return (working or [each.id for each in runs] or [None])[0]


def offered(status: RunStatus) -> set[str]:
    """The buttons that make sense in a run's state."""
    names = {"duplicate"}
    if status.is_at_work:
        names |= {"stop", "save", "sample", "pause"} if status.state == "running" else {"stop"}
    elif status.state == "queued":
        names |= {"stop", "delete"}
    else:
        names |= {"delete"}
    if status.can_resume:
        names |= {"resume"}
    if status.export is not None:
        names |= {"download"} | ({"try"} if status.export.kind in DRAWABLE else set())
    return names


class RunActions:
    """The handlers, each from the page's values to updates of the page."""

    def __init__(self, training: TrainingServices, panel: RunPanel) -> None:
        self._training, self._panel = training, panel

    def look(self, chosen: str | None, seen: dict[Any, Any], at: int | None, *, choose: bool = False) -> Updates:
        """The run as it is now; only parts that show something else than before are made again.

        The picker's value is a person's: it changes here only when it names nothing, or to `choose` a new run.
        """
        panel, runs = self._panel, self._training.runs()
        ids = [each.id for each in runs]
        run_id = chosen if chosen in ids else first_choice(runs)
        known = dict(seen) if seen.get("run") == run_id else {"run": run_id}
        updates: Updates = {}
        for component, key, make in self._frame(runs, run_id):
            self._make(component, key, make, known, updates)
        if choose or chosen != run_id:
            updates[panel.picker] = gr.update(choices=run_choices(runs), value=run_id, visible=bool(runs))
        if run_id is not None:
            self._look_at(next(each for each in runs if each.id == run_id), at, known, updates)
        if not updates:
            return {panel.seen: gr.skip()}
        return {**updates, panel.seen: known}

    def _make(
        self, component: Any, key: Any, make: Callable[[], Any], known: dict[Any, Any], updates: Updates
    ) -> None:  # fmt: skip
        if known.get(component._id, _NOTHING) != key:
            known[component._id] = key
            updates[component] = make()

    def _frame(
        self, runs: tuple[RunStatus, ...], run_id: str | None
    ) -> Iterator[tuple[Any, Any, Callable[[], Any]]]:  # fmt: skip
        panel, choices, there = self._panel, run_choices(runs), run_id is not None
        yield panel.picker, choices, lambda: gr.update(choices=choices, visible=there)
        busy = any(each.is_at_work or each.state == "queued" for each in runs)
        yield panel.timer, busy, lambda: gr.Timer(BUSY_SECONDS if busy else IDLE_SECONDS)
        yield panel.empty, there, lambda: gr.update(visible=not there)
        yield panel.body, there, lambda: gr.update(visible=there)

    def _look_at(self, status: RunStatus, at: int | None, known: dict[Any, Any], updates: Updates) -> None:
        try:
            with self._training.reading(status.id) as digest:
                for component, key, make in self._parts(status, digest, at):
                    self._make(component, key, make, known, updates)
        except NotFound:
            known.clear()  # deleted by somebody else just now: the next look shows another one

    def _parts(
        self, status: RunStatus, digest: RunDigest, at: int | None
    ) -> Iterator[tuple[Any, Any, Callable[[], Any]]]:
        """Every part with what it depends on and how it is made."""
        panel, config, state = self._panel, status.config, state_of(status)
        names, heard = offered(status), digest.num_events
        sampled = (len(digest.samples), sum(map(len, digest.samples.values())), len(digest.checkpoints), at)
        folder = self._training.samples_dir(status.id)
        log = "\n".join(self._training.log_tail(status.id, LOG_LINES))
        yield panel.head, (state, heard, config.name), lambda: view.head_html(config, state, digest)
        for name, button in panel.buttons.items():
            yield button, name in names, lambda name=name: gr.update(visible=name in names)
        yield panel.windows, (len(digest.validated), type(digest.end)), lambda: view.windows_html(digest, config)
        yield panel.scrubber, sampled, lambda: samples.scrubber_html(digest, at)
        yield panel.samples, sampled, lambda: samples.samples_html(digest, folder, at)
        yield panel.loss, len(digest.steps), lambda: view.loss_html(digest, config)
        yield panel.numbers, heard, lambda: view.numbers_html(digest, config)
        yield panel.log, log, lambda: view.log_html(log)
        text = self._card(status)
        yield panel.card, text, lambda: text
        there, is_delta = status.export is not None, status.export is not None and status.export.kind == "perflow_delta"
        yield panel.result.fold, there, lambda: gr.update(visible=there)
        for part in (panel.result.rank, panel.result.make):
            yield part, is_delta, lambda: gr.update(visible=is_delta)
        yield panel.card_fold, bool(text), lambda: gr.update(visible=bool(text))

    def _card(self, status: RunStatus) -> str:
        if status.export is None:
            return ""
        try:
            text = (self._training.export_dir(status.id) / "README.md").read_text(encoding="utf-8")
        except (OSError, StudioError):
            return ""
        return text.split("---", 2)[2] if text.startswith("---") and text.count("---") > 1 else text

    def scrub(self, chosen: str | None, event: gr.EventData) -> int | None:
        """The step of the samples a person moved to; the newest place follows what comes."""
        if chosen is None:
            return None
        with self._training.reading(chosen) as digest:
            steps = samples.sample_steps(digest)
        place = int(picked(event)) if picked(event).isdecimal() else len(steps)
        return steps[place] if place < len(steps) - 1 else None

    def ask(self, request: str, chosen: str | None) -> str:
        """Ask something of the run; what will happen, or why not."""
        told = {
            "stop": "It writes a checkpoint and ends; resume goes on exactly there.",
            "save": "A checkpoint is written after this step.",
            "sample": "Samples are drawn after this step.",
            "pause": "It writes a checkpoint, lets the next run first, and comes back by itself.",
        }
        try:
            self._training.ask(chosen or "", request)
        except StudioError as error:
            return failure_html(error)
        return told[request]

    def resume(self, chosen: str | None) -> str:
        """Take the run up again as it is."""
        try:
            self._training.resume(chosen or "")
        except StudioError as error:
            return failure_html(error)
        return "It goes on from its last checkpoint."

    def publish(self, chosen: str | None, repo: str, token: str) -> tuple[str, str]:
        """Where the result stands now, or why it does not; and a token field that is empty again."""
        try:
            address = self._training.publish(chosen or "", repo.strip(), token.strip())
        except StudioError as error:
            return failure_html(error), ""
        return f'Published as <a href="{escape(address)}" target="_blank" rel="noopener">{escape(address)}</a>.', ""

    def lora(self, chosen: str | None, rank: float | None) -> str:
        """LoRA files in the result; what they lose, or why there are none."""
        try:
            told = self._training.lora(chosen or "", int(rank) if rank and rank == int(rank) else 0)
        except StudioError as error:
            return failure_html(error)
        return f"{escape(told.capitalize())}. They are in the download."

    def delete(self, chosen: str | None) -> Updates:
        """After the second click: the run is gone for good."""
        panel = self._panel
        try:
            self._training.delete(chosen or "")
        except StudioError as error:
            return {panel.words: failure_html(error), panel.confirm: gr.update(visible=False)}
        return {panel.words: "", panel.confirm: gr.update(visible=False), panel.picker: gr.update(value=None)}


_NOTHING = object()
