"""Models of text and images: pictures are optional, and what is special in each."""

import json

import numpy as np
import pytest
import torch
from small_models import ITEMS, MODELS, SMALL, batches, content, scores
from torch import nn

import seqrec
from recbase.data.catalog import load_dataset
from recbase.data.sequences import Histories, SequenceBatches
from recbase.nn.transformer import Packing
from recbase.store.runs import resolve
from seqrec import REGISTRY
from seqrec.modalities import ModalityVectors
from seqrec.models.mfn4rec import running_memory
from seqrec.models.missrec import density_peaks
from seqrec.models.mmsr import _softmax_sum
from seqrec.models.nova import Fusion, NonInvasiveAttention
from seqrec.models.tedrec import SpectralFusion, TedRec

NAMES = ["nova", "mv-rnn", "mv-trm", "mfn4rec", "missrec", "mmsr", "tedrec"]
LISTS = [[3, 4, 5, 6], [9, 2], [2, 8, 2, 7, 8]]


def made(name, images=True, seed=0, given=None, **changes):
    """A model with seeded weights, with or without images, in eval mode."""
    found = content(name).given() if given is None else given
    if not images:
        found = {"text": found["text"]}
    widths = {"text_dim": found["text"].shape[1]} | ({"image_dim": found["images"].shape[1]} if images else {})
    torch.manual_seed(seed)
    model = resolve(name, MODELS)(items=ITEMS, **widths, **SMALL[name] | changes)
    return model.with_content(**found).eval()


def given_with(**changes):
    return content("nova").given() | changes


# ------------------------------------------------------------------------------------------ pictures are optional


@pytest.mark.parametrize("name", NAMES)
def test_works_without_pictures(name):
    model = made(name, images=False)
    step = next(iter(batches(model.train(), REGISTRY[name].forms[0])))[0]
    model(step).loss.backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]
    assert not [key for key in model.state_dict() if "images" in key]
    before = scores(model.eval(), LISTS)
    text = np.roll(content(name).text, 1, 0)
    assert not torch.allclose(scores(model.with_content(text=text), LISTS), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_vector_of_a_missing_image_is_never_read(name):
    usual = given_with()
    missing = np.flatnonzero(usual["missing_images"])
    assert 0 < len(missing) < ITEMS
    expected = scores(made(name), LISTS)
    for value in (5.0, np.nan):
        images = usual["images"].copy()
        images[missing] = value
        assert torch.equal(scores(made(name, given=usual | {"images": images}), LISTS), expected)
    images = usual["images"].copy()
    images[~usual["missing_images"]] *= -1
    assert not torch.allclose(scores(made(name, given=usual | {"images": images}), LISTS), expected)


def test_content_of_another_shape_is_refused():
    features = ModalityVectors(3, 4, 2)
    text, images = np.ones((3, 4)), np.ones((3, 2))
    with pytest.raises(ValueError, match=r"text has shape \[3, 5\], expected \[3, 4\]"):
        features.fill(np.ones((3, 5)), images, None)
    with pytest.raises(ValueError, match=r"images has shape \[2, 2\], expected \[3, 2\]"):
        features.fill(text, images[:2], None)
    with pytest.raises(ValueError, match="no images were given but the model was built with image_dim 2"):
        features.fill(text, None, None)
    with pytest.raises(ValueError, match="images were given but the model was built with image_dim 0"):
        ModalityVectors(3, 4).fill(text, images, None)
    features.fill(text, images, np.array([False, True, False]))
    assert features.present()[1].tolist() == [False, True, False, True]
    np.testing.assert_allclose(features.images.norm(dim=1), [0, 1, 0, 1])


# ------------------------------------------------------------------------------------------------------- NOVA-BERT


def test_side_information_never_enters_the_values():
    torch.manual_seed(0)
    attention = NonInvasiveAttention(8, 2)
    packing = Packing.of(torch.tensor([4, 2]), 4)
    values = torch.randn(2, 8)[packing.row]  # equal within a history: no weights can change their mean
    mixed = [attention.mixed(torch.randn(6, 8), values, packing) for _ in range(2)]
    torch.testing.assert_close(*mixed)
    values = torch.randn(6, 8)
    mixed = [attention.mixed(torch.randn(6, 8), values, packing) for _ in range(2)]
    assert not torch.allclose(*mixed)


def test_a_masked_item_hides_its_side_information():
    def answer(text):
        model = made("nova", given=given_with(text=text))
        return model.states(torch.tensor([[3, ITEMS + 1, 5]]), Packing.of(torch.tensor([3]), 3))

    usual = content("nova").text
    hidden, seen = usual.copy(), usual.copy()
    hidden[3] *= -1  # item 4 stands behind the mask
    seen[4] *= -1
    assert torch.equal(answer(hidden), answer(usual))
    assert not torch.allclose(answer(seen), answer(usual))


@pytest.mark.parametrize("kind", ["add", "concat", "gate"])
def test_fusions_of_nova(kind):
    torch.manual_seed(0)
    fusion = Fusion(4, 3, kind)
    parts = [torch.randn(5, 4) for _ in range(3)]
    if kind == "add":
        expected = parts[0] + parts[1] + parts[2]
    elif kind == "concat":
        expected = torch.cat(parts, 1) @ fusion.join.weight.T + fusion.join.bias
    else:
        weights = torch.cat([fusion.gate(part) for part in parts], 1).softmax(1)
        expected = sum(weights[:, [at]] * part for at, part in enumerate(parts))
    torch.testing.assert_close(fusion(parts), expected)


# ------------------------------------------------------------------------------------------------- MV-RNN, MV-TRM


@pytest.mark.parametrize("name", ["mv-rnn", "mv-trm"])
@pytest.mark.parametrize("fusion", ["concat", "sum", "dae"])
def test_an_item_nobody_bought_scores_by_its_content(name, fusion):
    usual = given_with(missing_images=None)
    for part in ("text", "images"):
        usual[part][ITEMS - 1] = usual[part][4]
    model = made(name, given=usual, fusion=fusion)
    with torch.no_grad():
        model.view.latent.weight[ITEMS] = model.view.latent.weight[5]
    found = scores(model, LISTS)
    assert torch.equal(found[:, ITEMS - 1], found[:, 4])
    assert not torch.allclose(found[:, ITEMS - 1], found[:, 3])


@pytest.mark.parametrize("name", ["mv-rnn", "mv-trm"])
def test_the_autoencoder_does_not_depend_on_how_a_step_is_cut(name):
    found = []
    for micro in (1, 3):
        model = made(name, fusion="dae", corruption=0.5).train()
        step = next(iter(batches(model, "prefix", batch_size=24, micro_batches=micro)))
        outputs = [model(batch) for batch in step]
        sum(output.loss for output in outputs).backward()
        assert all(p.grad is not None for p in model.parameters())
        found.append(
            [
                sum(float(output.parts["rebuild"]) for output in outputs),
                float(sum(output.loss.detach() for output in outputs)),
            ]
        )
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][0] > 0


def test_the_autoencoder_is_not_asked_for_missing_images():
    view = made("mv-rnn", fusion="dae").view
    missing = int(view.features.missing[1:].nonzero()[0]) + 1
    one = torch.tensor([missing])
    code = view.code([table[one] for table in view.features.tables()])
    expected = (view.rebuild[0](code) - view.features.text[one]).square().sum()
    torch.testing.assert_close(view.error(one, 0.0, seed=1), expected)


# ---------------------------------------------------------------------------------------------------------- MFN4Rec


def test_the_memory_is_the_recurrence():
    torch.manual_seed(0)
    lengths = torch.tensor([9, 5, 1])
    packing = Packing.of(lengths, 9)
    retain, update = torch.rand(15, 4), torch.randn(15, 4)
    expected, at = [], 0
    for length in lengths.tolist():
        memory = torch.zeros(4)
        for token in range(at, at + length):
            memory = retain[token] * memory + update[token]
            expected.append(memory)
        at += length
    torch.testing.assert_close(running_memory(retain, update, packing), torch.stack(expected))


# ---------------------------------------------------------------------------------------------------------- MISSRec


def test_density_peaks_find_separate_groups():
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [8, 0], [0, 8]])
    points = torch.from_numpy(np.concatenate([middle + rng.normal(0, 0.3, (20, 2)) for middle in middles])).float()
    owner = density_peaks(points, 3)
    assert [len(set(owner[at : at + 20].tolist())) for at in (0, 20, 40)] == [1, 1, 1]
    assert len(set(owner.tolist())) == 3
    centres = owner.unique()
    assert torch.equal(owner[centres], centres)
    for centre in centres.tolist():  # a centre lies inside its group
        group = points[owner == centre].mean(0)
        assert float((points[centre] - group).norm()) < 0.3
    assert density_peaks(points[:4], 9).tolist() == [0, 1, 2, 3]
    assert len(density_peaks(torch.ones(6, 2), 2)) == 6  # equal points


def test_every_interest_of_a_history_is_there_once():
    model = made("missrec")
    interest = model.interest
    lists = [[3, 4, 3, 4, 3, 5], [9, 0, 0, 0, 0, 0]]
    tokens, known = model.requires_grad_(False).interests(torch.tensor(lists))
    for row, history in enumerate(lists):
        wanted = [{int(interest[at, item]) for item in history} - {0} for at in range(2)]
        assert int(known[row].sum()) == len(wanted[0]) + len(wanted[1])
        count = int(known[row].sum())
        assert known[row, :count].all()
        expected = [model.adapt[at](model.features.tables()[at][item]) for at in range(2) for item in wanted[at]]
        distances = torch.cdist(tokens[row, :count], torch.stack(expected))
        assert float(distances.min(1).values.max()) < 1e-5
        assert float(distances.min(0).values.max()) < 1e-5


def test_candidates_are_mixed_by_user():
    model = made("missrec", mix_sharpness=3.0).requires_grad_(False)
    by_id, text, images = tables = model.tables()
    states = torch.randn(2, by_id.shape[1])
    found = model.scores(states, tables)
    unit = states / states.norm(dim=1, keepdim=True)
    missing = model.features.missing[1:]
    for item in (int((~missing).nonzero()[0]), int(missing.nonzero()[0])):
        for row in range(2):
            a, b = (float(unit[row] @ table[item]) for table in (text, images))
            weight = 1.0 if bool(missing[item]) else np.exp(3 * a) / (np.exp(3 * a) + np.exp(3 * b))
            mixed = weight * a + (1 - weight) * b
            expected = (2 * mixed + float(unit[row] @ by_id[item])) / 3 / 0.07
            assert float(found[row, item].detach()) == pytest.approx(expected, abs=1e-4)
    assert not hasattr(model, "item_vectors")


def test_the_penalty_is_the_mean_squared_cosine():
    memory = torch.tensor([[[1.0, 0], [0, 2], [5, 5]], [[1, 0], [3, 0], [-2, 0]], [[1, 0], [9, 9], [9, 9]]])
    known = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    assert made("missrec")._overlap(memory, known).tolist() == pytest.approx([0, 1, 0], abs=1e-6)


# ------------------------------------------------------------------------------------------------------------- MMSR


def test_the_graph_of_a_history():
    model = made("mmsr")
    model.cluster_of[0, 1:4] = torch.tensor([0, 1, 0])  # texts of items 1..3
    model.cluster_of[1, 1:4] = torch.tensor([2, -1, -1])  # only item 1 has a picture
    items = torch.tensor([[1, 2, 1, 3]])
    graph = model.graph(items, Packing.of(torch.tensor([4]), 4))
    text, image = ITEMS + 1, ITEMS + 1 + model.clusters
    assert graph.content.tolist() == [1, 2, 3, text, text + 1, image + 2]
    assert graph.last.tolist() == [0, 1, 0, 2]
    along = {tuple(edge) for edge in graph.sequence.T.tolist()}
    loops = {(node, node, 0) for node in range(6)}
    # 1 and 2 follow each other both ways; 3 comes after 1 alone; so do texts 0 and 1, and text 0 follows itself.
    assert along == loops | {(0, 1, 3), (1, 0, 3), (2, 0, 1), (0, 2, 2), (3, 4, 3), (4, 3, 3)}
    across = {tuple(edge) for edge in graph.across.T.tolist()}
    item_text = {(3, 0, 1), (0, 3, 3), (4, 1, 1), (1, 4, 3), (3, 2, 1), (2, 3, 3)}
    assert across == item_text | {(5, 0, 2), (0, 5, 6), (5, 3, 5), (3, 5, 7)}


def test_graphs_of_a_batch_do_not_touch():
    model = made("mmsr")
    lists = [[3, 4, 5], [5, 4, 3], [3, 9, 9]]
    graph = model.graph(torch.tensor(lists), Packing.of(torch.tensor([3, 3, 3]), 3))
    owner = torch.full((len(graph.content),), -1)
    owner[graph.last] = torch.arange(3).repeat_interleave(3)
    for target, source, _ in torch.cat([graph.sequence, graph.across], 1).T.tolist():
        if owner[target] >= 0 and owner[source] >= 0:
            assert owner[target] == owner[source]
    together = scores(model, lists)
    for row, history in enumerate(lists):
        torch.testing.assert_close(together[row : row + 1], scores(model, [history]))


def test_attention_over_edges_is_a_softmax_of_each_target():
    torch.manual_seed(0)
    target = torch.tensor([0, 2, 0, 0, 2])
    logits, values = torch.randn(5) * 30, torch.randn(5, 3)
    found = _softmax_sum(logits, values, target, 3)
    for node in range(3):
        mine = target == node
        torch.testing.assert_close(found[node], logits[mine].softmax(0) @ values[mine])
    assert found[1].tolist() == [0, 0, 0]


# ----------------------------------------------------------------------------------------------------------- TedRec


def test_the_product_of_spectra_is_a_circular_convolution():
    torch.manual_seed(0)
    fusion = SpectralFusion(3, max_len=6, sides=1)
    with torch.no_grad():
        fusion.weight[..., 0], fusion.weight[..., 1] = 1, 0  # the filter lets everything through
    for gate in fusion.gates:
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)  # sigmoid(0) = 1/2, and twice the sum
    packing = Packing.of(torch.tensor([5, 2]), 5)
    ids, text = torch.randn(7, 3), torch.randn(7, 3)
    found = fusion(ids, [text], packing)
    for first, length in ((0, 5), (5, 2)):
        for place in range(length):
            convolved = sum(
                ids[first + one] * text[first + two]
                for one in range(length)
                for two in range(length)
                if (one + two) % 6 == place
            )
            expected = ids[first + place] + convolved / 6**0.5
            torch.testing.assert_close(found[first + place], expected, rtol=1e-4, atol=1e-5)


def test_tedrec_without_images_reads_none():
    assert TedRec.reads({}) == ("ids", "text", "images")
    assert TedRec.reads({"images": False}) == ("ids", "text")
    model = made("tedrec", images=False)
    other = made("tedrec", images=True, given=given_with())
    plain = TedRec(ITEMS, 16, 12, **SMALL["tedrec"], images=False).with_content(**given_with()).eval()
    assert len(plain.adapt) == len(model.adapt) == 1
    assert len(other.adapt) == 2
    plain.load_state_dict(model.state_dict())
    assert torch.equal(scores(plain, LISTS), scores(model, LISTS))


@pytest.mark.parametrize("name", ["missrec", "mmsr", "tedrec"])
def test_targets_of_other_rows_do_not_leak(name):
    """The loss of a prefix sees its own items alone: a batch of one row gives its share of the whole step."""
    model = made(name, **({"orthogonality": 0.0} if name == "missrec" else {}))
    rows = Histories.from_lists(LISTS)
    step = next(iter(SequenceBatches(rows, "prefix", batch_size=8, max_len=8)))[0]
    apart = [part for (part,) in SequenceBatches(rows, "prefix", batch_size=1, max_len=8)]
    whole = float(model(step).loss.detach())
    assert len(apart) == step.row_count == 8
    assert whole == pytest.approx(np.mean([float(model(part).loss.detach()) for part in apart]), rel=1e-5)


def test_the_papers_recipe_of_mv_rnn_trains(tmp_path):
    """Plain SGD on BPR, with the autoencoder over text and images."""
    world = load_dataset("synthetic", users=120, items=60)
    out, cache = tmp_path / "run", tmp_path / "cache"
    ranker = seqrec.train("mv-rnn", world, recipe="paper", epochs=1, pca=16, quiet=True, out=out, cache=cache)
    assert ranker.model.config()["fusion"] == "dae"
    training = json.loads((out / "config.json").read_text())["training"]
    assert (training["optimizer"], training["lr"], training["batch_size"]) == ("sgd", 0.01, 32)
