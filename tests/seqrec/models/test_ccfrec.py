"""CCFRec against its specification: masking rates, what the fusion sees, which terms count, cached scores, stages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbase.data.sequences import Histories, SequenceBatches
from seqrec.models.ccfrec import CCFRec

ITEMS, VIEWS, LEVELS, SIZE = 40, 3, 6, 8


def content(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, SIZE, (ITEMS, LEVELS)), rng.standard_normal((ITEMS, VIEWS, 16)).astype(np.float32)


def build(**changes):
    torch.manual_seed(0)
    arguments = {"dim": 16, "ffn": 32, "dropout": 0.0, "fusion_dropout": 0.0, "max_len": 6} | changes
    return CCFRec(ITEMS, [SIZE] * LEVELS, VIEWS, 16, **arguments).with_content(*content())


def histories(users=50):
    rng = np.random.default_rng(3)
    return Histories.from_lists([rng.integers(1, ITEMS + 1, rng.integers(3, 8)).tolist() for _ in range(users)])


def first_batch(form="all", size=50, **changes):
    return next(iter(SequenceBatches(histories(), form, batch_size=size, max_len=6, seed=1, **changes)))[0]


def padded(lists):
    items, lengths = Histories.from_lists(lists).padded(slice(None), 6)
    return torch.from_numpy(items), torch.from_numpy(lengths)


def test_masking_rates_are_50_80_10_10():
    model = build()
    positions = torch.arange(3000)
    keys, selected = model._keys(positions, 6), model._selected(7, positions, 6)
    assert abs(float(selected.float().mean()) - 0.5) < 0.01
    codes = torch.full(keys.shape, 5)
    masked = model._mask(codes, selected, 7, keys)
    assert torch.equal(masked[~selected], codes[~selected])
    fate = masked[selected]
    assert abs(float((fate == 0).float().mean()) - 0.8) < 0.01
    unchanged = float((fate == 5).float().mean())
    assert abs(unchanged - 0.1 - 0.1 / (LEVELS * SIZE)) < 0.01
    assert fate.max() <= LEVELS * SIZE
    random = fate[(fate != 0) & (fate != 5)]
    assert len(random.unique()) == LEVELS * SIZE - 1  # from the codes of all positions


@pytest.mark.parametrize("seed", [0, 7, 3_141_592_653_589_793_238])
def test_what_becomes_of_a_code_depends_on_no_other_code(seed):
    """Selection, fate and replacement of each code against those of the codes after it, before and below it."""
    model = build()
    positions = torch.arange(4000)
    keys, selected = model._keys(positions, 6), model._selected(seed, positions, 6)
    codes = torch.full(keys.shape, 5)
    masked = model._mask(codes, selected, seed, keys)
    # 0: not selected, 1: hidden, 2: corrupted, 3: selected and left as it is
    fates = torch.where(masked == 0, 1, torch.where(masked != 5, 2, torch.where(selected, 3, 0)))
    corrupted = 0.5 * 0.1 * (1 - 1 / (LEVELS * SIZE))
    rates = torch.tensor([0.5, 0.4, corrupted, 0.1 - corrupted]).double()
    for ahead in (1, 2, LEVELS, 6 * LEVELS):  # next code, the one after, next step, next row
        before, after = fates.flatten()[:-ahead], fates.flatten()[ahead:]
        seen = torch.bincount(before * 4 + after, minlength=16).double().view(4, 4)
        expected = rates[:, None] * rates * len(before)
        assert float(((seen - expected) ** 2 / expected).sum()) < 45  # 15 degrees of freedom: p = 1e-4
        changed = after[before == 0] == 2
        assert abs(float(changed.double().mean()) - corrupted) < 0.005


def test_fusion_does_not_depend_on_the_order_of_views():
    model = build().eval()
    items = torch.arange(1, 9)
    codes, text = model.codes[items], model.text[items]
    with torch.no_grad():
        hidden, _ = model.fuse(codes, text)
        shuffled, _ = model.fuse(codes, text[:, [2, 0, 1]])
    torch.testing.assert_close(hidden, shuffled, rtol=1e-5, atol=1e-5)
    changed, _ = model.fuse(codes, text + 1)
    assert not torch.allclose(hidden, changed, atol=1e-3)


def test_masked_code_loss_by_hand():
    """Cosine softmax over all codes, mean over the masked ones of the step."""
    model, batch = build(mask_share=1.0, msa_weight=0.0), first_batch()
    parts = model(batch).parts
    total, count = 0.0, 0
    model.requires_grad_(False)
    table = F.normalize(model.code_embedding.weight[1:], dim=1)
    for row in range(len(batch.items)):
        length = int(batch.lengths[row])
        place = batch.positions[row : row + 1]
        selected = model._selected(batch.seed, place, length)[0]
        codes = model.codes[batch.items[row, :length]]
        masked = model._mask(codes, selected, batch.seed, model._keys(place, length)[0])
        hidden, _ = model.fuse(masked, model.text[batch.items[row, :length]])
        logits = F.normalize(hidden[selected], dim=1) @ table.T / 0.07
        total += float(F.cross_entropy(logits, codes[selected] - 1, reduction="sum"))
        count += int(selected.sum())
    assert float(parts["mcm"]) == pytest.approx(total / count, rel=1e-4)


def test_alignment_loss_by_hand():
    model, batch = build(mask_share=1.0, mcm_weight=0.0), first_batch(size=12)
    model.eval()
    parts = model(batch).parts
    clean, masked = [], []
    for row in range(len(batch.items)):
        length = int(batch.lengths[row])
        items, lengths = batch.items[row : row + 1, :length], batch.lengths[row : row + 1]
        from recbase.nn.transformer import Packing

        packing = Packing.of(lengths, length)
        inputs, _ = model.item_representations(items[0])
        clean.append(model.backbone(inputs, packing)[-1])
        place = batch.positions[row : row + 1]
        codes = model._mask(
            model.codes[items[0]],
            model._selected(batch.seed, place, length)[0],
            batch.seed,
            model._keys(place, length)[0],
        )
        hidden, _ = model.fuse(codes, model.text[items[0]])
        masked.append(model.backbone(hidden.mean(1), packing)[-1])
    a, b = F.normalize(torch.stack(masked), dim=1), F.normalize(torch.stack(clean), dim=1)
    own = torch.arange(len(a))
    expected = (F.cross_entropy(a @ b.T / 0.07, own) + F.cross_entropy(b @ a.T / 0.07, own)) / 2
    assert float(parts["msa"]) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_next_item_loss_by_hand_full_softmax():
    model, batch = build(mcm_weight=0.0, msa_weight=0.0), first_batch("prefix")
    inputs, candidates = model.item_representations(torch.arange(1, ITEMS + 1))
    from recbase.nn.transformer import Packing

    packing = Packing.of(batch.lengths, batch.items.shape[1])
    states = model.backbone(inputs[packing.pack(batch.items) - 1], packing)[packing.last]
    targets = batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0]
    logits = F.normalize(states, dim=1) @ F.normalize(candidates, dim=1).T / 0.07
    assert float(model(batch).loss.detach()) == pytest.approx(
        float(F.cross_entropy(logits, targets - 1).detach()), rel=1e-4
    )


@pytest.mark.parametrize("in_batch", [True, False])
def test_sampled_negatives_never_hold_a_target(in_batch):
    model, batch = build(negatives=10, in_batch_negatives=in_batch), first_batch("prefix", size=8)
    negatives, distinct = model._candidates(batch, batch.items[batch.valid])
    assert len(negatives) == 10 == len(negatives.unique())
    assert not bool(torch.isin(negatives, batch.step_targets).any())
    assert bool(torch.isin(torch.cat([negatives, batch.step_targets]), distinct).all())
    out = model(batch)
    out.loss.backward()
    assert torch.isfinite(out.loss)


def test_asking_for_more_negatives_than_there_are_takes_all_that_are_no_target():
    model, batch = build(negatives=25_000), first_batch("prefix", size=8)
    negatives, _ = model._candidates(batch, batch.items[batch.valid])
    assert len(negatives) == ITEMS - len(batch.step_targets)


@pytest.mark.parametrize("residual", [False, True])
def test_tabulated_scores_equal_live_ones(residual):
    model = build(residual_in_sequence=residual)
    items, lengths = padded([[1, 2, 3], [7], [9, 4, 11, 30, 2]])
    live = model.live_scores(items, lengths)
    torch.testing.assert_close(model.scorer()(items, lengths), live, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.tabulated().scorer()(items, lengths), live, rtol=0, atol=1e-5)


def test_item_id_stage_starts_at_the_base_and_trains_only_the_ids():
    base = build()
    staged = base.tabulated(item_ids=True)
    items, lengths = padded([[1, 2, 3], [7, 8]])
    torch.testing.assert_close(staged.scorer()(items, lengths), base.scorer()(items, lengths), rtol=0, atol=1e-6)
    before = {name: value.clone() for name, value in staged.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in staged.parameters() if p.requires_grad], 1e-2)
    staged.train()
    losses = []
    for _ in range(15):
        out = staged(first_batch())
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]
    changed = {name for name, value in staged.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"id_embedding.weight"}
    assert not staged.id_embedding.weight[0].any()


def test_without_masked_terms_there_is_no_masked_pass():
    parts = build(mcm_weight=0.0, msa_weight=0.0)(first_batch()).parts
    assert set(parts) == {"ce"}


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "codes"},
        {"fusion": False},
        {"mcm_vocabulary": "own"},
        {"mask_vectors": "position"},
        {"mcm_weight": 0.0},
        {"msa_weight": 0.0},
        {"mask_equal_targets": True},
        {"residual_in_sequence": True},
    ],
)
def test_every_variant_trains(changes):
    model = build(**changes)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        out = model(first_batch())
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]


def test_without_text_the_text_does_not_matter():
    model = build(text="codes").eval()
    before = model.item_vectors()
    model.text.normal_()
    assert torch.equal(model.item_vectors(), before)


def test_memory_saving_changes_nothing(monkeypatch):
    import seqrec.models.ccfrec as module

    losses = []
    for limit in (10_000, 1):
        monkeypatch.setattr(module, "_KEEP_ACTIVATIONS", limit)
        model = build()
        out = model(first_batch())
        out.loss.backward()
        losses.append((float(out.loss.detach()), model.code_embedding.weight.grad.clone()))
    assert losses[0][0] == losses[1][0]
    torch.testing.assert_close(losses[0][1], losses[1][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 0.0}, r"--mask-ratio must lie in \(0, 1\], got 0.0"),
        ({"mcm_weight": -0.1}, "--mcm-weight must be at least 0, got -0.1"),
        ({"temperature": 0.0}, "--temperature must be above 0, got 0.0"),
        ({"negatives": -5}, r"--negatives must be at least -1, got -5"),
        ({"text": "images"}, "--text must be one of views, codes, got 'images'"),
        ({"fusion_layers": 0}, "--fusion-layers must be at least 1, got 0"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_refuses_content_of_another_catalogue():
    codes, text = content()
    with pytest.raises(ValueError, match=r"codes has shape \(39, 6\) but the model expects \(40, 6\)"):
        build().with_content(codes[1:], text)
    with pytest.raises(ValueError, match="codes must lie below the level sizes"):
        build().with_content(codes + SIZE, text)
    text[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match="text holds NaN or infinite values"):
        build().with_content(codes, text)


def test_corrected_samples_estimate_the_softmax_over_all_items():
    """The mean over many draws of the partition function is that of all items; with all of them sampled it is equal."""
    plain = {"mcm_weight": 0.0, "msa_weight": 0.0, "temperature": 1.0}
    whole = build(negatives=0, **plain)
    batch = first_batch(size=4)
    exact = float(whole(batch).loss.detach())
    every = build(negatives=ITEMS, correct_sampling=True, **plain)
    assert float(every(batch).loss.detach()) == pytest.approx(exact, abs=1e-5)

    def estimate(correct):
        model = build(negatives=8, correct_sampling=correct, **plain)
        with torch.no_grad():
            losses = [float(model(replace(batch, seed=seed)).loss) for seed in range(300)]
        return float(np.mean(losses))

    assert estimate(True) == pytest.approx(exact, rel=0.02)  # the log of an unbiased estimate lies a little lower
    assert estimate(False) < 0.9 * exact
