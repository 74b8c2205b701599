"""The training loop: exact resume, stops, accumulation, schedules, refusals."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_training import Regression, TableBatches, error_of, train

from recbase.store.folder import open_folder
from recbase.train.loop import TrainConfig, fit, learning_rate, make_accelerator
from recbase.train.state import differing_settings

SCRIPT = Path(__file__).parents[2] / "support" / "small_training.py"


def history_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def hashes(folder: Path) -> dict[str, str]:
    """Hashes of weights, moments, best weights and the random state of a checkpoint."""
    saved = open_folder(folder / "checkpoint", "checkpoint.json", "training checkpoint")
    return {name: saved.sha256(name) for name in saved}


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Regression, list[dict[str, Any]]]:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    model, result = train(folder, schedule="cosine", warmup_steps=3, clip=1.0, weight_decay=0.1)
    assert (result.stopped, result.epochs, result.steps) == ("epochs", 4, 20)
    return folder, model, history_of(folder)


def signalled(step: int, call: int) -> None:
    if call == step:
        os.kill(os.getpid(), signal.SIGTERM)


def crashed(step: int, call: int) -> None:
    if call == step:
        raise RuntimeError("power cut")


SETTINGS = {"schedule": "cosine", "warmup_steps": 3, "clip": 1.0, "weight_decay": 0.1}


@pytest.mark.parametrize("step", [1, 3, 5, 10, 13, 20])
def test_a_run_interrupted_by_a_signal_and_resumed_equals_one_never_interrupted(
    step: int, whole: tuple[Path, Regression, list[dict[str, Any]]], tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    _, first = train(tmp_path, at=partial(signalled, step), **SETTINGS)
    assert (first.stopped, first.steps) == ("signal", step)
    assert signal.getsignal(signal.SIGTERM) is before
    model, result = train(tmp_path, resume=True, **SETTINGS)
    assert (result.stopped, result.steps) == ("epochs", 20)
    assert same_weights(model, whole[1])
    assert hashes(tmp_path) == hashes(whole[0])
    assert history_of(tmp_path) == whole[2]


@pytest.mark.parametrize(("step", "save_every"), [(8, 0.0), (8, 1e9), (11, 1e9), (17, 0.0)])
def test_a_run_that_crashed_goes_on_exactly_from_its_last_checkpoint(
    step: int, save_every: float, whole: tuple[Path, Regression, list[dict[str, Any]]], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path, at=partial(crashed, step), save_every_seconds=save_every, **SETTINGS)
    with open(tmp_path / "history.jsonl", "a") as out:
        out.write('{"epoch": 99}\n')  # written after the checkpoint, so it must go
    model, _ = train(tmp_path, resume=True, **SETTINGS)
    assert same_weights(model, whole[1])
    assert hashes(tmp_path) == hashes(whole[0])
    assert history_of(tmp_path) == whole[2]


def test_resuming_a_finished_run_trains_no_more_and_returns_the_best(
    whole: tuple[Path, Regression, list[dict[str, Any]]],
) -> None:
    model, result = train(whole[0], resume=True, at=partial(crashed, 1), **SETTINGS)
    assert (result.stopped, result.steps) == ("epochs", 20)
    assert same_weights(model, whole[1])


def test_more_epochs_can_be_asked_for_where_the_schedule_allows_it(tmp_path: Path) -> None:
    straight, _ = train(None, epochs=5)
    train(tmp_path, epochs=2)
    model, result = train(tmp_path, resume=True, epochs=5)
    assert result.epochs == 5
    assert same_weights(model, straight)


def test_sigterm_ends_a_process_cleanly_with_a_checkpoint(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "step 3":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read().split()
        assert process.wait(30) == 0
    assert rest[-2] == "signal"
    saved = open_folder(tmp_path / "checkpoint", "checkpoint.json", "training checkpoint")
    assert saved.manifest["loop"]["step"] == int(rest[-1]) >= 3


def test_a_second_signal_acts_as_before(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it

    def twice(call: int) -> None:
        if call == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, at=twice)
    finally:
        signal.signal(signal.SIGINT, before)


def test_fit_works_outside_the_main_thread() -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(train(epochs=1)[1]))
    thread.start()
    thread.join()
    assert results[0].stopped == "epochs"


@pytest.mark.parametrize(("clip", "part"), [(0.0, "loss part 'penalty'"), (1.0, "loss part 'penalty'")])
def test_a_loss_that_is_not_finite_names_step_and_part_and_spares_the_checkpoint(
    clip: float, part: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"{part} is not finite at step 7"):
        train(tmp_path, at=lambda call: math.nan if call == 7 else None, clip=clip, save_every_seconds=0)
    saved = open_folder(tmp_path / "checkpoint", "checkpoint.json", "training checkpoint")
    assert saved.manifest["loop"]["step"] == 6


def test_a_gradient_that_is_not_finite_is_named() -> None:
    torch.manual_seed(0)
    model = Regression()
    model.layers[0].weight.register_hook(lambda gradient: gradient * (math.inf if model.calls == 4 else 1))
    with pytest.raises(ValueError, match="norm of the gradient is not finite at step 4"):
        train(model=model, clip=1.0)


def test_max_seconds_stops_validates_once_more_and_keeps_the_best(tmp_path: Path) -> None:
    slow = threading.Event()
    model, result = train(tmp_path, at=lambda call: slow.wait(0.05) and None, epochs=1000, max_seconds=0.4)
    assert result.stopped == "max_seconds"
    assert 0.4 <= result.seconds < 3
    assert result.history[-1]["step"] == result.steps
    best = max(result.history, key=lambda line: line["metrics"]["ndcg@10"])
    assert result.best == best["metrics"]
    assert error_of(TableBatches())(model.eval())["ndcg@10"] == result.best["ndcg@10"]


def test_time_used_counts_when_resumed(tmp_path: Path) -> None:
    slow = threading.Event()
    train(tmp_path, at=lambda call: slow.wait(0.05) and None, epochs=1000, max_seconds=0.3)
    _, again = train(tmp_path, resume=True, epochs=1000, max_seconds=0.3)
    assert again.stopped == "max_seconds"
    assert again.seconds > 0.3
    _, more = train(tmp_path, resume=True, epochs=1000, max_seconds=again.seconds + 0.3)
    assert more.steps > again.steps


def test_patience_stops_and_the_best_weights_are_returned() -> None:
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: torch.nn.Module) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"ndcg@10": next(values)}

    torch.manual_seed(0)
    model = Regression()
    result = fit(model, TableBatches(), validate, TrainConfig(epochs=50, patience=3, quiet=True))
    assert (result.stopped, result.epochs, result.best_epoch, result.best) == ("patience", 5, 2, {"ndcg@10": 0.5})
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())


def test_minimize_prefers_the_smaller_value() -> None:
    values = iter([3.0, 1.0, 2.0])
    config = TrainConfig(epochs=3, monitor="distortion", minimize=True, quiet=True)
    result = fit(Regression(), TableBatches(), lambda model: {"distortion": next(values)}, config)
    assert (result.best_epoch, result.best) == (2, {"distortion": 1.0})


def test_validate_every_skips_epochs_but_not_the_last() -> None:
    _, result = train(epochs=5, validate_every=2)
    assert [line["epoch"] for line in result.history] == [2, 4, 5]


def test_without_validation_the_last_weights_are_the_result() -> None:
    model = Regression()
    result = fit(model, TableBatches(), None, TrainConfig(epochs=2, quiet=True))
    assert (result.best, result.best_epoch, len(result.history)) == ({}, 2, 2)
    assert result.history[1]["loss"] < result.history[0]["loss"] * 1.5


@pytest.mark.parametrize("micro_batches", [2, 3, 8])
def test_accumulation_equals_one_big_batch(micro_batches: int) -> None:
    models = []
    for parts in (1, micro_batches):
        torch.manual_seed(0)
        model = Regression(dropout=0.0, noise=0.0).double()
        batches = TableBatches(micro_batches=parts)
        batches.x, batches.y = batches.x.double(), batches.y.double()
        config = TrainConfig(epochs=3, lr=0.01, micro_batches=parts, quiet=True)
        models.append((model, fit(model, batches, error_of(batches), config)))
    (one, first), (many, second) = models
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    losses = [[line["loss"] for line in result.history] for result in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_same_seed_same_result_and_another_seed_another() -> None:
    (first, _), (again, _), (other, _) = train(), train(), train(seed=1)
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_the_second_of_two_trainings_over_the_same_batches_starts_at_the_front() -> None:
    batches = TableBatches()
    train(batches=batches, at=partial(signalled, 3))
    model, _ = train(batches=batches)
    assert same_weights(model, train()[0])


def test_learning_rates_follow_their_schedules() -> None:
    def rates(schedule: Any, warmup: int = 0, steps: int = 10) -> list[float]:
        config = TrainConfig(lr=1.0, schedule=schedule, warmup_steps=warmup)
        return [learning_rate(step, config, steps) for step in range(steps)]

    assert rates("constant", 4)[:5] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1])
    assert rates("linear") == pytest.approx([1 - step / 10 for step in range(10)])
    assert rates("linear", 2)[1:4] == pytest.approx([1, 1, 7 / 8])
    assert rates("cosine")[5] == pytest.approx(0.5)
    assert rates("cosine")[0] == pytest.approx(1)
    assert rates("inverse_sqrt", 4)[3] == pytest.approx(1)
    assert learning_rate(15, TrainConfig(lr=1.0, schedule="inverse_sqrt", warmup_steps=4), 20) == pytest.approx(1 / 2)
    assert rates("held_inverse_sqrt", 4)[:4] == [1, 1, 1, 1]
    assert learning_rate(15, TrainConfig(lr=1.0, schedule="held_inverse_sqrt", warmup_steps=4), 20) == pytest.approx(
        1 / 2
    )


def test_a_warm_up_may_be_a_share_of_all_steps() -> None:
    config = TrainConfig(lr=1.0, schedule="cosine", warmup_share=0.2)
    steps, long = TrainConfig(lr=1.0, schedule="cosine", warmup_steps=2), TrainConfig(lr=1.0, warmup_share=0.01)
    for step in range(10):
        assert learning_rate(step, config, 10) == learning_rate(step, steps, 10)
    assert [learning_rate(step, long, 102_800) for step in (0, 513, 1027)] == pytest.approx([1 / 1028, 0.5, 1])
    both = TrainConfig(lr=1.0, warmup_steps=5, warmup_share=0.2)
    assert learning_rate(3, both, 10) == pytest.approx(0.8)


def test_sgd_moves_weights_by_the_gradient_alone_and_is_resumed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Regression(dropout=0, noise=0)
    before = model.layers[3].bias.detach().clone()
    slopes: list[torch.Tensor] = []
    model.layers[3].bias.register_hook(lambda slope: slopes.append(slope.clone()))
    fit(model, TableBatches(rows=8), None, TrainConfig(epochs=1, lr=0.1, optimizer="sgd", quiet=True))
    torch.testing.assert_close(model.layers[3].bias.detach(), before - 0.1 * slopes[0])
    whole = train(optimizer="sgd")[0]
    train(optimizer="sgd", folder=tmp_path, at=partial(signalled, 7))
    assert same_weights(train(optimizer="sgd", folder=tmp_path, resume=True)[0], whole)


def test_a_slower_machine_finds_the_same_weights() -> None:
    def slow(call: int) -> None:
        time.sleep(0.02)

    (quick, found), (slowly, same) = train(), train(at=slow)
    assert same_weights(quick, slowly)
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in result.history] for result in (found, same)]
    assert lines[0] == lines[1]
    assert same.seconds > found.seconds


def test_the_learning_rate_of_the_schedule_is_the_one_used() -> None:
    _, result = train(schedule="linear", lr=0.02)
    assert [line["lr"] for line in result.history] == pytest.approx([0.02 * (1 - step / 20) for step in (4, 9, 14, 19)])


def test_biases_are_not_decayed() -> None:
    def weights(decay: float) -> Regression:
        torch.manual_seed(0)
        model = Regression(dropout=0, noise=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
        for parameter in model.parameters():
            parameter.register_hook(torch.zeros_like)
        fit(model, TableBatches(), None, TrainConfig(epochs=1, lr=0.1, weight_decay=decay, quiet=True))
        return model

    model = weights(0.5)
    assert float(model.layers[0].weight[0, 0].detach()) == pytest.approx(0.95**5)
    assert float(model.layers[0].bias[0].detach()) == 1.0


def test_clipping_bounds_the_step() -> None:
    free, clipped = train(clip=0.0)[0], train(clip=1e-9)[0]
    assert not same_weights(free, clipped)


def test_bf16_trains_and_gives_the_model_back_without_autocast() -> None:
    model, result = train(precision="bf16", epochs=8)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert "forward" not in model.__dict__
    assert model.layers(torch.ones(1, 6)).dtype == torch.float32
    assert same_weights(model, train(precision="bf16", epochs=8)[0])
    assert not same_weights(model, train(epochs=8)[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do fp16")
def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="--precision fp16 needs a GPU"):
        make_accelerator(TrainConfig(precision="fp16"))


def test_compile_changes_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.Module.compile
    calls: list[Any] = []

    def compile_eagerly(module: torch.nn.Module, **options: Any) -> None:
        calls.append(module)
        plain(module, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    torch.manual_seed(3)
    model = Regression(dropout=0.0, noise=0.0)
    torch.manual_seed(3)
    other = Regression(dropout=0.0, noise=0.0)
    train(model=model, compile=True, epochs=1)
    train(model=other, epochs=1)
    assert calls == [model]
    assert model._compiled_call_impl is None
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_history_lines_hold_losses_parts_and_metrics(whole: tuple[Path, Regression, list[dict[str, Any]]]) -> None:
    line = whole[2][0]
    assert sorted(line) == ["epoch", "loss", "lr", "metrics", "parts", "step"]
    assert line["loss"] == pytest.approx(sum(line["parts"].values()))
    assert set(line["parts"]) == {"error", "penalty"}


def test_a_tracker_writes_its_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, epochs=1, tracker="tensorboard")
    events = list((tmp_path / "tracker").rglob("events.out.tfevents.*"))
    assert events
    assert b"loss/penalty" in b"".join(path.read_bytes() for path in events)


def test_a_missing_tracker_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ImportError, match=r"--tracker tensorboard is not installed: pip install 'semtok\[track\]'"):
        train(tracker="tensorboard")
    with pytest.raises(ValueError, match=r"--tracker must be one of .*tensorboard.*, got notebook"):
        train(tracker="notebook")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "--lr must be above 0, got -1"),
        ({"lr": math.nan}, "--lr must be a finite number, got nan"),
        ({"train_share": 0.0}, r"--train-share must lie in \(0, 1\], got 0.0"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"micro_batches": 0}, "--micro-batches must be at least 1, got 0"),
        ({"weight_decay": -0.1}, "--weight-decay must be at least 0, got -0.1"),
        ({"warmup_steps": -1}, "--warmup-steps must be at least 0, got -1"),
        ({"clip": -1.0}, "--clip must be at least 0, got -1.0"),
        ({"patience": -1}, "--patience must be at least 0, got -1"),
        ({"max_seconds": 0}, r"--max-seconds must be above 0, got 0"),
        ({"beta2": 1.0}, r"--beta2 must lie in \(0, 1\), got 1.0"),
        ({"seed": -1}, r"--seed must be at least 0, got -1"),
        ({"monitor": ""}, "--monitor must name a validation metric"),
        ({"optimizer": "lion"}, "--optimizer must be one of adamw, adam, sgd, got 'lion'"),
        (
            {"schedule": "step"},
            "--schedule must be one of constant, linear, cosine, inverse_sqrt, held_inverse_sqrt, got 'step'",
        ),
        ({"precision": "fp8"}, "--precision must be one of no, auto, bf16, fp16, got 'fp8'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_a_monitor_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--monitor mrr is not among the validation metrics: ndcg@10, rows"):
        train(monitor="mrr")


def test_a_model_without_parameters_is_refused() -> None:
    model = Regression()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="Regression has no parameters to train"):
        train(model=model)


def other_width() -> dict[str, Any]:
    return {"model": Regression(width=9)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict, None),
        (lambda: {"lr": 0.5}, "--lr 0.02, this run has --lr 0.5"),
        (lambda: {"epochs": 9, "schedule": "linear"}, "--schedule constant, this run has --schedule linear"),
        (other_width, r"shape of layers.0.weight \[8, 6\], this run has shape of layers.0.weight \[9, 6\]"),
        (lambda: {"batches": TableBatches(rows=80)}, "steps an epoch 5, this run has steps an epoch 10"),
        (lambda: {"precision": "bf16"}, "precision no"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    changed: Callable[[], dict[str, Any]], message: str | None, tmp_path: Path
) -> None:
    train(tmp_path, epochs=1)
    if message is None:
        assert train(tmp_path, resume=True, **({"epochs": 2} | changed()))[1].epochs == 2
        return
    with pytest.raises(ValueError, match=rf"cannot resume .*checkpoint: it was made with .*{message}"):
        train(tmp_path, resume=True, **({"epochs": 2} | changed()))


def test_a_checkpoint_made_from_other_data_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, quiet=True)
    fit(Regression(), TableBatches(), None, config, tmp_path, made_from={"data": "abc"})
    with pytest.raises(ValueError, match="it was made with the data abc, this run has the data xyz"):
        fit(Regression(), TableBatches(), None, config, tmp_path, resume=True, made_from={"data": "xyz"})


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint to resume; leave out --resume"):
        train(tmp_path, resume=True)
    with pytest.raises(ValueError, match="--resume needs the folder"):
        train(None, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    saved = open_folder(tmp_path / "checkpoint", "checkpoint.json", "training checkpoint")
    path = saved.file("optimizer.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not have the hash its manifest gives"):
        train(tmp_path, resume=True, epochs=1)


def test_loss_parts_must_keep_their_names() -> None:
    class Fickle(Regression):
        def forward(self, batch: Any) -> Any:
            output = super().forward(batch)
            if self.calls == 3:
                output.parts.pop("penalty")
            return output

    with pytest.raises(ValueError, match=r"loss parts \['error'\], the first batch had \['error', 'penalty'\]"):
        train(model=Fickle())


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*history.jsonl"):
        train(tmp_path / "file" / "run", at=partial(crashed, 1))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharded_weights_are_refused(kind: str) -> None:
    from accelerate.utils import DistributedType

    accelerator: Any = SimpleNamespace(distributed_type=DistributedType(kind))
    with pytest.raises(ValueError, match=f"exact --resume need whole weights in every process, which {kind} does not"):
        fit(Regression(), TableBatches(), None, TrainConfig(), accelerator=accelerator)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_resuming_is_exact_on_a_gpu(precision: str, tmp_path: Path, device: torch.device) -> None:
    if precision == "fp16" and device.type != "cuda":
        pytest.skip("fp16 needs a CUDA device")
    model, result = train(tmp_path / "whole", precision=precision, **SETTINGS)
    assert next(model.parameters()).device == device
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    _, first = train(tmp_path / "parts", precision=precision, at=partial(signalled, 8), **SETTINGS)
    assert first.stopped == "signal"
    assert 8 <= first.steps < 20
    again, _ = train(tmp_path / "parts", precision=precision, resume=True, **SETTINGS)
    assert same_weights(again, model)
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")
    assert history_of(tmp_path / "parts") == history_of(tmp_path / "whole")
    saved = open_folder(tmp_path / "parts" / "checkpoint", "checkpoint.json", "training checkpoint")
    assert (saved.manifest["scaler"] is not None) == (precision == "fp16")


@pytest.mark.gpu
def test_a_loss_that_is_not_finite_is_named_on_a_gpu(device: torch.device) -> None:
    with pytest.raises(ValueError, match="loss part 'penalty' is not finite at step 7"):
        train(at=lambda call: math.nan if call == 7 else None)


def test_launched_processes_that_did_not_find_each_other_say_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    make_accelerator(TrainConfig())  # of one process
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched .* set ACCELERATE_USE_CPU=true"):
        make_accelerator(TrainConfig(precision="auto"))


def test_a_checkpoint_of_another_model_is_told_by_the_models_alone() -> None:
    before = {"model": "SASRec", "setting": {"--lr": 0.1}, "made from": {"data": "abc"}}
    now = {"model": "BERT4Rec", "setting": {"--lr": 0.2}, "made from": {"data": "xyz"}, "content": {}}
    assert differing_settings(before, now) == [("model", "SASRec", "BERT4Rec")]
