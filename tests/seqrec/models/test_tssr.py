"""TSSR: masks, gate, contrasts, item tables, fine-tuned encoders, and what its report measures."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from small_encoders import tiny_bert, tiny_vision
from small_models import ITEMS, WALKED, batches, build, content, cycle, scores, train

from recbase.data.sequences import Histories, SequenceBatch
from recbase.nn.transformer import Packing
from recbase.store.runs import load_run, save_run
from seqrec import MODELS
from seqrec.analysis.alignment import alignment, alignment_uniformity, draw_streams, uniformity
from seqrec.models.tssr import TSSR, TwoStreams, item_contrast, pooled, user_contrast

SIZE = {"dim": 16, "ffn": 32, "uni_layers": 1, "dropout": 0.0, "max_len": 8}
WALKS = [[(start + step) % WALKED + 1 for step in range(6)] for start in range(WALKED)]
FOLLOWING = [row[-1] % WALKED + 1 for row in WALKS]


def awake(module):
    """Residual scalars far from their start at 1e-8, so that attention matters, and random biases."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.rpartition(".")[2] in ("a1", "a2"):
                parameter.fill_(1.0)
            elif "gate" in name or "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def streams(**changes):
    torch.manual_seed(0)
    settings = {"uni_layers": 2, "cross_layers": 2, "dim": 8, "heads": 2, "ffn": 16}
    return awake(TwoStreams(**(settings | changes), dropout=0.0, attention_dropout=0.0))


def packed(lengths):
    lengths = torch.tensor(lengths)
    return Packing.of(lengths, int(lengths.max()))


def step_of(lists, others=()):
    """A batch that is the whole step, or shares it with others of the given lengths; it has no targets."""
    items, lengths = (torch.from_numpy(part) for part in Histories.from_lists(lists).padded(slice(None), 8))
    rows = len(lists)
    return SequenceBatch(
        items=items, lengths=lengths, targets=torch.zeros_like(items), positions=torch.arange(rows), target_count=1,
        row_count=rows + len(others), seed=0, users=torch.arange(rows),
        step_lengths=torch.cat([lengths, torch.tensor(others, dtype=torch.int64)]), step_targets=torch.zeros(0),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("changed", ["ids", "content"])
def test_crossed_streams_never_see_what_comes_later(changed):
    module, packing = streams(), packed([5, 3])
    given = dict(zip(("ids", "content"), torch.randn(2, 8, 8).unbind(), strict=True))
    later = packing.steps >= 2
    other = {name: value.clone() for name, value in given.items()}
    other[changed][later] += 5
    found = []
    for inputs in (given, other):
        uni = module.unimodal(inputs["ids"], inputs["content"], packing)
        crossed = module.crossed(*uni, packing)
        found.append((*crossed, module.merged(*crossed)))
    for before, after in zip(*found, strict=True):
        assert torch.equal(before[~later], after[~later])
        assert not torch.equal(before[later], after[later])


def test_a_stream_reads_the_others_unimodal_output_at_every_layer():
    module, packing = streams(cross_layers=2), packed([4])
    ids, content = torch.randn(2, 4, 8).unbind()
    first, second = module.id_cross
    crossed_ids, crossed_content = module.crossed(ids, content, packing)
    torch.testing.assert_close(crossed_ids, second(first(ids, content, packing), content, packing))
    assert not torch.allclose(crossed_ids, second(first(ids, content, packing), crossed_content, packing), atol=1e-3)


def test_swapping_streams_and_weights_swaps_outputs():
    module, packing = streams(), packed([5, 3])
    twin = streams()
    weights = module.state_dict()

    def mirrored(name):
        kind, _, rest = name.partition("_")
        return {"id": "content", "content": "id"}.get(kind, kind) + (f"_{rest}" if rest else "")

    swapped = {mirrored(name): value for name, value in weights.items()}
    halves = weights["gate.weight"].chunk(2, 1)
    # 1 - sigmoid(x) = sigmoid(-x): the mirrored gate has its halves exchanged and its sign turned
    swapped |= {"gate.weight": -torch.cat([halves[1], halves[0]], 1), "gate.bias": -weights["gate.bias"]}
    twin.load_state_dict(swapped)
    ids, content = torch.randn(2, 8, 8).unbind()
    ours, theirs = module.unimodal(ids, content, packing), twin.unimodal(content, ids, packing)
    torch.testing.assert_close(ours, theirs[::-1])
    ours, theirs = module.crossed(*ours, packing), twin.crossed(*theirs, packing)
    torch.testing.assert_close(ours, theirs[::-1])
    assert not torch.allclose(ours[0], ours[1], atol=1e-2)
    torch.testing.assert_close(module.merged(*ours), twin.merged(*theirs))


def test_gate_lies_between_0_and_1_and_weighs_element_by_element():
    module = streams()
    ids, content = torch.randn(2, 8, 8).unbind()
    share = module.share(ids, content)
    assert share.shape == (8, 8)
    assert bool(((share > 0) & (share < 1)).all())
    assert float(share.detach().std()) > 0.01
    merged = module.merged(ids, content)
    low, high = torch.minimum(ids, content), torch.maximum(ids, content)
    assert bool(((merged >= low - 1e-6) & (merged <= high + 1e-6)).all())


def test_residual_scalars_start_at_1e_8_one_a_sub_layer():
    scalars = [p for name, p in build("tssr").named_parameters() if name.endswith((".a1", ".a2"))]
    assert len(scalars) == 2 * (1 + 1 + 1 + 1)
    assert all(float(scalar.detach()) == pytest.approx(1e-8) for scalar in scalars)


def test_start_is_that_of_the_released_code():
    model = build("tssr")
    bound = (1 / (ITEMS + 1)) ** 0.5
    weights = model.item_embedding.weight[1:]
    assert 0.9 * bound < float(weights.abs().max().detach()) <= bound
    assert bool((model.item_embedding.weight[0] == 0).all())
    assert bool((model.output.bias == 0.1).all())


# ---------------------------------------------------------------------------------------------- contrasts


def test_pooling_counts_real_items_only():
    packing, states = packed([3, 1]), torch.arange(8.0).reshape(4, 2)
    torch.testing.assert_close(pooled(states, packing), torch.tensor([[2.0, 3.0], [6.0, 7.0]]))


def test_pads_do_not_change_the_vector_of_a_user():
    model = awake(build("tssr"))
    items, lengths = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]]), torch.tensor([3, 6])
    together = [pair[:1] for pair in model.user_pairs(items, lengths)]
    alone = model.user_pairs(items[:1, :3], lengths[:1])
    for padded, short in zip(together, alone, strict=True):
        torch.testing.assert_close(padded, short)


def test_contrast_of_equal_streams_is_the_log_softmax_of_their_similarities():
    vectors = torch.randn(5, 8)
    unit = F.normalize(vectors, dim=1)
    expected = -2 * (unit @ unit.T / 0.3).log_softmax(1).diagonal().mean()
    torch.testing.assert_close(user_contrast(vectors, vectors, 5, 0.3), expected)


def test_equal_histories_are_no_negatives_if_asked_for():
    ids, content_ = torch.randn(2, 3, 8).unbind()
    histories = torch.tensor([[4, 2, 0], [4, 2, 0], [2, 4, 0]])
    cosines = F.normalize(ids, dim=1) @ F.normalize(content_, dim=1).T / 0.5
    hidden = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    masked = cosines.masked_fill(hidden, -torch.inf)
    expected = F.cross_entropy(masked, torch.arange(3)) + F.cross_entropy(masked.T, torch.arange(3))
    torch.testing.assert_close(user_contrast(ids, content_, 3, 0.5, histories), expected)
    assert float(user_contrast(ids, content_, 3, 0.5)) > float(expected)


def test_item_contrast_by_hand():
    """Negatives are the other users' items of the same step; twins of the positive and finished users are left out."""
    lists = [[1, 2, 3, 9], [4, 2, 5], [6, 7], [8]]
    batch = step_of(lists)
    packing = Packing.of(batch.lengths, batch.items.shape[1])
    torch.manual_seed(0)
    states, table = torch.randn(len(packing.index), 4), torch.randn(10, 4)
    numbers = packing.pack(batch.items)
    rows = torch.arange(len(lists)).repeat_interleave(packing.lengths).tolist()
    place = {found: at for at, found in enumerate(zip(rows, packing.steps.tolist(), strict=True))}
    losses = []
    for row, own in enumerate(lists):
        for step in range(len(own) - 1):
            right = own[step + 1]
            others = [other[step + 1] for other in lists if len(other) > step + 1 and other[step + 1] != right]
            logits = table[[right, *others]] @ states[place[row, step]] / 0.7
            losses.append(-logits.log_softmax(0)[0])
    assert len(losses) == 6
    found = item_contrast(states, table[numbers], batch, packing, 0.7, 8)
    torch.testing.assert_close(found, torch.stack(losses).mean())
    half = item_contrast(states, table[numbers], step_of(lists, others=(1, 5, 3)), packing, 0.7, 8)
    torch.testing.assert_close(half, found / 2)


def test_item_contrast_of_single_items_is_zero_and_has_a_gradient():
    batch = step_of([[1], [2]])
    packing = Packing.of(batch.lengths, 1)
    states = torch.randn(2, 4, requires_grad=True)
    loss = item_contrast(states, torch.randn(2, 4), batch, packing, 1.0, 8)
    loss.backward()
    assert float(loss.detach()) == 0
    assert bool((states.grad == 0).all())


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ({}, {"ce", "users", "items"}),
        ({"user_weight": 0.0}, {"ce", "items"}),
        ({"item_weight": 0.0}, {"ce", "users"}),
        ({"user_weight": 0.0, "item_weight": 0.0}, {"ce"}),
    ],
)
def test_ablations_leave_terms_out(weights, parts):
    model = build("tssr", **weights)
    output = model(next(iter(batches(model, "all")))[0])
    assert set(output.parts) == parts
    torch.testing.assert_close(output.loss.detach(), sum(output.parts.values()))


def test_weights_and_temperatures_enter_the_loss():
    base = build("tssr")
    batch = next(iter(batches(base, "all")))[0]
    parts = base(batch).parts
    weighted = build("tssr", user_weight=0.5, item_weight=3.0)(batch)
    expected = parts["ce"] + 0.5 * parts["users"] + 3 * parts["items"]
    torch.testing.assert_close(weighted.loss.detach(), expected)
    assert float(build("tssr", user_temperature=1.0)(batch).parts["users"]) != pytest.approx(float(parts["users"]))
    assert float(build("tssr", item_temperature=0.1)(batch).parts["items"]) != pytest.approx(float(parts["items"]))


# ---------------------------------------------------------------------------------------------- tables and content


def test_item_tables():
    batch_of = {}
    for kind in ("untied", "tied-id", "id-plus-content"):
        model = build("tssr", item_table=kind).eval()
        state = model.user_vectors(torch.tensor([[3, 4, 5]]), torch.tensor([3]))
        found = model.scorer()(torch.tensor([[3, 4, 5]]), torch.tensor([3]))
        ids, made = model.item_pairs()
        if kind == "untied":
            assert state.shape == (1, 33)
            expected = model.output(state[:, :-1])
        else:
            expected = state @ (ids if kind == "tied-id" else ids + made).T
        torch.testing.assert_close(found, expected.detach())
        batch_of[kind] = found
    assert not torch.allclose(batch_of["tied-id"], batch_of["id-plus-content"])


@pytest.mark.parametrize("kind", ["tied-id", "id-plus-content"])
def test_learns_the_cycle_with_other_item_tables(kind):
    model = build("tssr", item_table=kind)
    train(model, epochs=15, lr=6e-3)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING


def test_one_position_table_if_asked_for():
    assert len(build("tssr").positions) == 2
    assert len(build("tssr", shared_positions=True).positions) == 1


@pytest.mark.parametrize("kind", ["text", "images", "codes"])
def test_content_is_read_from_what_is_named(kind):
    given = content("tssr").given()
    model = build("tssr", content=kind).eval()
    assert model.reads({"content": kind}) == ("ids", kind)
    _, made = model.item_pairs()
    layer = model.content
    if kind == "codes":
        offsets = torch.arange(4) * 6 + 1
        expected = layer.code_embedding.weight[torch.from_numpy(given["codes"]).long() + offsets].sum(1)
    else:
        expected = layer.project(torch.from_numpy(given[kind]))
    if kind == "images":
        missing = torch.from_numpy(given["missing_images"])
        assert bool(missing.any())
        with torch.no_grad():
            layer.absent.fill_(0.5)
        _, made = model.item_pairs()
        assert bool((made[missing] == 0.5).all())
        expected, made = expected[~missing], made[~missing]
    torch.testing.assert_close(made, expected.detach())
    torch.testing.assert_close(layer(torch.tensor([1, 2, 25])), layer.table()[[0, 1, 24]])


def test_missing_content_is_refused():
    with pytest.raises(ValueError, match="--content images needs items with pictures, and these items have none"):
        TSSR(5, text_dim=4, content="images")
    with pytest.raises(ValueError, match=r"text has shape \[5, 3\] but the model expects \[5, 4\]"):
        TSSR(5, text_dim=4).with_content(text=np.zeros((5, 3)))
    with pytest.raises(ValueError, match="content has no codes; it has text"):
        TSSR(5, sizes=[3, 3], content="codes").with_content(text=np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"codes must lie below the sizes \[3, 3\], got up to \[1, 7\]"):
        TSSR(1, sizes=[3, 3], content="codes").with_content(codes=np.array([[1, 7]]))
    with pytest.raises(ValueError, match="--item-table id-plus-content would encode all items at every step"):
        TSSR(5, content="sentences", item_table="id-plus-content")


# ---------------------------------------------------------------------------------------------- fine-tuned encoders


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    return folder, tiny_vision(folder, ITEMS)


def with_text(bert, **changes):
    torch.manual_seed(0)
    model = TSSR(ITEMS, content="sentences", backbone=str(bert), max_tokens=8, **(SIZE | changes))
    return model.with_content(sentences=[f"item number {number}" for number in range(ITEMS)])


def after_a_step(model, lr=1e-2):
    """Names of the parameters that one step of training changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    model.train()
    for batch in next(iter(batches(model, "all"))):
        model(batch).loss.backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


@pytest.mark.parametrize(
    ("tune", "trained", "frozen"),
    [
        ("all", {"content.backbone.encoder.layer.0.output.dense.weight", "content.project.weight"}, set()),
        ("adapters", {"content.adapters.0.up.weight", "content.project.weight"}, {"content.backbone"}),
        ("projection", {"content.project.weight"}, {"content.backbone"}),
    ],
)
def test_what_is_tuned_of_a_text_encoder(bert, tune, trained, frozen):
    changed = after_a_step(with_text(bert, tune=tune))
    assert trained <= changed
    assert not [name for name in changed if name.startswith(tuple(frozen))]


def test_adapters_start_as_the_identity(bert):
    plain, adapted = with_text(bert, tune="projection"), with_text(bert, tune="adapters")
    for model in (plain, adapted):
        with torch.no_grad():
            model.content.project.weight.copy_(torch.eye(16))
            model.content.project.bias.zero_()
    torch.testing.assert_close(plain.item_pairs()[1], adapted.item_pairs()[1])
    with torch.no_grad():
        adapted.content.adapters[0].up.bias.fill_(1.0)
    adapted.train()
    assert not torch.allclose(plain.item_pairs()[1], adapted.item_pairs()[1], atol=1e-3)


def test_text_vectors_are_those_of_transformers(bert):
    from transformers import AutoModel, AutoTokenizer

    texts = [f"item number {number}" for number in range(ITEMS - 1)] + ["item " * 3]
    model = with_text(bert).with_content(sentences=texts)
    tokens = AutoTokenizer.from_pretrained(bert)(texts, padding=True, return_tensors="pt")
    reference = AutoModel.from_pretrained(bert).eval()
    with torch.no_grad():
        output = reference(**tokens)
        expected = model.content.project(output.pooler_output)
        torch.testing.assert_close(model.item_pairs()[1], expected, rtol=1e-5, atol=1e-5)
        mean = with_text(bert, pooling="mean").with_content(sentences=texts)
        mask = tokens["attention_mask"][..., None]
        expected = mean.content.project((output.last_hidden_state * mask).sum(1) / mask.sum(1))
        torch.testing.assert_close(mean.item_pairs()[1], expected, rtol=1e-5, atol=1e-5)


def test_chunks_and_recomputation_change_nothing(bert):
    losses, gradients = [], []
    for chunk in (3, 64):
        model = with_text(bert, encoder_chunk=chunk)
        model.train()
        loss = model(next(iter(batches(model, "all")))[0]).loss
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(model.content.backbone.embeddings.word_embeddings.weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_opening_a_fine_tuned_run_reads_its_folder_alone(bert, tmp_path, monkeypatch):
    import socket

    with_text(bert).save_pretrained(tmp_path / "run")
    manifest = json.loads((tmp_path / "run/config.json").read_text())
    manifest["arguments"]["backbone"] = "someone/bert"
    saved = manifest["arguments"]["backbone_config"]
    # what would make transformers fetch code, kernels or weights
    saved |= {"auto_map": {"AutoModel": "someone/code--model.Model"}, "attn_implementation": "someone/kernels"}
    (tmp_path / "run/config.json").write_text(json.dumps(manifest))

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    again = TSSR.from_pretrained(tmp_path / "run")
    assert again.config()["backbone"] == "someone/bert"
    for config in (None, {}, {"model_type": 3}, "text"):
        manifest["arguments"]["backbone_config"] = config
        (tmp_path / "run/config.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=r"config.json: 'arguments.backbone_config' is .*, expected"):
            TSSR.from_pretrained(tmp_path / "run")


def test_a_backbone_of_pickled_weights_is_refused_with_how_it_is_converted(bert, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(bert, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(
        OSError, match=r"--backbone .*pickled cannot be loaded: its weights are pickled .*save_pretrained"
    ):
        TSSR(ITEMS, content="sentences", backbone=str(folder), max_tokens=8, **SIZE)


def test_a_fine_tuned_model_learns_saves_and_loads_without_its_backbone(bert, tmp_path):
    model = with_text(bert)
    train(model, epochs=12, lr=6e-3)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING
    items = pl.DataFrame({"item_id": list(range(ITEMS))})
    save_run(tmp_path / "run", "tssr", model, items, {"recipe": "default"})
    manifest = json.loads((tmp_path / "run" / "config.json").read_text())
    manifest["arguments"]["backbone"] = "no/where"
    (tmp_path / "run" / "config.json").write_text(json.dumps(manifest))
    run = load_run(tmp_path / "run", MODELS)
    assert torch.equal(scores(run.model, WALKS), scores(model, WALKS))


def test_scores_follow_the_encoder_and_do_not_wait_for_it(bert):
    model = with_text(bert)
    live = model.eval().user_vectors(torch.tensor([[3, 4]]), torch.tensor([2]))
    model.scorer()
    calls = []
    model.content.backbone.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(model.user_vectors(torch.tensor([[3, 4]]), torch.tensor([2])), live)
    assert not calls
    before = scores(model, [[3, 4]])
    after_a_step(model, lr=0.5)
    assert not torch.allclose(scores(model, [[3, 4]]), before)
    assert calls


@pytest.mark.parametrize(
    ("kind", "tune"), [("vit", "all"), ("vit", "adapters"), ("resnet", "all"), ("resnet", "projection")]
)
def test_picture_encoders(vision, kind, tune, tmp_path):
    folder, pictures = vision
    torch.manual_seed(0)
    settings = {"content": "pictures", "backbone": str(folder / kind), "picture_size": 16, "tune": tune}
    model = TSSR(ITEMS, **settings, **SIZE).with_content(pictures=pictures)
    changed = after_a_step(model)
    assert "content.project.weight" in changed
    assert any(name.startswith("content.backbone") for name in changed) == (tune == "all")
    assert any(name.startswith("content.adapters") for name in changed) == (tune == "adapters")
    with torch.no_grad():
        model.content.absent.fill_(0.25)
    made = model.item_pairs()[1]
    assert bool((made[-1] == 0.25).all())
    assert float(made[:-1].std(0).min()) > 0
    model.save_pretrained(tmp_path / "model")
    again = TSSR.from_pretrained(tmp_path / "model")
    assert torch.equal(scores(again, WALKS), scores(model, WALKS))
    with pytest.raises(ValueError, match="the pictures are not there to train on"):
        again.train()(next(iter(batches(again, "all")))[0])


def test_encoders_refuse_what_they_cannot_do(vision, bert):
    folder, _ = vision
    with pytest.raises(
        ValueError, match=r"--tune adapters needs a Transformer, but .*resnet has no Transformer layers"
    ):
        TSSR(ITEMS, content="pictures", backbone=str(folder / "resnet"), tune="adapters", **SIZE)
    model = TSSR(ITEMS, content="pictures", backbone=str(folder / "vit"), picture_size=16, **SIZE)
    with pytest.raises(ValueError, match="--content pictures needs items with pictures, and these items have none"):
        model.with_content(pictures=[None] * ITEMS)
    with pytest.raises(ValueError, match=f"--content pictures needs pictures of {ITEMS} items, got none"):
        model.with_content(sentences=["a"] * ITEMS)
    with pytest.raises(ValueError, match=f"--content sentences needs sentences of {ITEMS} items, got 2"):
        with_text(bert).with_content(sentences=["a", "b"])


# ---------------------------------------------------------------------------------------------- what is measured


def test_alignment_and_uniformity_by_hand():
    corners = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert alignment(corners, corners) == 0
    assert alignment(corners, -corners) == pytest.approx(4.0)
    # squared distances 2, 4, 2
    expected = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
    assert uniformity(corners) == pytest.approx(expected)
    assert uniformity(torch.ones(4, 2)) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="uniformity needs at least 2 vectors, got 1"):
        uniformity(corners[:1])


def test_contrast_brings_the_streams_closer():
    reports = []
    for weight in (1.0, 0.0):
        model = build("tssr", user_weight=weight, item_weight=weight)
        train(model, epochs=8)
        reports.append(alignment_uniformity(model, cycle(40)))
    near, far = reports
    assert set(near) == {"items", "users"}
    for name in ("items", "users"):
        assert near[name]["alignment"] < far[name]["alignment"]
        assert near[name]["uniformity"] < 0
    ids, made = model.item_pairs()
    assert far["items"]["alignment"] == pytest.approx(alignment(ids, made))


def test_figure_of_the_streams(tmp_path):
    pytest.importorskip("matplotlib")
    models = {"with contrast": build("tssr"), "without": build("tssr", user_weight=0.0, item_weight=0.0)}
    draw_streams(models, tmp_path / "streams.png", items=20)
    assert (tmp_path / "streams.png").read_bytes()[:4] == b"\x89PNG"
