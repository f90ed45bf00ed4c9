"""Base + strength * delta on a live UNet: exact, replaceable, reversible, whatever is wrapped around it."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from peft import LoraConfig

from studio.errors import IncompatibleWeights
from studio.perflow import DeltaWeights, KeptBase, base_weights, mark_merged, merged_with, weights_sha256
from studio.specs import DeltaSpec

SPEC = DeltaSpec(family="sd15", name="trial")


def tiny_unet(seed=0, in_channels=4, width=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=in_channels,
            block_out_channels=(width, width),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
        )


def delta_of(student, teacher, name="trial"):
    return DeltaWeights.from_models(student, teacher, spec=DeltaSpec(family="sd15", name=name))


def bits(unet):
    return {name: weight.detach().clone() for name, weight in base_weights(unet).items()}


def is_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def base():
    return tiny_unet(0)


@pytest.fixture
def delta(base):
    return delta_of(tiny_unet(1), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strength", [0.3, 1.0, 1.5])
def test_apply_is_the_fp32_sum_and_restore_is_bit_exact(base, delta, dtype, strength):
    base.to(dtype)
    before, kept = bits(base), KeptBase(base)
    pointers = {name: weight.data_ptr() for name, weight in base_weights(base).items()}
    report = kept.apply(delta, strength)
    for name, weight in base_weights(base).items():
        expected = (before[name].float() + strength * delta.tensors[name]).to(dtype)
        torch.testing.assert_close(weight, expected)
    assert set(report.applied) == set(before)
    assert report.warnings == ()
    assert weights_sha256(base) != kept.sha256
    kept.restore()
    assert is_equal(bits(base), before)
    assert weights_sha256(base) == kept.sha256
    assert pointers == {name: weight.data_ptr() for name, weight in base_weights(base).items()}


def test_student_is_reached_from_its_teacher(base, delta):
    KeptBase(base).apply(delta)
    student = tiny_unet(1).state_dict()
    for name, weight in base_weights(base).items():
        torch.testing.assert_close(weight, student[name], rtol=1e-6, atol=1e-7)


def test_accelerators_replace_each_other_and_never_stack(base, delta):
    other = delta_of(tiny_unet(2), base, name="other")
    sparse = DeltaWeights(tensors={"conv_out.bias": torch.ones(4)}, spec=SPEC)
    kept = KeptBase(base)
    kept.apply(other)
    alone = bits(base)
    for _ in range(20):
        kept.apply(delta, 0.7)
        kept.apply(sparse)
        kept.apply(other)
    assert is_equal(bits(base), alone)
    assert merged_with(base) == "other"
    kept.apply(sparse)
    changed = [name for name, weight in base_weights(base).items() if not torch.equal(weight, kept._kept[name])]
    assert changed == ["conv_out.bias"]
    kept.restore()
    assert weights_sha256(base) == kept.sha256


def test_strength_zero_is_the_bare_base(base, delta):
    with torch.no_grad():
        base.conv_in.bias.zero_().neg_()
    before, kept = weights_sha256(base), KeptBase(base)
    kept.apply(delta)
    kept.apply(delta, 0.0)
    assert weights_sha256(base) == before
    assert merged_with(base) is None


def test_changes_are_added_one_at_a_time_and_replace_what_was_applied(base, delta):
    plain, kept = bits(base), KeptBase(base)
    kept.apply(delta)
    asked: list[str] = []

    class Changes(dict):
        def __getitem__(self, name: str) -> torch.Tensor:
            asked.append(name)
            return super().__getitem__(name)

    kept.add(Changes({"conv_out.bias": torch.ones(4)}), 0.5, name="Mine")
    assert asked == ["conv_out.bias"]
    assert merged_with(base) == "Mine"
    expected = {**plain, "conv_out.bias": plain["conv_out.bias"] + 0.5}
    assert is_equal(bits(base), expected)
    kept.restore()
    assert is_equal(bits(base), plain)


def test_works_through_lora_layers_added_before_or_after(base, delta):
    plain = bits(base)
    kept_before = KeptBase(base)
    base.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    lora = {name: weight.clone() for name, weight in base.state_dict().items() if ".lora_" in name}
    assert lora
    kept_after = KeptBase(base)
    assert kept_after.sha256 == kept_before.sha256
    for kept in (kept_before, kept_after):
        report = kept.apply(delta)
        assert set(report.applied) == set(plain)
        name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
        torch.testing.assert_close(base_weights(base)[name], plain[name] + delta.tensors[name])
        kept.restore()
    assert is_equal(bits(base), plain)
    assert all(torch.equal(base.state_dict()[name], weight) for name, weight in lora.items())


def test_works_through_ip_adapter_layers(base, delta):
    plain, kept = bits(base), KeptBase(base)
    attention = base.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    attention.set_processor(IPAdapterAttnProcessor2_0(hidden_size=16, cross_attention_dim=16))
    assert any(".processor." in name for name in base.state_dict())
    assert KeptBase(base).sha256 == kept.sha256
    assert kept.apply(delta).warnings == ()
    kept.restore()
    assert is_equal(bits(base), plain)


def test_wider_conv_in_is_skipped_and_said_or_widened(delta):
    multiview = tiny_unet(3, in_channels=8)
    before, kept = bits(multiview), KeptBase(multiview)
    report = kept.apply(delta)
    assert report.misshapen == ("conv_in.weight",)
    assert "conv_in.weight" in report.warnings[0]
    assert torch.equal(multiview.conv_in.weight, before["conv_in.weight"])
    report = kept.apply(delta, 0.5, widen=True)
    assert report.widened == ("conv_in.weight",)
    assert report.warnings == ()
    change = multiview.conv_in.weight - before["conv_in.weight"]
    torch.testing.assert_close(change[:, :4], 0.5 * delta.tensors["conv_in.weight"])
    assert torch.equal(multiview.conv_in.weight[:, 4:], before["conv_in.weight"][:, 4:])


def test_missing_parameters_are_reported_by_name(base, delta):
    partly = {name: weight for name, weight in delta.tensors.items() if not name.startswith("mid_block")}
    report = KeptBase(base).apply(DeltaWeights(tensors=partly, spec=SPEC))
    assert report.missing
    assert all(name.startswith("mid_block") for name in report.missing)
    assert "no values for" in report.warnings[0]


@pytest.mark.parametrize("kind", ["unexpected", "misshapen", "foreign", "wider delta"])
def test_what_does_not_fit_is_named_and_changes_nothing(base, delta, kind):
    tensors = dict(delta.tensors)
    if kind == "unexpected":
        tensors["surprise.weight"] = torch.ones(1)
        sentence = r"surprise\.weight"
    elif kind == "misshapen":
        tensors["conv_out.bias"] = torch.ones(5)
        sentence = r"conv_out\.bias: expected shape \[4\], got \[5\]"
    elif kind == "wider delta":
        tensors["conv_in.weight"] = torch.ones(16, 8, 3, 3)
        sentence = r"conv_in\.weight"
    else:
        tensors = {"transformer.weight": torch.ones(1)}
        sentence = "shares no parameter"
    before = bits(base)
    with pytest.raises(IncompatibleWeights, match=sentence):
        KeptBase(base).apply(DeltaWeights(tensors=tensors, spec=SPEC))
    assert is_equal(bits(base), before)
    assert merged_with(base) is None


def test_partial_applies_what_fits_and_reports_the_rest(base, delta):
    tensors = {**delta.tensors, "surprise.weight": torch.ones(1), "conv_out.bias": torch.ones(5)}
    report = KeptBase(base).apply(DeltaWeights(tensors=tensors, spec=SPEC), partial=True)
    assert report.unexpected == ("surprise.weight",)
    assert report.misshapen == ("conv_out.bias",)
    assert len(report.warnings) == 2


def test_a_merged_unet_cannot_be_kept_as_a_base(base, delta):
    kept = KeptBase(base)
    kept.apply(delta)
    with pytest.raises(IncompatibleWeights, match="already contain trial"):
        KeptBase(base)
    with pytest.raises(IncompatibleWeights, match="already contain trial"):
        KeptBase(copy.deepcopy(base))
    kept.restore()
    assert KeptBase(base).sha256 == kept.sha256
    mark_merged(base, "perflow-dreamshaper")
    with pytest.raises(IncompatibleWeights, match="perflow-dreamshaper"):
        KeptBase(base)


def test_an_interrupted_apply_leaves_the_bare_base(base, delta, monkeypatch):
    before, kept = bits(base), KeptBase(base)
    real, calls = torch.Tensor.add_, iter(range(10_000))

    def interrupted(self, *arguments, **options):
        if next(calls) == 30:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "add_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kept.apply(delta)
    assert is_equal(bits(base), before)
    assert merged_with(base) is None


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(base, delta, strength):
    before, kept = bits(base), KeptBase(base)
    with pytest.raises(ValueError, match="strength"):
        kept.apply(delta, strength)
    assert is_equal(bits(base), before)


def test_placeholders_of_sequential_offload_are_refused():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            norm_num_groups=8,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=8,
        )
    with pytest.raises(RuntimeError, match="before offloading"):
        KeptBase(unet)


def test_a_rebuilt_unet_is_not_written_to(base, delta):
    kept = KeptBase(base)
    base.conv_out = torch.nn.Identity()
    with pytest.raises(RuntimeError, match="rebuilt"):
        kept.restore()


def test_channels_last_layout_survives(base, delta):
    base.to(memory_format=torch.channels_last)
    kept = KeptBase(base)
    kept.apply(delta)
    assert base.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    kept.restore()
    assert weights_sha256(base) == kept.sha256
