"""Models whose content comes from an encoder that is trained with them: one way for all of them."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from small_encoders import tiny_bert, tiny_vision
from small_models import ITEMS, MODELS, SMALL, WALKED, batches, content, scores, train

import semtok.cli
import seqrec
import seqrec.cli
from recbase.data.dataset import Dataset
from recbase.store.runs import load_run, resolve, save_run
from seqrec.finetuned import EncodedItems
from seqrec.objectives import next_item_loss

NAMES = ["sasrec-content", "sasrec-hybrid", "fdsa", "mv-rnn", "mv-trm", "mfn4rec"]
TIED = ["sasrec-content", "sasrec-hybrid", "mv-rnn", "mv-trm"]  # their item vectors are made of content
WALKS = [[(start + step) % WALKED + 1 for step in range(6)] for start in range(WALKED)]
FOLLOWING = [row[-1] % WALKED + 1 for row in WALKS]
SENTENCES = [f"item number {number}" for number in range(ITEMS)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    return folder / "vit", tiny_vision(folder, ITEMS)


def made(name, backbone, kind="sentences", **changes):
    """The model over raw content, its states scored against a table of their own where it can be."""
    own = {"item_table": "untied"} if name in TIED else {}
    settings = {"content": kind, "backbone": str(backbone), "max_tokens": 8, "picture_size": 16, "dropout": 0.0}
    shapes = {"attributes": 5} if name == "fdsa" else {}
    torch.manual_seed(0)
    return resolve(name, MODELS)(ITEMS, **shapes, **SMALL[name] | own | settings | changes)


def with_text(name, bert, **changes):
    attributes = content("fdsa").attributes.table
    return made(name, bert, **changes).with_content(sentences=SENTENCES, attributes=attributes)


def a_step(model):
    """The one batch of a step of training."""
    return next(iter(batches(model.train(), "all")))[0]


def after_a_step(model):
    """Names of the parameters that one step of training changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(a_step(model)).loss.backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


def items_at_a_time(model):
    """A list that grows by the number of items of every call of the backbone."""
    seen = []
    model.finetuned().backbone.register_forward_hook(
        lambda _, __, given, ___: seen.append(len(next(iter(given.values())))), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tune", ["all", "adapters", "projection"])
def test_a_step_trains_what_is_tuned_of_the_encoder(bert, name, tune):
    changed = after_a_step(with_text(name, bert, tune=tune))
    parts = {part for part in ("backbone.", "adapters.", "project.") for key in changed if f".{part}" in key}
    ours = {"all": {"backbone."}, "adapters": {"adapters."}, "projection": set()}[tune]
    assert parts == ours | {"project."}


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_weights_are_where_training_starts(bert, name):
    from transformers import BertModel

    model = with_text(name, bert)
    for key, value in BertModel.from_pretrained(bert).state_dict().items():
        assert torch.equal(model.finetuned().backbone.state_dict()[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_training_and_scoring_take_few_items_at_a_time(bert, name):
    """Neither memory grows with the catalogue, and how items are cut changes no score and no gradient."""
    found = {}
    for chunk in (4, 64):
        model = with_text(name, bert, encoder_chunk=chunk)
        seen = items_at_a_time(model)
        loss = model(a_step(model)).loss
        loss.backward()
        gradient = model.finetuned().backbone.embeddings.word_embeddings.weight.grad
        ranked = scores(model, WALKS)
        assert max(seen) <= chunk
        calls = len(seen)
        scores(model, WALKS)
        assert len(seen) == calls  # encoded once
        found[chunk] = loss.detach(), gradient, ranked
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_scores_follow_the_encoder(bert, name):
    model = with_text(name, bert)
    before = scores(model, WALKS)
    with torch.no_grad():
        model.train().finetuned().backbone.embeddings.word_embeddings.weight.mul_(-1)
    assert not torch.allclose(scores(model, WALKS), before, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_learns_saves_and_loads_without_its_backbone(bert, name, tmp_path):
    model = with_text(name, bert)
    train(model, epochs=25, lr=6e-3)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING
    items = pl.DataFrame({"item_id": list(range(ITEMS))})
    save_run(tmp_path / "run", name, model, items, {"recipe": "default"})
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(str(bert), "no/where"))
    again = load_run(tmp_path / "run", MODELS).model
    assert again.config()["backbone"] == "no/where"
    assert torch.equal(scores(again, WALKS), scores(model, WALKS))
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(scores(type(model).from_pretrained(tmp_path / "model"), WALKS), scores(model, WALKS))


@pytest.mark.parametrize("name", NAMES)
def test_pictures(vision, name, tmp_path):
    backbone, pictures = vision
    attributes = content("fdsa").attributes.table
    model = made(name, backbone, "pictures").with_content(pictures=pictures, attributes=attributes)
    assert any(".backbone." in key for key in after_a_step(model))
    expected = scores(model, WALKS)
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert torch.equal(scores(again, WALKS), expected)  # the pictures themselves are not in the folder
    with pytest.raises(ValueError, match="the pictures are not there to train on"):
        again(a_step(again))


# ------------------------------------------------------------------------------------- item vectors made of content


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("loss", ["bce", "sampled"])
def test_a_loss_of_few_items_is_that_of_the_whole_table(bert, name, loss):
    found = []
    for whole in (False, True):
        model = with_text(name, bert, item_table="tied", loss=loss, negatives=3)
        if whole:
            numbers = torch.arange(1, ITEMS + 1)
            vectors = model.item_embedding if name.startswith("sasrec") else model.vectors
            model.rows_of = lambda _, vectors=vectors, numbers=numbers: vectors(numbers)
        share = model(a_step(model)).loss
        share.backward()
        found.append((share.detach(), model.finetuned().project.weight.grad))
    torch.testing.assert_close(*found)


def test_only_rows_that_a_loss_takes_are_encoded():
    asked = []

    def encode(numbers):
        asked.extend(numbers.tolist())
        return numbers[:, None].float() * torch.tensor([1.0, 10.0])

    table = EncodedItems(100, encode)
    assert len(table) == 100
    rows = torch.tensor([[4, 9], [9, 0]])
    assert table[rows].tolist() == [[[5, 50], [10, 100]], [[10, 100], [1, 10]]]
    assert sorted(asked) == [1, 5, 10]
    assert table[rows[:0]].shape == (0, 2, 2)


def test_bpr_of_few_items_learns(bert):
    model = with_text("mv-rnn", bert, item_table="tied", loss="bpr", negatives=8)
    losses = train(model, epochs=20, lr=6e-3)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_an_item_of_the_same_text_has_the_same_score(bert):
    sentences = [*SENTENCES[:-1], SENTENCES[3]]
    model = made("sasrec-content", bert, item_table="tied", loss="sampled").with_content(sentences=sentences)
    found = scores(model, WALKS)
    torch.testing.assert_close(found[:, -1], found[:, 3])
    assert not torch.allclose(found[:, -1], found[:, 4])


# ------------------------------------------------------------------------------------------------- tables of their own


@pytest.mark.parametrize("name", ["mv-rnn", "mv-trm"])
def test_a_table_of_ids_over_frozen_vectors(name):
    given = content(name).given()
    torch.manual_seed(0)
    model = resolve(name, MODELS)(
        ITEMS, text_dim=given["text"].shape[1], image_dim=given["images"].shape[1], **SMALL[name], item_table="untied"
    )
    model.with_content(**given)
    train(model, epochs=20, lr=1e-2)
    assert (scores(model, WALKS).argmax(1) + 1).tolist() == FOLLOWING
    states = model.user_vectors(torch.tensor([[3, 4]]), torch.tensor([2]))
    torch.testing.assert_close(scores(model, [[3, 4]]), model.output(states[:, :-1]).detach())
    assert next_item_loss(states, model.candidates(), torch.tensor([5]), a_step(model)).isfinite()


# ------------------------------------------------------------------------------------------------------ from a data set


def world():
    """Users who walk from item to item, whose titles number them."""
    walks = [[(start + step) % 12 for step in range(6)] for start in range(24)]
    events = pl.DataFrame(
        {
            "user_id": [user for user, walk in enumerate(walks) for _ in walk],
            "item_id": [item for walk in walks for item in walk],
            "timestamp": [step for walk in walks for step, _ in enumerate(walk)],
        }
    )
    items = pl.DataFrame({"item_id": range(12), "title": SENTENCES[:12]})
    return Dataset.from_frames(events, items, user="user_id", item="item_id", time="timestamp", min_user=0, min_item=0)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("sasrec-content", "paper"),
        ("sasrec-hybrid", "paper"),
        ("fdsa", "tssr"),
        ("mv-rnn", "tssr"),
        ("mv-trm", "paper"),
        ("mfn4rec", "tssr"),
        ("tssr", "paper"),
    ],
)
def test_recipes_of_the_comparison_train_end_to_end(bert, name, recipe, tmp_path):
    ranker = seqrec.train(
        name, world(), recipe=recipe, content="sentences", backbone=str(bert), max_tokens=8, epochs=2, quiet=True,
        out=tmp_path / "run", cache=tmp_path / "cache",
    )  # fmt: skip
    said = ranker.model.config()
    assert (said["dim"], said["max_len"], said["content"]) == (128, 10, "sentences")
    assert not (tmp_path / "cache").exists()  # no vectors were made
    again = seqrec.load(tmp_path / "run")
    assert torch.equal(scores(again.model, [[3, 4]]), scores(ranker.model, [[3, 4]]))


def test_from_the_files_of_a_publisher_to_answers(vision, tmp_path):
    """H&M's layout: prepare finds the pictures, train reads them, and the run answers without them."""
    backbone, pictures = vision
    shop = tmp_path / "shop"
    (shop / "images" / "010").mkdir(parents=True)
    ids = [f"01000000{number:02d}" for number in range(12)]
    for number, article in enumerate(ids[:-1]):
        shutil.copyfile(pictures[number], shop / "images" / "010" / f"{article}.jpg")
    events = [
        f"2020-01-{step + 1:02d},c{start:02d},{ids[(start + step) % 12]}" for start in range(12) for step in range(6)
    ]
    (shop / "transactions_train.csv").write_text("\n".join(["t_dat,customer_id,article_id", *events]))
    (shop / "articles.csv").write_text("\n".join(["article_id,prod_name", *(f"{one},Top {one}" for one in ids)]))

    def command(main, *words):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    command(semtok.cli.main, "prepare", "hm", "--from", shop, "--out", tmp_path / "hm")
    command(
        seqrec.cli.main, "train", "mfn4rec", "--data", tmp_path / "hm", "--content", "pictures", "--backbone", backbone,
        "--picture-size", 16, "--image-root", shop, "--dim", 8, "--memory", 8, "--epochs", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    shutil.rmtree(shop)
    said = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (said["inputs"], said["arguments"]["content"]) == (["ids", "pictures"], "pictures")
    answers = command(
        seqrec.cli.main, "recommend", tmp_path / "run", "--history", ",".join(ids[:3]), "--top", 3, "--json"
    )
    assert len(set(ids) & set(re.findall(r"01000000\d\d", answers))) >= 3


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_be_is_refused(bert):
    for name in TIED:
        with pytest.raises(ValueError, match="--loss ce would encode all items at every step with --content sentences"):
            made(name, bert, item_table="tied")
    with pytest.raises(ValueError, match="--fusion dae rebuilds frozen vectors, which --content sentences has none of"):
        made("mv-rnn", bert, fusion="dae")
    with pytest.raises(ValueError, match="--features attributes leaves --content sentences unread; use both or text"):
        made("fdsa", bert, features="attributes")
    for name in NAMES:
        with pytest.raises(ValueError, match=f"--content sentences needs sentences of {ITEMS} items, got none"):
            made(name, bert).with_content(attributes=content("fdsa").attributes.table)
    with pytest.raises(ValueError, match="no text was given but the model was built with text_dim 4"):
        resolve("mfn4rec", MODELS)(ITEMS, text_dim=4).with_content()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_follows_the_content(name):
    kind = resolve(name, MODELS)
    assert set(kind.reads({"content": "sentences"})) - {"attributes"} == {"ids", "sentences"}
    assert set(kind.reads({"content": "pictures"})) - {"attributes"} == {"ids", "pictures"}
    assert not {"sentences", "pictures"} & set(kind.reads({}))
