"""Training from Python and what it returns: answers in raw ids, evaluation, saving and loading; both families."""

import warnings

import fitted as small
import numpy as np
import pandas as pd
import polars as pl
import pytest

import genrec
import recbase
import semtok
import seqrec
from recbase.data.catalog import load_dataset
from recbase.evaluate.ranking import topk


@pytest.fixture(scope="module")
def data():
    return small.data()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["ranker", "generator"])
def model(request, data, cache):
    return small.ranker(data) if request.param == "ranker" else small.generator(data, cache)


def test_users_are_answered_by_their_whole_history(model, data):
    some = [data.user_ids[4], data.user_ids[1]]
    table = model.recommend(users=some, k=5)
    assert table.columns == ["user", "rank", "item", "title", "score", "popular"]
    assert table["user"].to_list() == [some[0]] * 5 + [some[1]] * 5
    assert table["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    for user, row in ((some[0], 4), (some[1], 1)):
        seen = set(data.item_ids.gather(data.histories[row].astype(np.int64) - 1).to_list())
        assert not seen & set(table.filter(pl.col("user") == user)["item"].to_list())
    histories = [data.item_ids.gather(data.histories[row].astype(np.int64) - 1).to_list() for row in (4, 1)]
    by_history = model.recommend(histories=histories, k=5)
    assert by_history["item"].to_list() == table["item"].to_list()
    assert by_history["user"].to_list() == [0] * 5 + [1] * 5


def test_answers_are_those_of_the_model(data):
    model = small.ranker(data)
    found = topk(model.model.scorer(), data.histories, 7, mask_seen=True)
    table = model.recommend(users=data.user_ids, k=7)
    assert table["item"].to_list() == data.item_ids.gather(found.items.ravel() - 1).to_list()
    assert np.allclose(table["score"].to_numpy(), found.scores.ravel())


def test_filters(model, data):
    first = data.item_ids[:6].to_list()
    history = [[data.item_ids[10]]]
    assert set(model.recommend(histories=history, k=10, only=first)["item"]) == set(first)
    assert set(model.recommend(histories=history, k=10, only=first, exclude=first[:2])["item"]) == set(first[2:])
    every = model.recommend(histories=history, k=len(data.item_ids), exclude=first)
    assert not set(every["item"]) & set(first)
    assert len(every) == data.n_items - len(first) - 1
    assert data.item_ids[10] in set(model.recommend(histories=history, k=data.n_items, keep_seen=True)["item"])


def test_filters_name_what_they_do_not_know(model, data):
    found = model.answer(
        histories=[[data.item_ids[0], "x"]], k=2, exclude=["x", "y", "y"], only=["z", data.item_ids[3]]
    )
    assert found.unknown == ["x", "z", "y"]
    assert found.table["item"].to_list() == [data.item_ids[3]]


def test_of_whom_nothing_is_known_the_most_popular_items_are_told(model, data):
    counts = np.bincount(data.split().train.flat()[0], minlength=data.n_items + 1)[1:]
    best = data.item_ids.gather(np.argsort(-counts, kind="stable")[:3]).to_list()
    with pytest.warns(UserWarning, match="1 item ids are unknown and were skipped, such as 'nothing'; 2 histories"):
        table = model.recommend(histories=[["nothing"], [data.item_ids[0]], []], k=3)
    strangers = table.filter(pl.col("user") != 1)
    assert strangers["item"].to_list() == best * 2
    assert strangers["popular"].all()
    assert strangers["score"].null_count() == 6
    known = table.filter(pl.col("user") == 1)
    assert not known["popular"].any()
    assert known["score"].null_count() == 0
    only = data.item_ids[:4].to_list()
    allowed = model.answer(histories=[[]], k=3, only=only).table["item"].to_list()
    assert allowed == [item for item in data.item_ids.gather(np.argsort(-counts, kind="stable")) if item in only][:3]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "give either users or histories"),
        ({"users": [0], "histories": [[0]]}, "give either users or histories"),
        ({"histories": [[0]], "k": 0}, "k must be a whole number of 1 or more, got 0"),
        ({"histories": [[0]], "k": True}, "k must be a whole number"),
        ({"histories": "abc"}, "sequence of sequences of item ids"),
        ({"histories": ["abc"]}, "sequence of sequences of item ids"),
        ({"users": "anna"}, "users must be a sequence of ids, got the text 'anna'"),
        ({"users": ["anna", 0]}, "1 of 2 users are not in the data set synthetic, such as 'anna'"),
        ({"histories": [[0], ["odd"]], "strict": True}, "history 1 has item 'odd'"),
        ({"histories": [[0], []], "strict": True}, "history 1 has an empty history"),
        ({"histories": [[0]], "exclude": ["odd"], "strict": True}, "exclude has item 'odd'"),
        ({"histories": [[0]], "only": "abc"}, "only must be a sequence of item ids, got the text 'abc'"),
    ],
)
def test_bad_questions_are_refused_in_one_sentence(model, asked, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        model.recommend(**asked)
    assert "\n" not in str(raised.value)


def test_an_unknown_option_is_named(model):
    with pytest.raises(TypeError, match="has no option 'beam'; it has"):
        model.recommend(histories=[[0]], beam=3)


def test_saving_and_loading_keep_everything(model, data, tmp_path):
    users = data.user_ids[:9]
    before = model.recommend(users=users, k=4)
    metrics, curve = model.metrics, model.history
    assert curve["epoch"].to_list() == [1]
    assert "ndcg@10" in curve.columns
    scratch = model.folder
    assert model.save(tmp_path / "run") == model.folder == tmp_path / "run"
    assert not scratch.exists() or scratch == tmp_path / "run"
    load = seqrec.load if isinstance(model, seqrec.FittedRanker) else genrec.load
    again = load(tmp_path / "run", data)
    assert again.recommend(users=users, k=4).equals(before)
    assert again.metrics == metrics
    assert again.history.equals(curve)
    evaluated = again.evaluate()
    for part in ("test", "test_masked", "valid"):
        assert evaluated[part] == metrics[part]
    assert model.recommend(users=users, k=4).equals(before)
    assert again.version == model.version
    model.save(tmp_path / "run")  # where it is already
    assert repr(again).startswith(type(again).__name__ + "(")


def test_a_temporary_folder_goes_with_its_model(data):
    model = small.ranker(data)
    folder = model.folder
    assert folder.is_dir()
    del model
    assert not folder.exists()


def test_evaluate_refuses_another_data_set(model):
    with pytest.raises(ValueError, match="not on the data set synthetic"):
        model.evaluate(load_dataset("synthetic", users=50, items=36))


def test_a_data_set_that_cannot_be_found_is_asked_for(data, tmp_path):
    model = small.ranker(data, out=tmp_path / "run")
    assert model.folder == tmp_path / "run"
    found = seqrec.load(tmp_path / "run")
    with pytest.raises(ValueError, match="not on the data set"):  # the built-in one of this name is another
        found.recommend(users=[0])
    assert len(found.recommend(histories=[[0]], k=3)) == 3


def test_settings_go_where_they_belong(data, cache):
    model = seqrec.train("sasrec", data, epochs=2, dim=8, ffn=8, layers=1, heads=2, lr=0.01, seed=5, quiet=True)
    assert model.manifest["training"]["lr"] == 0.01
    assert model.manifest["training"]["seed"] == 5
    assert model.manifest["arguments"]["dim"] == 8
    assert model.manifest["recipe"] == "default"
    twin = seqrec.SASRec.train(data, epochs=2, lr=0.01, seed=5, quiet=True, **small.TRANSFORMER)
    assert twin.version == model.version
    with pytest.raises(TypeError, match="training sasrec has no setting 'epoch'; did you mean epochs"):
        seqrec.train("sasrec", data, epoch=2)
    with pytest.raises(TypeError, match="training sasrec has no setting 'encoder'"):
        seqrec.train("sasrec", data, encoder="tfidf")
    with pytest.raises(ValueError, match="recipe 'best' is unknown"):
        seqrec.train("sasrec", data, recipe="best")
    with pytest.raises(ValueError, match="unknown model 'sasrek'"):
        seqrec.train("sasrek", data)
    with pytest.raises(ValueError, match="resume=True needs out"):
        seqrec.train("sasrec", data, resume=True)
    with pytest.raises(ValueError, match="is made from a trained model"):
        seqrec.train("ccfrec-tabulated", data)
    with pytest.raises(TypeError, match="training tiger has no setting 'epoch'"):
        genrec.train("tiger", data, epoch=2)
    with pytest.raises(ValueError, match="resume=True needs out"):
        genrec.train("tiger", data, resume=True)


def test_a_model_in_training_keeps_pytorchs_switch(data):
    network = small.ranker(data).model
    assert network.train() is network
    assert network.training
    assert not network.eval().training
    with pytest.raises(AttributeError, match="has no mode of training"):
        _ = seqrec.Popularity(3).train


def test_counted_models_and_models_of_content(data, cache):
    popular = seqrec.Popularity.train(data)
    assert popular.history.is_empty()
    assert len(popular.recommend(users=data.user_ids[:2], k=3)) == 6
    ccfrec = seqrec.CCFRec.train(data, epochs=1, dim=8, code_levels=2, codebook_size=4, cache=cache, quiet=True)
    assert len(ccfrec.recommend(users=data.user_ids[:2], k=3)) == 6
    assert (cache / ccfrec_codes(cache)).is_dir()
    table = str(seqrec.compare([popular, ccfrec, ccfrec.folder]))
    assert "ccfrec" in table
    assert "reference" in table


def ccfrec_codes(cache):
    return next(path.name for path in cache.iterdir() if path.name.startswith("codes-pq"))


def test_codes_of_a_data_set(data, cache, tmp_path):
    found = semtok.fit("rq", data, levels=2, codebook_size=8, cache=cache, quiet=True)
    assert found.codes.codes.shape[0] == data.n_items
    found.save(tmp_path / "codes")
    assert np.array_equal(semtok.load_codes(tmp_path / "codes").codes, found.codes.codes)
    model = small.generator(data, cache, codes=tmp_path / "codes")
    assert model.manifest["codes"] == found.codes.hash
    with pytest.raises(TypeError, match="fitting rq has no setting 'level'; did you mean levels"):
        semtok.fit("rq", data, level=2)


def frames(count=900, seed=0):
    draw = np.random.default_rng(seed)
    events = pl.DataFrame(
        {
            "customer": [f"c{user}" for user in draw.integers(40, size=count)],
            "sku": [f"s{item:02d}" for item in draw.integers(30, size=count)],
            "when": pl.datetime_range(
                pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1) + pl.duration(minutes=count - 1), "1m", eager=True
            ),
        }
    )
    items = pl.DataFrame(
        {"sku": [f"s{item:02d}" for item in range(32)], "Product Name": [f"thing {item % 7}" for item in range(32)]}
    )
    return events, items


NAMED = {"user": "customer", "item": "sku", "time": "when", "text": ["Product Name"]}


def test_a_data_set_of_ones_own_tables(tmp_path):
    events, items = frames()
    data = recbase.Dataset.from_frames(events, items, **NAMED, name="shop", quiet=True)
    assert repr(data) == (
        f"Dataset(shop: {data.n_users} users, {data.n_items} items, {len(data.histories.items):,} interactions; "
        "text: Product Name)"
    )
    others = [(events.to_pandas(), items.to_pandas()), (events.to_arrow(), items.to_arrow()), (events.lazy(), items)]
    datasets = pytest.importorskip("datasets")
    others.append(tuple(datasets.Dataset.from_pandas(frame.to_pandas()) for frame in (events, items)))
    for some, catalogue in others:
        assert recbase.Dataset.from_frames(some, catalogue, **NAMED, quiet=True).hash == data.hash
    events.write_csv(tmp_path / "events.csv")
    read = recbase.prepare_dataset(
        tmp_path / "events.csv", columns={"user_id": "customer", "item_id": "sku", "timestamp": "when"}
    )
    assert read.hash == data.hash
    model = seqrec.SASRec.train(data, epochs=1, quiet=True, **small.TRANSFORMER)
    assert model.recommend(users=["c3"], k=4)["item"].str.starts_with("s").all()


def test_tables_say_what_is_left_out_and_what_is_wrong(capsys):
    events, items = frames()
    recbase.Dataset.from_frames(events, items, **NAMED)
    assert "repeated events" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no column"):
        recbase.Dataset.from_frames(events, items, user="client", item="sku")
    with pytest.raises(ValueError, match="is of the type list; expected a path, or a table"):
        recbase.Dataset.from_frames([1, 2], quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_one = recbase.Dataset.from_frames(
            pd.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [3, 4, 5, 3]}), min_user=0, min_item=0, quiet=True
        )
    assert (small_one.n_users, small_one.n_items) == (2, 3)


def test_seeds_are_no_rivals(data):
    runs = [small.ranker(data, seed=seed) for seed in (0, 1, 2)]
    other = seqrec.Popularity.train(data)
    found = seqrec.compare([other, *runs])
    assert [run.seeds for run in found.runs] == [1, 3]
    assert found.runs[1].label == "sasrec, 3 seeds"
    values = [run.metrics["test"]["ndcg@10"] for run in runs]
    assert found.runs[1].metrics["ndcg@10"] == pytest.approx(np.mean(values))
    assert found.runs[1].sd["ndcg@10"] == pytest.approx(np.std(values, ddof=1))
    assert found.runs[1].interval.mean == pytest.approx(np.mean(values))
    assert "± sd" in str(found)
    apart = seqrec.compare([other, *runs], seeds_apart=True)
    assert [run.seeds for run in apart.runs] == [1, 1, 1, 1]
    wider = small.ranker(data, dim=16)
    assert len(seqrec.compare([runs[0], wider]).runs) == 2  # they differ in more than the seed
