"""The Wonder3D network: the 2023 code's numbers, the published checkpoint's names, and delta weights by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

from studio.errors import IncompatibleWeights
from studio.networks.wonder3d import MultiviewBlock, grown_from, new_wonder3d, read_wonder3d, stock_config
from studio.perflow import DeltaWeights, KeptBase
from studio.specs import DeltaSpec

TINY = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 4, "cross_attention_dim": 16,
}  # fmt: skip
PUBLISHED = {
    **TINY,
    "_class_name": "UNetMV2DConditionModel",
    "_diffusers_version": "0.19.3",
    "down_block_types": ["CrossAttnDownBlockMV2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlockMV2D"],
    "in_channels": 8,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
    "cd_attention_mid": True,
    "cd_attention_last": False,
    "multiview_attention": True,
    "sparse_mv_attention": False,
    "mvcd_attention": False,
    "joint_attention_twice": True,
}

# The 2023 code (commit d894f82, diffusers 0.19.3) on the weights of `filled` and the inputs of `answer`, 24 rows (with
# guidance): every fourth row flattened, every 97th number, the first twelve.
OF_2023 = (
    0.5182275176048279, -0.1763928234577179, 0.43368497490882874, 0.5417081117630005, -0.42639192938804626,
    0.41105717420578003, -0.17805331945419312, -0.43207794427871704, 0.46818020939826965, -0.17690517008304596,
    0.4410494863986969, 0.5401127934455872,
)  # fmt: skip


def wave(*shape: int) -> torch.Tensor:
    count = int(torch.tensor(shape).prod())
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.37 + 0.2).reshape(shape).float()


def filled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by formula, in the order of their names, so that another code can have the same."""
    made = {}
    for place, (name, like) in enumerate(sorted(weights.items())):
        ramp = torch.arange(like.numel(), dtype=torch.float64)
        fan_in = max(1, like.numel() // like.shape[0])
        values = torch.sin(ramp * (1.7 + 0.013 * place) + place) * (0.5 / fan_in**0.5)
        if like.ndim == 1 and name.endswith("weight"):
            values = 1 + 0.1 * values
        made[name] = values.reshape(like.shape).float()
    return made


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    made = new_wonder3d(**stock_config(PUBLISHED)).eval()
    made.load_state_dict(filled(made.state_dict()))
    return made


@torch.no_grad()
def answer(unet: UNet2DConditionModel, rows: int = 24) -> torch.Tensor:
    tokens, labels = wave(rows, 1, 16), wave(rows, 10)
    return unet(wave(rows, 8, 8, 8), torch.tensor(749), encoder_hidden_states=tokens, class_labels=labels).sample


def test_it_computes_what_the_2023_code_computed(unet: UNet2DConditionModel) -> None:
    numbers = answer(unet)[::4].flatten()[::97][:12]
    assert (numbers - torch.tensor(OF_2023)).abs().max() < 1e-5


@torch.no_grad()
def test_the_block_is_the_papers_attention_written_out_row_by_row(unet: UNet2DConditionModel) -> None:
    """An independent statement of the block: explicit softmax, explicit sets of keys for every row."""
    block = next(each for each in unet.modules() if isinstance(each, MultiviewBlock))
    rows, places = 24, 9
    x, token = wave(rows, places, 16), wave(rows, 1, 16)

    def attend(layer, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(len(y), layer.heads, -1).transpose(0, 1)

        q, k, v = heads(layer.to_q(queries)), heads(layer.to_k(keys)), heads(layer.to_v(keys))
        mixed = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1) @ v
        return layer.to_out[0](mixed.transpose(0, 1).reshape(len(queries), -1))

    normed = block.norm1(x)
    of_all_views = [normed[row // 6 * 6 : row // 6 * 6 + 6].reshape(-1, 16) for row in range(rows)]
    y = torch.stack([x[row] + attend(block.attn1, normed[row], of_all_views[row]) for row in range(rows)])
    normed = block.norm_joint_mid(y)
    twins = [torch.cat([normed[row % 12], normed[row % 12 + 12]]) for row in range(rows)]
    y = torch.stack([y[row] + attend(block.attn_joint_mid, normed[row], twins[row]) for row in range(rows)])
    normed = block.norm2(y)
    y = torch.stack([y[row] + attend(block.attn2, normed[row], token[row]) for row in range(rows)])
    gate = block.ff.net[0].proj(block.norm3(y))
    y = y + block.ff.net[2](gate[..., :64] * functional.gelu(gate[..., 64:]))
    assert (block(x, encoder_hidden_states=token) - y).abs().max() < 1e-5


def test_the_published_layout_is_sd15s_names_and_116_more() -> None:
    """802 = 686 of SD 1.5 + 4 of the label + 7 in each of its 16 transformer blocks."""
    sd15 = {
        "sample_size": 32, "layers_per_block": 2, "attention_head_dim": 8, "cross_attention_dim": 768,
        "block_out_channels": (320, 640, 1280, 1280),
    }  # fmt: skip
    with torch.device("meta"):
        multiview = {name: tuple(value.shape) for name, value in new_wonder3d(**sd15).state_dict().items()}
        base = {name: tuple(value.shape) for name, value in UNet2DConditionModel(**sd15).state_dict().items()}
    blocks = {name.rsplit(".norm1", 1)[0] for name in base if name.endswith("transformer_blocks.0.norm1.weight")}
    joint = {
        f"{block}.{part}"
        for block in blocks
        for part in (
            "attn_joint_mid.to_q.weight", "attn_joint_mid.to_k.weight", "attn_joint_mid.to_v.weight",
            "attn_joint_mid.to_out.0.weight", "attn_joint_mid.to_out.0.bias", "norm_joint_mid.weight",
            "norm_joint_mid.bias",
        )
    }  # fmt: skip
    label = {f"class_embedding.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    assert (len(base), len(joint), len(label), len(multiview)) == (686, 112, 4, 802)
    assert set(multiview) == set(base) | joint | label
    assert multiview["conv_in.weight"] == (320, 8, 3, 3)
    assert multiview["class_embedding.linear_1.weight"] == (1280, 10)
    assert [name for name in base if base[name] != multiview[name]] == ["conv_in.weight"]


def test_it_is_read_from_a_folder_in_the_published_layout(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    folder = tmp_path / "wonder3d" / "unet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    read = read_wonder3d(folder, unet.state_dict())
    assert torch.equal(answer(read, 12), answer(unet, 12))


def test_a_checkpoint_that_does_not_fit_is_named(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    folder = tmp_path / "wonder3d" / "unet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    weights = unet.state_dict()
    weights.pop("class_embedding.linear_1.bias")
    with pytest.raises(IncompatibleWeights, match=r"class_embedding\.linear_1\.bias: expected \[64\], got none"):
        read_wonder3d(folder, weights)
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, "sparse_mv_attention": True}))
    with pytest.raises(IncompatibleWeights, match="sparse_mv_attention"):
        read_wonder3d(folder, unet.state_dict())


def tiny_base() -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        types = {
            name: stock_config(PUBLISHED)[name] for name in ("down_block_types", "mid_block_type", "up_block_types")
        }
        return UNet2DConditionModel(**TINY, **types).eval()


@torch.no_grad()
def test_an_untrained_one_predicts_what_its_base_predicts_where_views_agree() -> None:
    """Six equal views: seeing the others changes nothing, and what is new adds zero."""
    base = tiny_base()
    grown = grown_from(base).eval()
    latents, token = wave(1, 4, 8, 8).expand(12, -1, -1, -1), wave(1, 1, 16).expand(12, -1, -1)
    of_base = base(latents, torch.tensor(500), encoder_hidden_states=token).sample
    wide = torch.cat([latents, wave(12, 4, 8, 8)], dim=1)
    of_grown = grown(wide, torch.tensor(500), encoder_hidden_states=token, class_labels=wave(12, 10)).sample
    assert (of_base - of_grown).abs().max() < 1e-5


@pytest.mark.parametrize("widen", [False, True])
def test_delta_weights_of_the_base_add_by_name_and_come_off(widen: bool) -> None:
    base = tiny_base()
    student = {name: value + 0.01 * wave(*value.shape) for name, value in base.state_dict().items()}
    delta = DeltaWeights.from_models(student, base.state_dict(), spec=DeltaSpec(family="sd15"))
    grown = grown_from(base)
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    kept = KeptBase(grown)
    report = kept.apply(delta, 1.0, widen=widen)
    after = grown.state_dict()
    assert (len(report.applied), report.unexpected) == (len(base.state_dict()) - 1, ())
    assert all("joint" in name or "class_embedding" in name for name in set(report.missing) - {"conv_in.weight"})
    assert torch.equal(after["conv_in.weight"][:, 4:], before["conv_in.weight"][:, 4:])
    assert torch.equal(after["conv_in.weight"], before["conv_in.weight"]) != widen
    assert torch.allclose(after["conv_out.weight"], student["conv_out.weight"], atol=1e-6)
    kept.restore()
    assert all(torch.equal(value, before[name]) for name, value in grown.state_dict().items())
