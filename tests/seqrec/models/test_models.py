"""Contracts that every recommender keeps; what one cannot keep stands in ``EXCEPTIONS`` by name, with the reason."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_models import (
    COUNTED,
    ITEMS,
    SHOWN,
    SMALL,
    TRAINED,
    USERS,
    WALKED,
    batches,
    build,
    content,
    cycle,
    keeps,
    popular_world,
    scores,
    targets,
    train,
    trained,
)

from recbase.cli.options import options_from, recipes_from
from recbase.data.sequences import Histories
from recbase.evaluate.ranking import rank_targets, summarize, topk
from recbase.nn.transformer import Packing
from recbase.store.runs import load_run, resolve, save_run
from recbase.train.loop import TrainConfig, fit
from recbase.train.state import _optimizer
from seqrec import MODELS, REGISTRY
from seqrec.content import SHAPES
from seqrec.models.sasrec import SASRec
from seqrec.training import build_model, check_form

WALKS = [[(start + step) % WALKED + 1 for step in range(6)] for start in range(WALKED)]
FOLLOWING = [row[-1] % WALKED + 1 for row in WALKS]


def test_every_trained_model_has_a_small_size():
    assert set(SMALL) == set(TRAINED)


@pytest.mark.parametrize("name", keeps("learns the next item", SHOWN))
def test_learns_the_cycle(name):
    model, losses = trained(name)
    if losses:
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING


@pytest.mark.parametrize("name", ["sasrec", "ccfrec"])
def test_learns_the_cycle_from_prefixes(name):
    model = build(name)
    train(model, "prefix", epochs=3, lr=6e-3)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING


def states_of(model, lists):
    """Packed states of histories of one length, in eval mode."""
    items = torch.tensor(lists)
    lengths = torch.full((len(lists),), items.shape[1])
    model.eval()
    with torch.no_grad():
        if hasattr(model, "states"):
            users = torch.arange(len(lists)) if getattr(model, "reads_users", False) else None
            return model.states(items, Packing.of(lengths, items.shape[1]), users)
        outputs = []
        handle = model.backbone.encoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        model.scorer()(items, lengths)
        handle.remove()
        return outputs[0]


@pytest.mark.parametrize("name", SHOWN)
def test_where_only_popularity_counts_it_does_about_as_well_as_popularity(name):
    histories, targets = popular_world()
    best = resolve("popularity", MODELS)(ITEMS).fit(histories)
    torch.manual_seed(0)
    if name in COUNTED:
        model = resolve(name, MODELS)(ITEMS).fit(histories)
    else:
        regular = {"dropout": 0.3} if "dropout" in SMALL[name] else {}
        model = build_model(name, ITEMS, USERS, content(name, histories=histories), SMALL[name] | regular)
        epochs = 25 if name == "unisrec" else 6  # its vectors of text start far from any popularity
        train(model, REGISTRY[name].forms[0], epochs, 5e-3, histories)
        model.eval()
    found, popular = (summarize(rank_targets(each.scorer(), targets))["recall@10"] for each in (model, best))
    assert popular > 0.7  # 10 of 24 items at random: 0.42
    assert found > 0.85 * popular


@pytest.mark.parametrize("name", keeps("causality", TRAINED))
def test_a_state_ignores_later_items_or_the_model_refuses_targets_at_every_position(name):
    model = build(name)
    before, after = states_of(model, [[3, 4, 5, 6]]), states_of(model, [[3, 4, 9, 1]])
    assert not torch.equal(before[2:], after[2:])
    if "all" in REGISTRY[name].forms:
        assert torch.equal(before[:2], after[:2])
    else:
        assert not torch.equal(before[:2], after[:2])
        with pytest.raises(ValueError, match=f"--form all is not for {name}: it would show it the items it has to"):
            check_form(name, "all")


@pytest.mark.parametrize("name", SHOWN)
def test_padding_changes_nothing(name):
    model, _ = trained(name)
    together = scores(model, [[3, 4, 5, 6, 7], [9], [2, 8]])
    largest = max(1.0, float(together.abs().max()))
    for row, history in ((1, [9]), (2, [2, 8])):
        alone = scores(model, [history])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("name", SHOWN)
def test_item_0_is_never_recommended_and_an_unseen_item_has_a_score(name):
    model, _ = trained(name)
    found = scores(model, WALKS)
    assert found.shape == (WALKED, ITEMS)
    assert found.dtype == torch.float32
    assert bool(torch.isfinite(found).all())
    lists = topk(model.scorer(), Histories.from_lists(WALKS), ITEMS).items
    assert np.array_equal(np.sort(lists, 1), np.tile(np.arange(1, ITEMS + 1), (WALKED, 1)))


@pytest.mark.parametrize("name", SHOWN)
def test_saved_and_loaded_scores_are_equal(name, tmp_path):
    model, _ = trained(name)
    items = pl.DataFrame({"item_id": [f"i{number}" for number in range(ITEMS)]})
    save_run(tmp_path / "run", name, model, items, {"recipe": "default"})
    run = load_run(tmp_path / "run", MODELS)
    assert torch.equal(scores(run.model, WALKS), scores(model, WALKS))
    assert run.items["item_id"].to_list()[:2] == ["i0", "i1"]


@pytest.mark.parametrize("name", SHOWN)
def test_pretrained_folder_gives_the_model_back(name, tmp_path):
    model, _ = trained(name)
    model.save_pretrained(tmp_path / "model", item_ids=[f"i{number}" for number in range(ITEMS)])
    again = type(model).from_pretrained(tmp_path / "model")
    assert type(again) is type(model)
    assert again.config() == model.config()
    assert torch.equal(scores(again, WALKS), scores(model, WALKS))


def files_of(folder):
    """Content of every file, by its name in the manifest."""
    manifest = json.loads((folder / "config.json").read_text())
    return {name: (folder / entry["file"]).read_bytes() for name, entry in manifest["files"].items()}


def write_whole_run(name, folder):
    """A run with titles, metrics and a record of its training."""
    model = build(name)
    items = pl.DataFrame(
        {"item_id": [f"i{number}" for number in range(ITEMS)], "title": [f"thing {number}" for number in range(ITEMS)]}
    )
    facts = {"data": {"name": "toy", "hash": "abc", "given": "toy"}, "recipe": "default", "form": "all"}
    metrics = {"model": name, "dataset": {"name": "toy", "hash": "abc"}, "protocol": {"seen_items": "kept"}}
    files = {"metrics.json": json.dumps(metrics).encode(), "ranks.parquet": b"ranks"}
    save_run(folder, name, model, items, facts, files)


@pytest.mark.parametrize("name", SHOWN)
def test_a_run_that_is_read_and_saved_again_is_equal_file_by_file(name, tmp_path):
    write_whole_run(name, tmp_path / "run")
    model = resolve(name, MODELS).from_pretrained(tmp_path / "run")
    model.save_pretrained(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "run")
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "run/config.json").read_bytes()
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names


def test_an_exported_run_that_is_read_and_saved_again_is_equal_file_by_file(tmp_path):
    pytest.importorskip("faiss", reason="needs the extra faiss")
    from seqrec.models.ccfrec_tabulated import TabulatedCCFRec
    from seqrec.serving import export_run

    write_whole_run("ccfrec", tmp_path / "run")
    export_run(load_run(tmp_path / "run", MODELS), tmp_path / "out", onnx=False)
    TabulatedCCFRec.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")
    assert "items.faiss" in files_of(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "out/config.json").read_bytes()


def test_a_model_that_was_changed_keeps_ids_and_titles_and_nothing_that_was_measured(tmp_path):
    write_whole_run("sasrec", tmp_path / "run")
    model = resolve("sasrec", MODELS).from_pretrained(tmp_path / "run")
    with torch.no_grad():
        model.item_embedding.weight[3] += 1
    model.save_pretrained(tmp_path / "changed")
    found = files_of(tmp_path / "changed")
    assert found.keys() == {"model.safetensors", "items.parquet", "item_vectors.safetensors"}
    assert found["items.parquet"] == files_of(tmp_path / "run")["items.parquet"]
    assert "recipe" not in load_run(tmp_path / "changed", MODELS).manifest


def test_ids_and_titles_that_are_given_stand_before_those_that_were_read(tmp_path):
    write_whole_run("sasrec", tmp_path / "run")
    model = resolve("sasrec", MODELS).from_pretrained(tmp_path / "run")
    model.save_pretrained(tmp_path / "named", item_ids=list(range(100, 100 + ITEMS)), titles=["x"] * ITEMS)
    again = load_run(tmp_path / "named", MODELS)
    assert again.items["item_id"].to_list() == list(range(100, 100 + ITEMS))
    assert again.items["title"].unique().to_list() == ["x"]
    assert list(again.folder) == ["model.safetensors", "items.parquet", "item_vectors.safetensors"]
    with pytest.raises(ValueError, match="item_ids has 1 more than once"):
        model.save_pretrained(tmp_path / "twice", item_ids=[1] * ITEMS)
    with pytest.raises(ValueError, match="titles has 2 titles but the model has 25 items"):
        model.save_pretrained(tmp_path / "twice", titles=["a", "b"])


def test_what_is_uploaded_is_what_was_read(tmp_path, monkeypatch):
    import huggingface_hub

    uploaded = {}

    class Hub:
        def create_repo(self, *_, **__):
            pass

        def upload_folder(self, repo_id, folder_path):
            uploaded.update(files_of(Path(folder_path)))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    write_whole_run("sasrec", tmp_path / "run")
    resolve("sasrec", MODELS).from_pretrained(tmp_path / "run").push_to_hub("someone/something")
    assert uploaded == files_of(tmp_path / "run")


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_same_metrics(name):
    def metrics():
        model = build(name)
        losses = train(model, REGISTRY[name].forms[0], epochs=1)
        return losses, summarize(rank_targets(model.scorer(), targets()))

    assert metrics() == metrics()


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_step_runs(name):
    model = build(name)
    (step, *_) = list(batches(model, REGISTRY[name].forms[0]))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(step[0]).loss
        found = scores(model, WALKS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_on_a_gpu_it_is_as_on_the_cpu(name, device):
    model, form = build(name), REGISTRY[name].forms[0]
    batch = next(iter(batches(model, form)))[0]
    loss, found = model(batch).loss, scores(model, WALKS)
    on_gpu = build(name).to(device)
    again = on_gpu(batch.to(device)).loss
    assert float(again.detach()) == pytest.approx(float(loss.detach()), rel=1e-3)
    torch.testing.assert_close(scores(on_gpu, WALKS).cpu(), found, rtol=1e-2, atol=1e-3)
    with torch.autocast(device.type, torch.bfloat16):
        low = on_gpu(batch.to(device)).loss
    low.backward()
    assert torch.isfinite(low)
    assert all(torch.isfinite(p.grad).all() for p in on_gpu.parameters() if p.grad is not None)
    fit(on_gpu, batches(model, form), None, TrainConfig(epochs=1, patience=0, quiet=True))
    assert {p.device for p in on_gpu.parameters()} == {device}
    there = rank_targets(on_gpu.scorer(), targets()), topk(on_gpu.scorer(), cycle(9), 5)
    trained = on_gpu.to("cpu")
    ranks = rank_targets(trained.scorer(), targets()).rank
    assert np.mean(there[0].rank == ranks) > 0.99  # of nearly equal scores either may be first
    np.testing.assert_allclose(there[1].scores, topk(trained.scorer(), cycle(9), 5).scores, atol=1e-3, rtol=1e-3)


WAITS = {"maerec": 12, "mmsr": 20, "tssr": 10, "ccfrec": 8}  # graphs, contrasts and masks of a size of their own


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_hardly_waits_for_the_device(name, device, waits):
    model = build(name).to(device)
    batch = next(iter(batches(model, REGISTRY[name].forms[0])))[0].to(device)
    waits.clear()
    model(batch).loss.backward()
    assert len(waits) <= WAITS.get(name, 6), "\n".join(waits)


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_is_trained(name):
    """Processes wait for the gradient of every parameter, of a batch without rows too."""
    model = build(name)
    form = REGISTRY[name].forms[0]
    full = next(iter(batches(model, form)))[0]
    empty = next(iter(batches(model, form, Histories.from_lists([[1, 2]]), rank=1, world=2)))[0]
    assert len(empty.items) == 0
    for batch in (full, empty):
        model.zero_grad()
        model(batch).loss.backward()
        idle = [key for key, p in model.named_parameters() if p.grad is None]
        assert not idle or getattr(model, "unused_parameters", False), idle
    assert float(model(empty).loss.detach()) == 0


@pytest.mark.parametrize("name", keeps("micro-batches sum to the step", TRAINED))
def test_micro_batches_of_a_step_sum_to_the_step(name):
    results = []
    for micro in (1, 3):
        model = build(name)
        step = next(iter(batches(model, REGISTRY[name].forms[0], batch_size=24, micro_batches=micro, seed=2)))
        losses = [model(batch).loss for batch in step]
        sum(losses).backward()
        results.append((float(sum(losses).detach()), [p.grad for p in model.parameters() if p.grad is not None]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, three in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SHOWN)
def test_absurd_hyper_parameters_are_refused(name):
    kind, tried = resolve(name, MODELS), 0
    shapes = {"items": ITEMS, "users": 3} | content(name).shapes()
    for option in options_from(MODELS[name], skip=SHAPES):
        absurd = {"int": -5, "float": -5.0, "choice": "nonsense"}.get(option.kind)
        if absurd is None:
            continue
        tried += 1
        arguments = {key: value for key, value in shapes.items() if key in kind.__init__.__annotations__}
        with pytest.raises(ValueError, match=option.spelled):
            kind(**arguments, **{option.name: absurd})
    assert tried or name == "popularity"
    with pytest.raises(ValueError, match="items must be at least 1, got 0"):
        kind(**{key: value for key, value in shapes.items() if key in kind.__init__.__annotations__} | {"items": 0})


@pytest.mark.parametrize("name", TRAINED)
def test_recipes_are_options_build_and_have_an_optimizer(name):
    training, accepted = (
        {option.name for option in options_from("recbase.train.loop:TrainConfig")},
        {option.name for option in options_from(MODELS[name], SHAPES)},
    )
    others = {option.name for option in options_from("seqrec.item_content:Content")} | {"form"}
    others |= {option.name for option in options_from("seqrec.training:ItemIdStage")} if name == "ccfrec" else set()
    for recipe, values in recipes_from(MODELS[name]).items():
        assert set(values) <= training | accepted | others, recipe
        assert not any("seconds" in key for key in values), f"{recipe}: what time allows differs by machine"
        form = values.get("form", REGISTRY[name].forms[0])
        assert form in REGISTRY[name].forms, recipe
        model = build_model(name, ITEMS, USERS, content(name), {k: v for k, v in values.items() if k in accepted})
        config = TrainConfig(**{k: v for k, v in values.items() if k in training})
        assert config.max_seconds is None
        assert _optimizer(model, config, torch.device("cpu")).param_groups[0]["lr"] == config.lr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe"),
    [(name, recipe) for name in TRAINED for recipe in sorted({"default", *recipes_from(MODELS[name])})],
)
def test_every_recipe_trains_a_step_on_the_synthetic_data(name, recipe, tmp_path):
    folder = tmp_path / "run"
    words = ["--data", "synthetic", "--recipe", recipe, "--train-share", "0.01", "--epochs", "1", "--out", str(folder)]
    words += (
        ["--encoder", "tfidf"] if "encoder" in recipes_from(MODELS[name]).get(recipe, {}) else []
    )  # it is on the hub
    run = [sys.executable, "-m", "seqrec.cli", "train", name, *words, "--quiet", "--json"]
    metrics = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert metrics["recipe"] == recipe
    assert metrics["steps"] >= 1


def test_counted_and_trained_models_are_told_apart():
    assert all(hasattr(resolve(name, MODELS), "fit") for name in COUNTED)
    assert all(issubclass(resolve(name, MODELS), torch.nn.Module) for name in TRAINED)


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'sasrek'; known: bert4rec, blend, bpr, caser, ccfrec"):
        resolve("sasrek", MODELS)


def test_weights_of_another_shape_are_refused(tmp_path):
    save_run(tmp_path, "sasrec", build("sasrec"), pl.DataFrame({"item_id": list(range(ITEMS))}), {})
    manifest = json.loads((tmp_path / "config.json").read_text())
    manifest["arguments"]["dim"] = 16
    (tmp_path / "config.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"model\.\w+\.safetensors: .* has shape \[\d+\], expected \[16\]"):
        load_run(tmp_path, MODELS)


def test_another_model_is_not_read_as_this_one(tmp_path):
    build("sasrec").save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a sasrec, not a gru4rec"):
        type(build("gru4rec")).from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=f"item_ids has 3 ids but the model has {ITEMS} items"):
        build("sasrec").save_pretrained(tmp_path / "other", item_ids=[1, 2, 3])


def test_pushing_uploads_the_run_folder(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Hub:
        def create_repo(self, repository, private, exist_ok):
            calls.append((repository, private, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    build("sasrec").push_to_hub("someone/model", private=True)
    assert calls[0] == ("someone/model", True, True)
    assert calls[1][0] == "someone/model"
    assert {"config.json", "README.md"} < set(calls[1][1])


def test_the_world_is_the_cycle():
    histories = cycle()
    assert all((row[1:] == row[:-1] % WALKED + 1).all() for row in (histories[user] for user in range(20)))


UNFIT_IDS = {
    "mixed": [1, "b", "c"],
    "missing": [None, "b", "c"],
    "fractions": [1.5, 2.5, 3.5],
    "lists": [[1], [2], [3]],
    "booleans": [True, False, 2],
    "too many digits": [2**64, 1, 2],
    "empty": ["", "b", "c"],
    "bytes": [b"a", b"b", b"c"],
    "half a character": ["\ud800", "b", "c"],
    "twice": ["b", "b", "c"],
    "too few": ["a"],
}


@pytest.mark.parametrize("ids", UNFIT_IDS.values(), ids=UNFIT_IDS)
def test_unfit_ids_are_refused_before_anything_is_written(ids: list[object], tmp_path: Path) -> None:
    model = SASRec(3, dim=8)
    model.save_pretrained(tmp_path, ["x", "y", "z"])
    with pytest.raises(ValueError, match="item_ids"):
        model.save_pretrained(tmp_path, ids)  # type: ignore[arg-type]
    assert load_run(tmp_path, MODELS).items["item_id"].to_list() == ["x", "y", "z"]


@pytest.mark.parametrize("titles", [[1, 2, 3], [["a"], None, None], ["a"], ["\ud800", "b", "c"]])
def test_unfit_titles_are_refused(titles: list[object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="titles"):
        SASRec(3, dim=8).save_pretrained(tmp_path / "run", titles=titles)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_new_ids_leave_the_titles_as_they_were(tmp_path: Path) -> None:
    SASRec(3, dim=8).save_pretrained(tmp_path / "one", ["x", "y", "z"], ["X", None, "Z"])
    SASRec.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two", np.arange(5, 8))
    items = load_run(tmp_path / "two", MODELS).items
    assert items.to_dict(as_series=False) == {"item_id": [5, 6, 7], "title": ["X", None, "Z"]}
