"""The training loop: one function, `fit`, read from top to bottom.

It drives any module whose call on a batch returns `LossOutput`, over any object that yields the micro-batches of one
optimizer step at a time, and stops by epochs, patience, time or a signal. accelerate places the model, wraps it for
several processes and scales mixed precision. Everything the loop remembers is saved and restored exactly; the folder
protocol is that of `recbase.checkpoints`, so nothing is pickled. Knows nothing of sequences, items or metrics.

Same seed, same result on the CPU. On CUDA the loop leaves the choice of kernels alone: TF32 follows
``torch.set_float32_matmul_precision`` (off unless set), and some backward kernels add in a varying order, so runs agree
to rounding only unless ``torch.use_deterministic_algorithms(True)`` is set.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from recbase.checkpoints import load_arrays, open_folder, save_folder, tensor_bytes
from recbase.options import progress

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "Batches",
    "LossOutput",
    "TrainConfig",
    "TrainResult",
    "fast_bfloat16",
    "fit",
    "learning_rate",
    "make_accelerator",
]

Stopped = Literal["epochs", "patience", "max_seconds", "signal"]

_MANIFEST, _KIND = "checkpoint.json", "training checkpoint"
_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
_LOOK_SECONDS = 0.2  # how often processes compare notes and an accelerator is waited for
_FREE = {"max_seconds", "patience", "save_every_seconds", "quiet", "tracker", "compile"}  # may change on resume


@dataclass
class LossOutput:
    """What a model returns for one micro-batch.

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
    """What `fit` reads: optimizer steps, each a list of micro-batches that have a ``to(device)``.

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
class TrainConfig:
    """Settings of one training."""

    epochs: int = 20
    """Passes over the training samples at most."""
    batch_size: int = 256
    """Samples of one optimizer step, over all processes and micro-batches."""
    train_share: float = 1.0
    """Share of the users that are trained on, drawn by the seed; all are evaluated (TSSR, figure 6)."""
    lr: float = 1e-3
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Weight decay of matrices and embeddings; biases and norms (one dimension) have none. 0 turns it off."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw decays weights apart from the gradient, adam and sgd (without momentum) add the decay to it."""
    beta2: float = 0.999
    """Decay of the optimizer's second moment."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt", "held_inverse_sqrt"] = "constant"
    """Learning rate after warm-up: kept, or brought to 0 at the last epoch by a line or a cosine, or ~ 1/sqrt(step);
    held_inverse_sqrt is at its highest during the warm-up steps too, as T5 and TIGER are trained."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from 0."""
    warmup_share: float = 0.0
    """The same as a share of all steps; of the two the longer warm-up counts."""
    clip: float = 0.0
    """Largest norm of the gradient, which is scaled down to it; 0 turns it off."""
    micro_batches: int = 1
    """Parts in which a step is computed one after the other, to save memory; the result is the same."""
    precision: Literal["no", "auto", "bf16", "fp16"] = "no"
    """Mixed precision; auto is bf16 where the hardware is fast at it, fp16 needs a GPU, no leaves it to accelerate."""
    monitor: str = "ndcg@10"
    """Validation metric that chooses the best epoch."""
    minimize: bool = False
    """Whether a smaller value of the monitored metric is better."""
    patience: int = 5
    """Validations without improvement after which training stops; 0 turns it off."""
    validate_every: int = 1
    """Epochs between validations; the last epoch always has one."""
    max_seconds: float | None = None
    """Seconds after which training stops and keeps the best; earlier parts of a resumed run count. none: no limit."""
    save_every_seconds: float = 120.0
    """Seconds between checkpoints; one is also written at every validation and at the end."""
    seed: int = 0
    """Seed of everything random."""
    compile: bool = False
    """Compile the model with torch.compile: about a minute at the start (needs a C++ compiler), faster steps after."""
    tracker: str | None = None
    """Experiment tracker by its name in accelerate, such as tensorboard or wandb."""
    quiet: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batches", "validate_every"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("weight_decay", "warmup_steps", "clip", "patience", "save_every_seconds"):
            self._require(name, getattr(self, name) >= 0, "must be >= 0")
        self._require("lr", 0 < self.lr < math.inf, "must be > 0")
        self._require("warmup_share", 0 <= self.warmup_share < 1, "must be >= 0 and below 1")
        self._require("train_share", 0 < self.train_share <= 1, "must be > 0 and at most 1")
        self._require("beta2", 0 < self.beta2 < 1, "must lie between 0 and 1")
        self._require("max_seconds", self.max_seconds is None or self.max_seconds > 0, "must be > 0 (or none)")
        self._require("seed", 0 <= self.seed < 2**32, "must lie in 0..2^32-1")
        self._require("monitor", bool(self.monitor), "must name a validation metric")
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"must be one of {', '.join(choices)}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"--{name.replace('_', '-')} {expected}, got {getattr(self, name)}")


_CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("constant", "linear", "cosine", "inverse_sqrt", "held_inverse_sqrt"),
    "precision": ("no", "auto", "bf16", "fp16"),
}


@dataclass
class TrainResult:
    """What a training came to.

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
    """

    best: dict[str, float]
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    stopped: Stopped
    history: list[dict[str, Any]]


def learning_rate(step: int, config: TrainConfig, total_steps: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total_steps``.

    A linear warm-up over ``config.warmup_steps``, or ``config.warmup_share`` of all steps, reaches ``config.lr``; then
    it is constant, falls to 0 by a line or half a cosine, or falls as sqrt(warm-up / step) (Vaswani et al. 2017).
    Schedule ``held_inverse_sqrt`` has no rise: it is ``config.lr`` until the warm-up is over (Raffel et al. 2020).
    """
    warmup, done = max(config.warmup_steps, math.ceil(config.warmup_share * total_steps)), step + 1
    if done <= warmup:
        return config.lr if config.schedule == "held_inverse_sqrt" else config.lr * done / warmup
    if config.schedule.endswith("inverse_sqrt"):
        return config.lr * math.sqrt(max(1, warmup) / done)
    left = 1 - min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if config.schedule == "linear":
        return config.lr * left
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 - math.cos(math.pi * left))
    return config.lr


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerate object for a configuration: device, processes and mixed precision of this run.

    Raises
    ------
    ValueError
        If fp16 is asked for without a GPU.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if config.precision == "fp16" and PartialState().device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on this CPU use bf16 or no")
    wanted = config.precision if config.precision != "no" else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted == "auto":
        wanted = "bf16" if fast_bfloat16(PartialState().device) else "no"
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        AcceleratorState._reset_state()  # an earlier training of this process used another precision
    return Accelerator(mixed_precision=wanted)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are quicker than in float32 on a device."""
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

    Returns
    -------
    TrainResult

    Raises
    ------
    ValueError
        If a loss or the gradient is not finite (naming step and part), the monitored metric is missing, the checkpoint
        belongs to another run, or weights are sharded over processes (FSDP, DeepSpeed).
    FileNotFoundError
        If there is no checkpoint to resume.
    OSError
        If ``folder`` cannot be written.
    ImportError
        If the tracker is not installed.
    """
    accelerator = accelerator or make_accelerator(config)
    folder = None if folder is None else Path(folder)
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
    trackers = _start_trackers(accelerator, config, folder)

    random.seed(config.seed + accelerator.process_index)
    np.random.seed((config.seed + accelerator.process_index) % 2**32)  # noqa: NPY002
    torch.manual_seed(config.seed + accelerator.process_index)
    run = _Run(model, batches, config, accelerator, folder, made_from)
    loop, losses, network, optimizer = run.loop, run.losses, run.network, run.optimizer
    total_steps, world = run.total_steps, accelerator.num_processes
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        if resume:
            run.restore()
        else:
            batches.set_epoch(config.epochs)  # leave the epoch that an earlier training may have left under way
            batches.set_epoch(0)
            run.write_history(whole=True)
        run.save()
        with _signals() as caught, run.bar(total_steps - loop["step"]) as show:
            run.validate_if_due(validate, trackers)  # the interrupted run may have left just before it
            stopped = run.stopped()
            while stopped is None:
                batches.set_epoch(loop["epoch"])
                network.train()
                for micro_batches in batches:
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(loop["step"], config, total_steps)
                    optimizer.zero_grad()
                    for number, batch in enumerate(micro_batches, start=1):
                        last = number == len(micro_batches)
                        with nullcontext() if last else accelerator.no_sync(network):
                            output = network(batch.to(accelerator.device))
                            accelerator.backward(output.loss * world)  # processes average their gradients
                        losses.add(output)
                    norm = accelerator.clip_grad_norm_(parameters, config.clip) if config.clip else None
                    optimizer.step()
                    loop["step"], loop["between"] = loop["step"] + 1, False
                    losses.end_step(None if accelerator.scaler else norm)
                    show(getattr(batch, "row_count", config.batch_size))
                    if run.look_due():
                        stopped = run.look(caught)
                        if stopped is not None:
                            break
                else:
                    run.end_epoch()
                    stopped = run.look(caught)
                if stopped != "signal":
                    run.validate_if_due(validate, trackers)
                    stopped = run.stopped() or stopped or run.look(caught)
            if stopped == "max_seconds":
                run.validate(validate, trackers, counts=False)
            run.save()
    finally:
        run.close()
        for tracker in trackers:
            tracker.finish()
    if run.best is not None:
        model.load_state_dict(run.best)
    return TrainResult(
        best=dict(loop["best"]),
        best_epoch=loop["best_epoch"],
        epochs=loop["epoch"],
        steps=loop["step"],
        seconds=run.seconds(),
        stopped=stopped,
        history=list(loop["history"]),
    )


class _Run:
    """The state of one training: what is prepared, what is remembered, and how it is saved."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: Path | None,
        made_from: Mapping[str, Any] | None,
    ) -> None:
        from accelerate.utils import DistributedDataParallelKwargs

        self.model, self.batches, self.config, self.accelerator = model, batches, config, accelerator
        self.folder, self.made_from = folder, dict(made_from or {})
        self.total_steps = config.epochs * len(batches)
        self.own_forward = model.__dict__.get("forward")
        if config.compile:
            model.compile()
        model.to(accelerator.device)
        optimizer = _optimizer(model, config, accelerator.device)
        if accelerator.num_processes > 1 and getattr(model, "unused_parameters", False):
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.network, self.optimizer = accelerator.prepare(model, optimizer)
        if isinstance(self.network, nn.parallel.DistributedDataParallel):
            self.network.broadcast_buffers = False
        self.losses = _Losses()
        self.best: dict[str, Tensor] | None = None
        self.best_saved = False
        self.loop: dict[str, Any] = {
            "epoch": 0,  # complete epochs
            "between": True,  # no step of the next epoch has been made
            "step": 0,
            "seconds": 0.0,
            "validated": 0,  # step of the last validation
            "stale": 0,  # validations since the best
            "best": {},
            "best_epoch": 0,
            "history": [],
        }
        self.started = time.monotonic()
        self.saved_at, self.looked_at, self.looked_step, self.next_look = self.started, self.started, 0, 1

    # ------------------------------------------------------------------------------------------ stopping

    def seconds(self) -> float:
        """Training time so far, earlier parts of a resumed run included."""
        return float(self.loop["seconds"]) + time.monotonic() - self.started

    def stopped(self) -> Stopped | None:
        """Why training is over, judged by what every process knows."""
        if self.config.patience and self.loop["stale"] >= self.config.patience:
            return "patience"
        return "epochs" if self.loop["epoch"] >= self.config.epochs else None

    def look_due(self) -> bool:
        """Whether this step ends with a `look`; the same on every process."""
        return bool(self.loop["step"] >= self.next_look)

    def look(self, caught: list[int]) -> Stopped | None:
        """Check the losses, share signals and the main process's clock, save if that is due."""
        main, config, step = self.accelerator.is_main_process, self.config, self.loop["step"]
        bad = self.losses.flush(step)
        now = time.monotonic()
        pace = (now - self.looked_at) / max(1, step - self.looked_step)
        self.looked_at, self.looked_step = now, step
        values = [
            -math.inf if bad is None else float(-bad),
            float(bool(caught)),
            float(main and config.max_seconds is not None and self.seconds() >= config.max_seconds),
            float(main and self.folder is not None and now - self.saved_at >= config.save_every_seconds),
            float(min(100, max(1, round(_LOOK_SECONDS / max(pace, 1e-6)))) if main else 0),
        ]
        first_bad, signalled, late, save, interval = self._largest(values)
        alone = self.accelerator.num_processes == 1 and self.accelerator.device.type == "cpu"
        self.next_look = step + (1 if alone else int(interval))
        if first_bad > -math.inf:
            raise ValueError(self.losses.complaint(int(-first_bad)))
        if save and not signalled and not late:
            self.save()
        return "signal" if signalled else "max_seconds" if late else None

    def _largest(self, values: list[float]) -> list[float]:
        """Elementwise maximum over the processes."""
        if self.accelerator.num_processes == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        return [float(value) for value in shared.tolist()]

    # ---------------------------------------------------------------------------------------- validation

    def end_epoch(self) -> None:
        """Count the epoch and open the next."""
        self.loop["epoch"], self.loop["between"] = self.loop["epoch"] + 1, True
        self.batches.set_epoch(self.loop["epoch"])

    def validate_if_due(
        self, validate: Callable[[nn.Module], Mapping[str, float]] | None, trackers: Sequence[Any]
    ) -> None:
        """Validate after every so many epochs and after the last."""
        epoch, every = self.loop["epoch"], self.config.validate_every
        if self.loop["between"] and epoch > 0 and (epoch % every == 0 or epoch == self.config.epochs):
            self.validate(validate, trackers, counts=True)

    def validate(
        self, validate: Callable[[nn.Module], Mapping[str, float]] | None, trackers: Sequence[Any], counts: bool
    ) -> None:
        """Validate, remember the best, write the history line and a checkpoint; once a step."""
        loop = self.loop
        if loop["validated"] == loop["step"]:
            return
        self.losses.flush(loop["step"])
        means = self.losses.means(self.accelerator)
        self.losses.clear()
        metrics: dict[str, float] = {}
        if validate is not None:
            self.model.eval()
            with torch.no_grad():
                metrics = {name: _number(value) for name, value in validate(self.model).items()}
            self.model.train()
        loop["validated"] = loop["step"]
        epoch = loop["epoch"] + (not loop["between"])
        if validate is None:
            loop["best_epoch"] = epoch
        elif self._improves(metrics):
            loop["best"], loop["best_epoch"], loop["stale"] = metrics, epoch, 0
            self.best, self.best_saved = _copied(self.model.state_dict()), False
        elif counts:
            loop["stale"] += 1
        line = {
            "epoch": epoch,
            "step": loop["step"],
            "seconds": round(self.seconds(), 3),
            "lr": learning_rate(loop["step"] - 1, self.config, self.total_steps),
            "loss": means.pop("loss"),
            "parts": means,
            "metrics": metrics,
        }
        loop["history"].append(line)
        self.write_history()
        flat = {"loss": line["loss"], "lr": line["lr"]} | {f"loss/{name}": value for name, value in means.items()}
        for tracker in trackers:
            tracker.log(flat | metrics, step=loop["step"])
        self.save()

    def _improves(self, metrics: dict[str, float]) -> bool:
        """Whether these metrics beat the best so far; the main process decides for all."""
        config = self.config
        if config.monitor not in metrics:
            names = ", ".join(sorted(metrics)) or "none"
            raise ValueError(f"--monitor {config.monitor} is not among the validation metrics: {names}")
        value = metrics[config.monitor] * (-1 if config.minimize else 1)
        best = self.loop["best"].get(config.monitor)
        better = best is None or value > best * (-1 if config.minimize else 1)
        if math.isnan(value):
            raise ValueError(f"--monitor {config.monitor} is nan at step {self.loop['step']}")
        return bool(self._largest([float(better and self.accelerator.is_main_process)])[0])

    def write_history(self, whole: bool = False) -> None:
        """Append the last line of the history, or write all of it anew."""
        if self.folder is None or not self.accelerator.is_main_process:
            return
        path, history = self.folder / "history.jsonl", self.loop["history"]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if whole:
                temporary = path.with_name(".writing-history.jsonl")
                temporary.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
                os.replace(temporary, path)
            else:
                with open(path, "a", encoding="utf-8") as out:
                    out.write(json.dumps(history[-1]) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror or error}") from error

    # ------------------------------------------------------------------------------------- saving, resuming

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run; JSON values only."""
        config = asdict(self.config)
        free = _FREE | ({"epochs"} if self.config.schedule in ("constant", "inverse_sqrt") else set())
        described = getattr(self.model, "config", None)
        facts = {
            "model": type(self.model).__name__,
            "model setting": described() if callable(described) else {},
            "shape of": {name: list(value.shape) for name, value in self.model.state_dict().items()},
            "setting": {f"--{name.replace('_', '-')}": config[name] for name in config if name not in free},
            "mixed precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "device": self.accelerator.device.type,
            "steps an epoch": len(self.batches),
            "made from": self.made_from,
        }
        plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
        return plain

    def save(self) -> None:
        """Write the checkpoint; every process calls it."""
        if self.folder is None:
            return
        self.losses.flush(self.loop["step"])
        own = tensor_bytes(_random_state(self.accelerator.device) | self.losses.state())
        parts = self._gathered(own)
        if not self.accelerator.is_main_process:
            return
        files: dict[str, bytes | Callable[[Path], None]] = {
            "model.safetensors": tensor_bytes(_copied(self.model.state_dict())),
            "optimizer.safetensors": tensor_bytes(self._moments()),
        }
        files |= {f"rank-{rank}.safetensors": part for rank, part in enumerate(parts)}
        keep = self.best is not None and self.best_saved
        if self.best is not None and not keep:
            files["best.safetensors"] = tensor_bytes(self.best)
        scaler = self.accelerator.scaler
        manifest = {
            "run": self.identity(),
            "loop": self.loop | {"seconds": self.seconds()},
            "batches": self.batches.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "loss_names": self.losses.names,
        }
        save_folder(self.folder / "checkpoint", _MANIFEST, _KIND, manifest, files, keep=keep)
        self.best_saved, self.saved_at = True, time.monotonic()

    def restore(self) -> None:
        """Take up the state that `save` wrote."""
        assert self.folder is not None
        path = self.folder / "checkpoint"
        if not (path / _MANIFEST).is_file():
            raise FileNotFoundError(f"{path} holds no checkpoint to resume; leave out --resume to start anew")
        saved = open_folder(path, _MANIFEST, _KIND)
        difference = _first_difference(saved.manifest["run"], self.identity())
        if difference is not None:
            name, before, now = difference
            raise ValueError(f"cannot resume {path}: it was made with {name} {before}, this run has {name} {now}")
        self.batches.load_state_dict(saved.manifest["batches"])
        self.model.load_state_dict(_load_tensors(saved.file("model.safetensors", verify=True)))
        self._load_moments(_load_tensors(saved.file("optimizer.safetensors", verify=True)))
        if "best.safetensors" in saved:
            self.best, self.best_saved = _load_tensors(saved.file("best.safetensors", verify=True)), True
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.manifest["scaler"])
        self.loop.update(saved.manifest["loop"])
        self.next_look, self.looked_step = self.loop["step"] + 1, self.loop["step"]
        own = load_arrays(saved.file(f"rank-{self.accelerator.process_index}.safetensors", verify=True))
        self.losses.load(saved.manifest["loss_names"], own)
        self.write_history(whole=True)
        _set_random_state(own, self.accelerator.device)

    def _gathered(self, own: bytes) -> list[bytes]:
        """The bytes of every process, all of one length."""
        if self.accelerator.num_processes == 1:
            return [own]
        mine = torch.from_numpy(np.frombuffer(own, dtype=np.uint8).copy()).to(self.accelerator.device)
        every = self.accelerator.gather(mine).cpu().numpy().reshape(self.accelerator.num_processes, -1)
        return [row.tobytes() for row in every]

    def _trained(self) -> list[str]:
        """Names of the parameters in the order of the optimizer's state."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    def _moments(self) -> dict[str, Tensor]:
        state, names = self.optimizer.state_dict()["state"], self._trained()
        moments = {f"{key}/{names[i]}": value for i, values in state.items() for key, value in values.items()}
        return _copied(moments)

    def _load_moments(self, moments: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        numbers = {name: i for i, name in enumerate(self._trained())}
        for name, value in moments.items():
            key, _, parameter = name.partition("/")
            state.setdefault(numbers[parameter], {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def close(self) -> None:
        """Give the model back as it came: no autocast, no compiled call."""
        from accelerate.utils import extract_model_from_parallel

        extract_model_from_parallel(self.network, keep_fp32_wrapper=False)
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            self.model.__dict__.pop(name, None)
        if self.own_forward is not None:
            self.model.__dict__["forward"] = self.own_forward
        if self.config.compile:
            self.model._compiled_call_impl = None
        for parameter in self.model.parameters():
            parameter.grad = None
        self.accelerator.free_memory()

    @contextmanager
    def bar(self, steps: int) -> Iterator[Callable[[int], None]]:
        """A progress bar with epoch, loss parts and samples a second; call what it yields with a step's samples."""
        quiet = self.config.quiet or not self.accelerator.is_main_process
        with progress("train", steps, quiet) as advance:
            first, samples = time.monotonic(), 0

            def show(rows: int) -> None:
                nonlocal samples
                samples += rows
                speed = samples / max(1e-9, time.monotonic() - first)
                epoch = min(self.loop["epoch"] + 1, self.config.epochs)
                advance(1, f"epoch {epoch}/{self.config.epochs} {self.losses.shown()} {speed:,.0f} samples/s")

            yield show


class _Losses:
    """Sums of the loss and its parts since the last validation; values wait on the device until `flush`."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.totals = np.zeros(0)
        self.steps = 0
        self.last = np.zeros(0)
        self.pending: list[Tensor] = []
        self.norms: list[Tensor | None] = []
        self.step: Tensor | None = None

    def add(self, output: LossOutput) -> None:
        """Add a micro-batch's shares to the step."""
        names = ["loss", *output.parts]
        if not self.names:
            self.names, self.totals = names, np.zeros(len(names))
        elif names != self.names:
            raise ValueError(f"a batch has the loss parts {names[1:]}, the first batch had {self.names[1:]}")
        values = torch.stack([value.detach().float() for value in (output.loss, *output.parts.values())])
        self.step = values if self.step is None else self.step + values

    def end_step(self, norm: Tensor | None) -> None:
        """Close the step; ``norm`` is the norm of its gradient where it is known."""
        if self.step is not None:
            self.pending.append(self.step)
            self.norms.append(norm)
            self.step = None

    def flush(self, step: int) -> int | None:
        """Fetch what waits, the last of it from ``step``; the code of the first value that is not finite, or None."""
        if not self.pending:
            return None
        rows = torch.stack(self.pending).double().cpu().numpy()  # [S, 1 + parts]
        none = self.pending[0].new_zeros(())
        norms = torch.stack([none if norm is None else norm for norm in self.norms]).double().cpu().numpy()
        table = np.concatenate([rows, norms[:, None]], axis=1)
        for row in rows:
            self.totals += row
        self.steps, self.last = self.steps + len(rows), rows[-1]
        self.pending, self.norms = [], []
        wrong = np.argwhere(~np.isfinite(table))
        if len(wrong) == 0:
            return None
        at = int(wrong[0, 0])
        columns = [int(column) for column in wrong[wrong[:, 0] == at, 1]]
        column = next((column for column in columns if 0 < column < len(self.names)), columns[0])  # rather a part
        return (step - len(rows) + 1 + at) * table.shape[1] + column

    def complaint(self, code: int) -> str:
        """The sentence for a code of `flush`."""
        step, column = divmod(code, len(self.names) + 1)
        if column == len(self.names):
            what = "the norm of the gradient"
        else:
            what = f"the loss part {self.names[column]!r}" if column else "the loss"
        return f"{what} is not finite at step {step}: try a lower --lr, a --clip, or --precision no"

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean a step of the loss and its parts, over all processes."""
        totals = torch.from_numpy(self.totals.copy())
        if accelerator.num_processes > 1:
            totals = accelerator.reduce(totals.to(accelerator.device), reduction="sum").cpu()
        found = dict(zip(self.names, (totals / max(1, self.steps)).tolist(), strict=True))
        return found or {"loss": math.nan}

    def clear(self) -> None:
        """Start a new mean."""
        self.totals, self.steps = np.zeros(len(self.names)), 0

    def shown(self) -> str:
        """The last values that were fetched, for the progress bar."""
        return " ".join(f"{name} {value:.4f}" for name, value in zip(self.names, self.last, strict=False))

    def state(self) -> dict[str, np.ndarray]:
        """The sums as arrays."""
        return {"loss_totals": self.totals, "loss_steps": np.array([self.steps])}

    def load(self, names: list[str], arrays: Mapping[str, np.ndarray]) -> None:
        """Take up the sums of `state`."""
        self.names, self.totals, self.steps = list(names), arrays["loss_totals"], int(arrays["loss_steps"][0])


def _optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD, fused where torch has it; no decay on parameters with one dimension."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in trained)
    filled = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(filled, lr=config.lr, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    made: torch.optim.Optimizer = kind(filled, lr=config.lr, betas=(0.9, config.beta2), fused=fused)
    return made


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C instead of dying; a second one acts as it would have without us."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def catch(number: int, frame: Any) -> None:
        caught.append(number)
        restore()

    for number in numbers:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


def _start_trackers(accelerator: Accelerator, config: TrainConfig, folder: Path | None) -> list[Any]:
    """The started tracker, in a list; on the main process it has written the settings."""
    if config.tracker is None:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if config.tracker not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"--tracker must be one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, got {config.tracker}")
    if config.tracker not in [str(name) for name in get_available_trackers()]:
        extra = "semtok[track]" if config.tracker == "tensorboard" else config.tracker
        raise ImportError(f"--tracker {config.tracker} is not installed: pip install '{extra}'")
    if not accelerator.is_main_process:
        return []
    kind = LOGGER_TYPE_TO_CLASS[config.tracker]
    where = {"logging_dir": str(folder or ".")} if kind.requires_logging_directory else {}
    tracker = kind("tracker", **where)
    if hasattr(tracker, "start"):
        tracker.start()
    tracker.store_init_configuration({name: value for name, value in asdict(config).items() if value is not None})
    return [tracker]


def _number(value: Any) -> float:
    return value if isinstance(value, int) else float(value)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, each with memory of its own (tied weights share theirs)."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, EOFError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}): truncated or damaged") from error


def _first_difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Name and both values of the first place in which two nested dicts differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            found = _first_difference(before.get(key), now.get(key), f"{name} {key}".strip())
            if found is not None:
                return found
        return None
    return None if before == now else (name, before, now)


def _random_state(device: torch.device) -> dict[str, np.ndarray]:
    """State of the generators of Python, NumPy and torch as arrays of fixed size."""
    _, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    assert kind == "MT19937"
    state = {
        "python": np.array(numbers, dtype=np.uint32),
        "python_gauss": np.array([math.nan if gauss is None else gauss]),
        "numpy": np.asarray(keys, dtype=np.uint32),
        "numpy_position": np.array([position, has_gauss], dtype=np.int64),
        "numpy_gauss": np.array([cached]),
        "torch": torch.get_rng_state().numpy(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).numpy()
    return state


def _set_random_state(state: Mapping[str, np.ndarray], device: torch.device) -> None:
    gauss = float(state["python_gauss"][0])
    random.setstate((3, tuple(state["python"].tolist()), None if math.isnan(gauss) else gauss))
    position, has_gauss = state["numpy_position"].tolist()
    np.random.set_state(("MT19937", state["numpy"], position, has_gauss, float(state["numpy_gauss"][0])))  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(state["torch"].copy()))
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(torch.from_numpy(state["cuda"].copy()), device)
