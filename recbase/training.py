"""The one training loop: forward, backward, clip, step; validate; save; stop.

It is handed a model that returns its loss, batches that can be resumed, and a function that validates. Everything the
loop knows is in one state that is saved, so that an interrupted run continues bit for bit (on a CPU). Knows nothing of
items, codes or metrics beyond the name of the one that is monitored.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from recbase.checkpoints import load_arrays, open_folder, save_folder, tensor_bytes

__all__ = ["LossOutput", "TrainConfig", "TrainResult", "fit", "make_accelerator"]

CHECKPOINT = "checkpoint"
_MANIFEST = "checkpoint.json"
_KIND = "training checkpoint"
_MAY_CHANGE = {"epochs", "patience", "max_seconds", "quiet", "tracker", "save_every_seconds", "compile"}
_CHECK_EVERY = 10  # steps between the points at which several processes, or a GPU, are asked for flags and losses


@dataclass(frozen=True)
class LossOutput:
    """What a model returns for a training batch.

    Attributes
    ----------
    loss : Tensor []
        This batch's share of the mean loss of the step: its sum divided by the count of the whole step.
    parts : dict of str to Tensor []
        Named parts of the loss, detached, as shares likewise.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    epochs: int = 100
    """Passes over the training samples, at most."""
    batch_size: int = 128
    """Samples of one optimizer step, over all processes."""
    lr: float = 1e-3
    """Learning rate after warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay (adamw), on all parameters."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Adam, or Adam with decoupled weight decay."""
    beta2: float = 0.999
    """Decay of Adam's second moments."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "constant"
    """Learning rate after warm-up: constant, or falling to 0 at the last epoch (linear, cosine), or as 1/sqrt(step)."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from 0; 0 turns it off."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 turns clipping off."""
    micro_batches: int = 1
    """Parts in which a step is computed one after the other, to save memory."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    """Mixed precision; auto is bf16 where the hardware multiplies it fast (CUDA, or a CPU with AMX)."""
    monitor: str = "ndcg@10"
    """Validation metric that chooses the best epoch; higher is better."""
    patience: int = 10
    """Validations without a better one before training stops; 0 never stops early."""
    validate_every: int = 1
    """Epochs between validations."""
    max_seconds: float | None = None
    """Seconds of training and validation, over all resumes; none for no limit."""
    save_every_seconds: float = 120.0
    """Seconds between checkpoints inside an epoch."""
    seed: int = 0
    """Seed of weights, order and dropout."""
    compile: bool = False
    """Compile the model with torch.compile (needs a C++ compiler)."""
    tracker: str | None = None
    """Experiment tracker known to accelerate, such as tensorboard."""
    quiet: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batches", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "clip", "patience", "save_every_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"--lr must be above 0, got {self.lr}")
        if not 0 < self.beta2 < 1:
            raise ValueError(f"--beta2 must lie in (0, 1), got {self.beta2}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"--max-seconds must be above 0, got {self.max_seconds}")
        for name, allowed in (
            ("optimizer", ("adam", "adamw")),
            ("schedule", ("constant", "linear", "cosine", "inverse_sqrt")),
            ("precision", ("auto", "no", "bf16", "fp16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Attributes
    ----------
    best : dict
        Validation metrics of the best validation; empty if there was none.
    best_epoch : int
        Epochs done at that point.
    epochs, steps : int
        Epochs begun and optimizer steps made.
    seconds : float
        Wall time of training and validation, over all resumes.
    stopped : {"epochs", "patience", "max_seconds", "signal"}
        Why it ended.
    history : list of dict
        One entry a validation.
    """

    best: dict[str, Any]
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    stopped: str
    history: list[dict[str, Any]]


def make_accelerator(config: TrainConfig, folder: str | os.PathLike[str] | None = None) -> Any:
    """The accelerate object of a run: devices, processes, precision and trackers.

    Raises
    ------
    ImportError
        If the tracker is not installed, naming the extra.
    """
    from accelerate import Accelerator
    from accelerate.utils import is_tensorboard_available

    if config.tracker == "tensorboard" and not is_tensorboard_available():
        raise ImportError("--tracker tensorboard needs tensorboard: pip install 'semtok[track]'")
    precision = _precision(config)
    return Accelerator(mixed_precision=precision, log_with=config.tracker, project_dir=str(folder) if folder else None)


def _precision(config: TrainConfig) -> str:
    if config.precision != "auto":
        return config.precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    fast = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if fast() else "no"


@dataclass
class _State:
    """All that the loop knows besides weights, moments and random numbers."""

    step: int = 0
    epoch: int = 0
    epoch_steps: int = 0
    seconds: float = 0.0
    since_validation: int = 0
    waited: int = 0
    best_value: float = -math.inf
    best_epoch: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: str = ""


def fit(
    model: nn.Module,
    batches: Any,
    validate: Callable[[nn.Module], Mapping[str, Any]],
    config: TrainConfig,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    accelerator: Any = None,
) -> TrainResult:
    """Train ``model`` and leave it with the weights of its best validation.

    Parameters
    ----------
    model : module
        ``model(batch)`` returns a :class:`LossOutput`.
    batches : iterable
        Yields the micro-batches of one step as a list; has ``set_epoch``, ``state_dict``, ``load_state_dict`` and
        ``len`` (steps an epoch). A batch has ``to(device)``.
    validate : callable
        Gets the bare model, returns metrics; the one named ``config.monitor`` must be among them.
    config : TrainConfig
    folder : path, optional
        Where ``checkpoint/`` and ``history.jsonl`` are kept; nothing is written if not given.
    resume : bool, default False
        Go on from ``folder/checkpoint``; a run without one starts afresh.
    accelerator : accelerate.Accelerator, optional
        Made from ``config`` if not given.

    Returns
    -------
    TrainResult

    Raises
    ------
    FloatingPointError
        If a loss is not finite; step and part are named.
    ValueError
        If the monitored metric is missing, or the checkpoint belongs to another configuration or model.
    """
    accelerator = accelerator or make_accelerator(config, folder)
    loop = _Loop(model, batches, validate, config, Path(folder) if folder else None, accelerator)
    if resume:
        loop.load()
    return loop.run()


class _Loop:
    """One training run."""

    def __init__(
        self,
        model: nn.Module,
        batches: Any,
        validate: Callable[[nn.Module], Mapping[str, Any]],
        config: TrainConfig,
        folder: Path | None,
        accelerator: Any,
    ) -> None:
        self.batches, self.validate, self.config, self.folder = batches, validate, config, folder
        self.accelerator, self.world = accelerator, accelerator.num_processes
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        model.to(accelerator.device)
        optimizer = kind(trained, config.lr, (0.9, config.beta2), weight_decay=config.weight_decay, fused=True)
        total = config.epochs * len(batches)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, total, config))
        self.model, self.parameters = model, trained
        network = torch.compile(model) if config.compile else model
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.state, self.best_weights = _State(), {}  # type: _State, dict[str, Tensor]
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.flag = ""
        self.saved_at = self.started = time.perf_counter()

    # The loop --------------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        config, state = self.config, self.state
        if config.tracker:
            self.accelerator.init_trackers("training", config=_flat(asdict(config)))
        self.started = time.perf_counter() - state.seconds
        self.saved_at = time.perf_counter()
        with self._signals(), self._bar() as show:
            while not state.finished and state.epoch < config.epochs:
                self._epoch(show)
            state.finished = state.finished or "epochs"
            self._save()
            if state.finished == "max_seconds" and state.since_validation:
                self._validate(save=False)  # not part of the checkpoint, so that a resumed run equals a longer one
                self._write_history()
        if config.tracker:
            self.accelerator.end_training()
        stopped = state.finished
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()
        return TrainResult(
            state.best, state.best_epoch, state.epoch + bool(state.epoch_steps), state.step, state.seconds, stopped,
            state.history,
        )  # fmt: skip

    def _epoch(self, show: Callable[[], None]) -> None:
        state = self.state
        self.batches.set_epoch(state.epoch)
        self.network.train()
        for micro_batches in self.batches:
            self._step(micro_batches)
            show()
            if self._stop():
                return
            if self.folder and time.perf_counter() - self.saved_at > self.config.save_every_seconds:
                self._save()
        state.epoch, state.epoch_steps = state.epoch + 1, 0
        if state.epoch % self.config.validate_every == 0 or state.epoch == self.config.epochs:
            self._validate()

    def _step(self, micro_batches: list[Any]) -> None:
        state, sums = self.state, {}  # type: _State, dict[str, Tensor]
        for number, batch in enumerate(micro_batches, 1):
            together = number == len(micro_batches)
            with nullcontext() if together else self.accelerator.no_sync(self.network):
                with self.accelerator.autocast():
                    out = self.network(batch.to(self.accelerator.device))
                # DDP averages gradients over processes; the shares of the processes are to be summed.
                self.accelerator.backward(out.loss * self.world)
            for name, value in ({"loss": out.loss.detach()} | out.parts).items():
                sums[name] = sums[name] + value if name in sums else value
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.parameters, self.config.clip)
        if self.world == 1 and self.accelerator.device.type == "cpu":
            self._check_finite(state.step + 1, sums)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        state.step, state.epoch_steps = state.step + 1, state.epoch_steps + 1
        state.since_validation += 1
        self.pending.append((state.step, sums))
        if len(self.pending) >= self._interval:
            self._flush()

    @property
    def _interval(self) -> int:
        return 1 if self.world == 1 and self.accelerator.device.type == "cpu" else _CHECK_EVERY

    def _flush(self) -> None:
        """Add the losses of the last steps, over all processes, to the running sums; stop if one is not finite."""
        if not self.pending:
            return
        names = sorted(self.pending[0][1])
        table = torch.stack([torch.stack([sums[name].float() for name in names]) for _, sums in self.pending])
        table = self.accelerator.reduce(table, "sum").cpu()
        for (step, _), row in zip(self.pending, table, strict=True):
            self._check_finite(step, dict(zip(names, row, strict=True)))
            for name, value in zip(names, row.tolist(), strict=True):
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
        self.pending = []

    def _check_finite(self, step: int, sums: Mapping[str, Tensor]) -> None:
        for name in sorted(sums, key=lambda name: name == "loss"):
            value = float(sums[name])
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {'loss' if name == 'loss' else f'loss part {name}'} is {value} at step {step}: "
                    f"lower --lr (now {self.config.lr:g}), set --clip, or use --precision no"
                )

    def _stop(self) -> bool:
        """Whether to leave now; all processes answer alike, asking each other every few steps."""
        limit = self.config.max_seconds
        if not self.flag and limit is not None and time.perf_counter() - self.started > limit:
            self.flag = "max_seconds"
        reason = self.flag
        if self.world > 1:
            if self.state.step % _CHECK_EVERY:
                return False
            code = {"": 0, "max_seconds": 1, "signal": 2}[self.flag]
            codes = self.accelerator.gather(torch.tensor([code], device=self.accelerator.device))
            reason = ["", "max_seconds", "signal"][int(codes.max())]
        self.state.finished = reason
        return bool(reason)

    def _validate(self, save: bool = True) -> None:
        self._flush()
        state, config = self.state, self.config
        self.network.eval()
        metrics = dict(self.validate(self.model))
        self.network.train()
        if config.monitor not in metrics:
            raise ValueError(f"--monitor {config.monitor} is not among the validation metrics {', '.join(metrics)}")
        steps = max(1, state.since_validation)
        state.seconds = time.perf_counter() - self.started
        train = {name: value / steps for name, value in state.sums.items()}
        entry: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "seconds": round(state.seconds, 3)}
        entry |= {"lr": self.schedule.get_last_lr()[0], "train": train, "valid": metrics}
        state.history.append(entry)
        state.sums, state.since_validation = {}, 0
        value = float(metrics[config.monitor])
        if value > state.best_value:
            state.best_value, state.best, state.best_epoch, state.waited = value, metrics, state.epoch, 0
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            state.waited += 1
            if config.patience and state.waited >= config.patience:
                state.finished = state.finished or "patience"
        if config.tracker:
            numbers = {name: number for name, number in metrics.items() if isinstance(number, int | float)}
            self.accelerator.log(numbers | {f"train/{name}": number for name, number in train.items()}, state.step)
        if save:
            self._save()

    # Saving and resuming ---------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.saved_at = time.perf_counter()
        if self.folder is None:
            return
        self._flush()
        generators = self._gathered_generators()
        if not self.accelerator.is_main_process or _sharded(self.accelerator):
            return
        state = self.state
        state.seconds = time.perf_counter() - self.started
        files = {"model.safetensors": tensor_bytes(self.model.state_dict())}
        if self.best_weights:
            files["best.safetensors"] = tensor_bytes(self.best_weights)
        tensors, groups = _flat_optimizer(self.optimizer.state_dict())
        files["optimizer.safetensors"] = tensor_bytes(tensors)
        for rank, generator in enumerate(generators):
            files[f"rng-{rank}.safetensors"] = tensor_bytes({"state": generator})
        scaler = self.accelerator.scaler
        manifest = {
            "state": asdict(state) | {"best_value": None if state.best_value == -math.inf else state.best_value},
            "config": asdict(self.config),
            "batches": self.batches.state_dict(),
            "optimizer": groups,
            "schedule": self.schedule.last_epoch,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": self.world,
            "model": {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()},
        }
        save_folder(self.folder / CHECKPOINT, _MANIFEST, _KIND, manifest, files)
        self._write_history()

    def _write_history(self) -> None:
        if self.folder is None or not self.accelerator.is_main_process:
            return
        lines = "".join(json.dumps(entry) + "\n" for entry in self.state.history)
        temporary = self.folder / ".writing-history.jsonl"
        temporary.write_text(lines, encoding="utf-8")
        os.replace(temporary, self.folder / "history.jsonl")

    def load(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if self.folder is None or not (self.folder / CHECKPOINT / _MANIFEST).is_file():
            return
        if _sharded(self.accelerator):
            raise ValueError("--resume is exact, and exact resume is not possible under FSDP or DeepSpeed")
        opened = open_folder(self.folder / CHECKPOINT, _MANIFEST, _KIND)
        saved = opened.manifest
        self._check_same(saved)
        state = dict(saved["state"])
        state["best_value"] = -math.inf if state["best_value"] is None else state["best_value"]
        self.state = _State(**state)
        if self.state.finished != "patience":
            self.state.finished = ""
        self.model.load_state_dict(_torch(load_arrays(opened.file("model.safetensors"))))
        if "best.safetensors" in opened:
            best = _torch(load_arrays(opened.file("best.safetensors")))
            self.best_weights = {name: tensor.to(self.accelerator.device) for name, tensor in best.items()}
        moments = _torch(load_arrays(opened.file("optimizer.safetensors")))
        self.optimizer.load_state_dict(_nested_optimizer(moments, saved["optimizer"]))
        self.schedule.last_epoch = self.schedule._step_count = saved["schedule"]
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.batches.load_state_dict(saved["batches"])
        generator = f"rng-{self.accelerator.process_index}.safetensors"
        _restore_generators(load_arrays(opened.file(generator))["state"])

    def _check_same(self, saved: Mapping[str, Any]) -> None:
        now = asdict(self.config)
        for name, value in saved["config"].items():
            fixed = name not in _MAY_CHANGE or (name == "epochs" and self.config.schedule in ("linear", "cosine"))
            if fixed and now.get(name) != value:
                option = name.replace("_", "-")
                raise ValueError(f"the checkpoint was made with --{option} {value}, now it is {now.get(name)}")
        if saved["processes"] != self.world:
            raise ValueError(f"the checkpoint was made by {saved['processes']} processes, now there are {self.world}")
        shapes = {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()}
        for name in sorted(shapes.keys() | saved["model"].keys()):
            if shapes.get(name) != saved["model"].get(name):
                raise ValueError(
                    f"the checkpoint's {name} has shape {saved['model'].get(name)}, the model's {shapes.get(name)}"
                )

    def _gathered_generators(self) -> list[np.ndarray]:
        own = torch.from_numpy(_generator_state()).to(self.accelerator.device)
        gathered = self.accelerator.gather(own[None]) if self.world > 1 else own[None]
        return [row.cpu().numpy() for row in gathered]

    # Surroundings ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step under way; a second Ctrl-C is Python's own."""
        before: dict[signal.Signals, Any] = {}

        def stop(number: int, _: Any) -> None:
            self.flag = "signal"
            signal.signal(number, before[signal.Signals(number)])

        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                before[number] = signal.signal(number, stop)
            except ValueError:  # not in the main thread
                break
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    @contextmanager
    def _bar(self) -> Iterator[Callable[[], None]]:
        """A progress bar on stderr with losses, speed and time left; nothing if quiet or not a terminal."""
        if self.config.quiet or not self.accelerator.is_main_process or not sys.stderr.isatty():
            yield lambda: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [
            "{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
                   TimeRemainingColumn()]  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            steps = len(self.batches)
            task = bar.add_task("training", total=self.config.epochs * steps, completed=self.state.step, text="")

            def show() -> None:
                state = self.state
                done = max(1, state.since_validation - len(self.pending))
                losses = " ".join(f"{name} {value / done:.3f}" for name, value in state.sums.items())
                speed = bar.tasks[0].speed
                rate = f"{speed * self.config.batch_size:,.0f} samples/s" if speed else ""
                best = f"best {self.config.monitor} {state.best_value:.4f}" if state.best else ""
                bar.update(task, completed=state.step, description=f"epoch {state.epoch + 1}",
                           text=f"{losses} {rate} {best}")  # fmt: skip

            yield show


def _factor(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of a step as a share of ``lr``."""
    warm = config.warmup_steps
    if step < warm:
        return (step + 1) / warm
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(1, warm) / max(1, warm, step))
    left = min(1.0, (step - warm) / max(1, total - warm))
    return {"constant": 1.0, "linear": 1.0 - left, "cosine": (1 + math.cos(math.pi * left)) / 2}[config.schedule]


def _flat_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Moments as named tensors, and the parameter groups as JSON."""
    tensors = {
        f"{parameter}.{name}": torch.as_tensor(value)
        for parameter, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _nested_optimizer(tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": groups}


def _generator_state() -> np.ndarray:
    """States of the generators of Python, NumPy, torch and (with CUDA) its current device, as bytes."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 the generator libraries share
    parts = [
        np.array(words, dtype=np.uint32).view(np.uint8),
        np.array([gauss is not None, gauss or 0.0, has_gauss, cached, position], dtype=np.float64).view(np.uint8),
        np.asarray(keys, dtype=np.uint32).view(np.uint8),
        torch.get_rng_state().numpy(),
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_rng_state().numpy())
    return np.concatenate(parts)


def _restore_generators(state: np.ndarray) -> None:
    words, numbers, keys = state[:2500], state[2500:2540].view(np.float64), state[2540:5036].view(np.uint32)
    random.setstate((3, tuple(words.view(np.uint32).tolist()), float(numbers[1]) if numbers[0] else None))
    position = int(numbers[4])
    np.random.set_state(("MT19937", keys, position, int(numbers[2]), float(numbers[3])))  # noqa: NPY002
    length = len(torch.get_rng_state())
    rest = torch.from_numpy(state[5036:].copy())
    torch.set_rng_state(rest[:length])
    if torch.cuda.is_available() and len(rest) > length:
        torch.cuda.set_rng_state(rest[length:])


def _torch(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _sharded(accelerator: Any) -> bool:
    return str(accelerator.distributed_type).rpartition(".")[2] in {"FSDP", "DEEPSPEED"}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """What trackers accept as hyper-parameters."""
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in values.items()
    }
