"""The training loop: one function, `fit`, read from top to bottom.

It drives any module whose call on a batch returns `LossOutput`, over any object that yields the micro-batches of one
optimizer step at a time, and stops by epochs, patience, time or a signal. accelerate places the model, wraps it for
several processes and scales mixed precision. Everything the loop remembers is saved and restored exactly; the folder
protocol is that of `recbase.store.folder`, so nothing is pickled. Knows nothing of sequences, items or metrics.

Same seed, same result on the CPU. On CUDA the loop leaves the choice of kernels alone: TF32 follows
``torch.set_float32_matmul_precision`` (off unless set), and some backward kernels add in a varying order, so runs agree
to rounding only unless ``torch.use_deterministic_algorithms(True)`` is set.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recbase.arguments import (
    Count,
    CountOrOff,
    Decay,
    Large,
    LargeOrOff,
    LearningRate,
    NonNegative,
    Samples,
    Seconds,
    SecondsOrOff,
    Seed,
    Share,
    ShareOrOff,
    TrackerName,
    Weight,
    check_arguments,
)
from recbase.recipes import Given
from recbase.train.interruption import Interrupted, collected_signals
from recbase.train.processes import launched_processes
from recbase.train.state import DifferentRunError, Stopped, TrainingState, learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "Batches",
    "DifferentRunError",
    "LossOutput",
    "TrainConfig",
    "TrainResult",
    "fast_bfloat16",
    "fit",
    "learning_rate",
    "make_accelerator",
]

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


@dataclass
class LossOutput:
    """Loss of one micro-batch, as a model returns it.

    Attributes
    ----------
    loss : Tensor []
        This micro-batch's SHARE of the step's mean loss: its sum divided by the count of the whole step, so that the
        shares of all micro-batches and processes add up to the loss.
    parts : dict of str to Tensor []
        Named shares that are shown and logged, detached; the same names in every batch.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Batches(Protocol):
    """Reader of optimizer steps, each a list of micro-batches that have a ``to(device)``.

    Every process must yield the same number of micro-batches a step. ``set_epoch`` must leave an epoch that is already
    under way alone, so that a restored position survives it; the state must be JSON-able and alike on every process.
    A batch may carry ``row_count``, the samples of the whole step, for the speed that is shown.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[Any]]: ...

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """The position, so that the next step is the one after the last that was yielded."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


@dataclass
class Optimization(Given):
    """Settings of the optimizer and of the learning rate."""

    lr: LearningRate = 1e-3
    """Highest learning rate."""
    weight_decay: Weight = 0.0
    """Weight decay of matrices and embeddings; biases and norms (one dimension) have none. 0 turns it off."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw decays weights apart from the gradient, adam and sgd (without momentum) add the decay to it."""
    beta2: Decay = 0.999
    """Decay of the optimizer's second moment."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt", "held_inverse_sqrt"] = "constant"
    """Learning rate after warm-up: kept, or brought to 0 at the last epoch by a line or a cosine, or ~ 1/sqrt(step);
    held_inverse_sqrt is at its highest during the warm-up steps too, as T5 and TIGER are trained."""
    warmup_steps: LargeOrOff = 0
    """Optimizer steps over which the learning rate rises from 0."""
    warmup_share: ShareOrOff = 0.0
    """The same as a share of all steps; of the two the longer warm-up counts."""
    clip: NonNegative = 0.0
    """Largest norm of the gradient, which is scaled down to it; 0 turns it off."""


@dataclass
class TrainConfig(Optimization):
    """Settings of one training: those of its optimizer, and these."""

    epochs: Count = 20
    """Passes over the training samples at most."""
    batch_size: Samples = 256
    """Samples of one optimizer step, over all processes and micro-batches."""
    train_share: Share = 1.0
    """Share of the users that are trained on, drawn by the seed; all are evaluated (TSSR, figure 6)."""
    micro_batches: Samples = 1
    """Parts in which a step is computed one after the other, to save memory; the result is the same."""
    precision: Literal["no", "auto", "bf16", "fp16"] = "no"
    """Mixed precision; auto is bf16 where the hardware is fast at it, fp16 needs a GPU, no leaves it to accelerate."""
    monitor: str = "ndcg@10"
    """Validation metric that chooses the best epoch."""
    minimize: bool = False
    """Take a smaller value of the monitored metric for the better one."""
    patience: CountOrOff = 5
    """Validations without improvement after which training stops; 0 turns it off."""
    validate_every: Large = 1
    """Epochs between validations; the last epoch always has one."""
    max_seconds: Seconds | None = None
    """Seconds after which training stops and keeps the best; earlier parts of a resumed run count. none: no limit."""
    save_every_seconds: SecondsOrOff = 120.0
    """Seconds between checkpoints; one is also written at every validation and at the end."""
    seed: Seed = 0
    """Seed of everything random."""
    compile: bool = False
    """Compile the model with torch.compile: about a minute at the start (needs a C++ compiler), faster steps after."""
    tracker: TrackerName | None = None
    """Experiment tracker by its name in accelerate, such as tensorboard or wandb."""
    quiet: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))
        if not self.monitor:
            raise ValueError("--monitor must name a validation metric, got ''")
        if self.tracker is not None:
            _check_tracker(self.tracker)


@dataclass
class TrainResult:
    """Outcome of a training.

    Attributes
    ----------
    best : dict of str to float
        Metrics of the best validation; empty if there was none.
    best_epoch : int
        Its epoch, counted from 1; 0 if there was none.
    epochs, steps : int
        Complete epochs and optimizer steps made, over all parts of a resumed run.
    seconds : float
        Time they took, validation included.
    stopped : {"epochs", "patience", "max_seconds", "signal"}
        Why training ended.
    history : list of dict
        The lines of ``history.jsonl``.
    signal : int
        The signal that stopped it (2 = Ctrl-C, 15 = SIGTERM), 0 if none did.
    """

    best: dict[str, float]
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    stopped: Stopped
    history: list[dict[str, Any]]
    signal: int = 0

    def check_complete(self, kept: str = "") -> None:
        """Raise `Interrupted` where a signal stopped the training; ``kept`` ends the sentence on what there is."""
        if self.stopped == "signal":
            raise Interrupted(self.signal, kept)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerate object for a configuration: device, processes and mixed precision of this run.

    Raises
    ------
    ValueError
        If fp16 is asked for without a GPU, or the processes of a launch do not find each other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import parse_flag_from_env

    # The first PartialState of a process settles device and process group for good, so it is told what Accelerator
    # would tell it: without this flag processes launched on CPUs would not find each other.
    processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if "LOCAL_RANK" in os.environ and processes.num_processes == 1 < launched_processes():
        raise ValueError(
            f"{launched_processes()} processes were launched but accelerate finds no GPU for them: "
            "set ACCELERATE_USE_CPU=true to train on CPUs"
        )
    if config.precision == "fp16" and processes.device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on this CPU use bf16 or no")
    wanted = config.precision if config.precision != "no" else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted == "auto":
        wanted = "bf16" if fast_bfloat16(processes.device) else "no"
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        AcceleratorState._reset_state()  # an earlier training of this process used another precision
    return Accelerator(mixed_precision=wanted)


def fast_bfloat16(device: torch.device) -> bool:
    """True where matrix products in bfloat16 are quicker than in float32 on a device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in checks)


def fit(
    model: nn.Module,
    batches: Batches,
    validate: Callable[[nn.Module], Mapping[str, float]] | None,
    config: TrainConfig,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    made_from: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    content: Mapping[str, Any] | None = None,
    last_epoch: int | None = None,
) -> TrainResult:
    """Train ``model`` and leave its best weights in it.

    With several processes weights and buffers are made equal once, at the start, and gradients in every step; a buffer
    that changes later is the concern of the model, so large frozen tables are not sent around. There every parameter
    must take part in every loss, unless the model says otherwise by an attribute ``unused_parameters = True``.

    Parameters
    ----------
    model : nn.Module
        ``model(batch)`` returns a `LossOutput`.
    batches : Batches
        Yields the micro-batches of one optimizer step at a time.
    validate : callable or None
        Is given the bare model in eval mode, on every process, and returns metrics, ``config.monitor`` among them. With
        None nothing is monitored and the last weights are the result.
    config : TrainConfig
    folder : path, optional
        ``folder/checkpoint/`` holds the resumable state and ``folder/history.jsonl`` one line a validation. Without it
        nothing is written.
    resume : bool, default False
        Go on from ``folder/checkpoint/``; on the CPU the result is, bit for bit, that of a run never interrupted.
    accelerator : Accelerator, optional
        That of `make_accelerator` if not given.
    made_from : mapping, optional
        Further JSON-able facts, such as the hash of the data, that must be the same when the run is resumed.
    options : mapping, optional
        What the user may choose besides ``config``, by option (``--form``): it must be the same too.
    content : mapping, optional
        Options of what was made before the training. They may differ as long as what came of them does not, and are
        named where it does.
    last_epoch : int, optional
        Epochs after which training ends, on the schedule of ``config.epochs``; all of them if not given.

    Returns
    -------
    TrainResult

    Raises
    ------
    DifferentRunError
        If the checkpoint belongs to another run, naming what is different. It is a ValueError.
    ValueError
        If a loss or the gradient is not finite (naming step and part), the monitored metric is missing, or weights are
        sharded over processes (FSDP, DeepSpeed).
    FileNotFoundError
        If there is no checkpoint to resume.
    OSError
        If ``folder`` cannot be written.
    ImportError
        If the tracker is not installed.
    """
    accelerator, folder = accelerator or make_accelerator(config), None if folder is None else Path(folder)
    _check_launch(accelerator, folder, resume)
    trackers = _start_trackers(accelerator, config, folder)
    _seed(config.seed + accelerator.process_index)
    facts = {"made_from": dict(made_from or {}), "options": dict(options or {}), "content": dict(content or {})}
    run = TrainingState(model, batches, config, accelerator, folder, facts, last_epoch)
    loop, network, optimizer = run.loop, run.network, run.optimizer
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        # start anew, or where the checkpoint left off
        if resume:
            run.restore()
        else:
            batches.set_epoch(config.epochs)  # leave the epoch that an earlier training may have left under way
            batches.set_epoch(0)
            run.write_history()
        run.save()
        with collected_signals() as caught, run.bar(run.last_epoch * len(batches) - loop["step"]) as show:
            run.validate_if_due(validate, trackers)  # the interrupted run may have left just before it
            stopped = run.stopped()
            while stopped is None:
                batches.set_epoch(loop["epoch"])
                network.train()
                for micro_batches in batches:
                    # one optimizer step: the gradient is summed over micro-batches, and over processes with the last
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(loop["step"], config, run.total_steps)
                    optimizer.zero_grad()
                    for number, batch in enumerate(micro_batches, start=1):
                        last = number == len(micro_batches)
                        _seed_part(config.seed, loop["step"], number - 1, len(micro_batches), accelerator)
                        with nullcontext() if last else accelerator.no_sync(network):
                            output = network(batch.to(accelerator.device))
                            # processes average their gradients, but a loss is a share of the step's mean loss
                            accelerator.backward(output.loss * accelerator.num_processes)
                        run.losses.add(output)
                    norm = accelerator.clip_grad_norm_(parameters, config.clip) if config.clip else None
                    optimizer.step()
                    loop["step"], loop["between"] = loop["step"] + 1, False
                    run.losses.end_step(None if accelerator.scaler else norm)  # a scaler looks at gradients itself
                    show(getattr(batch, "row_count", config.batch_size))
                    # once in a while: is time up, or has a signal come?
                    if run.look_due():
                        stopped = run.look(caught)
                        if stopped is not None:
                            break
                else:
                    run.end_epoch()
                    stopped = run.look(caught)
                # once in a while: validate, keep the best, and see whether it is enough
                if stopped != "signal":
                    run.validate_if_due(validate, trackers)
                    stopped = run.stopped() or stopped or run.look(caught)
            if stopped == "max_seconds":
                run.validate(validate, trackers, counts=False)
            run.save()
        number = run.signalled(caught)  # one that came with the last step, or after it, ends the command all the same
    finally:
        run.close(trackers)
    return _result(run, model, stopped, number)


def _check_launch(accelerator: Accelerator, folder: Path | None, resume: bool) -> None:
    """Refuse ways of running in which a training could not be exact."""
    kind = accelerator.distributed_type.value
    if kind in _SHARDED:
        raise ValueError(
            f"training and exact --resume need whole weights in every process, which {kind} does not "
            "keep: launch with plain data parallelism (accelerate launch --multi_gpu)"
        )
    if resume and folder is None:
        raise ValueError("--resume needs the folder of the run to go on with")
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("use --micro-batches instead of accelerate's gradient accumulation")


def _seed(seed: int) -> None:
    """Seed the generators that dropout and the like draw from; each process has another seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def _seed_part(seed: int, step: int, number: int, micro_batches: int, accelerator: Accelerator) -> None:
    """Seed dropout by the place of a part in its step, so that it does not matter which process computes it.

    Two processes, and one process with two micro-batches, hold the same parts and so train the same model. A step of
    one part goes on drawing from where it is, as it did before there were parts.
    """
    world = accelerator.num_processes
    if world * micro_batches > 1:
        place = accelerator.process_index + world * number
        torch.manual_seed(int(np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0] >> 1))


def _result(run: TrainingState, model: nn.Module, stopped: Any, number: int) -> TrainResult:
    """Put the best weights into the model and tell how the training went."""
    if run.best is not None:
        model.load_state_dict(run.best)
    return TrainResult(
        best=dict(run.loop["best"]),
        best_epoch=run.loop["best_epoch"],
        epochs=run.loop["epoch"],
        steps=run.loop["step"],
        seconds=run.seconds(),
        stopped="signal" if number else stopped,
        history=list(run.loop["history"]),
        signal=number,
    )


def _check_tracker(name: str) -> None:
    """Refuse a tracker that accelerate does not know or that is not installed, before anything is trained."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"--tracker must be one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, got {name}")
    if name not in [str(known) for known in get_available_trackers()]:
        extra = "semtok[track]" if name == "tensorboard" else name
        raise ImportError(f"--tracker {name} is not installed: pip install '{extra}'")


def _start_trackers(accelerator: Accelerator, config: TrainConfig, folder: Path | None) -> list[Any]:
    """The started tracker, in a list; on the main process it has written the settings."""
    if config.tracker is None:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    _check_tracker(config.tracker)
    if not accelerator.is_main_process:
        return []
    kind = LOGGER_TYPE_TO_CLASS[config.tracker]
    where = {"logging_dir": str(folder or ".")} if kind.requires_logging_directory else {}
    tracker = kind("tracker", **where)
    if hasattr(tracker, "start"):
        tracker.start()
    tracker.store_init_configuration({name: value for name, value in asdict(config).items() if value is not None})
    return [tracker]
