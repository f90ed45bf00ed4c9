"""A trainer without networks, for tests of everything around one: `python -m tests.runs.fake_trainer RUN`.

Keeps the real one's contract: events, requests, SIGTERM, pauses, checkpoints, export. What it is to do wrong stands in
the first sample prompt of its configuration.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from studio.runs.config import TrainingConfig
from studio.runs.events import (
    CheckpointSaved,
    Failed,
    Finished,
    Paused,
    SampleSaved,
    Started,
    StepLogged,
    Stopped,
    TrainingEvent,
    to_line,
)
from studio.runs.exports import Export, write_export
from studio.runs.folder import RunFolder
from studio.runs.lease import is_wanted, own_run
from studio.runs.preflight import PreflightReport, write_report
from studio.specs import DeltaSpec

COMMAND = (sys.executable, "-m", "tests.runs.fake_trainer")
STEP_SECONDS = 0.01


class FakeTrainer:
    """One start of one run."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.config = run, run.config()
        self.does = self.config.sample_prompts[0] if self.config.sample_prompts else ""
        self.step = self.checkpoint = self._latest()
        self.is_told = False
        signal.signal(signal.SIGTERM, self._told)

    def _told(self, *_: object) -> None:
        self.is_told = True

    def _latest(self) -> int:
        return max((int(path.name) for path in self.run.checkpoints_dir.glob("*")), default=0)

    def say(self, event: TrainingEvent) -> None:
        with self.run.events_path.open("a", encoding="utf-8") as file:
            file.write(to_line(event))

    def save(self) -> None:
        self.run.checkpoints_dir.mkdir(exist_ok=True)
        (self.run.checkpoints_dir / f"{self.step:08d}").touch()
        self.say(CheckpointSaved(step=self.step, file=f"{self.step:08d}", seconds=0.0, bytes=0))

    def train(self) -> int:
        print(f"training {self.run.id}", flush=True)
        (self.run.path / "environment.json").write_text(json.dumps(dict(os.environ)))
        steps = self.config.num_steps
        self.say(Started(step=self.step, num_steps=steps, config_sha256=self.config.sha256, pid=os.getpid()))
        while self.step < steps:
            self._pause()
            time.sleep(STEP_SECONDS)
            self.step += 1
            self.say(
                StepLogged(
                    step=self.step, loss=1.0 / self.step, learning_rate=1e-4, gradient_norm=1.0, seconds=STEP_SECONDS,
                    samples_per_second=1.0, memory_bytes=1,
                )
            )  # fmt: skip
            if self.does and self.step == 3:
                self._misbehave()
            if self.run.take("save"):
                self.save()
            if self.run.take("sample"):
                self.run.samples_dir.mkdir(exist_ok=True)
                (self.run.samples_dir / "00000001-4.png").write_bytes(b"")
                self.say(SampleSaved(step=self.step, num_steps=4, file="00000001-4.png"))
            if self.is_told or (self.does != "deaf" and self.run.take("stop")):
                self.save()
                self.say(Stopped(step=self.step))
                return 0
        self.save()
        self._export()
        self.say(Finished(step=self.step, export="export"))
        return 0

    def _pause(self) -> None:
        if not is_wanted(self.run):
            return
        self.say(Paused(paused=True, step=self.step))
        while is_wanted(self.run) and not self.is_told:
            time.sleep(STEP_SECONDS)
        self.say(Paused(paused=False, step=self.step))

    def _misbehave(self) -> None:
        if self.does == "raise":
            raise RuntimeError("the loss is made of cheese")
        if self.does == "fail":
            self.say(Failed(step=self.checkpoint, reason="The disk is full: free 2 GB, then resume."))
            sys.exit(1)
        if self.does == "vanish":
            os._exit(0)
        if self.does == "orphan":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
            (self.run.path / "child").write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)

    def _export(self) -> None:
        self.run.export_dir.mkdir(exist_ok=True)
        kind = "model" if self.config.method == "diffusion" else "perflow_delta"
        family = self.config.base.family
        write_export(
            self.run,
            Export(
                kind=kind, family=family, sampler="dpmpp" if kind == "model" else "perflow", title=self.config.name,
                base_id=self.config.base.id, step=self.step, sha256="ab" * 32, delta=DeltaSpec(family=family),
                native_width=128, native_height=128, license="mit",
            ),
        )  # fmt: skip


def preflight(run: RunFolder, config: TrainingConfig) -> int:
    does = config.sample_prompts[0] if config.sample_prompts else ""
    if does == "raise":
        raise RuntimeError("the loss is made of cheese")
    if does == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    write_report(run, PreflightReport(seconds_per_step=2.0, seconds_total=3600.0, peak_memory_bytes=10**9))
    return 0


def main(arguments: list[str]) -> int:
    run = RunFolder(Path(arguments[-1]))
    if arguments[0] == "--preflight":
        return preflight(run, run.config())
    lock = own_run(run)
    try:
        return FakeTrainer(run).train()
    finally:
        os.close(lock)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
