"""Each id model against its description: by hand, against torch's own layers, or against a slower plain form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import ITEMS, USERS, WALKED, batches, build, cycle, scores, train
from torch import nn

from recbase.data.sequences import Histories, SequenceBatches
from recbase.nn.draws import draw_uniform
from recbase.nn.transformer import Packing
from seqrec.models.caser import older
from seqrec.models.cl4srec import crop, mask, reorder
from seqrec.models.gru4rec import recurrent_states
from seqrec.models.itemknn import ItemKNN
from seqrec.models.sasrec import SASRec
from seqrec.objectives import contrast, next_item_loss

LISTS = [[4, 9, 2, 7, 1, 3], [5, 6], [8], [11, 3, 12, 10]]


def padded(lists=LISTS, width=8):
    items, lengths = Histories.from_lists(lists).padded(slice(None), width)
    return torch.from_numpy(items), torch.from_numpy(lengths)


def test_itemknn_by_hand():
    model = ItemKNN(4, neighbours=2, shrink=1.0).fit(Histories.from_lists([[1, 2, 2], [1, 2, 3], [2, 3], [4]]))
    together = {(1, 2): 2, (1, 3): 1, (2, 3): 2}
    users = {1: 2, 2: 3, 3: 2, 4: 1}
    expected = np.zeros((5, 5))
    for (a, b), count in together.items():
        expected[a, b] = expected[b, a] = count / (np.sqrt(users[a] * users[b]) + 1)
    np.testing.assert_allclose(model.table.toarray(), expected, rtol=1e-6)
    found = scores(model, [[1, 1, 3], [4]])
    np.testing.assert_allclose(found[0], (expected[1] + expected[3])[1:], rtol=1e-6)
    assert not found[1].any()


def test_itemknn_keeps_the_nearest_of_each_item():
    rng = np.random.default_rng(0)
    histories = Histories.from_lists([rng.integers(1, 40, 9).tolist() for _ in range(200)])
    whole, few = (ItemKNN(40, neighbours=count).fit(histories).table.toarray() for count in (40, 3))
    for column in range(1, 41):
        kept = np.flatnonzero(few[:, column])
        assert len(kept) == min(3, np.count_nonzero(whole[:, column]))
        np.testing.assert_array_equal(few[kept, column], whole[kept, column])
        assert few[kept, column].min(initial=2) >= np.sort(whole[:, column])[-3]


def test_sasrec_numbers_positions_from_the_newest_item():
    torch.manual_seed(0)
    oldest = SASRec(ITEMS, dim=16, ffn=16, max_len=8, norm="pre-query", positions="oldest").eval()
    newest = SASRec(ITEMS, dim=16, ffn=16, max_len=8, norm="pre-query").eval()
    newest.load_state_dict(oldest.state_dict())
    history = [[4, 9, 2, 7]]
    before = scores(newest, history)
    assert (before - scores(oldest, history)).abs().max() > 1e-4
    with torch.no_grad():  # the table that gives "oldest" the rows which "newest" reads for 4 of 8 items
        oldest.position_embedding.weight.copy_(oldest.position_embedding.weight.roll(4, 0))
    np.testing.assert_allclose(before, scores(oldest, history), atol=1e-6)
    np.testing.assert_allclose(scores(newest, [*LISTS, history[0]])[-1], before[0], atol=1e-6)  # beside longer ones


def worlds():
    """Users of two tastes: items 1..12, or 13..24."""
    rng = np.random.default_rng(0)
    return Histories.from_lists([(rng.permutation(12)[:6] + 1 + 12 * (user % 2)).tolist() for user in range(USERS)])


def test_bpr_learns_who_likes_what_and_folds_strangers_in():
    model = build("bpr")
    reader = SequenceBatches(worlds(), batch_size=32, max_len=8)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.02), []
    for epoch in range(30):
        reader.set_epoch(epoch)
        for (batch,) in reader:
            loss = model(batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    scorer = model.scorer()
    assert scorer.reads_users
    known = scorer(torch.tensor([[1], [1]]), torch.tensor([1, 1]), torch.tensor([0, 1]))
    assert (known[0].topk(8).indices < 12).all()
    assert (known[1].topk(8).indices >= 12).all()
    strangers = scorer(*padded([[2, 3], [20, 14, 16]]))
    assert (strangers[0].topk(8).indices < 12).all()
    assert (strangers[1].topk(8).indices >= 12).all()


def test_bpr_loss_by_hand():
    model = build("bpr", negatives=2)
    batch = next(iter(batches(model, "all", Histories.from_lists([[1, 2, 3]]), batch_size=1)))[0]
    users, items = model.user_embedding.weight.detach(), model.item_embedding.weight.detach()
    from recbase.nn.draws import draw_integers

    total = 0.0
    for step, right in enumerate([1, 2, 3]):
        for draw in range(2):
            wrong = 1 + int(draw_integers(batch.seed, ITEMS, torch.tensor(0), torch.tensor(step), torch.tensor(draw)))
            if wrong not in (1, 2, 3):
                total -= float(F.logsigmoid(users[0] @ items[right] - users[0] @ items[wrong]))
    assert float(model(batch).loss.detach()) == pytest.approx(total / 6, rel=1e-5)


def test_recurrent_states_are_those_of_every_history_alone():
    network = nn.GRU(5, 7, bias=False)
    items, lengths = padded()
    x = torch.randn(*items.shape, 5)
    packing = Packing.of(lengths, items.shape[1])
    found = recurrent_states(network, packing.pack(x), packing)
    expected = [network(x[row, : lengths[row]])[0] for row in range(len(items))]
    torch.testing.assert_close(found, torch.cat(expected))


def test_older_items():
    items, lengths = padded()
    packing = Packing.of(lengths, items.shape[1])
    found = older(packing.pack(items)[:, None].float(), packing, 2, -1.0)[:, 0]
    assert found.tolist() == [-1, -1, 4, 9, 2, 7, -1, -1, -1, -1, -1, 11, 3]


def test_caser_is_the_convolution_of_the_image_that_ends_at_each_item():
    model = build("caser").eval()
    nn.init.normal_(model.horizontal_bias)
    window, dim, filters = 3, 16, 4
    items, lengths = padded()
    packing = Packing.of(lengths, items.shape[1])
    users = torch.arange(len(items))
    found = packing.unpack(model.states(items, packing, users))
    weights = model.horizontal.weight.split(filters)
    for row, history in enumerate(LISTS):
        for end in range(1, len(history) + 1):
            latest = [0] * window + history[:end]
            image = model.item_embedding(torch.tensor(latest[-window:]))  # [L, D]
            vertical = model.vertical.weight @ image + model.vertical.bias[:, None]  # [filters, D]
            parts, first = [vertical.T.flatten()], 0
            for height in range(1, window + 1):
                kernel = torch.stack(weights[first : first + height], 1)[:, None]  # [filters, 1, height, D]
                response = F.relu(F.conv2d(image[None, None], kernel, model.horizontal_bias[height - 1]))
                parts.append(response.amax(2).flatten())
                first += height
            x = F.relu(model.first(torch.cat(parts)))
            expected = F.relu(model.second(torch.cat([x, model.user_embedding.weight[row]])))
            torch.testing.assert_close(found[row, end - 1], expected, rtol=1e-4, atol=1e-6)
    assert model.scorer().max_len == window
    assert dim == found.shape[2]


def test_hgn_by_hand():
    model = build("hgn").eval()
    items, lengths = padded()
    packing = Packing.of(lengths, items.shape[1])
    found = packing.unpack(model.states(items, packing, torch.arange(len(items))))
    for row, history in enumerate(LISTS):
        user = model.user_embedding.weight[row]
        for end in range(1, len(history) + 1):
            latest = history[max(0, end - 3) : end]
            raw = model.item_embedding(torch.tensor(latest))
            gated = torch.sigmoid(model.feature_item(raw) + model.feature_user(user)) * raw
            place = model.instance_user(user)[3 - len(latest) :]
            gate = torch.sigmoid(model.instance_item(gated)[:, 0] + place)[:, None]
            expected = user + (gate * gated).sum(0) / gate.sum() + raw.sum(0)
            torch.testing.assert_close(found[row, end - 1, :-1], expected, rtol=1e-4, atol=1e-6)
            assert float(found[row, end - 1, -1].detach()) == 1


@pytest.mark.parametrize("name", ["caser", "hgn", "bpr"])
def test_strangers_are_scored_without_a_user(name):
    model = build(name)
    items, lengths = padded()
    scorer = model.scorer()
    known = scorer(items, lengths, torch.tensor([1, 2, 3, 4]))
    assert not torch.allclose(known, scorer(items, lengths))


def test_evaluation_tells_the_scorer_who_the_users_are():
    from recbase.data.splits import Targets
    from recbase.evaluate.ranking import rank_targets, topk

    class Diagonal:
        """The best item of user u is item u + 1; a stranger's is item 1."""

        n_items, max_len, reads_users = 6, 3, True

        def __call__(self, items, lengths, users=None):
            users = torch.zeros(len(items), dtype=torch.int64) if users is None else users
            return F.one_hot(users, 6).float()

    histories = Histories.from_lists([[1, 2], [3], [4, 5, 6]])
    users = np.array([4, 0, 2])
    assert rank_targets(Diagonal(), Targets(users, histories, np.array([5, 1, 3], np.int32))).rank.tolist() == [1, 1, 1]
    assert topk(Diagonal(), histories, 1, users=users).items[:, 0].tolist() == [5, 1, 3]
    assert topk(Diagonal(), histories, 1).items[:, 0].tolist() == [1, 1, 1]


def test_bert4rec_predicts_masked_items_alone():
    model = build("bert4rec")
    batch = next(iter(batches(model, "cloze")))[0]
    assert int((batch.items == ITEMS + 1).sum()) == batch.target_count
    states = model.states(batch.items, Packing.of(batch.lengths, batch.items.shape[1]))
    hidden = batch.targets[batch.targets > 0]
    answers = model.answers(states[batch.items[batch.valid] == ITEMS + 1])
    nn.init.normal_(model.bias)
    logits = model.head(states[batch.items[batch.valid] == ITEMS + 1]) @ model.item_embedding.weight[1 : ITEMS + 1].T
    expected = F.cross_entropy(logits + model.bias, hidden - 1)
    assert float(model(batch).loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert answers.shape == (batch.target_count, 33)


def test_filter_is_the_circular_convolution_with_its_kernel():
    from seqrec.models.fmlp import FilterLayer

    layer = FilterLayer(4, 8, 0.0).eval()
    nn.init.normal_(layer.weight)
    x = torch.randn(8, 4)
    index = torch.arange(8)
    kernel = torch.fft.irfft(torch.view_as_complex(layer.weight), 8, dim=0)  # [T, D]
    mixed = torch.stack([(kernel[(step - index) % 8] * x).sum(0) for step in range(8)])
    torch.testing.assert_close(layer(x, index, 1), layer.norm(x + mixed), rtol=1e-4, atol=1e-5)


def test_hstu_block_by_hand():
    model = build("hstu", heads=2).eval()
    block = model.blocks[0]
    nn.init.normal_(block.relative_bias)
    x = torch.randn(5, 32)
    packing = Packing.of(torch.tensor([5]), 5)
    u, v, q, k = F.silu(block.projections(block.norm(x))).split(32, 1)
    heads = []
    for head in range(2):
        part = slice(16 * head, 16 * (head + 1))
        scores_ = q[:, part] @ k[:, part].T
        weights = torch.zeros(5, 5)
        for i in range(5):
            for j in range(i + 1):
                weights[i, j] = F.silu(scores_[i, j] + block.relative_bias[i - j]) / 8
        heads.append(weights @ v[:, part])
    expected = x + block.out(u * block.out_norm(torch.cat(heads, 1)))
    torch.testing.assert_close(block(x, packing), expected, rtol=1e-4, atol=1e-5)


def draws(shape, seed=3):
    return draw_uniform(seed, torch.arange(int(np.prod(shape)))).view(shape)


def test_augmentations_of_cl4srec():
    items, lengths = padded([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, 12, 13], [14]], 10)
    cropped, kept = crop(items, lengths, 0.6, draws(3).double())
    assert kept.tolist() == [6, 1, 1]
    for row in range(3):
        run = cropped[row, : kept[row]]
        assert (run.diff() == 1).all()
        assert set(run.tolist()) <= set(items[row].tolist()) - {0}
        assert not cropped[row, kept[row] :].any()
    hidden, same = mask(items, lengths, 0.3, draws((3, 10)), 99)
    assert torch.equal(same, lengths)
    assert torch.equal(hidden[hidden != 99], items[hidden != 99])
    assert ((hidden == 99) == ((draws((3, 10)) < 0.3) & (items > 0))).all()
    shuffled, same = reorder(items, lengths, 0.6, draws(3).double(), draws((3, 10), 5))
    assert torch.equal(same, lengths)
    assert torch.equal(shuffled.sort(1).values, items.sort(1).values)
    moved = (shuffled[0] != items[0]).nonzero()[:, 0]
    assert 0 < len(moved) <= int(moved.max() - moved.min()) + 1 <= 6
    assert ((shuffled > 0) == (items > 0)).all()


def test_augmentations_are_drawn_evenly():
    model = build("cl4srec")
    batch = next(iter(batches(model, "all", cycle(3000), batch_size=3000)))[0]
    items, lengths = model.augment(batch, 7)
    cropped = float((lengths < batch.lengths).float().mean())
    assert abs(cropped - 1 / 3) < 0.03
    first, second = model.augment(batch, 7), model.augment(batch, 8)
    assert torch.equal(first[0], items)
    assert not torch.equal(first[0], second[0])


def test_contrast_by_hand():
    torch.manual_seed(0)
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    every = torch.cat([first, second])
    total = 0.0
    for anchor in range(6):
        logits = every @ every[anchor] / 0.5
        others = [row for row in range(6) if row != anchor]
        total += float(logits[others].logsumexp(0) - logits[(anchor + 3) % 6])
    assert float(contrast(first, second, 3, 0.5)) == pytest.approx(total / 6, rel=1e-5)
    ids = torch.tensor([1, 2, 1])
    masked = 0.0
    for anchor in range(6):
        logits = every @ every[anchor] / 0.5
        partner = (anchor + 3) % 6
        others = [row for row in range(6) if row == partner or ids[row % 3] != ids[anchor % 3]]
        masked += float(logits[others].logsumexp(0) - logits[partner])
    assert float(contrast(first, second, 3, 0.5, ids=ids)) == pytest.approx(masked / 6, rel=1e-5)


def test_duorec_positives_end_in_the_same_item():
    model = build("duorec")
    histories = cycle()
    batch = next(iter(batches(model, "all", batch_size=USERS)))[0]
    items, lengths, wanted = model.twins(batch)
    assert torch.equal(wanted, batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0])
    known = {tuple(histories[user][:end].tolist()): int(histories[user][end]) for user in range(USERS)
             for end in range(1, 7)}  # fmt: skip
    following = {}
    for prefix, item in known.items():
        following.setdefault(item, set()).add(prefix)
    found = [tuple(row[:length].tolist()) for row, length in zip(items, lengths, strict=True)]
    assert all(prefix in following[int(item)] for prefix, item in zip(found, wanted, strict=True))
    own = [tuple(row[:length].tolist()) for row, length in zip(batch.items, batch.lengths, strict=True)]
    assert np.mean([a == b for a, b in zip(found, own, strict=True)]) < 0.5
    with pytest.raises(ValueError, match="call with_content before training"):
        type(model)(ITEMS, dim=16, max_len=8)(batch)


def test_s3rec_attribute_loss_by_hand():
    model = build("s3rec")
    tasks = model.pretraining().module.eval()
    batch = next(iter(SequenceBatches(cycle(), "cloze", batch_size=16, max_len=8, mask_item=ITEMS + 1)))[0]
    packing = Packing.of(batch.lengths, batch.items.shape[1])
    states = model.both_ways(batch.items, packing)
    visible = packing.pack(batch.items) != ITEMS + 1
    logits = tasks.heads["attribute"](states[visible]) @ tasks.attribute_embedding.weight.T
    from small_models import content

    hot = torch.from_numpy(content("s3rec").attributes.multi_hot()).float()[packing.pack(batch.items)[visible] - 1]
    table = model.attribute_table[packing.pack(batch.items)[visible]]
    counted = torch.zeros(len(table), 6).scatter_add_(1, table, torch.ones(table.shape))[:, 1:]  # repeats count
    assert ((counted > 0) == (hot > 0)).all()
    plain = F.softplus(logits).sum() - (logits * counted).sum()
    expected = plain / (int(batch.step_lengths.sum()) - batch.target_count)
    assert float(tasks(batch).parts["attribute"]) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_s3rec_first_stage_trains_the_weights_that_are_fine_tuned():
    model = build("s3rec", pretrain_epochs=3)
    before = model.item_embedding.weight.detach().clone()
    stage = model.pretraining()
    assert (stage.epochs, stage.form, stage.settings["mask_item"]) == (3, "cloze", ITEMS + 1)
    losses = []
    optimizer = torch.optim.Adam(stage.module.parameters(), 1e-2)
    for epoch in range(4):
        reader = SequenceBatches(cycle(), stage.form, batch_size=32, max_len=8, **stage.settings)
        reader.set_epoch(epoch)
        for (batch,) in reader:
            out = stage.module(batch)
            assert set(out.parts) == {"item", "attribute", "masked_attribute", "segment"}
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            losses.append(float(out.loss.detach()))
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert not torch.equal(model.item_embedding.weight, before)
    assert build("s3rec", pretrain_epochs=0).pretraining() is None


def test_maerec_graph_by_hand():
    histories = Histories.from_lists([[1, 2, 3, 1], [2, 4]])
    model = type(build("maerec"))(5, dim=8, max_len=4, reach=2).with_content(histories)
    joined = np.zeros((6, 6))
    for a, b in ((1, 2), (2, 3), (1, 3), (2, 4)):
        joined[a, b] = joined[b, a] = 1
    degree = np.maximum(joined.sum(1), 1)
    expected = joined / np.sqrt(degree[:, None] * degree)
    np.testing.assert_allclose(model.matrix().to_dense(), expected, rtol=1e-6)
    table, levels = model.smoothed(model.matrix())
    weight = model.item_embedding.weight.detach()
    dense = torch.from_numpy(expected).float()
    torch.testing.assert_close(table.detach(), weight + dense @ weight + dense @ dense @ weight)
    table[1].sum().backward()
    found = model.item_embedding.weight.grad.clone()
    weight = weight.clone().requires_grad_()
    (weight + dense @ weight + dense @ dense @ weight)[1].sum().backward()
    torch.testing.assert_close(found, weight.grad)
    assert len(levels) == 3
    assert not table[5].equal(torch.zeros(8))  # an item that was never seen has its own vector


def test_maerec_masks_both_directions_of_an_edge():
    model = build("maerec")
    agreement = model.agreement(model.matrix())
    masked, seeds = model.mask(agreement, 5)
    rows, columns = model.edge_rows(), model.columns
    pairs = {(int(a), int(b)) for a, b in zip(rows[masked], columns[masked], strict=True)}
    assert pairs == {(b, a) for a, b in pairs}
    assert all(int(seed) in {a for a, _ in pairs} for seed in seeds if seed != ITEMS)
    assert 0 < len(pairs) < len(rows)
    assert not torch.equal(masked, model.mask(agreement, 6)[0])


def test_maerec_rewards_a_mask_while_the_loss_falls_faster():
    model = build("maerec", slow_reward=0.25)
    rewards = []
    for seed, loss in enumerate([5.0, 4.9, 4.8, 4.0, 3.9, 3.85]):
        rewards.append(model._reward(seed))
        model.recent[-1] += loss
    assert rewards[:3] == [1.0, 1.0, 1.0]
    assert rewards[3:] == [0.25, 1.0, 0.25]  # falls .1 (mean .1), .8 (mean .1), .1 (mean .33)


@pytest.mark.parametrize("kind", ["bpr", "top1", "bce", "sampled"])
def test_pairwise_losses_teach_gru4rec(kind):
    model = build("gru4rec", loss=kind, negatives=8)
    losses = train(model, epochs=40 if kind == "bce" else 25, lr=1e-2)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    lists = [[(start + step) % WALKED + 1 for step in range(6)] for start in range(WALKED)]
    best = scores(model, lists).argmax(1) + 1
    right = np.mean([b == row[-1] % WALKED + 1 for b, row in zip(best.tolist(), lists, strict=True)])
    assert right > 0.3  # chance is 0.04


@pytest.mark.parametrize("kind", ["bpr", "top1"])
def test_pairwise_losses_by_hand(kind):
    from recbase.nn.draws import draw_integers

    torch.manual_seed(0)
    histories = Histories.from_lists([[1, 2, 3], [4, 5]])
    batch = next(iter(SequenceBatches(histories, batch_size=2, max_len=4)))[0]
    states, table = torch.randn(3, 4), torch.randn(6, 4)
    wanted = batch.targets[batch.targets > 0]
    total = 0.0
    for at, (row, step) in enumerate((batch.targets > 0).nonzero()):
        for draw in range(5):
            place = batch.positions[row], step, torch.tensor(draw)
            wrong = int(draw_integers(batch.seed, 6, *place))
            right = int(wanted[at]) - 1
            if wrong == right:
                continue
            a, b = float(states[at] @ table[right]), float(states[at] @ table[wrong])
            sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
            total += -np.log(sigmoid(a - b)) if kind == "bpr" else sigmoid(b - a) + sigmoid(b * b)
    found = next_item_loss(states, table, wanted, batch, kind, negatives=5)
    assert float(found) == pytest.approx(total / 5 / 3, rel=1e-4)


@pytest.mark.parametrize("loss", ["bce", "gbce", "sampled"])
def test_sasrec_learns_with_every_loss(loss):
    model = build("sasrec", loss=loss, negatives=8)
    train(model, epochs=60 if loss == "gbce" else 25, lr=5e-3)
    lists = [[(start + step) % WALKED + 1 for step in range(4)] for start in range(WALKED)]
    best = scores(model, lists).argmax(1) + 1
    right = np.mean([b == row[-1] % WALKED + 1 for b, row in zip(best.tolist(), lists, strict=True)])
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
        build("sasrec", **arguments)


def test_transition_weights_by_hand():
    from seqrec import Transitions

    histories = Histories.from_lists([[1, 2, 3], [1, 3]])
    model = Transitions(3, window=2, decay=0.5).fit(histories)
    found = model.scorer()(torch.tensor([[1, 2]]), torch.tensor([2]))[0]
    from_one = np.array([0, 1, 1 / np.sqrt(2) + 1]) / np.sqrt(1 + 2)  # item 1 occurs twice
    from_two = np.array([0, 0, 1]) / np.sqrt(1 + 1)
    ties = np.array([2, 1, 2]) / 2 * 1e-6
    np.testing.assert_allclose(found, 0.5 * from_one + from_two + ties, rtol=1e-5)


def test_popularity_is_one_list_of_counts():
    popular = scores(build("popularity"), [[1, 2, 3], [22]])
    assert torch.equal(popular[0], popular[1])
    assert popular[0].tolist() == np.bincount(cycle().flat()[0], minlength=ITEMS + 1)[1:].tolist()


def test_an_untied_table_is_scored_against_and_not_read():
    from seqrec.models.sasrec import SASRec

    torch.manual_seed(0)
    model = SASRec(30, dim=8, ffn=16, layers=1, max_len=6, item_table="untied").eval()
    items, lengths = torch.tensor([[3, 5, 9]]), torch.tensor([3])
    states = model.user_vectors(items, lengths)
    torch.testing.assert_close(model.scorer()(items, lengths), states @ model.output_embedding.weight[1:].T)
    with torch.no_grad():
        model.output_embedding.weight[1:] += 1.0
    torch.testing.assert_close(model.user_vectors(items, lengths), states)  # histories are read from the other table
    assert SASRec(30, dim=8, ffn=16, layers=1, max_len=6).output_embedding is None
