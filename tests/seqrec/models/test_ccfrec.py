"""CCFRec against its specification: masking rates, what the fusion sees, which terms count, cached scores, stages."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from small_encoders import tiny_bert

import seqrec
from recbase.data.catalog import Dataset
from recbase.data.sequences import Histories, SequenceBatches
from recbase.recipes import filled
from recbase.store.runs import open_run
from seqrec.item_content import Content
from seqrec.models.ccfrec import RECIPES, CCFRec
from seqrec.training import ItemIdStage

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


# ---- what the ids are added to, and "w/o CA"


def by_hand(model, items):
    """Fused vectors and the mean of the codes of some items, [M, D] each."""
    with torch.no_grad():
        hidden, codes = model.fuse(model.codes[items], model.text[items])
    return hidden.mean(1), codes


@pytest.mark.parametrize("form", ["none", "inputs", "shared", "two"])
def test_ids_of_the_main_stage_are_added_where_they_say(form):
    model, items = build(item_ids=form).eval(), torch.tensor([3, 1, 9])
    fused, codes = by_hand(model, items)
    with torch.no_grad():
        found_inputs, found_candidates = model.item_representations(items)
        ids = torch.zeros(3, 16) if form == "none" else model.input_ids.weight[items]
        other = {"shared": ids, "two": model.candidate_ids.weight[items] if form == "two" else None}
        torch.testing.assert_close(found_inputs, fused + ids)
        torch.testing.assert_close(found_candidates, fused + codes + other.get(form, torch.zeros(3, 16)))
    assert form == "none" or ids.any()


@pytest.mark.parametrize("form", ["inputs", "shared", "two-tables"])
def test_ids_of_the_stage_are_added_where_they_say(form):
    """Tables set by hand: inputs take the one, candidates none, the same or the other."""
    base = build().eval()
    everything = torch.arange(1, ITEMS + 1)
    fused, codes = by_hand(base, everything)
    staged = base.tabulated(**ItemIdStage(id_form=form).arguments())
    tables = {name for name, value in staged.named_parameters() if value.requires_grad}
    assert tables == {"id_embedding.weight"} | ({"candidate_ids.weight"} if form == "two-tables" else set())
    ones, twos = torch.ones(ITEMS, 16), torch.arange(ITEMS * 16).view(ITEMS, 16) / 100
    with torch.no_grad():
        staged.id_embedding.weight[1:] = ones
        if form == "two-tables":
            staged.candidate_ids.weight[1:] = twos
    inputs, candidates = staged._tables()
    torch.testing.assert_close(inputs[1:], fused + ones)
    assert not inputs[0].any()
    added = {"inputs": torch.zeros(ITEMS, 16), "shared": ones, "two-tables": twos}[form]
    torch.testing.assert_close(candidates, F.normalize(fused + codes + added, dim=1))


@pytest.mark.parametrize(
    "settings", [{"negatives": 8, "in_batch_negatives": False}, {"negatives": 8, "correct_sampling": True}]
)
def test_the_stage_has_the_loss_and_the_negatives_of_its_base(settings):
    """At the start ids are nothing, so the stage's loss is the base's L_CE of the same step."""
    base, batch = build(mcm_weight=0.0, msa_weight=0.0, **settings), first_batch(size=8)
    own = base.tabulated(**ItemIdStage(id_loss="base").arguments())
    everything = base.tabulated(**ItemIdStage().arguments())
    assert float(own(batch).loss.detach()) == pytest.approx(float(base(batch).loss.detach()), rel=1e-5)
    whole = build(mcm_weight=0.0, msa_weight=0.0, negatives=0)
    assert float(everything(batch).loss.detach()) == pytest.approx(float(whole(batch).loss.detach()), rel=1e-5)
    assert float(own(batch).loss.detach()) != pytest.approx(float(everything(batch).loss.detach()), rel=1e-3)


def test_without_cross_attention_an_item_is_the_mean_of_its_texts_and_codes():
    model = build(**{key: RECIPES["no-cross-attention"][key] for key in ("fusion", "residual_in_candidates")}).eval()
    items = torch.tensor([5, 2])
    with torch.no_grad():
        vectors = [
            torch.stack([*model.code_embedding.weight[model.codes[item]], *model.text[item]]).mean(0) for item in items
        ]
        inputs, candidates = model.item_representations(items)
    torch.testing.assert_close(inputs, torch.stack(vectors))
    torch.testing.assert_close(candidates, torch.stack(vectors))
    assert model.mcm_weight == 0
    assert model.msa_weight > 0


# ---- recipes of the paper


SETTINGS = {  # learning rate, negatives, alpha, beta, dropouts of backbone and fusion, as released for each data set
    "paper": (5e-4, 25_000, 0.2, 0.4, 0.4, 0.1),
    "paper-scientific": (5e-4, 25_000, 0.2, 0.4, 0.4, 0.1),
    "paper-instrument": (1e-3, 24_000, 0.6, 0.4, 0.3, 0.3),
    "paper-game": (1e-3, 25_000, 0.3, 0.5, 0.2, 0.1),
    "paper-baby": (5e-4, 25_000, 0.3, 0.5, 0.2, 0.2),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set of two text views, and a tiny encoder of text."""
    rng = np.random.default_rng(5)
    rows = [(user, int(item), step) for user in range(40) for step, item in enumerate(rng.permutation(30)[:6])]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(30)}).with_columns(
        title=pl.format("item number {}", "item_id"), brand=pl.format("number {}", pl.col("item_id") // 4)
    )
    encoder = tiny_bert(tmp_path_factory.mktemp("encoder"))
    return Dataset.from_frames(frame, items, quiet=True), encoder, tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("recipe", SETTINGS)
def test_recipes_of_the_paper_train_a_step_with_an_encoder_that_is_here(recipe, world, tmp_path):
    data, encoder, cache = world
    given = {"encoder": str(encoder), "pca": 16, "dim": 16, "ffn": 32, "codebook_size": 8}
    run = seqrec.train("ccfrec", data, recipe=recipe, epochs=1, quiet=True, out=tmp_path / "run", cache=cache, **given)
    manifest = open_run(tmp_path / "run").manifest
    made, arguments = manifest["content"], manifest["arguments"]
    assert run.metrics["steps"] >= 1
    assert (made["encoder"], made["code_method"], made["code_levels"], made["whiten"]) == (str(encoder), "pq", 4, True)
    assert arguments["sizes"] == [8] * 2 * 4
    names = ("negatives", "mcm_weight", "msa_weight", "dropout", "fusion_dropout", "fusion_attention_dropout")
    settings = SETTINGS[recipe]
    assert (manifest["training"]["lr"], *(arguments[name] for name in names)) == (*settings, settings[-1])
    assert manifest["changed"].keys() == {"encoder", "pca", "epochs"}
    assert (arguments["temperature"], arguments["mask_ratio"], arguments["max_len"]) == (0.07, 0.5, 20)


@pytest.mark.parametrize("recipe", SETTINGS)
def test_recipes_of_the_paper_name_its_encoder_and_a_user_names_others(recipe):
    values = RECIPES[recipe]
    assert filled(Content(), values).encoder == "sentence-transformers/sentence-t5-base"
    assert filled(Content(encoder="minilm"), values).encoder == "minilm"
    assert filled(ItemIdStage(), values) == ItemIdStage("inputs", "base")
    assert Content().encoder == "tfidf"
    assert ItemIdStage() == filled(ItemIdStage(), RECIPES["ids"]) == ItemIdStage("shared", "all")


def test_an_encoder_that_cannot_be_had_is_one_sentence(world, tmp_path, monkeypatch):
    from transformers import AutoConfig

    def unreachable(**settings):
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    data = world[0]
    expected = (
        "^encoder 'sentence-transformers/sentence-t5-base' cannot be loaded: We couldn't connect to the hub; "
        "--encoder takes another one, --embeddings vectors that are ready$"
    )
    with pytest.raises(OSError, match=expected):
        seqrec.train("ccfrec", data, recipe="paper", quiet=True, out=tmp_path / "run", cache=tmp_path / "cache")
