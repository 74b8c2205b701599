"""Memory of one training: losses, clock, best weights; how it is saved, restored, and told from another.

`recbase.train.loop.fit` drives it. The checkpoint follows the folder protocol of `recbase.store.folder`, so nothing is
pickled; on the CPU a restored training gives, bit for bit, what one that was never interrupted gives.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from recbase.console import progress
from recbase.recipes import spelled
from recbase.store.files import write_file
from recbase.store.folder import Folder, load_arrays, open_folder, save_folder, tensor_bytes
from recbase.store.manifests import check
from recbase.train.resuming import CHECKPOINT, check_generators, check_moments, check_weights
from recbase.train.telling import tell_validation

if TYPE_CHECKING:
    from accelerate import Accelerator

    from recbase.train.loop import Batches, LossOutput, TrainConfig

__all__ = ["DifferentRunError", "LossSums", "Stopped", "TrainingState", "differing_settings", "learning_rate"]

Stopped = Literal["epochs", "patience", "max_seconds", "signal"]

_MANIFEST, _KIND = "checkpoint.json", "training checkpoint"
_LOOK_SECONDS = 0.2  # how often processes compare notes and an accelerator is waited for
_FREE = {"max_seconds", "patience", "save_every_seconds", "quiet", "tracker", "compile"}  # may change on resume
_CHOSEN = ("setting", "content")  # parts of the identity that hold options
_TOLD_FIRST = ("made from", "model", "processes", "device", "mixed precision", "model setting", "shape of")


class DifferentRunError(ValueError):
    """A checkpoint that belongs to another training than the one that is to be resumed."""


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


class TrainingState:
    """The state of one training: what is prepared, what is remembered, and how it is saved."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: Path | None,
        facts: Mapping[str, Mapping[str, Any]],
        last_epoch: int | None = None,
    ) -> None:
        from accelerate.utils import DistributedDataParallelKwargs

        self.model, self.batches, self.config, self.accelerator = model, batches, config, accelerator
        self.folder, self.facts = folder, facts
        self.total_steps = config.epochs * len(batches)
        self.last_epoch = config.epochs if last_epoch is None else min(last_epoch, config.epochs)
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
        self.losses = LossSums()
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
        """Reason why training is over, judged by what every process knows; None if it is not."""
        if self.config.patience and self.loop["stale"] >= self.config.patience:
            return "patience"
        return "epochs" if self.loop["epoch"] >= self.last_epoch else None

    def look_due(self) -> bool:
        """True where this step ends with a `look`; the same on every process."""
        return bool(self.loop["step"] >= self.next_look)

    def look(self, caught: list[int]) -> Stopped | None:
        """Check the losses, share signals and the main process's clock, save if that is due."""
        main, config, step = self.accelerator.is_main_process, self.config, self.loop["step"]
        bad = self.losses.flush(step)
        now = time.monotonic()
        pace = (now - self.looked_at) / max(1, step - self.looked_step)
        self.looked_at, self.looked_step = now, step
        # One all-reduce carries all that processes have to agree on, as the largest of each. The earliest bad step of
        # any process is the largest once its sign is turned.
        values = [
            -math.inf if bad is None else -float(bad),
            float(max(caught, default=0)),
            float(main and config.max_seconds is not None and self.seconds() >= config.max_seconds),
            float(main and self.folder is not None and now - self.saved_at >= config.save_every_seconds),
            float(min(100, max(1, round(_LOOK_SECONDS / max(pace, 1e-6)))) if main else 0),
        ]
        minus_first_bad, signalled, late, save, interval = self._largest(values)
        alone = self.accelerator.num_processes == 1 and self.accelerator.device.type == "cpu"
        self.next_look = step + (1 if alone else int(interval))
        if minus_first_bad > -math.inf:
            raise ValueError(self.losses.complaint(int(-minus_first_bad)))
        if save and not signalled and not late:
            self.save()
        return "signal" if signalled else "max_seconds" if late else None

    def signalled(self, caught: list[int]) -> int:
        """The signal that any process was sent, 0 if none; every process calls it."""
        return int(self._largest([float(max(caught, default=0))])[0])

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
        if self.accelerator.is_main_process:
            tell_validation(line, loop, self.config)
        self.save()

    def _improves(self, metrics: dict[str, float]) -> bool:
        """True where these metrics beat the best so far; the main process decides for all."""
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

    def write_history(self) -> None:
        """Write the history; all of it, as an appended line could be torn by a crash."""
        if self.folder is not None and self.accelerator.is_main_process:
            lines = "".join(json.dumps(line) + "\n" for line in self.loop["history"])
            write_file(self.folder / "history.jsonl", lines)

    # ------------------------------------------------------------------------------------- saving, resuming

    def identity(self) -> dict[str, Any]:
        """Facts that must be the same for a checkpoint to be of this run; JSON values only."""
        config = asdict(self.config)
        free = _FREE if self.config.warmup_share else _FREE | {"warmup_share"}  # earlier versions had none
        if self.config.schedule in ("constant", "inverse_sqrt", "held_inverse_sqrt") and not self.config.warmup_share:
            free = free | {"epochs"}
        described = getattr(self.model, "config", None)
        facts = {
            "model": type(self.model).__name__,
            "model setting": described() if callable(described) else {},
            "shape of": {name: list(value.shape) for name, value in self.model.state_dict().items()},
            "setting": {spelled(name): config[name] for name in config if name not in free}
            | dict(self.facts["options"]),
            "mixed precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "device": self.accelerator.device.type,
            "steps an epoch": len(self.batches),
            "made from": self.facts["made_from"],
            "content": self.facts["content"],
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
        check(path / _MANIFEST, saved.manifest, CHECKPOINT)
        differences = differing_settings(saved.manifest["run"], self.identity())
        if differences:
            before = " and ".join(_told(name, earlier) for name, earlier, _ in differences)
            now = " and ".join(_told(name, later) for name, _, later in differences)
            raise DifferentRunError(f"cannot resume {path}: it was made with {before}, this run has {now}")
        weights, moments, best, own = self._checked_parts(saved)
        try:
            self.batches.load_state_dict(saved.manifest["batches"])
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path / _MANIFEST}: 'batches' is no position of these batches: {error}") from error
        self.model.load_state_dict(weights)
        self._load_moments(moments)
        if best is not None:
            self.best, self.best_saved = best, True
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.manifest["scaler"])
        self.loop.update(saved.manifest["loop"])
        self.next_look, self.looked_step = self.loop["step"] + 1, self.loop["step"]
        self.losses.load(saved.manifest["loss_names"], own)
        self.write_history()
        try:
            _set_random_state(own, self.accelerator.device)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path} holds no states of random generators: it is damaged") from error

    def _checked_parts(
        self, saved: Folder
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor] | None, dict[str, np.ndarray]]:
        """Weights, moments, best weights and this process's own state of a checkpoint that fits this training."""
        files = {name: saved.file(name, verify=True) for name in ("model.safetensors", "optimizer.safetensors")}
        weights, moments = (_load_tensors(path) for path in files.values())
        check_weights(files["model.safetensors"], weights, self.model)
        check_moments(files["optimizer.safetensors"], moments, self.model, self._trained())
        best = None
        if "best.safetensors" in saved:
            best = _load_tensors(saved.file("best.safetensors", verify=True))
            check_weights(saved.file("best.safetensors"), best, self.model)
        path = saved.file(f"rank-{self.accelerator.process_index}.safetensors", verify=True)
        own = load_arrays(path)
        names = saved.manifest["loss_names"]
        check_generators(path, own, _random_state(self.accelerator.device), len(names))
        return weights, moments, best, own

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

    def close(self, trackers: Sequence[Any] = ()) -> None:
        """Give the model back as it came, without autocast or a compiled call, and end what follows the training."""
        from accelerate.utils import extract_model_from_parallel

        for tracker in trackers:
            tracker.finish()

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


class LossSums:
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


def differing_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, earlier and present value of what makes this training another one; empty where it is the same.

    Where options differ they alone are named: the steps of an epoch, the shapes of weights and the hash of the codes
    follow from them. Options and arguments that an earlier version did not write down are taken to be as they are now.
    """
    if before.get("model", now["model"]) != now["model"]:
        return [("model", before["model"], now["model"])]
    facts = {part: _differences(before.get(part), value, part) for part, value in now.items() if part not in _CHOSEN}
    chosen = _differing_options(before, now, "setting")
    if not chosen and not any(facts.values()):
        return []
    chosen += _differing_options(before, now, "content")
    if chosen:
        return chosen
    parts = sorted(facts, key=lambda part: _TOLD_FIRST.index(part) if part in _TOLD_FIRST else len(_TOLD_FIRST))
    return next(facts[part][:1] for part in parts if facts[part])


def _differing_options(before: Mapping[str, Any], now: Mapping[str, Any], part: str) -> list[tuple[str, Any, Any]]:
    earlier, later = before.get(part, {}), now[part]
    return [(name, earlier[name], later[name]) for name in later if name in earlier and earlier[name] != later[name]]


def _differences(before: Any, now: Any, name: str) -> list[tuple[str, Any, Any]]:
    """Name and both values of every place in which two nested dicts differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *(() if name == "model setting" else now)])
        return [found for key in keys for found in _differences(before.get(key), now.get(key), f"{name} {key}")]
    return [] if before == now else [(name, before, now)]


def _told(name: str, value: Any) -> str:
    """A setting and its value: an option as it is typed."""
    if name.startswith("made from "):  # a hash as a rule, of which the beginning tells enough
        return f"the {name.removeprefix('made from ')} {str(value)[:12]}"
    typed = name.startswith("--") and isinstance(value, list)
    text = "none" if value is None else ",".join(map(str, value)) if typed else str(value)
    return f"{name} {text if len(text) <= 60 else f'{text[:57]}...'}"


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
