"""The command lines that train a run elsewhere: this machine, several GPUs, several nodes, or Hugging Face Jobs.

All run the same `python -m trainer RUN`; who distributes is torchrun or accelerate, never this project. RUN stands for
the run's folder: a folder with its `config.json` in it is enough to begin. Checked against torch 2.14, accelerate 1.15
and the `hf` command of huggingface_hub 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from studio.errors import InvalidRequest
from studio.runs.config import TrainingConfig

RUN = "RUN"
MAX_PROCESSES, MAX_NODES = 64, 64
WHOLE = "Each process has all weights; for every weight of SDXL choose Sharding: Split."
SPLIT = "Weights, gradients, moments and average are split over the processes (FSDP2)."
IMAGE = "python:3.12"


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """One way to start a run: what it is called, the lines to type, and what to know before."""

    title: str
    lines: tuple[str, ...]
    note: str = ""


def command_lines(config: TrainingConfig, num_processes: int = 1, nodes: int = 1) -> tuple[CommandLine, ...]:
    """Every way to train a run with that many processes on each of that many machines. Raises `InvalidRequest`."""
    for name, value, most in (("num_processes", num_processes, MAX_PROCESSES), ("nodes", nodes, MAX_NODES)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidRequest(name, f"a whole number from 1 to {most}", value)
    samples = config.batch_size * config.gradient_accumulation * num_processes * nodes
    ways = [_torchrun(config, num_processes, nodes, samples), _accelerate(num_processes, nodes)]
    if num_processes == nodes == 1:
        ways.insert(0, CommandLine(title="One process", lines=(f"python -m trainer {RUN}",)))
    if nodes == 1:
        ways.append(_hf_jobs(num_processes))
    return tuple(ways)


def _torchrun(config: TrainingConfig, num_processes: int, nodes: int, samples: int) -> CommandLine:
    note = f"The batch size is that of each process: a step sees {samples} pictures in all. "
    note += SPLIT if config.sharding == "split" else WHOLE
    if nodes == 1:
        line = f"torchrun --standalone --nproc-per-node {num_processes} -m trainer {RUN}"
        return CommandLine(title="torchrun", lines=(line,), note=note)
    line = (
        f"torchrun --nnodes {nodes} --nproc-per-node {num_processes} --rdzv-backend c10d --rdzv-endpoint HOST:29500 "
        f"--rdzv-id {RUN} -m trainer {RUN}"
    )
    return CommandLine(
        title="torchrun",
        lines=(line,),
        note=f"{note} The same line on every machine; HOST is one of them, RUN is shared.",
    )


def _accelerate(num_processes: int, nodes: int) -> CommandLine:
    lines = [f"accelerate launch --num_processes {num_processes * nodes} --num_machines {nodes}"]
    if nodes > 1:
        lines[0] += " --machine_rank RANK --main_process_ip HOST --main_process_port 29500"
    elif num_processes > 1:
        lines[0] += " --multi_gpu"
    note = "On processors alone take torchrun: accelerate launch --cpu runs one process, whatever is asked for."
    return CommandLine(title="accelerate", lines=(f"{lines[0]} -m trainer {RUN}",), note=note)


FLAVORS = {1: "a10g-large", 2: "a10g-largex2", 4: "a100x4", 8: "a100x8"}


def _hf_jobs(num_processes: int) -> CommandLine:
    flavor = FLAVORS[min(each for each in FLAVORS if each >= min(num_processes, 8))]
    inside = (
        "git clone REPOSITORY studio && cd studio && pip install -r requirements.txt && "
        f"torchrun --standalone --nproc-per-node {num_processes} -m trainer /runs/{RUN}"
    )
    return CommandLine(
        title="Hugging Face Jobs",
        lines=(
            f"hf sync {RUN} hf://buckets/NAME/runs/{RUN}",
            f"hf jobs run --flavor {flavor} --timeout 8h -v hf://buckets/NAME/runs:/runs {IMAGE} bash -c '{inside}'",
        ),
        note="For people on Spaces. NAME is your account, REPOSITORY this project's address. The run's base and "
        "dataset must be hub ids there; a job ends after 30 minutes unless --timeout says more, and goes on exactly "
        "when started again.",
    )
