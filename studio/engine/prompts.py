"""Prompts as embeddings: encoded once per text, kept while the model is resident.

Positive and negative prompts are encoded alike and apart, so a negative prompt that never changes costs nothing after
its first use. Knows no guidance; whether a negative prompt will be used is the caller's business.
Shapes: 1 T D embeddings; SDXL adds 1 D pooled ones.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

NUM_KEPT_PROMPTS = 128


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """A prompt's embeddings, and a sentence when the model could not read all of it."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None
    warning: str | None = None


class PromptEncoder:
    """The prompts of one resident pipeline. `forget()` after anything changed its text encoders."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._kept: OrderedDict[tuple[str, bool], EncodedPrompt] = OrderedDict()

    def encode(self, prompt: str, *, negative: bool = False) -> EncodedPrompt:
        """Embeddings of a prompt. An empty negative prompt is zeros where the pipeline was trained so (SDXL)."""
        key = (prompt, negative)
        if key not in self._kept:
            self._kept[key] = self._encode(prompt, negative)
            while len(self._kept) > NUM_KEPT_PROMPTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def forget(self) -> None:
        """Drop all embeddings."""
        self._kept.clear()

    def _encode(self, prompt: str, negative: bool) -> EncodedPrompt:
        encoded = self._pipe.encode_prompt(
            prompt=prompt,
            device=self._pipe._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        embeds, pooled = encoded[0], encoded[2] if len(encoded) == 4 else None
        if negative and not prompt and getattr(self._pipe.config, "force_zeros_for_empty_prompt", False):
            embeds, pooled = torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled)
        return EncodedPrompt(embeds=embeds, pooled=pooled, warning=_cut_warning(self._pipe.tokenizer, prompt, negative))


def _cut_warning(tokenizer: Any, prompt: str, negative: bool) -> str | None:
    tokens = tokenizer(prompt, truncation=False, padding=False, verbose=False).input_ids
    limit = tokenizer.model_max_length
    if len(tokens) <= limit:
        return None
    unread = tokenizer.decode(tokens[limit - 1 : -1], skip_special_tokens=True).strip()
    shown = unread if len(unread) <= 60 else f"{unread[:57]}..."
    kind = "negative prompt" if negative else "prompt"
    return f"The {kind} was cut: this model reads {limit - 2} tokens and got {len(tokens) - 2}; not read: “{shown}”."
