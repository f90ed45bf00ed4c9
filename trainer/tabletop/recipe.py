"""The stages that make the built-in family, each from the results of those before it.

Results of a stage are safetensors under `work/results/`, checkpoints under `work/checkpoints/<stage>/`; `export` turns
the results into the folders that ship in `assets/`. Nothing here is specific to a device.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

from studio.perflow.delta import weights_sha256
from studio.perflow.schedule import NoiseSchedule
from studio.runs.config import TrainingConfig
from trainer.loop import Progress, Schedule, train
from trainer.networks import Networks
from trainer.tabletop import data, models, multiview
from trainer.tabletop.autoencoder import AutoencoderTask, encode_all, psnr, standardise, to_pixels
from trainer.tabletop.captions import caption
from trainer.tabletop.clip import ClipPair, ClipTask, hard_choice_accuracy, mirrored, tokenize
from trainer.tabletop.control import CONTROLS, FOLLOWING, IP_ADAPTER, control_work, ip_adapter_work, render_maps
from trainer.tabletop.diffusion import LatentSet, TeacherTask
from trainer.tabletop.distillation import FIXED_STAGE, LORAS, PERFLOW, RACE, MethodTask
from trainer.tabletop.judge import JudgeTask, accuracies, new_judge
from trainer.tabletop.precision import autocast
from trainer.tabletop.reader import Reader, ReaderTask, labels_of, reading_errors
from trainer.tabletop.shipping import export, pipeline, take_up

log = logging.getLogger(__name__)

STAGES = (
    "scenes", "vae", "clip", "judge", "reader", "latents", "teacher", "perflow", *LORAS, "decoder",
    *FOLLOWING, "multiview", "export",
)  # fmt: skip
NUM_JUDGE_SCENES = 6000
NUM_TEST_SCENES = 1000
NUM_WORDINGS = 2
NUM_HELD_OUT = 96


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where things are and how much of them; `run` does one stage."""

    device: str
    work: Path
    assets: Path
    num_scenes: int = 8000
    seed: int = 0
    workers: int = 2
    compile: bool = False

    def run(self, stage: str, minutes: float | None = None) -> None:
        """Do one stage for `minutes` of training (over all sessions), or for its default."""
        action, default, cost = self._stages()[stage]
        log.info("%s: %s", stage, cost)
        action(default if minutes is None else minutes)

    def _stages(self) -> dict[str, tuple[Callable[[float], None], float, str]]:
        return {
            "scenes": (self._scenes, 0, "renders about 15 scenes a second and core; 50 kB a scene on disk"),
            "vae": (self._vae, 18, "3 M parameters; about 16 pictures a second on two cores"),
            "clip": (self._clip, 8, "4.5 M parameters; about 150 pictures a second on two cores"),
            "judge": (self._judge, 6, "1.2 M parameters; about 100 pictures a second on two cores"),
            "reader": (self._reader, 4, "0.3 M parameters; renders up to 3,000 of the judge's scenes again before"),
            "latents": (
                self._latents,
                0,
                "encodes every scene, its mirror image and their captions; 107 kB a scene on disk",
            ),
            "teacher": (self._teacher, 60, "7.7 M parameters; about 70 samples a second on one core, compiled"),
            "perflow": (
                self._perflow,
                30,
                "5 teacher calls a window, each used twice; about 35 samples a second on two cores",
            ),
            FIXED_STAGE: (self._lora(FIXED_STAGE), 50, "a LoRA; about 27 samples a second on one core with AMX"),
            **{name: (self._lora(name), 6, "a LoRA; as fast as the one before, or faster") for name in RACE},
            "decoder": (self._decoder, 20, "the VAE's decoder goes on, its encoder frozen; as fast as the vae stage"),
            "maps": (lambda _: render_maps(self), 0, "renders 4,000 scenes again for depth and joints; 64 kB a scene"),
            **{name: (self._control(name), 30, "a slim ControlNet beside the frozen base") for name in CONTROLS},
            IP_ADAPTER: (self._ip_adapter, 30, "0.4 M parameters beside the frozen base"),
            "multiview": (self._multiview, 60, multiview.COST),
            "export": (self._export, 0, "writes fp16 folders below 10 MB a file"),
            "take-up": (self._take_up, 0, "reads what ships back, to train on from it on a new machine"),
        }

    # --- stages -----------------------------------------------------------------------------------------------------

    def _scenes(self, _: float) -> None:
        for name, first, count in self._ranges():
            start = time.monotonic()
            for done in data.render_chunks(self.work, first, count, self.workers):
                log.info("%s scenes: %d of %d, %.0f s", name, done, count, time.monotonic() - start)

    def _vae(self, minutes: float) -> None:
        vae = self._begun("vae", models.new_vae())
        task = AutoencoderTask(vae, self.train_images(), self.device)
        self._compile(vae.encoder, vae.decoder)
        self._train("vae", task, Schedule(minutes=minutes, learning_rate=1.5e-3, seed=self.seed), vae)
        standardise(vae, encode_all(vae, self.train_images()[:2000], self.device))
        self.write("vae", vae)
        scale = 1 / float(encode_all(vae, self.train_images()[:2000], self.device)[:, :4].float().std())
        test = psnr(vae, self.test_images()[:200], self.device)
        self.remember("vae", scaling_factor=scale, test_psnr_db=test)

    def _clip(self, minutes: float) -> None:
        tokenizer, pair = self.tokenizer(), self._begun("clip", self.new_clip())
        task = ClipTask(
            pair, tokenizer, self.train_images(), data.scenes(data.TRAIN_SEEDS, self.num_scenes), self.device
        )
        self._train(
            "clip", task, Schedule(minutes=minutes, learning_rate=1e-3, weight_decay=0.05, seed=self.seed), pair
        )
        scenes = data.scenes(data.TEST_SEEDS, NUM_TEST_SCENES)
        accuracy = hard_choice_accuracy(pair.eval(), tokenizer, self.test_images(), scenes, self.device)
        self.remember("clip", test_hard_choice_accuracy=accuracy)

    def _judge(self, minutes: float) -> None:
        judge = self._begun("judge", new_judge())
        images = data.load_images(self.work, data.JUDGE_SEEDS, NUM_JUDGE_SCENES)
        task = JudgeTask(judge, images, data.scenes(data.JUDGE_SEEDS, NUM_JUDGE_SCENES), self.device)
        self._train(
            "judge", task, Schedule(minutes=minutes, learning_rate=2e-3, weight_decay=0.05, seed=self.seed), judge
        )
        scenes = data.scenes(data.TEST_SEEDS, NUM_TEST_SCENES)
        self.remember(
            "judge", **{f"test_{k}": v for k, v in accuracies(judge, to_pixels(self.test_images()), scenes).items()}
        )

    def _reader(self, minutes: float) -> None:
        labels = labels_of(self, NUM_JUDGE_SCENES)
        task = ReaderTask(self._begun("reader", Reader()), labels, self.device)
        self._train("reader", task, Schedule(minutes=minutes, learning_rate=2e-3, seed=self.seed), task.module)
        self.remember("reader", **reading_errors(self))

    def _latents(self, _: float) -> None:
        """Every scene and its mirror image as VAE posteriors, with embedded captions in `NUM_WORDINGS` wordings."""
        vae = self.read("vae", models.new_vae()).to(memory_format=torch.channels_last)
        images, scenes = self.train_images(), data.scenes(data.TRAIN_SEEDS, self.num_scenes)
        posteriors = torch.cat(
            [encode_all(vae, images, self.device), encode_all(vae, images[..., ::-1].copy(), self.device)]
        )
        both = [*scenes, *map(mirrored, scenes)]
        texts = [caption(scene, row * NUM_WORDINGS + k) for row, scene in enumerate(both) for k in range(NUM_WORDINGS)]
        prompts = self.embed(["", *texts])
        wordings = prompts[1:].unflatten(0, (-1, NUM_WORDINGS))
        tensors = {"posteriors": posteriors, "empty": prompts[0].clone(), "prompts": wordings}
        save_file({name: value.contiguous() for name, value in tensors.items()}, self.result("latents"))

    def _teacher(self, minutes: float) -> None:
        unet = self._begun("teacher", models.new_unet())
        task = TeacherTask(unet, self.latents(), self.schedule(), self.device)
        self._compile(unet)
        self._train(
            "teacher", task, Schedule(minutes=minutes, learning_rate=8e-4, warmup_steps=200, seed=self.seed), unet
        )

    def _perflow(self, minutes: float) -> None:
        self._accelerator("perflow", PERFLOW, minutes)

    def _accelerator(self, stage: str, config: TrainingConfig, minutes: float) -> None:
        """Distil the teacher by a method; a student that was begun goes on, if its teacher is still the same."""
        task = self.accelerator(stage, config)
        self._check_same_teacher(stage, weights_sha256(self.teacher()))
        self._compile(task.module, *task.student.others())
        schedule = Schedule(minutes=minutes, learning_rate=config.learning_rate, weight_decay=0.0, seed=self.seed)
        self._train(stage, task, schedule, task.module)
        trained, untrained = task.errors(self.held_out_latents(), NUM_HELD_OUT)
        self.remember(stage, untrained_endpoint_errors=untrained, endpoint_errors=trained)

    def accelerator(self, stage: str, config: TrainingConfig) -> MethodTask:
        """A method's student on the teacher as it ships, with what an earlier run left of the stage."""
        networks = Networks(base=config.base, pipe=pipeline(self).to(self.device), device=self.device)
        networks.unet.requires_grad_(False).to(memory_format=torch.channels_last)
        task = MethodTask(config, networks, self.latents())
        if self.result(stage).exists():
            task.module.load_state_dict(load_file(self.result(stage)))
        return task

    def _decoder(self, minutes: float) -> None:
        vae = models.new_vae()
        self.read("vae", vae)
        vae.train().requires_grad_(True)
        task = AutoencoderTask(vae, self.train_images(), self.device, decoder_only=True)
        self._compile(vae.encoder, vae.decoder)
        self._train("decoder", task, Schedule(minutes=minutes, learning_rate=1e-3, seed=self.seed), vae)
        self.remember("decoder", test_psnr_db=psnr(vae, self.test_images()[:200], self.device))

    def _control(self, name: str) -> Callable[[float], None]:
        return lambda minutes: self._follower(name, *control_work(self, name, minutes))

    def _ip_adapter(self, minutes: float) -> None:
        self._follower(IP_ADAPTER, *ip_adapter_work(self, minutes))

    def _follower(self, stage: str, task: Any, schedule: Schedule, module: nn.Module) -> None:
        self._compile(task.unet, *([module] if stage in CONTROLS else []))
        self._train(stage, task, schedule, module)

    def _multiview(self, minutes: float) -> None:
        task = multiview.task_of(self)
        self._compile(task.module)
        schedule = Schedule(minutes=minutes, learning_rate=4e-4, warmup_steps=100, seed=self.seed)
        self._train("multiview", task, schedule, task.module)
        self.remember("multiview", num_objects=multiview.NUM_OBJECTS, test_loss=multiview.held_out_loss(self))

    def _export(self, _: float) -> None:
        export(self)

    def _take_up(self, _: float) -> None:
        take_up(self)

    def _lora(self, name: str) -> Callable[[float], None]:
        return lambda minutes: self._accelerator(name, LORAS[name], minutes)

    # --- shared -----------------------------------------------------------------------------------------------------

    def _ranges(self) -> tuple[tuple[str, int, int], ...]:
        return (
            ("training", data.TRAIN_SEEDS, self.num_scenes),
            ("judge", data.JUDGE_SEEDS, NUM_JUDGE_SCENES),
            ("test", data.TEST_SEEDS, NUM_TEST_SCENES),
        )

    def train_images(self) -> np.ndarray:
        return data.load_images(self.work, data.TRAIN_SEEDS, self.num_scenes)

    def test_images(self) -> np.ndarray:
        return data.load_images(self.work, data.TEST_SEEDS, NUM_TEST_SCENES)

    def _begun(self, stage: str, module: nn.Module) -> Any:
        """The module with what an earlier run or `take-up` left of this stage, if anything, ready to be trained."""
        if self.result(stage).exists():
            self.read(stage, module)
        return module.train().requires_grad_(True)

    def _check_same_teacher(self, stage: str, sha256: str) -> None:
        """A student belongs to one teacher: going on under another would pull it away from both."""
        known = self.facts().get(stage, {}).get("teacher_sha256", sha256)
        if known != sha256:
            places = f"{self.result(stage)} and {self.work / 'checkpoints' / stage}"
            raise SystemExit(
                f"{stage}: the teacher has changed since this student began; delete {places} to begin anew."
            )
        self.remember(stage, teacher_sha256=sha256)

    def schedule(self) -> NoiseSchedule:
        """The family's noise schedule."""
        return NoiseSchedule.of_diffusion(models.new_scheduler().alphas_cumprod)

    def teacher(self) -> UNet2DConditionModel:
        """The base as it ships: trained in fp32, rounded to fp16; delta weights are relative to what users have."""
        unet = models.new_unet()
        self.read("teacher", unet)
        return unet.half().float()

    def latents(self) -> LatentSet:
        if not self.result("latents").exists():
            raise SystemExit("latents is not there yet: run `python -m trainer.tabletop latents` first.")
        scale = self.facts()["vae"]["scaling_factor"]
        return LatentSet(**load_file(self.result("latents")), scaling_factor=scale)

    def held_out_latents(self) -> LatentSet:
        """The test scenes, with one wording each."""
        vae = self.read("vae", models.new_vae()).to(memory_format=torch.channels_last)
        scenes = data.scenes(data.TEST_SEEDS, NUM_TEST_SCENES)
        prompts = self.embed(["", *(caption(scene, row) for row, scene in enumerate(scenes))])
        return LatentSet(
            posteriors=encode_all(vae, self.test_images(), self.device),
            prompts=prompts[1:, None],
            empty=prompts[0],
            scaling_factor=self.facts()["vae"]["scaling_factor"],
        )

    def tokenizer(self) -> CLIPTokenizer:
        return models.write_tokenizer(self.work / "results" / "tokenizer")

    def new_clip(self) -> ClipPair:
        tokenizer = self.tokenizer()
        return ClipPair(models.new_text_encoder(len(tokenizer)), models.new_image_encoder())

    @torch.no_grad()
    def embed(self, texts: list[str], batch: int = 128) -> torch.Tensor:
        """`[N, 64, 192]` fp16: what the pipeline would hand to the UNet."""
        tokenizer, encoder = self.tokenizer(), self.read("clip", self.new_clip()).text
        found = []
        for start in range(0, len(texts), batch):
            ids = tokenize(tokenizer, texts[start : start + batch]).to(self.device)
            with autocast(self.device):
                found.append(encoder(input_ids=ids).last_hidden_state.half().cpu())
        return torch.cat(found)

    def _compile(self, *modules: nn.Module) -> None:
        """In place, so that names of weights stay; costs a minute at the first step and needs a C++ compiler."""
        for module in modules if self.compile else ():
            module.compile()

    def _train(self, stage: str, task, schedule: Schedule, module: nn.Module) -> None:
        """Train, load the EMA into the module, and write the result."""
        latest = Progress()
        torch.compiler.set_stance("default")

        def report(progress: Progress) -> None:
            nonlocal latest
            latest = progress
            spent = f"{progress.seconds / 60:.1f} of {schedule.minutes:g} min"
            log.info("%s step %d, %s, loss %.4f", stage, progress.step, spent, progress.loss)

        average = train(task, schedule, self.work / "checkpoints" / stage, report)
        torch.compiler.set_stance("force_eager")  # what follows measures on other shapes: not worth compiling for
        module.load_state_dict(average, strict=False)
        self.write(stage, module)
        kept = {"minutes": schedule.minutes, "learning_rate": schedule.learning_rate, "seed": schedule.seed}
        self.remember(stage, **kept, device=self.device, steps=latest.step)

    def result(self, name: str) -> Path:
        return self.work / "results" / f"{name}.safetensors"

    def write(self, name: str, module: nn.Module) -> None:
        path = self.result(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(".staged")
        save_file({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, staged)
        staged.replace(path)

    def read(self, name: str, module: nn.Module) -> Any:
        """Load a stage's result into a fresh module, ready for use."""
        path = self.result(name)
        if not path.exists():
            raise SystemExit(f"{name} is not there yet: run `python -m trainer.tabletop {name}` first.")
        module.load_state_dict(load_file(path))
        return module.to(self.device).eval().requires_grad_(False)

    def facts(self) -> dict[str, dict]:
        """What the stages wrote down about themselves, for the model card."""
        path = self.work / "results" / "facts.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def remember(self, stage: str, **facts) -> None:
        known = self.facts()
        known.setdefault(stage, {}).update(facts)
        (self.work / "results" / "facts.json").write_text(json.dumps(known, indent=1, sort_keys=True))
        log.info("%s: %s", stage, facts)
