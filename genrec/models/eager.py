"""EAGER: two streams of codes, from behaviour and from content, each with a decoder, merged by confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.dense import DenseHead, DenseSettings, all_scores, allowed_items, best_items, few_prefixes
from genrec.generator import Generator, samples
from genrec.models.prorec import Preparation as PRORecPreparation
from genrec.models.prorec import together
from genrec.nets.attention import Ragged
from genrec.nets.distilling import DistillingDecoder
from genrec.nets.leaves import LeafDecoder, LeafHead
from genrec.nets.losses import children_loss, level_loss
from genrec.nets.post_norm import PostNormEncoder
from genrec.nets.t5_blocks import Memory
from genrec.preparation import Ingredients, Sources
from genrec.search.decoding import Beams, best_scores, distinct_items, score_codes, search_beams
from genrec.search.trie import CodeTrie
from recbase.arguments import Count, Depth, Dropout, Heads, Large, Length, Share, Temperature, Weight, Width, taken
from recbase.data.sequences import SequenceBatch
from recbase.evaluate.recommender import NO_ITEM
from recbase.model import initialise
from recbase.nn.draws import draw_integers, draw_uniform
from recbase.train.loop import LossOutput

__all__ = ["EAGER", "RECIPES", "Preparation"]

RECIPES = {
    "default": {"epochs": 40, "batch_size": 256, "lr": 1e-3, "warmup_steps": 300, "patience": 5, "precision": "auto"},
    "paper": {
        "epochs": 400,
        "batch_size": 256,
        "lr": 1e-3,
        "schedule": "inverse_sqrt",
        "warmup_steps": 2000,
        "weight_decay": 1e-7,
        "optimizer": "adam",
        "beams": 100,
        "precision": "no",
        "stage1_form": "prefix",
        "stage1_recipe": "paper",
        "pca": None,
        "whiten": False,
        "codebook_size": 256,
        "encoder": "sentence-transformers/sentence-t5-base",
        "leaf_embeddings": True,
        "item_tables": "two",
    },
    # Not the paper's model: no network before it, no distillation, no transfer, a dense head beside the codes.
    "small": {
        "form": "all",
        "normalize": "children",
        "behaviour": "ppmi",
        "whiten": False,
        "behaviour_weight": 0.0,
        "semantic_weight": 0.0,
        "recovery_weight": 0.0,
        "recognition_weight": 0.0,
        "decoder_layers": 1,
        "ffn": 256,
        "dropout": 0.4,
        "leaf_embeddings": True,
        "recency_bias": True,
        "dense_weight": 1.0,
        "epochs": 8,
        "batch_size": 128,
        "lr": 3e-3,
        "schedule": "cosine",
        "warmup_steps": 300,
        "patience": 0,
        "validate_every": 2,
        "precision": "auto",
    },
}


@dataclass(frozen=True)
class Preparation(PRORecPreparation):
    """Two sets of balanced codes: of a plain DIN's item vectors and of the text's."""

    method: ClassVar[str] = "hierarchical"
    behaviour: Literal["din", "ppmi"] = "din"
    """Vectors of the behaviour stream: a plain DIN's, or those of what occurs together in the training part (ppmi; no
    network is trained for them)."""

    def prepare(self, sources: Sources) -> Ingredients:
        """Codes of behaviour, then those of the text, side by side: [N, Lb + Ls]."""
        import semtok
        from semtok.codes import ItemCodes

        if sources.codes is not None:
            raise ValueError("EAGER makes two sets of codes: leave --codes out (--stage1 takes a run's item vectors)")
        record: dict[str, Any] = {}
        behaviour = together(sources) if self.behaviour == "ppmi" else self._behaviour(sources, record)
        behaviour, text = self._scaled(behaviour), self._scaled(self._text(sources, record))
        parts, folders = [], []
        for vectors in (behaviour, text):
            folder = self._codes(sources, vectors, record)
            parts.append(semtok.load_codes(folder).align(sources.item_ids))
            folders.append(str(folder))
        joined = ItemCodes(
            np.concatenate([part.codes for part in parts], 1),
            tuple(size for part in parts for size in part.sizes),
            sources.item_ids,
            {
                "behaviour": slice(0, parts[0].levels),
                "semantic": slice(parts[0].levels, parts[0].levels + parts[1].levels),
            },
        )
        record |= {"codes": joined.hash, "codes_folders": folders}
        arrays = {"behaviour": behaviour, "semantic": text}
        shapes = {"behaviour_dim": behaviour.shape[1], "semantic_dim": text.shape[1]}
        shapes["behaviour_levels"] = parts[0].levels
        return Ingredients(joined, arrays, shapes, record)

    def _behaviour(self, sources: Sources, record: dict[str, Any]) -> np.ndarray:
        from dataclasses import replace

        plain = replace(self, source="collaborative")
        return PRORecPreparation._behaviour(plain, sources, record)


@dataclass(frozen=True)
class Distillation:
    """Settings of what is distilled into the last token of each stream; `EAGER` says what each setting means."""

    behaviour_weight: Weight = 1.0
    semantic_weight: Weight = 10.0
    distill_negatives: Count = 2048
    distill_temperature: Temperature = 0.3


@dataclass(frozen=True)
class Transfer:
    """Settings of what ties the streams to each other; `EAGER` says what each setting means."""

    recovery_weight: Weight = 1.0
    recognition_weight: Weight = 1.0
    mask_ratio: Share = 0.5


class EAGEROptions(TypedDict, total=False):
    """The settings of `Distillation`, `Transfer` and `DenseSettings`, as keywords of `EAGER`."""

    behaviour_weight: Weight
    semantic_weight: Weight
    distill_negatives: Count
    distill_temperature: Temperature
    recovery_weight: Weight
    recognition_weight: Weight
    mask_ratio: Share
    dense_weight: Weight
    dense_temperature: Temperature


class EAGER(Generator):
    """Two-stream generation with behaviour-semantic collaboration (Wang et al., KDD 2024, arXiv 2406.14017).

    One encoder reads the history as item tokens; two decoders write the item's code in the behaviour stream and in the
    semantic one. A last token of each is drawn to the item's vector of its kind, and a transfer network ties the
    streams: it recovers masked behaviour codes from semantic ones and tells matching pairs of codes from others. A
    search runs in both streams; the items of both lists are ranked by the sum of the two log-probabilities. Departs
    from the release: time-sorted data and validation instead of file order and test, one code an item (capacity-limited
    clusters instead of clusters filled up with copies). Its embeddings of leaves and its item table for each stream are
    options that recipe ``paper`` turns on; by default a level has one softmax over its own codes, and one table serves
    both streams. Recipe ``small`` is ours, for machines without a GPU, and another model: behaviour codes of what
    occurs together in place of a DIN's, no distillation and no transfer, embeddings of leaves, a bias by recency, and
    a dense head that ranks lists with the codes.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [Lb + Ls]
        Codes of each level, those of the behaviour stream first.
    behaviour_levels : int, default 2
        Levels of the behaviour stream, Lb.
    behaviour_dim : int, default 0
        Width of the behaviour vectors.
    semantic_dim : int, default 0
        Width of the semantic vectors.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers : int, default 1
        Blocks of the encoder.
    decoder_layers : int, default 4
        Blocks of each decoder.
    heads : int, default 4
        Attention heads; must divide ``dim``.
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
        On the output of every sub-layer, and on attention weights.
    behaviour_weight : float, default 1.0
        Weight of the distillation of behaviour vectors.
    semantic_weight : float, default 10.0
        Weight of the distillation of semantic vectors.
    distill_negatives : int, default 2048
        Random items that a target's vector is told from.
    distill_temperature : float, default 0.3
        Temperature of the distillation.
    recovery_weight : float, default 1.0
        Weight of recovering masked behaviour codes; 0 leaves it out.
    recognition_weight : float, default 1.0
        Weight of recognizing matching codes; 0 leaves it out.
    mask_ratio : float, default 0.5
        Share of behaviour codes that are masked for recovery.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    causal_encoder : bool, default False
        Whether items of the history see only what came before them. Sample form ``all`` needs it and turns it on: one
        pass a user, in which every item is a target whose decoders see the items before it (ours, not the paper's).
    normalize : {"vocabulary", "children"}, default "vocabulary"
        See TIGER; in the tree of each stream.
    item_tables : {"one", "two"}, default "one"
        Whether the encoder reads the same rows of items for both streams, or a table for each (as in the release: the
        encoder runs twice).
    leaf_embeddings : bool, default False
        Whether every item has in each stream an embedding of its own for its last code, as input and as output, chosen
        among the codes that follow there (as in the release), instead of one that all clusters share.
    recency_bias : bool, default False
        Whether cross-attention has a learned bias by distance from the end of what is seen (ours).
    dense_weight : float, default 0.0
        Weight of the loss of a dense head, which ranks lists together with the codes (:mod:`genrec.dense`; ours). 0
        leaves the head out. With it the encoder reads two vectors of an item, one of its codes and its row. For one
        table of items.
    dense_temperature : float, default 0.12
        Temperature of the dense head.
    """

    behaviour: Tensor
    semantic: Tensor
    setting_groups = (Distillation, Transfer, DenseSettings)

    training_arrays = ("behaviour", "semantic")

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        behaviour_levels: int = 2,
        behaviour_dim: int = 0,
        semantic_dim: int = 0,
        dim: Width = 128,
        encoder_layers: Depth = 1,
        decoder_layers: Depth = 4,
        heads: Heads = 4,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        max_len: Length = 20,
        causal_encoder: bool = False,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
        item_tables: Literal["one", "two"] = "one",
        leaf_embeddings: bool = False,
        recency_bias: bool = False,
        **options: Unpack[EAGEROptions],
    ) -> None:
        super().__init__(locals())
        if not 0 < behaviour_levels < len(sizes):
            raise ValueError(f"behaviour_levels is {behaviour_levels} of {len(sizes)} levels; both streams need one")
        distillation, self.transferring = taken(Distillation, options), taken(Transfer, options)
        dense = taken(DenseSettings, options)
        if dense.dense_weight and item_tables == "two":
            raise ValueError(
                f"--dense-weight is {dense.dense_weight} and --item-tables two; the dense head reads one table of "
                "items: give one of the two"
            )
        self.split, self.dropout, self.group = behaviour_levels, dropout, 1
        self.weights = (
            distillation.behaviour_weight if behaviour_dim else 0.0,
            distillation.semantic_weight if semantic_dim else 0.0,
        )
        self.dense_weight = dense.dense_weight
        if self.dense_weight:
            self.dense = DenseHead(items, dim, dense.dense_temperature)
        # with a dense head the rows are the head's
        self.item_embedding = None if self.dense_weight else nn.Embedding(items + 1, dim, padding_idx=0)
        second = item_tables == "two"
        self.semantic_embedding = nn.Embedding(items + 1, dim, padding_idx=0) if second else None
        self.source_position = nn.Embedding(max_len, dim)
        self.source_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = PostNormEncoder(dim, encoder_layers, heads, ffn, dropout, dropout, causal_encoder)
        self.decoders = nn.ModuleList(
            DistillingDecoder(
                part, items, dim, decoder_layers, heads, ffn, dropout, width if weight else 0,
                distillation.distill_negatives, distillation.distill_temperature, max_len if recency_bias else 0,
            )
            for part, width, weight in zip(
                (sizes[:behaviour_levels], sizes[behaviour_levels:]), (behaviour_dim, semantic_dim), self.weights,
                strict=True,
            )
        )  # fmt: skip
        self.leaf_heads = nn.ModuleList(LeafHead(items, dim) for _ in range(2)) if leaf_embeddings else None
        self.transfer = PostNormEncoder(dim, 1, heads, ffn, dropout, dropout)
        self.transfer_position = nn.Embedding(len(sizes) + 1, dim)
        self.mask_token, self.match_token = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))
        self.matches = nn.Linear(dim, 1)
        self.register_buffer("behaviour", torch.zeros(items + 1, behaviour_dim))
        self.register_buffer("semantic", torch.zeros(items + 1, semantic_dim))
        initialise(self)
        for token in (self.mask_token, self.match_token):
            nn.init.normal_(token, std=0.02)
        self._tries: tuple[CodeTrie, CodeTrie] | None = None

    def with_arrays(self, behaviour: np.ndarray, semantic: np.ndarray) -> EAGER:
        """Set the distilled vectors, float32 [N, d] each; they are not trained."""
        self.behaviour[1:] = torch.from_numpy(np.asarray(behaviour, dtype=np.float32))
        self.semantic[1:] = torch.from_numpy(np.asarray(semantic, dtype=np.float32))
        return self

    def with_codes(self, codes: np.ndarray, priority: np.ndarray | None = None) -> Any:
        """Set the codes of the catalogue, int [N, Lb + Ls], and who stands for items that share one, int [N]."""
        self._tries = None
        return super().with_codes(codes, priority)

    def search_trees(self) -> tuple[CodeTrie, ...]:
        """The trees that a search walks: of behaviour and of content."""
        return self.tries

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        """As in PyTorch; the trees are built anew."""
        self._tries = None
        return super().load_state_dict(*given, **named)

    def code_parts(self) -> list[Tensor]:
        """Codes of behaviour and of content."""
        return list(self._own(self.code_table[1:]))

    @property
    def streams(self) -> tuple[DistillingDecoder, DistillingDecoder]:
        """The decoders of behaviour and of content."""
        first, second = self.decoders
        assert isinstance(first, DistillingDecoder)
        assert isinstance(second, DistillingDecoder)
        return first, second

    @property
    def coders(self) -> tuple[DistillingDecoder | LeafDecoder, DistillingDecoder | LeafDecoder]:
        """Decoders that a search asks for the next code, of behaviour and of content."""
        if self.leaf_heads is None:
            return self.streams
        first, second = (
            LeafDecoder(decoder, cast(LeafHead, head), trie)
            for decoder, head, trie in zip(self.streams, self.leaf_heads, self.tries, strict=True)
        )
        return first, second

    @property
    def tries(self) -> tuple[CodeTrie, CodeTrie]:
        """The catalogue as a prefix tree of each stream."""
        if self._tries is None or self._tries[0].device != self.code_table.device:
            first, second = self._own(self.code_table[1:])
            self._tries = (
                CodeTrie.from_codes(first, self.sizes[: self.split], priority=self.priority),
                CodeTrie.from_codes(second, self.sizes[self.split :], priority=self.priority),
            )
        return self._tries

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Memory:
        """Encoded items of histories, as the behaviour stream reads them: [B, T], right padded, and lengths [B]."""
        return self._encoded(self.item_embedding, items, lengths)

    def _encoded(self, table: nn.Embedding | None, items: Tensor, lengths: Tensor) -> Memory:
        ragged = Ragged.of(lengths, items.shape[1])
        packed = ragged.pack(items)
        if self.dense is not None:
            rows = self.dense.item_inputs(self.dense_content()[packed], packed)
        else:
            assert table is not None
            rows = table(packed)
        x = self.source_norm(rows + self.source_position(ragged.steps))
        memory: Memory = self.encoder(F.dropout(x, self.dropout, self.training), ragged)
        return memory

    def _memories(self, items: Tensor, lengths: Tensor) -> tuple[Memory, Memory]:
        """Encoded histories as each stream sees them: the same, unless each has a table of items."""
        first = self.encode_histories(items, lengths)
        if self.semantic_embedding is None:
            return first, first
        return first, self._encoded(self.semantic_embedding, items, lengths)

    def dense_content(self) -> Tensor:
        """Sums of the embeddings of the items' codes in both streams, [N + 1, D]."""
        items = torch.arange(self.items + 1, device=self.code_table.device)
        both = [self._embedded(stream, codes, items).sum(1) for stream, codes in enumerate(self._own(self.code_table))]
        return both[0] + both[1]

    def _own(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [..., Lb + Ls] of each stream."""
        return codes[..., : self.split], codes[..., self.split :]

    def _embedded(self, stream: int, codes: Tensor, items: Tensor) -> Tensor:
        """Embeddings of the codes [S, L] that items [S] have in a stream: [S, L, D]."""
        decoder, leaves = self.streams[stream], self._leaves_of(stream, items)
        tokens: Tensor = decoder.embedding(decoder.vocabulary.tokens(codes))
        return tokens if leaves is None else torch.cat([tokens[:, :-1], leaves[:, None]], 1)

    def _leaves_of(self, stream: int, items: Tensor) -> Tensor | None:
        """Embeddings of their own that items [S] have for their last codes, [S, D]."""
        return None if self.leaf_heads is None else cast(LeafHead, self.leaf_heads[stream]).embedding(items)

    def _stream_loss(self, stream: int, states: Tensor, codes: Tensor) -> Tensor:
        """Sum over targets of the mean cross-entropy of their codes in a stream, as a search normalizes them."""
        logits = self.coders[stream].all_logits(states, codes)
        if self.normalize == "children":
            return children_loss(logits, codes, self.tries[stream])
        return level_loss(logits, self.streams[stream].vocabulary.targets(codes))

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        sampled = samples(batch, self.encoder.causal)
        targets = sampled.items
        memories = self._memories(batch.items, batch.lengths)
        codes = self.code_table[targets].long()
        total = torch.zeros((), device=codes.device)
        parts: dict[str, Tensor] = {}
        vectors = (self.behaviour, self.semantic)
        for number, (name, stream, memory, right) in enumerate(
            zip(("behaviour", "semantic"), self.streams, memories, self._own(codes), strict=True)
        ):
            leaves = self._leaves_of(number, targets)
            if sampled.one_pass:
                states = stream.prefixes(right, memory, batch.lengths, 1, leaves)
            else:
                states = stream(right, memory, leaves)
            parts[name] = self._stream_loss(number, states, right) / batch.target_count
            total = total + parts[name]
            if weight := self.weights[number]:
                found = stream.distill(states[:, -1], targets, vectors[number], batch.seed) / batch.target_count
                parts[f"distill {name}"] = found
                total = total + weight * found
        places = (batch.positions[sampled.rows], sampled.steps)
        if weight := self.transferring.recovery_weight:
            parts["recovery"] = self._recover(codes, targets, batch.seed, places) / batch.target_count
            total = total + weight * parts["recovery"]
        if weight := self.transferring.recognition_weight:
            parts["recognition"] = self._recognize(codes, targets, batch.seed, places) / batch.target_count
            total = total + weight * parts["recognition"]
        if self.dense is not None:
            parts["dense"] = self.dense_loss(memories[0], sampled, batch.items) / batch.target_count
            total = total + self.dense_weight * parts["dense"]
        return LossOutput(total, {name: part.detach() for name, part in parts.items()})

    # ------------------------------------------------------------------------------------- semantic transfer

    def _transferred(self, behaviour: Tensor, semantic: Tensor) -> Tensor:
        """States of [match, behaviour codes, semantic codes], which all see each other: [S, 1 + Lb + Ls, D].

        Parameters
        ----------
        behaviour, semantic : Tensor [S, Lb, D] and [S, Ls, D]
            Embedded codes.
        """
        start = self.match_token.expand(len(semantic), 1, -1)
        x = torch.cat([start, behaviour, semantic], 1) + self.transfer_position.weight
        full = torch.full((len(x),), x.shape[1], device=x.device)
        states: Tensor = self.transfer(x.flatten(0, 1), Ragged.of(full, x.shape[1])).states
        return states.unflatten(0, (len(x), -1))

    def _recover(self, codes: Tensor, targets: Tensor, seed: int, places: tuple[Tensor, Tensor]) -> Tensor:
        """Sum over targets of the mean cross-entropy of their masked behaviour codes; at least one is masked."""
        own, semantic = self._own(codes)
        levels = torch.arange(self.split, device=codes.device)
        chance = draw_uniform(seed + 2, *(place[:, None] for place in places), levels)
        masked = (chance < self.transferring.mask_ratio) | (chance == chance.amin(1, keepdim=True))
        tokens = self._embedded(0, own, targets)
        given = torch.where(masked[..., None], self.mask_token.to(tokens.dtype), tokens)
        states = self._transferred(given, self._embedded(1, semantic, targets))
        total = torch.zeros((), device=codes.device)
        for level, logits in enumerate(self.coders[0].all_logits(states[:, 1:], own)):
            losses = F.cross_entropy(logits.float(), own[:, level], reduction="none")
            total = total + (losses * masked[:, level] / masked.sum(1)).sum()
        return total

    def _recognize(self, codes: Tensor, targets: Tensor, seed: int, places: tuple[Tensor, Tensor]) -> Tensor:
        """Sum over targets of telling their pair of codes from that with another item's semantic code."""
        other = (targets + draw_integers(seed + 3, max(1, self.items - 1), *places)) % self.items + 1
        own, semantic = self._own(codes)
        wrong = self._own(self.code_table[other].long())[1]
        given = self._embedded(0, own, targets)
        pairs = (self._embedded(1, semantic, targets), self._embedded(1, wrong, other))
        right, false = (self.matches(self._transferred(given, pair)[:, 0])[:, 0].float() for pair in pairs)
        found = F.softplus(-right) + F.softplus(false)
        same = (wrong == semantic).all(1)  # the other item has the same semantic code
        return torch.where(same, F.softplus(-right), found).sum() / 2

    # ------------------------------------------------------------------------------------------------ search

    @torch.no_grad()
    def search(
        self,
        items: Tensor,
        lengths: Tensor,
        beams: int = 20,
        n_best: int = 10,
        mask: Any = None,
        exclude: Any = None,
        users: Tensor | None = None,
        exact: bool = False,
    ) -> Beams:
        """The best items of both streams' lists, by the sum of their log-probabilities; see `Generator.search`.

        With a dense head its best items are in the union as well, and its weighted log-probability in the sum; where
        the trees have few prefixes, and with ``exact``, all items are scored.
        """
        device, training = self.code_table.device, self.training
        self.eval()
        memories = self._memories(items.to(device), lengths.to(device))
        weight = self._weight
        dense = self._dense_scores(memories[0], items).float().log_softmax(1) if weight else None
        if exact or (dense is not None and all(few_prefixes(trie) for trie in self.tries)):
            scores = self._item_scores(memories)
            if dense is None:
                hidden = ~self._resolved(memories, mask, exclude)
            else:  # the head tells apart what shares its codes
                scores, hidden = scores + weight * dense, ~allowed_items(scores, mask, exclude)
            found = best_items(scores, hidden, torch.full((self.items,), -1, device=device), n_best)
        else:
            found = self._ranked(memories, dense, weight, beams, n_best, mask, exclude)
        self.train(training)
        return found

    def _ranked(
        self,
        memories: tuple[Memory, Memory],
        dense: Tensor | None,
        weight: float,
        beams: int,
        n_best: int,
        mask: Any,
        exclude: Any,
    ) -> Beams:
        """The best of the items that a search in either stream finds, and of the dense head's best [B, N]."""
        asked = list(zip(self.coders, memories, self.tries, strict=True))
        lists = [search_beams(*one, beams, beams, mask, exclude, self.normalize).items for one in asked]
        if dense is not None:
            top = dense.masked_fill(~allowed_items(dense, mask, exclude), -torch.inf).topk(min(beams, self.items), 1)
            lists.append((top.indices + 1).masked_fill(top.values == -torch.inf, NO_ITEM))
        union = distinct_items(torch.cat(lists, 1))  # [B, C]
        codes = self.code_table[union.clamp(min=0)].long()
        parts = zip(asked, self._own(codes), strict=True)
        first, second = (score_codes(*one, part, self.normalize) for one, part in parts)
        scores = first + second
        if dense is not None:
            scores = scores + weight * dense.gather(1, union.clamp(min=1) - 1)
        scores = scores.masked_fill(union == NO_ITEM, -torch.inf)
        best, order = best_scores(scores, union, n_best)
        chosen = union.gather(1, order)
        short = n_best - chosen.shape[1]
        if short > 0:
            best, chosen = F.pad(best, (0, short), value=-torch.inf), F.pad(chosen, (0, short), value=NO_ITEM)
        return Beams(chosen, best, torch.full_like(chosen, -1))

    def _resolved(self, memories: tuple[Memory, Memory], mask: Any, exclude: Any) -> Tensor:
        """Items that may be returned and stand for their codes in one stream or the other, bool [B, N]."""
        shown = torch.zeros(len(memories[0].ragged.lengths), self.items + 1, dtype=torch.bool)
        shown = shown.to(self.code_table.device)
        for one in zip(self.coders, memories, self.tries, strict=True):
            found = search_beams(*one, 1, self.items, mask, exclude, self.normalize, exact=True).items
            shown.scatter_(1, found.clamp(min=0), True)
        return shown[:, 1:]

    def _item_scores(self, memories: tuple[Memory, Memory]) -> Tensor:
        """Sum of both streams' log-probabilities of every item, float32 [B, N]."""
        parts = self._own(self.code_table[1:])
        leaves = [trie.path(codes)[:, -1] for trie, codes in zip(self.tries, parts, strict=True)]
        asked = zip(self.coders, memories, self.tries, leaves, strict=True)
        first, second = (all_scores(*one, self.normalize) for one in asked)
        return first + second

    @torch.no_grad()
    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Sum of both streams' log-probabilities of every item, and the dense head's if any, float32 [B, N]."""
        device, training = self.code_table.device, self.training
        self.eval()
        memories = self._memories(items.to(device), lengths.to(device))
        scores = self._item_scores(memories)
        if weight := self._weight:
            scores = scores + weight * self._dense_scores(memories[0], items).float().log_softmax(1)
        self.train(training)
        return scores

    @torch.no_grad()
    def score_both(
        self, items: Tensor, lengths: Tensor, users: Tensor | None = None, beams: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of all items by their codes and by the dense head, float32 [B, N] each."""
        device, training = self.code_table.device, self.training
        self.eval()
        memories = self._memories(items.to(device), lengths.to(device))
        found = self._item_scores(memories), self._dense_scores(memories[0], items).float().log_softmax(1)
        self.train(training)
        return found
