"""Lists of models and accelerators on an open page as the catalogue has them: also what was trained since it opened.

An answer may come late, to a page that a person or another event has changed meanwhile. So it brings lists alone, and a
value only in place of one that the catalogue has no more; and its arrival asks again, until the accelerators listed are
those of the models that stand on the page. This module does not know what follows from a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context

from studio.ui.form import Updates, Values, accelerator_choices
from studio.ui.form_layout import model_choices

if TYPE_CHECKING:
    from studio.services import Services


class CatalogLists:
    """The lists of pairs of pickers; `made_for` tells of those that have arrived: a revision, and each pair's model."""

    def __init__(self, services: Services, pairs: Sequence[tuple[gr.Dropdown, gr.Dropdown]]) -> None:
        self._services, self._pairs = services, pairs
        self.made_for = gr.Textbox(visible=False)  # on the page, unlike a state: it changes when the lists arrive

    def connect(self, listen: Any) -> None:
        """Refresh on a fresh page, whenever `listen` fires, and after every change: of a choice, or of the lists."""
        page, pickers = Context.root_block, [each for pair in self._pairs for each in pair]
        assert page is not None
        # One listener for all, so that the answer to an older question never comes last; and values as they are, since
        # what stands on the page may not be in the lists it has.
        gr.on(
            [page.load, listen, self.made_for.change, *(each.change for each in pickers)], self.refresh,
            {*pickers, self.made_for}, [*pickers, self.made_for], trigger_mode="always_last", preprocess=False,
            queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def refresh(self, values: Values) -> Updates:
        """Lists, where they are not yet those of this revision and these models."""
        standing = " ".join(map(str, (self._services.catalog.revision, *(values[model] for model, _ in self._pairs))))
        if values[self.made_for] == standing:
            return {self.made_for: gr.skip()}
        models = model_choices(self._services.models())
        updates: Updates = {}
        for model, accelerator in self._pairs:
            updates |= self._refresh_pair(model, accelerator, models, values)
        is_whole = len(updates) == 2 * len(self._pairs)
        return {**updates, self.made_for: standing if is_whole else gr.skip()}

    def _refresh_pair(
        self, model: gr.Dropdown, accelerator: gr.Dropdown, models: list[tuple[str, str]], values: Values
    ) -> Updates:  # fmt: skip
        """Nothing while another model's accelerator stands there: the event that changes it is on its way."""
        services, catalog = self._services, self._services.catalog
        is_there = values[model] in {id for _, id in models}
        spec = catalog.model(values[model] if is_there else services.default_model)
        offered = services.accelerators(spec.id)
        is_offered = values[accelerator] in {each.id for each in offered}
        if is_there and not is_offered and values[accelerator] in {each.id for each in catalog.accelerators}:
            return {}
        updates = {
            model: gr.update(choices=models),
            accelerator: gr.update(choices=accelerator_choices(offered)),
        }
        if not is_there:
            updates[model]["value"] = spec.id
        if not is_offered:
            updates[accelerator]["value"] = spec.default_accelerator
        return updates
