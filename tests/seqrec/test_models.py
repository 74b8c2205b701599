"""Contracts that every recommender keeps, in a world where everyone walks from item i to item i + 1."""

import numpy as np
import pytest
import torch

from recbase.runs import load_run, resolve, save_run
from recbase.sequences import Histories, SequenceBatches
from seqrec import MODELS, REGISTRY

COUNTED = [name for name, entry in REGISTRY.items() if entry.kind == "counted"]
DEPLOYED = [name for name, entry in REGISTRY.items() if entry.kind == "deployed"]

ITEMS = 24
SMALL = {
    "sasrec": {"dim": 32, "ffn": 64, "dropout": 0.0, "max_len": 8},
    "ccfrec": {"dim": 32, "ffn": 64, "dropout": 0.0, "fusion_dropout": 0.0, "max_len": 8, "mask_share": 0.5},
}
TRAINED = [name for name in MODELS if name not in COUNTED and name not in DEPLOYED]


def cycle(users=160, length=7):
    """Histories that walk the cycle 1 -> 2 -> ... -> N -> 1."""
    starts = np.random.default_rng(0).integers(0, ITEMS, users)
    return Histories.from_lists([((start + np.arange(length)) % ITEMS + 1).tolist() for start in starts])


def build(name, **changes):
    torch.manual_seed(0)
    if name in COUNTED:
        return resolve(name, MODELS)(ITEMS).fit(cycle())
    arguments = SMALL[name] | changes
    if name == "sasrec":
        return resolve(name, MODELS)(ITEMS, **arguments)
    rng = np.random.default_rng(1)
    codes, text = rng.integers(0, 6, (ITEMS, 4)), rng.standard_normal((ITEMS, 2, 16)).astype(np.float32)
    return resolve(name, MODELS)(ITEMS, [6] * 4, 2, 16, **arguments).with_content(codes, text)


def train(model, form="all", epochs=12, lr=3e-3):
    batches = SequenceBatches(cycle(), form, batch_size=32, max_len=8, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    losses = []
    model.train()
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for step in batches:
            for batch in step:
                out = model(batch)
                out.loss.backward()
            losses.append(float(out.loss.detach()))
            optimizer.step()
            optimizer.zero_grad()
    return losses


def scores(model, lists):
    items, lengths = Histories.from_lists(lists).padded(slice(None), 8)
    return model.scorer()(torch.from_numpy(items), torch.from_numpy(lengths))


@pytest.mark.parametrize("form", ["all", "prefix"])
@pytest.mark.parametrize("name", TRAINED)
def test_learns_the_cycle(name, form):
    model = build(name)
    losses = train(model, form, epochs=12 if form == "all" else 4)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    lists = [[(start + step) % ITEMS + 1 for step in range(4)] for start in range(ITEMS)]
    best = scores(model, lists).argmax(1) + 1
    assert best.tolist() == [row[-1] % ITEMS + 1 for row in lists]


def test_transitions_learn_the_cycle_and_popularity_is_one_list():
    lists = [[1, 2, 3], [22, 23, 24]]
    assert (scores(build("transitions"), lists).argmax(1) + 1).tolist() == [4, 1]
    popular = scores(build("popularity"), lists)
    assert torch.equal(popular[0], popular[1])
    counts = np.bincount(cycle().flat()[0], minlength=ITEMS + 1)[1:]
    assert popular[0].tolist() == counts.tolist()


def test_transition_weights_by_hand():
    histories = Histories.from_lists([[1, 2, 3], [1, 3]])
    model = resolve("transitions", MODELS)(3, window=2, decay=0.5).fit(histories)
    found = model.scorer()(torch.tensor([[1, 2]]), torch.tensor([2]))[0]
    from_one = np.array([0, 1, 1 / np.sqrt(2) + 1]) / np.sqrt(1 + 2)  # item 1 occurs twice
    from_two = np.array([0, 0, 1]) / np.sqrt(1 + 1)
    ties = np.array([2, 1, 2]) / 2 * 1e-6
    np.testing.assert_allclose(found, 0.5 * from_one + from_two + ties, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in DEPLOYED])
def test_scores_cover_the_catalogue_and_padding_changes_nothing(name):
    model = build(name)
    together = scores(model, [[3, 4, 5, 6, 7], [9], [2, 8]])
    assert together.shape == (3, ITEMS)
    assert bool(torch.isfinite(together).all())
    alone = scores(model, [[9]])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_loss_at_a_position_ignores_later_items(name):
    """The states that score position l are the same whatever comes after l."""
    model = build(name).eval()
    first, second = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[3, 4, 9, 1]])
    outputs = []
    handle = (model.encoder if name == "sasrec" else model.backbone.encoder).register_forward_hook(
        lambda module, inputs, output: outputs.append(output.detach())
    )
    with torch.no_grad():
        for items in (first, second):
            model.scorer()(items, torch.tensor([4]))
    handle.remove()
    assert torch.equal(outputs[0][:2], outputs[1][:2])
    assert not torch.equal(outputs[0][2:], outputs[1][2:])


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_same_losses(name):
    assert train(build(name), epochs=2) == train(build(name), epochs=2)


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_step_runs(name):
    model = build(name)
    (step, *_) = list(SequenceBatches(cycle(), "all", batch_size=32, max_len=8))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(step[0]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", TRAINED)
def test_micro_batches_of_a_step_sum_to_the_step(name):
    """Gradient accumulation: same loss and gradient, where negatives are not drawn from the batch."""
    changes = {"msa_weight": 0.0} if name == "ccfrec" else {}
    results = []
    for micro in (1, 3):
        model = build(name, **changes)
        batches = SequenceBatches(cycle(), "all", batch_size=24, max_len=8, micro_batches=micro, seed=2)
        step = next(iter(batches))
        losses = [model(batch).loss for batch in step]
        sum(losses).backward()
        results.append((float(sum(losses).detach()), [p.grad for p in model.parameters() if p.grad is not None]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, three in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in DEPLOYED])
def test_saved_and_loaded_scores_are_equal(name, tmp_path):
    import polars as pl

    model = build(name)
    items = pl.DataFrame({"item_id": [f"i{number}" for number in range(ITEMS)]})
    save_run(tmp_path / "run", name, model, items, {"recipe": "default"})
    run = load_run(tmp_path / "run", MODELS)
    lists = [[1, 5, 7], [2]]
    assert torch.equal(scores(run.model, lists), scores(model, lists))
    assert run.items["item_id"].to_list()[:2] == ["i0", "i1"]


@pytest.mark.parametrize("loss", ["ce", "bce", "gbce", "sampled"])
def test_sasrec_learns_with_every_loss(loss):
    model = build("sasrec", loss=loss, negatives=8)
    train(model, epochs=60 if loss == "gbce" else 25, lr=5e-3)
    lists = [[(start + step) % ITEMS + 1 for step in range(4)] for start in range(ITEMS)]
    best = scores(model, lists).argmax(1) + 1
    right = np.mean([b == row[-1] % ITEMS + 1 for b, row in zip(best.tolist(), lists, strict=True)])
    assert right >= 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "--dim must be at least 1, got 0"),
        ({"dim": 10, "heads": 4}, "--dim 10 must be a multiple of --heads, got 4"),
        ({"dropout": 1.0}, r"--dropout must lie in \[0, 1\), got 1.0"),
        ({"loss": "hinge"}, "--loss must be one of ce, bce, gbce, sampled, got 'hinge'"),
        ({"temperature": -1}, "--temperature must be above 0, got -1"),
        ({"norm": "none"}, "--norm must be one of post, pre, pre-query, got 'none'"),
        ({"layers": 0}, "--layers must be at least 1, got 0"),
        ({"calibration": 2.0}, r"--calibration must lie in \[0, 1\], got 2.0"),
    ],
)
def test_sasrec_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve("sasrec", MODELS)(ITEMS, **arguments)


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'sasrek'; known: ccfrec, ccfrec-tabulated, popularity"):
        resolve("sasrek", MODELS)


def test_weights_of_another_shape_are_refused(tmp_path):
    import json

    import polars as pl

    save_run(tmp_path, "sasrec", build("sasrec"), pl.DataFrame({"item_id": list(range(ITEMS))}), {})
    manifest = json.loads((tmp_path / "config.json").read_text())
    manifest["arguments"]["dim"] = 16
    (tmp_path / "config.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"the weights in .* do not fit its arguments"):
        load_run(tmp_path, MODELS)
