"""The Train tab's pictures: choose what is kept here, or bring new ones and see at once what will be used and why.

What is brought in is kept by name, so nobody uploads twice. This module does not know recipes, fields or runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidRequest, NotFound, StudioError
from studio.ui.feedback import bytes_in_words, failure_html, field_error_html
from studio.ui.plain_html import live_html, plain_html
from studio.ui.train.dataset import EMPTY_HTML, TABLETOP_HTML, summary_html
from studio.ui.uploads import uploaded_files

if TYPE_CHECKING:
    from studio.training import TrainingServices

TABLETOP = "tabletop"
NUM_THUMBNAILS = 24
FILE_TYPES = [".zip", ".png", ".jpg", ".jpeg", ".webp", ".txt", ".jsonl", ".csv"]
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
Updates = dict[Any, Any]


@dataclass(frozen=True, kw_only=True)
class DatasetField:
    """The components about pictures."""

    picker: gr.Dropdown
    error: gr.HTML
    card: gr.HTML
    bring: gr.Accordion
    files: gr.File
    title: gr.Textbox
    caption: gr.Textbox
    run_import: gr.Button
    words: gr.HTML
    delete: gr.Button
    confirm: gr.Row
    delete_now: gr.Button
    keep: gr.Button


def build_dataset(training: TrainingServices, start: str, max_bytes: int) -> DatasetField:
    """Put the pictures' part on the page, in the current context."""
    picker = gr.Dropdown(dataset_choices(training), value=start, label="Pictures", filterable=False,
                         elem_id="train-dataset")  # fmt: skip
    error = plain_html(elem_classes="field-error-place", elem_id="train-error-dataset")
    card = plain_html(card_html(training, start, resolution=512, batch_size=1), elem_id="train-dataset-card")
    with gr.Accordion("Bring pictures", open=False, elem_classes="fold", elem_id="train-bring") as bring:
        files = gr.File(label="A zip, or pictures with their caption files", file_count="multiple",
                        file_types=FILE_TYPES, elem_id="train-files", height=140)  # fmt: skip
        plain_html(f'<p class="facts"><span>PNG, JPEG or WebP, up to {bytes_in_words(max_bytes)} at once.</span></p>')
        title = gr.Textbox(label="Name of these pictures", max_lines=1, elem_id="train-files-title",
                           info="They are kept under it: nobody uploads twice.")  # fmt: skip
        caption = gr.Textbox(label="One caption for all without their own", max_lines=2, elem_id="train-files-caption",
                             placeholder="for instance: a picture in the style of my hand")  # fmt: skip
        run_import = gr.Button("Import", elem_id="train-import")
        words = live_html(elem_id="train-import-words", elem_classes="words")
        delete = gr.Button("Delete the chosen pictures", size="sm", visible=False, elem_id="train-dataset-delete")
        with gr.Row(visible=False, elem_classes="actions confirm") as confirm:
            plain_html("<p>Delete these pictures from the studio for good? Finished runs stay.</p>")
            delete_now = gr.Button(
                "Delete", variant="stop", size="sm", min_width=80, elem_id="train-dataset-delete-now"
            )
            keep = gr.Button("Keep", size="sm", min_width=80)
    return DatasetField(
        picker=picker, error=error, card=card, bring=bring, files=files, title=title, caption=caption,
        run_import=run_import, words=words, delete=delete, confirm=confirm, delete_now=delete_now, keep=keep,
    )  # fmt: skip


def connect_dataset(field: DatasetField, training: TrainingServices) -> None:
    """Give the pictures' part its own behaviour; choosing is the form's business."""
    act = DatasetActions(field, training)
    field.files.upload(act.suggest, [field.files, field.title], field.title, queue=False, **QUIETLY)
    field.run_import.click(
        act.bring, [field.files, field.title, field.caption],
        [field.words, field.run_import, field.picker, field.files, field.title, field.bring], concurrency_limit=None,
        **QUIETLY,
    )  # fmt: skip
    field.delete.click(lambda: gr.update(visible=True), None, field.confirm, queue=False, **QUIETLY)
    field.keep.click(lambda: gr.update(visible=False), None, field.confirm, queue=False, **QUIETLY)
    field.delete_now.click(act.delete, field.picker, [field.picker, field.confirm, field.words], **QUIETLY)


def dataset_choices(training: TrainingServices) -> list[tuple[str, str]]:
    """What the picker offers: the built-in scenes, then what is kept here, newest first."""
    kept = [(f"{each.title} · {each.num_kept} pictures", each.id) for each in training.datasets()]
    return [("Tabletop scenes · built in", TABLETOP), *kept]


def card_html(training: TrainingServices, id: str | None, *, resolution: int, batch_size: int) -> str:
    """What is known of the chosen pictures, for the size and batch they will be trained at."""
    if id == TABLETOP:
        return TABLETOP_HTML
    if not id:
        return EMPTY_HTML
    try:
        found = training.dataset(id)
        summary = found.summary(resolution=resolution, batch_size=batch_size)
    except InvalidRequest as error:
        return field_error_html(error)
    except StudioError as error:
        return f"{EMPTY_HTML}{failure_html(error)}"
    stride = max(1, len(found.thumbnail_paths) // NUM_THUMBNAILS)
    shown = list(zip(found.thumbnail_paths, found.manifest.kept, strict=True))[::stride][:NUM_THUMBNAILS]
    return summary_html(summary, [(path.read_bytes(), entry.caption) for path, entry in shown if path.is_file()])


class DatasetActions:
    """The handlers, each from the page's values to updates of the page."""

    def __init__(self, field: DatasetField, training: TrainingServices) -> None:
        self._field, self._training = field, training

    def suggest(self, files: list[str] | None, title: str) -> Any:
        """A name for what was dropped, where the person gave none."""
        if not files or (title or "").strip():
            return gr.skip()
        stem = Path(files[0]).stem.replace("_", " ").replace("-", " ").strip() if len(files) == 1 else ""
        return (stem or "My pictures")[:80]

    def bring(self, files: list[str] | None, title: str, caption: str) -> Iterator[Updates]:
        """Import with progress; the new dataset is chosen, or a sentence says why there is none."""
        field = self._field
        try:
            if not files:
                raise NotFound("Drop a zip or some pictures first.")
            found = uploaded_files(files, self._training.settings.served_dir)
            yield {field.run_import: gr.update(interactive=False), field.words: "Reading the files…"}
            for told in self._import(found, (title or "").strip(), caption or ""):
                if isinstance(told, str):
                    yield {field.words: told}
                    continue
                yield {
                    field.words: f"{told.manifest.title}: what will be used stands above.",
                    field.picker: gr.update(choices=dataset_choices(self._training), value=told.id),
                    field.files: None, field.title: "", field.bring: gr.update(open=False),
                }  # fmt: skip
        except Exception as error:  # noqa: BLE001  (the page is the last place to say what happened; bugs are logged)
            yield {field.words: failure_html(error)}
        yield {field.run_import: gr.update(interactive=True)}

    def _import(self, files: list[tuple[str, Path]], title: str, caption: str) -> Iterator[Any]:
        """Words while it works, and last the dataset; a page that goes away ends it between two pictures."""
        told: Queue[Any] = Queue()
        gone = threading.Event()

        def report(fraction: float, words: str) -> None:
            if gone.is_set():
                raise NotFound("The page that asked for this import is gone.")
            told.put(f"{fraction:.0%}: {words}")

        def work() -> None:
            try:
                told.put(self._training.import_dataset(files, title, caption=caption, report=report))
            except Exception as error:  # noqa: BLE001  (raised again where the page waits)
                told.put(error)

        threading.Thread(target=work, name="import", daemon=True).start()
        try:
            while isinstance(word := _newest(told), str):
                yield word
        except GeneratorExit:
            gone.set()
            raise
        if isinstance(word, Exception):
            raise word
        yield word

    def delete(self, id: str | None) -> Updates:
        """After the second click: the pictures are gone."""
        field = self._field
        try:
            self._training.delete_dataset(id or "")
        except StudioError as error:
            return {field.words: failure_html(error), field.confirm: gr.update(visible=False)}
        return {
            field.words: "Deleted.",
            field.confirm: gr.update(visible=False),
            field.picker: gr.update(choices=dataset_choices(self._training), value=TABLETOP),
        }


def _newest(told: Queue[Any]) -> Any:
    """Wait for a word, and pass over those that are older than another one."""
    word = told.get()
    while isinstance(word, str) and not told.empty():
        word = told.get()
    return word
