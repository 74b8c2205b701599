"""Behaviour-bound codes: the network against formulas, what each loss does, missing parts, new items, the folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import Tensor

import semtok
from recbase.data.catalog import Dataset, load_dataset
from recbase.data.sequences import Histories
from recbase.data.splits import Targets
from recbase.train.loop import TrainConfig
from recbase.train.state import _optimizer
from semtok.methods.behavior.batches import ItemBatch, ItemBatches
from semtok.methods.behavior.network import BehaviorNetwork
from semtok.methods.behavior.tokenizer import BehaviorTokenizer, _hold_out

ITEMS = 80
VIEWS = {"text": slice(0, 10), "image": slice(10, 16)}
SMALL: dict[str, Any] = {
    "levels": 2,
    "codebook_size": 16,
    "latent_dim": 8,
    "hidden": (16,),
    "steps": 7,
    "batch_size": 64,
    "lr": 0.01,
    "mim_weight": 1.0,
    "validate_every": 7,
    "quiet": True,
}


def vectors(count: int = ITEMS, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def walks(users: int = 60, length: int = 8, items: int = ITEMS) -> Histories:
    """Users who walk from item to item, each from a place of its own."""
    starts = np.arange(users) * 7 % items
    return Histories.from_lists([[(start + step) % items + 1 for step in range(length)] for start in starts.tolist()])


def made(**arguments: Any) -> BehaviorTokenizer:
    return BehaviorTokenizer(**(SMALL | arguments))


def fitted_on(X: np.ndarray | None = None, missing: dict | None = None, **arguments: Any) -> BehaviorTokenizer:
    X = vectors() if X is None else X
    return made(**arguments).fit(X, views=VIEWS, sequences=walks(), missing=missing)


@pytest.fixture(scope="module")
def fitted() -> BehaviorTokenizer:
    return fitted_on()


def network(present: dict[str, Tensor] | None = None, **arguments: Any) -> BehaviorNetwork:
    """A network with random codebooks of the scale of what they quantize."""
    tables = {name: torch.from_numpy(vectors()[:, part]) for name, part in VIEWS.items()}
    present = present or {name: torch.ones(ITEMS, dtype=torch.bool) for name in VIEWS}
    tokenizer = made(**arguments)
    net = BehaviorNetwork(tables, present, tokenizer, tokenizer.levels)
    if net.ids is not None:
        net.ids.data.normal_(std=0.3)
    net.codebooks.data.normal_(std=0.2)
    return net


def batches(world: int = 1, rank: int = 0, present: dict | None = None) -> list[ItemBatch]:
    masks = present or {name: np.ones(ITEMS, dtype=bool) for name in VIEWS}
    return [step[0] for step in ItemBatches(walks(), masks, 64, 20, 0, rank, world)]


# ------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("shared", [True, False])
def test_each_level_takes_the_nearest_row_and_the_sum_is_quantized(shared: bool) -> None:
    net = network(shared_codebook=shared)
    z = torch.randn(3, 30, 8) * 0.3
    quantized, codes, losses = net.quantize(z)
    expected = torch.zeros(30)
    for stream in range(3):
        books = net.codebooks[0 if shared else stream]
        left, total = z[stream], torch.zeros(30, 8)
        for level in range(2):
            nearest = torch.cdist(left, books[level]).argmin(1)
            assert (codes[stream, :, level] == nearest).all()
            expected += 1.25 * (left - books[level][nearest]).square().mean(1)
            left, total = left - books[level][nearest], total + books[level][nearest]
        torch.testing.assert_close(quantized[stream], total)
    torch.testing.assert_close(losses, expected)
    assert len(net.codebooks) == (1 if shared else 3)


def test_what_is_quantized_gets_the_gradient_of_its_codes() -> None:
    net = network()
    z = (torch.randn(3, 30, 8) * 0.3).requires_grad_()
    weights = torch.randn(3, 30, 8)
    (net.quantize(z)[0] * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    assert net.codebooks.grad is None


def test_the_shared_codebook_gets_a_gradient_from_all_three_streams() -> None:
    net = network()
    z = torch.randn(3, 30, 8) * 0.1
    z[:, :, 0] += torch.tensor([-2.0, 0.0, 2.0])[:, None]  # streams far apart have codes of their own
    net.codebooks.data[0, 0, :, 0] = torch.linspace(-2.2, 2.2, 16)
    _, codes, losses = net.quantize(z)
    losses.sum().backward()
    moved = net.codebooks.grad[0, 0].abs().sum(1) > 0  # [K]
    used = [set(codes[stream, :, 0].tolist()) for stream in range(3)]
    for stream in range(3):
        own = used[stream] - used[(stream + 1) % 3] - used[(stream + 2) % 3]
        assert own
        assert all(moved[code] for code in own)
    assert not any(moved[code] for code in set(range(16)) - set.union(*used))


def test_gradients_of_codes_and_commitment_are_those_of_the_formula() -> None:
    net = network(levels=1)
    z = (torch.randn(3, 5, 8) * 0.3).requires_grad_()
    _, codes, losses = net.quantize(z)
    losses.sum().backward()
    rows = net.codebooks[0, 0][codes[..., 0]].detach()
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z.detach() - rows) / 8)  # squares are means over 8 columns
    expected = torch.zeros_like(net.codebooks[0, 0]).index_add_(
        0, codes.flatten(), 2 * (rows - z.detach()).flatten(0, 1) / 8
    )
    torch.testing.assert_close(net.codebooks.grad[0, 0], expected)


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    weights = {"reconstruction_weight": 2.0, "rq_weight": 3.0, "mim_weight": 5.0, "rec_weight": 7.0}
    output = network(**weights).eval()(batches()[0])
    assert list(output.parts) == ["rq", "reconstruction", "mim", "rec"]
    expected = sum(weight * output.parts[name.removesuffix("_weight")] for name, weight in weights.items())
    assert float(output.loss.detach()) == pytest.approx(float(expected), rel=1e-6)


def test_training_steps_q_in_the_forward_pass_and_the_main_step_does_not_move_it() -> None:
    net = network()
    q = {name: value.clone() for name, value in net.bound.state_dict().items()}
    net.eval()(batches()[0])
    assert all(torch.equal(value, q[name]) for name, value in net.bound.state_dict().items())
    optimizer = _optimizer(net, TrainConfig(weight_decay=0.1, lr=0.1), torch.device("cpu"))
    output = net.train()(batches()[0])
    after = {name: value.clone() for name, value in net.bound.state_dict().items()}
    assert all((after[name] != q[name]).any() for name in q)
    others = {name: value.detach().clone() for name, value in net.named_parameters() if "bound" not in name}
    output.loss.backward()
    optimizer.step()
    assert all(torch.equal(value, after[name]) for name, value in net.bound.state_dict().items())
    moved = {name for name, value in net.named_parameters() if name in others and (value != others[name]).any()}
    assert moved == set(others) - {"absent.text", "absent.image"}  # no item lacks a modality here


def test_inner_steps_leave_no_gradient_in_the_encoders() -> None:
    net = network(mim_weight=0.0, rq_weight=0.0, reconstruction_weight=0.0, rec_weight=0.0)
    net.train()(batches()[0]).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_processes_add_up_to_the_whole_step(world: int) -> None:
    net = network(mim=False, rec=False).eval()
    whole = [net(batch).loss.detach() for batch in batches()]
    parts = [[net(batch).loss.detach() for batch in batches(world, rank)] for rank in range(world)]
    for step, loss in enumerate(whole):
        assert float(sum(part[step] for part in parts)) == pytest.approx(float(loss), rel=1e-5)


def test_a_step_is_about_the_distinct_items_of_its_sequences() -> None:
    samples = {(tuple(walk[max(0, end - 20) : end]), walk[end]) for walk in map(list, walks()) for end in range(1, 8)}
    seen = []
    for batch in batches():
        histories = [
            tuple((batch.rows[row[:length]] + 1).tolist())
            for row, length in zip(batch.items, batch.lengths.tolist(), strict=True)
        ]
        targets = (batch.rows[batch.targets] + 1).tolist()
        seen += list(zip(histories, targets, strict=True))
        assert set((batch.rows + 1).tolist()) == {item for history in histories for item in history} | set(targets)
        assert (batch.item_count, batch.row_count) == (len(batch.rows), len(targets))
        assert batch.owned.all()
    assert len(seen) == 60 * 7
    assert set(seen) == samples


def test_next_items_that_are_equal_are_no_negatives() -> None:
    net = network().eval()
    batch = batches()[0]
    target = batch.targets[:1].expand_as(batch.targets)
    alike = ItemBatch(**(vars(batch) | {"targets": target, "step_targets": batch.rows[target]}))
    assert float(net(alike).parts["rec"]) == pytest.approx(0, abs=1e-6)
    assert float(net(batch).parts["rec"]) > 1


def test_the_sequence_encoder_does_not_see_the_future_nor_padding() -> None:
    net = network().eval()
    table = torch.randn(10, 24)
    items = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    states = net.sequence(table, items, torch.tensor([3, 2]))
    items[0, 3], items[1, 2:] = 9, 8
    assert torch.equal(net.sequence(table, items, torch.tensor([3, 2])), states)
    items[0, 2] = 9
    assert not torch.allclose(net.sequence(table, items, torch.tensor([3, 2]))[0], states[0])


def test_vectors_of_items_without_a_modality_do_not_matter() -> None:
    masks = {"text": np.ones(ITEMS, dtype=bool), "image": np.arange(ITEMS) % 3 > 0}
    present = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    net = network(present).eval()
    batch = batches(present=masks)[0]
    before = net(batch)
    net.vectors_image[~present["image"]] = 1000.0
    after = net(batch)
    assert {name: float(part) for name, part in after.parts.items()} == {
        name: float(part) for name, part in before.parts.items()
    }
    net.absent["image"].data += 1.0
    moved = net(batch)
    assert float(moved.parts["rq"]) != float(before.parts["rq"])  # they are quantized
    assert float(moved.parts["reconstruction"]) == float(before.parts["reconstruction"])
    assert float(moved.parts["mim"]) == float(before.parts["mim"])
    moved.loss.backward()
    assert net.absent["image"].grad.any()
    assert batch.present["image"] == int(masks["image"][batch.rows].sum())


def test_codes_that_no_step_used_move_to_residuals() -> None:
    net = network(levels=1, weight_decay=0.0).train()
    net.codebooks.data[0, 0, 5:] = 50.0  # too far for anyone
    for batch in batches():
        net(batch)
    before = net.codebooks.detach().clone()
    z = net.represent(torch.arange(ITEMS))[0].detach().flatten(0, 1)
    moved = net.revive(seed=0)
    assert 11 <= moved < 16
    changed = (net.codebooks != before).any(3)[0, 0]
    assert int(changed.sum()) == moved
    assert changed[5:].all()
    nearest = torch.cdist(net.codebooks[0, 0, changed].detach(), z).amin(1)
    assert float(nearest.max()) < 1e-3
    assert len(net.codebooks[0, 0, changed].unique(dim=0)) == moved


@pytest.mark.parametrize(("every", "moves"), [(2, True), (3, False), (0, False)])
def test_codes_are_revived_every_so_many_training_steps(every: int, moves: bool) -> None:
    net = network(levels=1, weight_decay=0.0, revive_every=every).train()
    net.codebooks.data[0, 0, 5:] = 50.0
    before = net.codebooks.detach().clone()
    batch = batches()[0]
    for _ in range(2):
        net(batch)
    net.eval()(batch)
    assert torch.equal(net.codebooks, before)
    net.train()(batch)
    assert torch.equal(net.codebooks, before) != moves
    assert (net.revived > 0) == moves


def test_codebooks_start_on_the_residuals_of_all_streams() -> None:
    net = network(codebook_size=4)
    net.ids.data.normal_(std=0.1)[:, :4] += 20
    net.start_codebooks(seed=0)
    with torch.no_grad():
        z = net.represent(torch.arange(ITEMS))[0]
        quantized, codes, _ = net.quantize(z)
    used = [set(codes[stream, :, 0].tolist()) for stream in range(3)]
    assert not used[0] & (used[1] | used[2])  # the ids lie apart
    error = (z - quantized).square().sum()
    assert float(error) < 0.8 * float((z - z.mean(1, keepdim=True)).square().sum())


# ---------------------------------------------------------------------------------------- fit and codes


def test_streams_are_of_one_scale_and_have_codes_of_the_shared_codebook_in_common(fitted: BehaviorTokenizer) -> None:
    first = [set(column.tolist()) for column in fitted.encode(vectors())[:, :3].T]  # id, text, image of level 1
    assert first[0] & first[1]
    assert first[0] & first[2]
    lengths = [np.linalg.norm(rows, axis=1).mean() for rows in fitted.represent(vectors()).values()]
    assert lengths == pytest.approx([np.sqrt(8)] * 3, rel=0.05)


def test_a_folder_of_an_earlier_version_is_quantized_as_it_was(fitted: BehaviorTokenizer, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    manifest = json.loads((tmp_path / "semtok.json").read_text())
    assert manifest.pop("normalized") is True
    (tmp_path / "semtok.json").write_text(json.dumps(manifest))
    old = semtok.load(tmp_path).represent(vectors())
    new = fitted.represent(vectors())
    for name, rows in old.items():
        assert not np.allclose(rows, new[name])
        spread = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(spread, new[name], atol=1e-6)


def test_columns_are_level_by_level_id_text_image(fitted: BehaviorTokenizer) -> None:
    codes = fitted.encode(vectors())
    assert codes.shape == (ITEMS, 6)
    assert codes.dtype == np.int32
    assert fitted.sizes_ == [16] * 6
    assert fitted.blocks_ == {"level1": slice(0, 3), "level2": slice(3, 6)}
    assert fitted.streams_ == ("id", "text", "image")
    z = fitted.represent(vectors())
    for stream, name in enumerate(("id", "text", "image")):
        left = z[name]
        for level in range(2):
            book = fitted.codebooks_[3 * level + stream]
            nearest = np.square(left[:, None] - book).sum(2).argmin(1)
            assert (codes[:, 3 * level + stream] == nearest).all()
            left = left - book[nearest]


def test_decoded_vectors_are_sums_of_codebook_rows(fitted: BehaviorTokenizer) -> None:
    codes = fitted.encode(vectors())
    decoded = fitted.decode(codes)
    assert decoded.shape == (ITEMS, 24)
    assert decoded.dtype == np.float32
    for stream in range(3):
        rows = [fitted.codebooks_[3 * level + stream][codes[:, 3 * level + stream]] for level in range(2)]
        np.testing.assert_allclose(decoded[:, 8 * stream : 8 * stream + 8], sum(rows), rtol=1e-6, atol=1e-7)


def test_costs_are_distances_to_what_would_be_decoded(fitted: BehaviorTokenizer) -> None:
    X = vectors()
    codes, z = fitted.encode(X), fitted.represent(X)
    for level in (0, 4, -1):
        stream = level % 3
        costs = fitted.costs(X, codes, level)
        assert costs.shape == (ITEMS, 16)
        for code in (0, 9):
            changed = codes.copy()
            changed[:, level] = code
            part = fitted.decode(changed)[:, 8 * stream : 8 * stream + 8]
            expected = np.square(z[fitted.streams_[stream]] - part).sum(1)
            np.testing.assert_allclose(costs[:, code], expected, rtol=1e-4, atol=1e-5)
    assert (fitted.costs(X, codes, 5).argmin(1) == codes[:, 5]).all()


def test_codes_are_those_of_the_trained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[BehaviorNetwork] = []
    train = BehaviorTokenizer._train
    monkeypatch.setattr(BehaviorTokenizer, "_train", lambda self, *a: kept.append(train(self, *a)) or kept[0])
    missing = {"image": np.arange(ITEMS) % 9 == 0}
    X = vectors() * np.float32(3) + np.float32(7)
    tokenizer = fitted_on(X, missing)
    codes, quantized = kept[0].catalogue()
    assert (tokenizer.encode(X) == codes.transpose(1, 2).flatten(1).numpy()).all()
    np.testing.assert_allclose(tokenizer.decode(tokenizer.encode(X)), quantized.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "removed",
    [
        {"reconstruction_weight": 0.0},
        {"rq_weight": 0.0},
        {"mim_weight": 0.0},
        {"rec_weight": 0.0},
        {"shared_codebook": False},
        {"mim": False},
    ],
    ids=lambda removed: next(iter(removed)),
)
def test_removing_a_part_changes_the_codes(fitted: BehaviorTokenizer, removed: dict) -> None:
    other = fitted_on(**removed)
    assert (other.encode(vectors()) != fitted.encode(vectors())).mean() > 0.02
    assert other.history_[-1]["step"] == fitted.history_[-1]["step"]


def test_without_the_contrast_there_is_no_id_stream() -> None:
    tokenizer = fitted_on(rec=False)
    assert tokenizer.streams_ == ("text", "image")
    assert tokenizer.encode(vectors()).shape == (ITEMS, 4)
    assert set(tokenizer.history_[0]["parts"]) == {"rq", "reconstruction", "mim"}
    assert "recall@10" not in tokenizer.history_[0]["metrics"]


@pytest.mark.parametrize("streams", [("id", "text"), ("image",), ("text", "image")])
def test_streams_can_be_left_out(streams: tuple[str, ...]) -> None:
    tokenizer = fitted_on(streams=streams)
    assert tokenizer.streams_ == streams
    assert tokenizer.encode(vectors()).shape == (ITEMS, 2 * len(streams))
    assert tokenizer.decode(tokenizer.encode(vectors())).shape == (ITEMS, 8 * len(streams))


def test_without_images_an_item_has_two_codes_a_level() -> None:
    X = vectors(width=10)
    tokenizer = made().fit(X, sequences=walks())
    assert tokenizer.streams_ == ("id", "text")
    assert tokenizer.encode(X).shape == (ITEMS, 4)
    named = made().fit(X, views={"text": slice(0, 10)}, sequences=walks())
    assert (named.encode(X) == tokenizer.encode(X)).all()


def test_a_budget_sets_the_levels() -> None:
    assert fitted_on(codes_budget=3).encode(vectors()).shape == (ITEMS, 3)
    assert fitted_on(codes_budget=6, streams=("id", "text")).levels_ == 3
    with pytest.raises(ValueError, match=r"codes_budget=4 is no multiple of the 3 streams \(id, text, image\)"):
        fitted_on(codes_budget=4)


def test_training_learns_what_comes_next() -> None:
    tokenizer = made(codebook_size=32, steps=100, validate_every=50, latent_dim=16, lr=3e-3, dropout=0.0).fit(
        vectors(), views=VIEWS, sequences=walks(200)
    )
    found = [line["metrics"]["recall@10"] for line in tokenizer.history_]
    assert max(found) > 0.5  # 10 of 80 items by chance: 0.125
    assert tokenizer.history_[-1]["loss"] < tokenizer.history_[0]["loss"]
    assert len(np.unique(tokenizer.encode(vectors()), axis=0)) == ITEMS


def test_same_seed_same_codes(fitted: BehaviorTokenizer) -> None:
    again, other = fitted_on(), fitted_on(seed=1)
    assert (again.encode(vectors()) == fitted.encode(vectors())).all()
    assert (again.decode(again.encode(vectors())) == fitted.decode(fitted.encode(vectors()))).all()
    assert [line["loss"] for line in again.history_] == [line["loss"] for line in fitted.history_]
    assert (other.encode(vectors()) != fitted.encode(vectors())).any()


def test_fitting_again_equals_fitting_once(fitted: BehaviorTokenizer) -> None:
    again = made()
    assert again.fit(vectors(seed=5)[:, :9], sequences=walks()) is again
    again.fit(vectors(), views=VIEWS, sequences=walks())
    assert (again.encode(vectors()) == fitted.encode(vectors())).all()
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "sizes_")
    assert (copy.fit_transform(vectors(), views=VIEWS, sequences=walks()) == fitted.encode(vectors())).all()


def test_tensors_and_doubles_have_the_codes_of_arrays(fitted: BehaviorTokenizer) -> None:
    codes = fitted.encode(vectors())
    assert (fitted.encode(torch.from_numpy(vectors())) == codes).all()
    assert (fitted.encode(vectors().astype(np.float64)) == codes).all()
    assert (fitted.encode(vectors().tolist()) == codes).all()


def test_scale_and_place_of_the_inputs_do_not_matter(fitted: BehaviorTokenizer) -> None:
    moved = vectors() * np.float32(64) + np.float32(128)
    X = moved.copy()
    X[:, 3] = 5.0
    assert (fitted_on(moved).encode(moved) == fitted.encode(vectors())).mean() > 0.9
    assert np.isfinite(fitted_on(X).decode(fitted_on(X).encode(X))).all()  # a column that does not vary


# ---------------------------------------------------------------------------------- behaviour and the rest


def world(items: int, users: int, seed: int = 0) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The synthetic data set, the hidden vectors that behaviour comes from, and what of the images does not."""
    dataset = load_dataset("synthetic", items=items, users=users, seed=seed)
    hidden = np.random.default_rng([seed, 7]).standard_normal((items, 9))  # the first draw of that world
    assert dataset.images is not None
    images = dataset.images.astype(np.float64)
    told = hidden @ np.linalg.lstsq(hidden, images, rcond=None)[0]
    assert told.var() / images.var() == pytest.approx(dataset.facts["image_signal"], abs=0.06)
    return dataset, hidden, images - told


def explained(known: np.ndarray, wanted: np.ndarray, folds: int = 5) -> float:
    """Share of the variance of ``wanted`` that ridge regression on ``known`` predicts for items left out."""
    known = (known - known.mean(0)) / (known.std(0) + 1e-9)
    order = np.random.default_rng(0).permutation(len(known))
    left = np.zeros(wanted.shape)
    for fold in range(folds):
        test, train = order[fold::folds], np.delete(order, np.s_[fold::folds])
        mean = wanted[train].mean(0)
        gram = known[train].T @ known[train] + np.eye(known.shape[1])
        left[test] = wanted[test] - mean - known[test] @ np.linalg.solve(gram, known[train].T @ (wanted[train] - mean))
    return float(1 - np.square(left).sum() / np.square(wanted - wanted.mean(0)).sum())


def test_what_is_specific_to_images_cannot_be_told_from_what_is_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _, _ = world(300, 400)
    kept: list[BehaviorNetwork] = []
    train = BehaviorTokenizer._train
    monkeypatch.setattr(BehaviorTokenizer, "_train", lambda self, *a: kept.append(train(self, *a)) or kept[-1])
    shared = []
    for weight in (0.1, 0.0):
        arguments = {"steps": 250, "validate_every": 250, "sequence_layers": 1, "hidden": (64,), "lr": 1e-3}
        tokenizer = made(codebook_size=32, latent_dim=16, mim_weight=weight, **arguments)
        tokenizer.fit(dataset.images, views={"image": slice(0, 32)}, sequences=dataset.split().train)
        with torch.no_grad():
            z, inputs = kept[-1].represent(torch.arange(300))
            specific = kept[-1].specific["image"](inputs["image"])
        shared.append(explained(z[-1].double().numpy(), specific.double().numpy()))
    assert shared[1] > 0.25
    assert shared[0] < 0.6 * shared[1]


@pytest.mark.slow
def test_minimizing_mutual_information_removes_what_behaviour_does_not_need() -> None:
    dataset, hidden, nuisance = world(600, 1500)
    found = {}
    for mim in (True, False):
        arguments = {"codebook_size": 64, "latent_dim": 32, "hidden": (64,), "levels": 3, "dropout": 0.1, "lr": 1e-3}
        tokenizer = made(mim=mim, steps=1000, batch_size=256, validate_every=200, patience=0, **arguments)
        tokenizer.fit(dataset.images, views={"image": slice(0, 32)}, sequences=dataset.split().train)
        z = tokenizer.represent(dataset.images)["image"]
        found[mim] = explained(z, hidden), explained(z, nuisance)
    assert found[False][1] > 0.2  # the images' noise is there without it
    assert found[True][1] < 0.6 * found[False][1]
    assert found[True][0] > 0.75 * found[False][0]  # what behaviour needs stays


# --------------------------------------------------------------------------------------- missing, new items


def test_an_item_without_an_image_has_the_codes_of_the_learned_vector(fitted: BehaviorTokenizer) -> None:
    missing = {"image": np.arange(ITEMS) % 4 == 0}
    X = vectors()
    tokenizer = fitted_on(X, missing)
    codes = tokenizer.encode(X)
    rest = codes[missing["image"]][:, [2, 5]]
    assert (rest == rest[0]).all()
    assert len(np.unique(codes[~missing["image"]][:, [2, 5]], axis=0)) > 1
    changed = X.copy()
    changed[missing["image"], 10:] = 1000.0
    assert (fitted_on(changed, missing).encode(changed) == codes).all()
    rows = np.arange(ITEMS)
    assert (tokenizer.encode(changed, item_rows=rows) == codes).all()
    nothing = {name: np.ones(ITEMS, dtype=bool) for name in VIEWS}
    alike = tokenizer.encode(X, item_rows=rows, missing=nothing)
    assert (alike[:, [1, 2, 4, 5]] == alike[0, [1, 2, 4, 5]]).all()
    assert (alike[:, [0, 3]] == codes[:, [0, 3]]).all()
    assert (alike[0, [2, 5]] == rest[0]).all()


def test_items_of_the_fit_are_recognized_in_any_order(fitted: BehaviorTokenizer) -> None:
    X = vectors()
    codes = fitted.encode(X)
    order = np.random.default_rng(3).permutation(ITEMS)[:50]
    assert (fitted.encode(X[order]) == codes[order]).all()
    assert (fitted.encode(X[order], item_rows=order) == codes[order]).all()
    assert (fitted.item_codes(X, np.arange(ITEMS)).codes == codes).all()
    z = fitted.represent(X)["id"]
    assert (fitted.represent(X, item_rows=np.roll(np.arange(ITEMS), 1))["id"] == np.roll(z, 1, axis=0)).all()


def test_a_new_item_has_the_mean_id_row_of_its_nearest_trained_items(fitted: BehaviorTokenizer) -> None:
    X, new = vectors(), vectors(40, seed=9)
    known, z = fitted.represent(X), fitted.represent(new)
    places = np.concatenate([known["text"], known["image"]], 1)
    place = np.concatenate([z["text"], z["image"]], 1)
    nearest = np.square(place[:, None] - places).sum(2).argsort(1)[:, :10]
    mean = fitted._state()[1]["ids"].astype(np.float64)[nearest].mean(1)
    mean -= mean.mean(1, keepdims=True)
    np.testing.assert_allclose(z["id"], mean / np.sqrt(np.square(mean).mean(1, keepdims=True) + 1e-5), rtol=1e-9)
    assert (fitted.encode(new) == fitted.encode(new, item_rows=np.full(40, -1))).all()
    parts = [fitted.encode(new[lo : lo + 7]) for lo in range(0, 40, 7)]
    assert (np.concatenate(parts) == fitted.encode(new)).all()


def test_of_items_with_equal_vectors_a_new_one_is_none() -> None:
    X = vectors()
    X[41] = X[40]
    tokenizer = fitted_on(X)
    as_new = tokenizer.encode(X[40:42], item_rows=np.array([-1, -1]))
    assert (tokenizer.encode(X[40:42]) == as_new).all()
    rows = np.arange(ITEMS)
    assert (tokenizer.encode(X) == tokenizer.encode(X, item_rows=rows)).all()
    assert not np.array_equal(tokenizer.represent(X)["id"][40], tokenizer.represent(X)["id"][41])


def test_an_item_that_no_sequence_holds_is_a_new_item() -> None:
    X, rows = vectors(), np.arange(ITEMS)
    histories = Histories.from_lists([[(start + step) % 70 + 1 for step in range(8)] for start in range(60)] + [[75]])
    tokenizer = made().fit(X, views=VIEWS, sequences=histories)
    ids, as_new = tokenizer.represent(X)["id"], tokenizer.represent(X, item_rows=rows * 0 - 1)["id"]
    np.testing.assert_allclose(ids[70:], as_new[70:], rtol=1e-5, atol=1e-6)
    assert np.abs(ids[:70] - as_new[:70]).max() > 0.01


# --------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("arguments", [{}, {"shared_codebook": False}, {"rec": False}, {"mim": False}], ids=str)
def test_the_folder_gives_the_same_tokenizer_with_torch_and_with_numpy(arguments: dict, tmp_path: Path) -> None:
    X, new = vectors(), vectors(200, seed=4)
    missing = {"text": np.arange(ITEMS) % 5 == 1, "image": np.arange(ITEMS) % 7 == 0}
    tokenizer = fitted_on(X, missing, **arguments)
    codes = tokenizer.item_codes(X, np.arange(ITEMS))
    tokenizer.save(tmp_path, codes)
    again, portable = semtok.load(tmp_path), semtok.load(tmp_path, backend="numpy")
    assert type(again) is BehaviorTokenizer
    assert again.get_params() == tokenizer.get_params()
    assert (again.blocks_, again.sizes_, again.views_) == (tokenizer.blocks_, tokenizer.sizes_, tokenizer.views_)
    assert (again.history_, again.streams_) == (tokenizer.history_, tokenizer.streams_)
    lacking = {"image": np.arange(200) % 2 == 0}
    for read in (again, portable):
        assert (read.encode(X) == codes.codes).all()
        assert (read.encode(new) == tokenizer.encode(new)).all()
        assert (read.encode(new, missing=lacking) == tokenizer.encode(new, missing=lacking)).all()
        assert (read.decode(codes.codes) == tokenizer.decode(codes.codes)).all()
        assert (read.costs(new, tokenizer.encode(new), 1) == tokenizer.costs(new, tokenizer.encode(new), 1)).all()
    again.save(tmp_path / "again", codes)
    assert (semtok.load(tmp_path / "again").encode(new) == tokenizer.encode(new)).all()


def test_a_folder_without_codebooks_is_refused(fitted: BehaviorTokenizer) -> None:
    entries, arrays = fitted._state()
    other = made()
    other.sizes_ = fitted.sizes_
    with pytest.raises(ValueError, match="codebooks is missing; the manifest expects 6 code columns"):
        other._restore(entries, {name: array for name, array in arrays.items() if name != "codebooks"})


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"sequences": None}, r"learns from sequences: expected sequences=Histories of item numbers, none were given"),
        ({"sequences": [[1, 2]]}, "expected sequences=Histories of item numbers, got list"),
        ({"sequences": Histories.from_lists([[1, 99]])}, "item number 99 but X has 80 rows: expected numbers 1 to 80"),
        ({"sequences": Histories.from_lists([[0, 5]])}, "item number 0 but X has 80 rows"),
        ({"sequences": Histories.from_lists([[1], [2]])}, "long enough to train on"),
        ({"views": {"title": slice(0, 4)}}, "views has 'title'; behavior takes text and image: put all texts"),
        ({"views": {"text": slice(0, 17)}}, "view 'text' is columns 0 to 17 but X has columns 0 to 16"),
        ({"views": {}}, r"none of the views \(none\) is among streams"),
        ({"missing": {"image": np.zeros(3, dtype=bool)}}, r"missing\['image'\] is bool of shape \(3,\); expected"),
        ({"missing": {"image": np.zeros(ITEMS)}}, r"missing\['image'\] is float64 of shape \(80,\); expected a bool"),
        ({"missing": {"image": np.ones(ITEMS, dtype=bool)}}, "all 80 items lack that view: leave the view out"),
        ({"missing": {"sound": np.ones(ITEMS, dtype=bool)}}, "for text or image"),
    ],
)
def test_unusable_inputs_are_refused(inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made().fit(vectors(), **({"views": VIEWS, "sequences": walks()} | inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "--levels must be at least 1, got 0"),
        ({"revive_every": -1}, "--revive-every must be at least 0, got -1"),
        ({"hidden": (0,)}, r"--hidden must be at least 1, got \(0,\)"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"rec_weight": -1.0}, "--rec-weight must be at least 0"),
        ({"dropout": 1.0}, r"--dropout must lie in \[0, 1\)"),
        ({"streams": ("id",)}, r"streams=\('id',\) must hold text or image"),
        ({"streams": ("text", "sound")}, "--streams must be one of id, text, image, got"),
        ({"heads": 7}, "must be a multiple of --heads, got 7"),
        ({"lr": 0.0}, "must be above 0|must be > 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted_on(**arguments)


def test_what_does_not_fit_the_fit_is_refused(fitted: BehaviorTokenizer) -> None:
    with pytest.raises(ValueError, match="X has 12 features, but BehaviorTokenizer is expecting 16 features"):
        fitted.encode(vectors(width=12))
    with pytest.raises(ValueError, match="NaN"):
        fitted.encode(np.full((2, 16), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match=r"item_rows has 80; expected -1 \(new\) to 79, the items of the fit"):
        fitted.encode(vectors(2), item_rows=np.array([0, 80]))
    with pytest.raises(ValueError, match=r"item_rows is int64 of shape \(3,\); expected 2 integers"):
        fitted.encode(vectors(2), item_rows=np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"missing\['text'\] is bool of shape \(3,\); expected 2 bools"):
        fitted.encode(vectors(2), missing={"text": np.zeros(3, dtype=bool)})
    with pytest.raises(ValueError, match=r"codes have shape \(2, 3\); expected \[N, 6\]"):
        fitted.decode(np.zeros((2, 3), dtype=int))
    with pytest.raises(ValueError, match="codes of level 1 must lie in"):
        fitted.decode(np.array([[0, 16, 0, 0, 0, 0]]))
    with pytest.raises(NotFittedError, match="is not fitted yet: call fit or load first"):
        made().encode(vectors())


# ------------------------------------------------------------------------------------------- the hold-out


def test_the_last_events_of_a_fifth_of_the_sequences_are_held_out() -> None:
    histories = Histories.from_lists([[user + 1, user + 2, user + 3] for user in range(50)] + [[1, 2]] * 50)
    train, held = _hold_out(histories, seed=0)
    assert len(held) == 10
    assert (held.users < 50).all()
    for user in range(100):
        whole = histories[user].tolist()
        assert train[user].tolist() == (whole[:-1] if user in held.users else whole)
    for place, user in enumerate(held.users):
        assert held.items[place] == histories[user][-1]
        assert held.histories[place].tolist() == histories[user][:-1].tolist()


def test_given_targets_judge_the_training_and_nothing_is_held_out() -> None:
    walk = walks()
    targets = Targets(np.arange(60), walk, np.array([walk[user][-1] % ITEMS + 1 for user in range(60)], dtype=np.int32))
    tokenizer = made().fit(vectors(), views=VIEWS, sequences=walk, valid=targets)
    own = made().fit(vectors(), views=VIEWS, sequences=walk)
    assert tokenizer.history_[-1]["metrics"]["recall@10"] != own.history_[-1]["metrics"]["recall@10"]
    assert (tokenizer.encode(vectors()) != own.encode(vectors())).any()
    unheld = Histories(walk.items, walk.starts, walk.ends - 1)
    expected = made().fit(
        vectors(), views=VIEWS, sequences=walk, valid=Targets(np.arange(60), unheld, walk.items[walk.ends - 1])
    )
    assert (tokenizer.encode(vectors()) == expected.encode(vectors())).all()  # the targets do not train
