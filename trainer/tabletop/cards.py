"""Model cards: what each shipped folder is, what it was made from and by which command, and how good it measured.

Facts come from the recipe's `facts.json` and from the report of `make paper`; nothing here is typed in by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from studio.runs.config import METHODS
from trainer.tabletop.distillation import FIXED, FIXED_STAGE, RACE, folder_of

LICENCE = "mit"
QUALITY, TRANSFER = Path("docs/paper/table.md"), Path("benchmarks/results/transfer.md")
_COMMANDS = {QUALITY: "make paper", TRANSFER: "python -m benchmarks.transfer"}
_MEASURED_BY = {
    **dict.fromkeys(("judge", "tabletop-clip"), None),
    **dict.fromkeys(("tabletop-controls", "tabletop-ip-adapter", "tabletop-multiview"), TRANSFER),
}
_MEASURED = ("test_", "untrained", "endpoint")

_ABOUT = {
    "tabletop": (
        "Tabletop, the base model",
        """A small Stable Diffusion (CLIP text encoder, KL autoencoder with factor 8, UNet with cross-attention,
epsilon-prediction, SD's noise schedule) that draws PeRFlow Studio's procedural tabletop world at 128 x 128. It knows
nothing else.""",
        ("vae", "decoder", "clip", "teacher"),
    ),
    "perflow-tabletop": (
        "PeRFlow for Tabletop, delta weights",
        """student - teacher of a Piecewise Rectified Flow distillation (arXiv 2405.07510): ddim_eps head, four time
windows, CFG-sync. Add it to Tabletop or to anything fine-tuned from it and sample with `PeRFlowScheduler`.""",
        ("perflow",),
    ),
    folder_of(FIXED_STAGE): (
        "PeRFlow for Tabletop with guidance in its weights, LoRA",
        f"""PeRFlow under a teacher guided at {FIXED.trained_guidance:g} (CFG-fixed): a LoRA of rank {FIXED.lora_rank}
beside Tabletop. A step is one network call; a negative prompt needs guidance above 1.""",
        (FIXED_STAGE,),
    ),
    **{
        folder_of(stage): (
            f"{config.name}, LoRA",
            f"""{METHODS[config.method]} A LoRA of rank {config.lora_rank} beside Tabletop, one of {len(RACE)}
trained at the same rank, learning rate and batch size for the same time, to be compared with one another.""",
            (stage,),
        )
        for stage, config in RACE.items()
    },
    "tabletop-clip": (
        "Tabletop's CLIP: image encoder and text projection",
        """The image side of the CLIP pair whose text side is in `assets/tabletop/text_encoder`;
`text_projection.safetensors` completes the text side for scores.""",
        ("clip",),
    ),
    "tabletop-controls": (
        "ControlNets for Tabletop",
        """Slim ControlNets (the UNet's encoder without its attention) beside Tabletop's base, one a folder: canny
edges, depth as MiDaS shows it (near is white), joints of the world's figures as coloured bones, and tile (a fourth of
the detail). They were trained on the unaccelerated base; that the delta weights work under them is a transfer.
diffusers' `ControlNetModel` loads them. `example.png` is the map of a scene that no training saw.""",
        ("canny", "depth", "pose", "tile"),
    ),
    "tabletop-ip-adapter": (
        "An IP-Adapter for Tabletop",
        """Four more tokens for the base's cross-attention, from a picture's embedding by `tabletop-clip`, in the file
layout of the published IP-Adapters (arXiv 2308.06721). Trained on the unaccelerated base.""",
        ("ip-adapter",),
    ),
    "tabletop-multiview": (
        "Tabletop's views",
        """Wonder3D's network (arXiv 2310.15008) in miniature: from a picture of one thing of the tabletop world it
draws six orthographic views with normal maps. Grown from the unaccelerated Tabletop UNet, so the family's delta weights
add to it by name. Only what its training changed is stored (attention, the label, some convolutions at full
resolution); the rest is the base's. It uses the autoencoder of `tabletop` and the image encoder of `tabletop-clip`.""",
        ("multiview",),
    ),
    "judge": (
        "The judge and the reader",
        """Two small networks, trained apart from all generators on scenes none of them saw. The judge says which
(shape, colour) pairs, materials, floor and sky a picture shows; its features carry the Frechet distances. The reader
reads depth and a figure's joints, by which benchmarks see whether a drawing follows its map.""",
        ("judge", "reader"),
    ),
}
_DATA = """## Data

{num_scenes:,} rendered scenes of the tabletop world and their mirror images, by seed (`trainer/tabletop/scenes.py`);
captions made from the scenes. The judge has 6,000 seeds of its own, tests have others. About 5 % of the (shape, colour,
material) combinations never occur in training.
"""
_RECIPE = """## Recipe

| stage | command | seed | device | minutes | steps |
|---|---|---|---|---|---|
{rows}
{notes}
Minutes are wall-clock training time on two shared CPU cores; some stages had one core and ran beside others, so a quiet
machine gets further in the same time.
"""


def write_cards(assets: Path, facts: dict[str, dict], num_scenes: int) -> None:
    """A README.md in every folder that exists."""
    for name, (title, about, stages) in _ABOUT.items():
        if (assets / name).is_dir():
            known = {stage: facts[stage] for stage in stages if "seed" in facts.get(stage, {})}
            card = _card(title, about, known, num_scenes)
            report = _MEASURED_BY.get(name, QUALITY)
            if report and report.exists():
                card += f"\nBy `{_COMMANDS[report]}`:\n\n{report.read_text()}"
            (assets / name / "README.md").write_text(card)


def _card(title: str, about: str, facts: dict[str, dict], num_scenes: int) -> str:
    rows = [_row(stage, known) for stage, known in facts.items()]
    measured = {stage: {k: v for k, v in known.items() if k.startswith(_MEASURED)} for stage, known in facts.items()}
    return "\n".join([
        f"---\nlicense: {LICENCE}\n---\n",
        f"# {title}\n\n{about}\n",
        _DATA.format(num_scenes=num_scenes),
        _RECIPE.format(rows="\n".join(rows), notes=_notes(facts)),
        f"## Measured\n\n```json\n{json.dumps(measured, indent=1)}\n```\n",
    ])  # fmt: skip


def _notes(facts: dict[str, dict]) -> str:
    """Where a stage's run was not simply its command, what was different (`remember(stage, note=...)`)."""
    lines = [f"* {stage}: {known['note']}" for stage, known in facts.items() if "note" in known]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _row(stage: str, facts: dict) -> str:
    """Minutes and steps count what was spent before the work was taken up on another machine, too."""
    minutes, steps = (facts.get(key, 0) + facts.get(f"{key}_before", 0) for key in ("minutes", "steps"))
    command = f"python -m trainer.tabletop {stage} --minutes {minutes:g}"
    return f"| {stage} | `{command}` | {facts['seed']} | {facts['device']} | {minutes:g} | {steps:,} |"
