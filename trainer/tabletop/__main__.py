"""`python -m trainer.tabletop STAGE`: trains the built-in models, stage by stage, from nothing but seeds.

Stages, in order: scenes, vae, clip, judge, reader, latents, teacher, perflow, perflow-fixed, perflow-lora, rectified,
pcm, lcm, decoder, maps, canny, depth, pose, tile, ip-adapter, multiview, export. Each says what it costs before it
starts, goes on where it stopped, and may be repeated with more `--minutes`. On a machine that has none of the work yet,
`take-up` first turns the shipped weights back into results, so that training goes on from them.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from trainer.tabletop.data import default_cache
from trainer.tabletop.recipe import STAGES, Recipe


def main() -> None:
    """Parse the command line and run one stage, or `all` of them."""
    parser = argparse.ArgumentParser(prog="python -m trainer.tabletop", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "take-up", "all"])
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--minutes", type=float, default=None, help="training time of this stage; default: the recipe's"
    )
    parser.add_argument("--work", type=Path, default=default_cache(), help="where scenes and checkpoints are kept")
    parser.add_argument("--assets", type=Path, default=Path("assets"), help="where `export` writes")
    parser.add_argument("--num-scenes", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render scenes")
    parser.add_argument(
        "--compile", action="store_true", help="compile the networks: 1.2 to 1.5 times as fast; needs a C++ compiler"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = Recipe(
        device=arguments.device, work=arguments.work, assets=arguments.assets,
        num_scenes=arguments.num_scenes, seed=arguments.seed, workers=arguments.workers, compile=arguments.compile,
    )  # fmt: skip
    for name in STAGES if arguments.stage == "all" else [arguments.stage]:
        recipe.run(name, arguments.minutes)


if __name__ == "__main__":
    main()
