"""The Wonder3D network: Stable Diffusion's UNet that draws several views of one object, normals and colours together.

It is diffusers' `UNet2DConditionModel` with three changes: 8 input channels (noise, then the latents of the picture
given), a label of 10 numbers a row (which view, which domain) beside the timestep, and in every transformer block

    multiview self-attention -> cross-domain attention -> attention to the picture's token -> feed-forward

Multiview self-attention lets all views of one domain see each other, cross-domain attention a view's normals and its
colours; both are plain self-attention over rows put side by side. Parameters keep the names of the published
checkpoint, which are Stable Diffusion's plus `class_embedding`, `attn_joint_mid` and `norm_joint_mid`, so delta weights
of its base add by name.

Rows: `B 8 h w` in the order domain, then guidance, then view (views fastest): the first half of the batch is normals.
Source: Long et al., arXiv 2310.15008; checkpoint flamehaze1115/wonder3d-v1.0.
This module does not know cameras, schedulers or pipelines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn

from studio.errors import IncompatibleWeights

NUM_VIEWS = 6
LABEL_WIDTH = 10
LATENT_CHANNELS = 4
WIDENED = "conv_in.weight"
"""The one parameter of the base that has another shape here."""
BASE_SHA256 = "base_sha256"
"""In the metadata of a file that stores only what differs from its base: which base that is."""

# What the 2023 code called the blocks that are stock blocks with other transformer blocks inside.
_STOCK_NAMES = {
    "CrossAttnDownBlockMV2D": "CrossAttnDownBlock2D",
    "CrossAttnUpBlockMV2D": "CrossAttnUpBlock2D",
    "UNetMidBlockMV2DCrossAttn": "UNetMidBlock2DCrossAttn",
}
_VARIANTS = ("cd_attention_last", "sparse_mv_attention", "mvcd_attention")


class MultiviewBlock(BasicTransformerBlock):
    """A transformer block whose rows see each other; made from a stock block by `with_views`."""

    num_views: int
    norm_joint_mid: nn.LayerNorm
    attn_joint_mid: Attention

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any = None, encoder_hidden_states: Any = None, *_: Any,
        **__: Any,
    ) -> torch.Tensor:  # fmt: skip
        """`B N C` rows of tokens and their `B 1 C'` picture tokens -> `B N C`; masks are not known here."""
        assert attention_mask is None
        x = hidden_states
        rows, places, width = x.shape
        together = self.norm1(x).reshape(rows // self.num_views, self.num_views * places, width)
        x = x + self.attn1(together).reshape(x.shape)
        both = torch.cat(self.norm_joint_mid(x).chunk(2), dim=1)  # a view's normals and its colours, side by side
        x = x + torch.cat(self.attn_joint_mid(both).chunk(2, dim=1))
        assert self.norm2 is not None
        assert self.attn2 is not None
        assert self.norm3 is not None
        x = x + self.attn2(self.norm2(x), encoder_hidden_states=encoder_hidden_states)
        return x + self.ff(self.norm3(x))


def with_views(unet: UNet2DConditionModel, num_views: int = NUM_VIEWS) -> UNet2DConditionModel:
    """The same UNet, in place, with cross-domain attention in every block; it adds nothing until it is trained."""
    blocks: list[Any] = [each for each in unet.modules() if isinstance(each, BasicTransformerBlock)]
    for block in blocks:
        stock = block.attn1
        width = stock.to_q.in_features
        joint: Any = Attention(query_dim=width, heads=stock.heads, dim_head=width // stock.heads)
        nn.init.zeros_(joint.to_out[0].weight)
        nn.init.zeros_(joint.to_out[0].bias)
        block.attn_joint_mid, block.norm_joint_mid = joint, nn.LayerNorm(width)
        block.num_views = num_views
        block.__class__ = MultiviewBlock
    return unet


def new_wonder3d(**config: Any) -> UNet2DConditionModel:
    """A multiview network of a Stable Diffusion UNet's configuration, with random weights."""
    wide = {
        "in_channels": 2 * LATENT_CHANNELS,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": LABEL_WIDTH,
    }
    return with_views(UNet2DConditionModel(**{**config, **wide}))


def grown_from(base: UNet2DConditionModel) -> UNet2DConditionModel:
    """A multiview network that starts as its base: what is new adds zero, until it is trained."""
    config = {name: value for name, value in base.config.items() if not name.startswith("_")}
    unet = new_wonder3d(**config)
    weights = {name: value.detach().clone() for name, value in base.state_dict().items()}
    wide = torch.zeros_like(unet.conv_in.weight)
    wide[:, :LATENT_CHANNELS] = weights[WIDENED]
    unet.load_state_dict({**weights, WIDENED: wide}, strict=False)
    label: Any = unet.class_embedding
    nn.init.zeros_(label.linear_2.weight)
    nn.init.zeros_(label.linear_2.bias)
    return unet


def read_wonder3d(folder: Path, tensors: dict[str, torch.Tensor]) -> UNet2DConditionModel:
    """A network from the `config.json` of a folder, published in 2023 or written here, and the tensors of its files.

    Raises `IncompatibleWeights` naming the first parameter that is missing, unknown or of another shape.
    """
    config = stock_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    with torch.device("meta"):
        unet = new_wonder3d(**config)
    wanted = unet.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        expected = list(wanted[name].shape) if name in wanted else "no such parameter"
        given = list(tensors[name].shape) if name in tensors else "none"
        if expected != given:
            raise IncompatibleWeights(
                f"{folder.parent.name} is no Wonder3D network: {name}: expected {expected}, got {given}."
            )
    unet.load_state_dict(tensors, assign=True)
    return unet.eval().requires_grad_(False)


def on_base(
    own: dict[str, torch.Tensor], metadata: dict[str, str], base: dict[str, torch.Tensor], base_sha256: str
) -> dict[str, torch.Tensor]:
    """All tensors of a network that stores only its own; the others are those of the base it grew from.

    Raises `IncompatibleWeights` where its file's metadata names another base.
    """
    if metadata.get(BASE_SHA256) != base_sha256:
        raise IncompatibleWeights(
            f"This multiview network stores only what differs from its base ({metadata.get(BASE_SHA256, 'unnamed')}), "
            f"and the base that is there is another ({base_sha256}): use the one it was trained on."
        )
    return {name: value for name, value in base.items() if name != WIDENED} | own


def stock_config(published: dict[str, Any]) -> dict[str, Any]:
    """The configuration in stock names; what only the 2023 code knew is checked or dropped."""
    unknown = [name for name in _VARIANTS if published.get(name)]
    if unknown or not published.get("multiview_attention", True) or not published.get("cd_attention_mid", True):
        raise IncompatibleWeights(
            f"Expected a joint Wonder3D network with cd_attention_mid and multiview_attention and nothing else, got "
            f"{', '.join(unknown) or 'one without them'}."
        )
    if published.get("num_views", NUM_VIEWS) != NUM_VIEWS:
        raise IncompatibleWeights(f"Expected a network for {NUM_VIEWS} views, got {published['num_views']}.")
    allowed = UNet2DConditionModel._get_init_keys(UNet2DConditionModel)
    return {name: _stock(value) for name, value in published.items() if name in allowed}


def _stock(value: Any) -> Any:
    if isinstance(value, list):
        return [_stock(each) for each in value]
    return _STOCK_NAMES.get(value, value) if isinstance(value, str) else value
