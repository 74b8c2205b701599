"""Models that read content beside or in place of ids: what is theirs alone, against plain formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import ITEMS, WALKED, batches, build, content, scores, train

from seqrec.models.fdsa import FDSA
from seqrec.models.sasrec_content import SASRecContent
from seqrec.models.unisrec import UniSRec
from seqrec.models.vqrec import VQRec

WALKS = [[(start + step) % WALKED + 1 for step in range(6)] for start in range(WALKED)]
FOLLOWING = [row[-1] % WALKED + 1 for row in WALKS]


# ---------------------------------------------------------------------------------------------- SASRec over content


@pytest.mark.parametrize("kind", ["text", "images", "codes"])
def test_content_alone_decides(kind):
    """Two items of equal content have equal scores and equal effect."""
    given = content("sasrec-content").given()
    for name in ("text", "images", "missing_images", "codes"):
        given[name] = np.array(given[name])
        given[name][7] = given[name][3]
    model = build("sasrec-content", content=kind).with_content(**given)
    found = scores(model, [[2, 4], [2, 8]])
    torch.testing.assert_close(found[:, 3], found[:, 7])
    torch.testing.assert_close(found[0], found[1])
    other = scores(model, [[2, 5]])
    assert not torch.equal(other[0], found[0])


def test_a_hybrid_tells_items_of_equal_content_apart():
    given = content("sasrec-hybrid").given()
    given["text"] = np.zeros_like(given["text"])
    found = scores(build("sasrec-hybrid").with_content(**given), [[2, 4], [2, 8]])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0, 3], found[0, 7])


def test_a_hybrid_joins_both_embeddings():
    layer = build("sasrec-hybrid").eval().item_embedding
    items = torch.tensor([3, 1, 25])
    both = torch.cat([layer.ids(items), layer.features.project(layer.features.vectors[items])], 1)
    torch.testing.assert_close(layer(items), both @ layer.join.weight.T + layer.join.bias)
    torch.testing.assert_close(layer(items), layer.table()[items - 1])


@pytest.mark.parametrize("name", ["sasrec-content", "sasrec-hybrid"])
def test_an_untied_table_learns_and_has_a_bias(name):
    model = build(name, item_table="untied")
    train(model)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING
    states = model.user_vectors(torch.tensor([[3, 4]]), torch.tensor([2]))
    torch.testing.assert_close(scores(model, [[3, 4]]), model.output(states[:, :-1]).detach())


def test_content_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="--content images needs items with pictures, and these items have none"):
        SASRecContent(5, text_dim=3, content="images")
    with pytest.raises(ValueError, match="--features attributes needs items with attributes or text"):
        FDSA(5, text_dim=3, features="attributes")
    with pytest.raises(ValueError, match=r"text has shape \[4, 3\] but the model expects \[5, 3\]"):
        UniSRec(5, 3).with_content(text=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"attributes must be int \[5, K\], got \[4, 1\]"):
        FDSA(5, attributes=3).with_content(attributes=np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"codes has shape \[5, 3\] but the model expects \[5, 2\]"):
        VQRec(5, [4, 4]).with_content(codes=np.zeros((5, 3), dtype=int))


# ---------------------------------------------------------------------------------------------- UniSRec and VQ-Rec


def test_mixture_of_experts_by_hand():
    model = build("unisrec", experts=3).eval()
    adaptor = model.item_embedding.adaptor
    with torch.no_grad():
        for parameter in adaptor.parameters():
            parameter.normal_(std=0.3)
    text, items = model.item_embedding.text[1:6], torch.arange(1, 6)
    gates = (text @ adaptor.gate).softmax(1)
    experts = [(text - shift) @ weight for shift, weight in zip(adaptor.shift, adaptor.weight, strict=True)]
    expected = sum(gates[:, [at]] * made for at, made in enumerate(experts))
    torch.testing.assert_close(adaptor(text, items), expected)


def test_noise_of_the_gate_is_normal_and_belongs_to_step_and_item():
    adaptor = build("unisrec").train().item_embedding.adaptor
    items = torch.arange(1, 4001)
    adaptor.seed = 11
    noise = adaptor._normal(items)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(adaptor._normal(items[5:9]), noise[5:9])
    adaptor.seed = 13
    assert not torch.equal(adaptor._normal(items), noise)
    table = build("unisrec").train().item_embedding
    torch.testing.assert_close(table(torch.tensor([4, 2])), table.table()[[3, 1]])


def test_ids_are_added_on_both_sides_if_asked_for():
    plain, model = build("unisrec").eval(), build("unisrec", item_ids=True).eval()
    layer = model.item_embedding
    assert plain.item_embedding.ids is None
    items = torch.tensor([3, 9])
    torch.testing.assert_close(layer(items), layer.adaptor(layer.text[items], items) + layer.ids(items))
    torch.testing.assert_close(layer(items), layer.table()[items - 1])


@pytest.mark.parametrize("name", ["unisrec", "vqrec"])
def test_scores_are_cosines_and_the_loss_divides_them_by_the_temperature(name):
    model = build(name, temperature=0.5).eval()
    found = scores(model, WALKS)
    assert float(found.abs().max()) <= 1 + 1e-5
    assert model.scale == 2.0
    batch = next(iter(batches(model, "prefix")))[0]
    logits = 2 * scores(model, [row[:length].tolist() for row, length in zip(batch.items, batch.lengths, strict=True)])
    expected = F.cross_entropy(logits, batch.targets.amax(1) - 1)
    torch.testing.assert_close(model(batch).loss.detach(), expected)


def test_an_item_is_the_mean_of_its_codes_and_twins_share_their_score():
    model = build("vqrec").eval()
    codes = np.array(content("vqrec").codes.codes)
    codes[10] = codes[4]
    model.with_content(codes=codes)
    weights = model.item_embedding.codes.code_embedding.weight
    rows = torch.from_numpy(codes).long() + torch.arange(4) * 6 + 1
    torch.testing.assert_close(model.item_embedding.table(), weights[rows].mean(1))
    torch.testing.assert_close(model.item_embedding(torch.tensor([7])), weights[rows[6:7]].mean(1))
    found = scores(model, [[1, 2, 3]])[0]
    torch.testing.assert_close(found[10], found[4])


# ---------------------------------------------------------------------------------------------- FDSA and GRU4Rec


def test_features_are_pooled_by_attention_over_those_that_an_item_has():
    model = build("fdsa").eval()
    table = np.array([[1, 3, 0], [0, 0, 0]] + [[2, 4, 5]] * (ITEMS - 2))
    model.with_content(attributes=table, text=content("fdsa").text)
    layer = model.features
    text = layer.project(layer.text[1:3])
    for row, numbers in enumerate(([1, 3], [0])):  # an item without attributes has the vector of row 0
        parts = torch.cat([layer.attribute_embedding(torch.tensor(numbers)), text[row : row + 1]])
        expected = (parts * layer.weigh(parts).softmax(0)).sum(0)
        torch.testing.assert_close(layer(torch.tensor([row + 1]))[0], expected)


@pytest.mark.parametrize(("chosen", "reads"), [("text", ("ids", "text")), ("attributes", ("ids", "attributes"))])
def test_one_kind_of_feature_alone(chosen, reads):
    assert FDSA.reads({"features": chosen}) == reads
    model = build("fdsa", features=chosen)
    assert bool(model.features.attributes) == (chosen == "attributes")
    train(model)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING


def test_joined_streams_of_fdsa_both_count():
    model = build("fdsa").eval()
    before = scores(model, WALKS)
    with torch.no_grad():
        model.features.project.weight.add_(1.0)
    assert not torch.allclose(scores(model, WALKS), before, atol=1e-4)


@pytest.mark.parametrize(("fusion", "networks"), [("parallel", 2), ("concat", 1)])
def test_networks_of_gru4rec_with_features(fusion, networks):
    model = build("gru4rec-features", fusion=fusion).eval()
    assert len(model.recurrent) == networks
    given = content("gru4rec-features").given()
    before = scores(model, [[3, 4, 5]])
    assert not torch.allclose(scores(model.with_content(text=-given["text"]), [[3, 4, 5]]), before)
    items, lengths = torch.tensor([[3, 4, 5]]), torch.tensor([3])
    ids, made = model.item_embedding(items[0]), model.features(items[0])
    inputs = [ids, made] if networks == 2 else [torch.cat([ids, made], 1)]
    last = [network(x[:, None])[0][-1, 0] for network, x in zip(model.recurrent, inputs, strict=True)]
    torch.testing.assert_close(model.user_vectors(items, lengths)[0], model.out(torch.cat(last)))


def test_what_a_model_reads_follows_its_options():
    assert SASRecContent.reads({}) == ("ids", "text")
    assert SASRecContent.reads({"content": "codes"}) == ("ids", "codes")
