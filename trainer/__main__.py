"""`python -m trainer RUN` trains a run's folder; `--preflight RUN` measures it first.

Of a finished run, `--publish REPO RUN` uploads the result and `--lora RANK RUN` makes LoRA files of its delta weights.

RUN is a folder with a `config.json` (`studio.runs.folder`). Several processes: `python -m torch.distributed.run
--nproc_per_node 2 -m trainer RUN`. SIGTERM and `RUN/requests/stop` end it after a checkpoint, with exit status 0.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from trainer.stopping import StopAsked, Stopping

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # exact resume on GPUs; read when CUDA starts


def main() -> int:
    """The exit status: 0 finished or stopped, 1 failed, 2 asked wrongly."""
    stopping = Stopping().install()
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Trains the run of a folder.")
    parser.add_argument("run", type=Path, help="a run's folder, with its config.json")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preflight", action="store_true", help="two real steps and one sample; writes preflight.json")
    what.add_argument("--publish", metavar="REPO", help="upload the finished run's export to the hub, with HF_TOKEN")
    what.add_argument("--lora", metavar="RANK", type=int, help="LoRA files of a finished run's delta weights, by SVD")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.raiseExceptions = False  # a full disk under the log is no reason to end
    if not (asked.run / "config.json").is_file():
        parser.error(f"{asked.run}: expected a run's folder with a config.json in it, found none.")
    return _do(asked, stopping)


def _do(asked: argparse.Namespace, stopping: Stopping) -> int:
    folder = asked.run.resolve()
    try:
        if asked.publish:
            from trainer.publishing import publish

            return publish(folder, asked.publish, os.environ.get("HF_TOKEN", ""))
        if asked.lora is not None:
            from trainer.publishing import write_lora

            return write_lora(folder, asked.lora)
        if asked.preflight:
            from trainer.preflight import preflight

            return preflight(folder, stopping)
        from trainer.run import train
    except StopAsked:  # before anything was loaded
        return 0
    return train(folder, stopping)


if __name__ == "__main__":
    sys.exit(main())
