"""What the authors published, word for number, with its source; nothing here was measured by this project.

FID of SD 1.5 at 512 x 512 on 30,000 pictures, in Inception's features: other data, other features and other sizes than
Tabletop's, so only directions can be compared, never values.
"""

from __future__ import annotations

SOURCE = "README of github.com/magic-research/piecewise-rectified-flow, commit 104a1de (2024-04)"
REFERENCES = {"train": "LAION5B-30k", "teacher": "SD-v1.5", "held_out": "COCO2014-30k"}
FID: dict[tuple[str, int], dict[str, float]] = {
    ("perflow", 4): {"train": 9.74, "teacher": 9.46, "held_out": 11.31},
    ("perflow", 8): {"train": 8.62, "teacher": 5.05, "held_out": 14.16},
    ("lcm", 4): {"train": 15.38, "teacher": 15.63, "held_out": 23.49},
    ("lcm", 8): {"train": 19.21, "teacher": 21.19, "held_out": 29.63},
}
NOT_QUOTED = "not quoted"


def fid(kind: str, steps: int, reference: str) -> str:
    """The published figure, or a word where there is none."""
    found = FID.get((kind, steps), {}).get(reference)
    return NOT_QUOTED if found is None else f"{found:.2f}"


STEPS = (
    "FID to SD-v1.5 samples from 4 to 8 steps: PeRFlow 9.46 to 5.05, LCM 15.63 to 21.19 (to COCO both rise: 11.31 to "
    "14.16 and 23.49 to 29.63)"
)
SHIFT = "FID to SD-v1.5 samples at 4 and 8 steps: PeRFlow 9.46 and 5.05, LCM 15.63 and 21.19"
DIVERSITY = "said to be more diverse than LCM; no figure"
CONVERGENCE = "4,000 iterations of batch 1,024 for SD 1.5; no figure that compares [A] with [B]"
GUIDANCE = "dynamic CFG of 7.5-4-4-4 for CFG-sync weights (section 3.4); no figure"
NEGATIVE = "said to support CFG and negative prompts; no figure"
FINE_TUNES = "said to have a smaller gap to the 25-step oracle than LCM on fine-tuned bases; pictures, no figure"
WORKFLOWS = "shown with ControlNets, IP-Adapter and Wonder3D; pictures, no figure"
