"""PRORec: one short code an item that holds collaborative and semantic knowledge, and a generator that keeps both.

Stage I joins text and behaviour in item vectors (:class:`seqrec.models.din.DIN`), hierarchical k-means makes a unique
code of each, stage II generates codes while a last token distils the vector of the target. ``Preparation`` runs what
comes before stage II, each part in its own folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.dense import DenseHead
from genrec.generator import Generator, samples
from genrec.nets.attention import Ragged
from genrec.nets.distilling import DistillingDecoder
from genrec.nets.leaves import LeafDecoder, LeafHead
from genrec.nets.post_norm import PostNormEncoder
from genrec.nets.t5_blocks import Memory
from genrec.preparation import Ingredients, Sources, UniquePolicy, train_first
from genrec.preparation import Preparation as ItemCodePreparation
from genrec.search.decoding import Logits
from recbase.arguments import (
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Seconds,
    Temperature,
    Weight,
    Width,
)
from recbase.data.sequences import SequenceBatch
from recbase.model import initialise
from recbase.pipeline import step
from recbase.train.loop import LossOutput
from semtok.catalogue.prepare import codes_folder

if TYPE_CHECKING:
    from recbase.data.splits import Split
    from recbase.train.loop import TrainConfig

__all__ = ["RECIPES", "PRORec", "Preparation", "sampled_ranking", "standardized", "together"]

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
        "monitor": "ndcg@20",
        "beams": 100,
        "precision": "no",
        "stage1_form": "prefix",
        "stage1_recipe": "paper",
        "pca": None,
        "whiten": False,
        "integrate": "aligned",
        "codebook_size": 256,
        "encoder": "meta-llama/Llama-2-7b-hf",
    },
    # Not the paper's model: text codes without stage I, a dense head beside them (docs/results/past-the-counter.md).
    "small": {
        "form": "all",
        "normalize": "children",
        "encoder_tokens": "items",
        "source": "semantic",
        "whiten": False,
        "distill_weight": 0.0,
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

_RANKED = 1000  # candidates, the target among them, by whose ranking stage I is stopped


@dataclass(frozen=True)
class Preparation(ItemCodePreparation):
    """PRORec's stages before the generator: joined item vectors, then their hierarchical codes."""

    method: ClassVar[str] = "hierarchical"
    unique: UniquePolicy = "none"
    """How codes are made unique; hierarchical ones are by construction: none, or another policy."""
    tokenizer: Literal["hierarchical", "rqvae", "random", "rq"] = "hierarchical"
    """What makes codes of the vectors (figure of the quantizers): those that are not unique get a suffix."""
    source: Literal["joined", "semantic", "collaborative", "concat", "standardized-concat", "ppmi"] = "joined"
    """Vectors that codes are made of: stage I's, the text alone, a plain DIN's, both of these side by side, or those of
    what occurs together in the training part (ppmi; no network is trained for them)."""
    normalize: bool = False
    """Give every vector length 1 before it is clustered."""
    stage1: Path | None = None
    """Run folder with item vectors to use instead of training stage I."""
    stage1_recipe: str = "default"
    """Recipe of stage I's training: default, or paper for DIN's (warm-up of 5,000 steps, then ~ 1/sqrt(step))."""
    stage1_epochs: Count = 60
    """Passes over the users in stage I at most."""
    stage1_seconds: Seconds | None = None
    """Seconds after which stage I stops and keeps its best; no limit if not given."""
    stage1_valid_users: LargeOrOff = 1000
    """Users by whose ranking of 1,000 items stage I is stopped, drawn once; 0 takes all."""
    stage1_form: Literal["all", "prefix"] = "all"
    """Samples of stage I: one random position a user and epoch (all), or every prefix."""
    stage1_dim: Width = 128
    """Width of the item vectors."""
    align_weight: Weight = 1.0
    """Weight of the cross-modality alignment in stage I, alpha; 0 leaves it out."""
    integrate: Literal["aligned", "mean", "beside"] = "mean"
    """Stage I's vector of an item: the aligned collaborative table (A), its mean with the adapted text (B), or both
    side by side, each layer-normalised (C)."""

    def __post_init__(self) -> None:
        from recbase.cli.options import recipe_of

        super().__post_init__()
        recipe_of("seqrec.models.din:DIN", self.stage1_recipe)  # refuses one that there is not

    def prepare(self, sources: Sources) -> Ingredients:
        """Item vectors and codes, each kept in the cache if it was not given."""
        import semtok

        vectors, record = self.item_vectors(sources)
        vectors = self._scaled(vectors)
        folder = sources.codes or self._codes(sources, vectors, record)
        found = semtok.load_codes(folder).align(sources.item_ids)
        record |= {"codes": found.hash, "codes_folder": str(folder)}
        return Ingredients(found, {"vectors": vectors}, {"vector_dim": vectors.shape[1]}, record)

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [N, D] as they are clustered: of length 1 where that is wanted."""
        if not self.normalize:
            return vectors
        found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return found

    def item_vectors(self, sources: Sources) -> tuple[np.ndarray, dict[str, Any]]:
        """The vectors [N, D] that codes are made of, and what the manifest says of them."""
        record: dict[str, Any] = {"source": self.source}
        if self.source == "ppmi":
            return together(sources), record
        parts = []
        if self.source in ("semantic", "concat", "standardized-concat"):
            parts.append(self._text(sources, record))
        if self.source != "semantic":
            parts.append(self._behaviour(sources, record))
        if self.source == "standardized-concat":
            parts = [standardized(part) for part in parts]
        return np.concatenate(parts, 1).astype(np.float32), record

    def _text(self, sources: Sources, record: dict[str, Any]) -> np.ndarray:
        """The text vectors of the items, brought to ``stage1_dim`` by principal components."""
        from sklearn.decomposition import PCA

        text = self._joined(sources, record)
        width = min(self.stage1_dim, *text.shape)
        reduced: np.ndarray = PCA(width, svd_solver="covariance_eigh").fit_transform(text)
        return reduced.astype(np.float32)

    def _joined(self, sources: Sources, record: dict[str, Any]) -> np.ndarray:
        found = self.item_embeddings(sources)
        record |= {"embeddings": found.hash, "vectors": found.reduction}
        views = [view for view in self.views or tuple(found.views) if view != "image"]
        matrix: np.ndarray = found.matrix(views, normalize=True)[0]
        return matrix

    def _behaviour(self, sources: Sources, record: dict[str, Any]) -> np.ndarray:
        """Vectors of stage I, or those of a plain DIN for the controls."""
        from semtok.catalogue.fit import load_collaborative

        folder = self.stage1
        if folder is None:
            text = None
            if self.source == "joined" and (self.align_weight or self.integrate != "aligned"):
                text = self._joined(sources, record)
            read = None if text is None else record["embeddings"]  # a plain DIN is the same for every text
            options = {name: value for name, value in vars(self).items() if name.startswith("stage1_")}
            key: dict[str, Any] = {
                "data": sources.dataset.trained_hash,
                "embeddings": read,
                "seed": sources.seed,
            } | options
            if text is not None:
                key |= {"align": self.align_weight, "integrate": self.integrate}
            folder = step(sources.cache, "din", key, "config.json", self._trainer(sources, text))
        record["stage1"] = str(folder)
        return load_collaborative(folder, sources.item_ids)

    def _trainer(self, sources: Sources, text: np.ndarray | None) -> Callable[[Path], None]:
        """Function that trains stage I into a folder."""
        dataset, seed = sources.dataset, sources.seed

        def build(target: Path) -> None:
            from accelerate.utils import set_seed

            from seqrec.models.din import DIN

            set_seed(seed)
            options: dict[str, Any] = {}
            if text is not None:
                options = {"align_weight": self.align_weight, "integrate": self.integrate}
            model = DIN(dataset.n_items, 0 if text is None else text.shape[1], self.stage1_dim, **options)
            if text is not None:
                model = model.with_content(text)
            judge = sampled_ranking(dataset.split(), dataset.n_items, seed, self.stage1_valid_users)
            config = self._stage1_config(seed, sources.quiet)
            train_first("din", model, dataset, self.stage1_form, judge, config, target)

        return build

    def _stage1_config(self, seed: int, quiet: bool) -> TrainConfig:
        """Settings of stage I's training: DIN's recipe of that name, for as many passes as are wanted here."""
        from recbase.cli.options import recipe_of
        from recbase.train.loop import TrainConfig

        chosen = {"monitor": "ndcg@20"} | recipe_of("seqrec.models.din:DIN", self.stage1_recipe)
        chosen.pop("form", None)  # an option of its own
        chosen |= {"epochs": self.stage1_epochs, "max_seconds": self.stage1_seconds, "seed": seed, "quiet": quiet}
        return TrainConfig(**chosen)

    def _codes(self, sources: Sources, vectors: np.ndarray, record: dict[str, Any]) -> Path:
        """Folder of the codes of these vectors, kept in the cache."""
        from semtok.content.embeddings import Embeddings
        from semtok.registry import tokenizer_class

        arguments = self.tokenizer_arguments(sources.dataset, sources.seed, self.tokenizer)
        if self.codebook_size is None:
            arguments["codebook_size"] = 256
        return codes_folder(
            tokenizer_class(self.tokenizer)(**arguments),
            Embeddings({"item": vectors}, {}, sources.item_ids),
            sources.cache,
            dataset=sources.dataset,
            per_view=True,
            unique=self.unique if self.tokenizer == "hierarchical" or self.unique != "none" else "suffix",
            made_from=record,
            seed=sources.seed,
            quiet=sources.quiet,
        )


def together(sources: Sources) -> np.ndarray:
    """Item vectors float32 [N, D] of what occurs together in the histories of the training part."""
    from semtok.content.collaborative import collaborative_vectors

    found: np.ndarray = collaborative_vectors(sources.dataset.split().train, sources.dataset.n_items)
    return found.astype(np.float32)


def standardized(vectors: np.ndarray) -> np.ndarray:
    """Every column with mean 0 and standard deviation 1 (0 where it is constant)."""
    spread = vectors.std(0)
    found: np.ndarray = (vectors - vectors.mean(0)) / np.where(spread > 1e-12, spread, 1)
    return found


def sampled_ranking(split: Split, n_items: int, seed: int, users: int = 1000) -> Callable[[Any], dict[str, float]]:
    """Metric that stops stage I: NDCG of the target among 999 uniform items, for a fixed part of the validation users.

    Never reported as a result: it says how training goes, not how good the model is.
    """
    from genrec.search.generation import some_targets

    some = some_targets(split.valid, users, seed)
    draws = np.random.default_rng(seed).integers(1, n_items + 1, (len(some), min(_RANKED, n_items) - 1))
    targets = np.asarray(some.items, dtype=np.int64)
    draws = np.where(draws == targets[:, None], draws % n_items + 1, draws)
    candidates = torch.from_numpy(np.concatenate([targets[:, None], draws], 1))

    def validate(model: Any) -> dict[str, float]:
        items, lengths = (torch.from_numpy(part) for part in some.histories.padded(np.arange(len(some)), model.max_len))
        scores = model.score_items(items, lengths, candidates)
        ranks = (scores[:, 1:] >= scores[:, :1]).sum(1).cpu().numpy() + 1
        gains = np.where(ranks <= 20, 1 / np.log2(ranks + 1), 0)
        return {"ndcg@20": float(gains.mean()), "recall@20": float((ranks <= 20).mean())}

    return validate


class PRORec(Generator):
    """PRORec, later UNGER (arXiv 2502.06269): unified codes, generated with distillation of both kinds of knowledge.

    A BERT-style encoder reads the codes of the history, a decoder writes those of the next item; a learned token after
    the last code is drawn to the target's stage-I vector by a contrast with random items (intra-modality knowledge
    distillation). The token comes last and is not there when items are searched. No code is public; what the text
    leaves open follows its kin EAGER: 4 heads, feed-forward 1,024, 2,048 negatives at temperature 0.3. Positions are
    learned and absolute. Departs from the text: a softmax a level over its own codes, early stopping on validation, and
    stage I's vector of an item is the mean of its row and its adapted text. Recipe ``paper`` takes the row alone, and
    text vectors of Llama2-7b; ``--integrate beside`` hands on both side by side, each layer-normalised, for in the
    mean the text outweighs the row by its scale. Recipe ``small`` is ours, for machines without a GPU, and another
    model: codes of the text alone, no distillation, an embedding of its own for every leaf, a bias by recency, and a
    dense head that ranks lists with the codes.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [L]
        Codes of each level.
    vector_dim : int, default 0
        Width of the distilled vectors.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers : int, default 1
        Blocks of the encoder.
    decoder_layers : int, default 4
        Blocks of the decoder.
    heads : int, default 4
        Attention heads; must divide ``dim``.
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
        On the output of every sub-layer, and on attention weights.
    distill_weight : float, default 1.0
        Weight of the distillation, beta. 0 leaves it out (ablation "w/o IKD").
    distill_negatives : int, default 2048
        Random items that the target's vector is told from; no more than there are others.
    distill_temperature : float, default 0.3
        Temperature of the distillation.
    encoder_tokens : {"codes", "items"}, default "codes"
        Whether the encoder reads the codes of an item, or one token an item.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    causal_encoder : bool, default False
        Whether tokens of the history see only what came before them. Sample form ``all`` needs it and turns it on: one
        pass a user, in which every item is a target whose decoder sees the items before it (ours, not the paper's).
    normalize : {"vocabulary", "children"}, default "vocabulary"
        See TIGER.
    leaf_embeddings : bool, default False
        Whether every item has an output embedding of its own for its last code, chosen among the codes that follow
        there, instead of one that all clusters share (as in EAGER's release; not in the paper).
    recency_bias : bool, default False
        Whether cross-attention has a learned bias by distance from the end of what is seen (ours).
    dense_weight : float, default 0.0
        Weight of the loss of a dense head, which ranks lists together with the codes (:mod:`genrec.dense`; ours). 0
        leaves the head out. With it the encoder reads two vectors of an item, one of its content and its row.
    dense_temperature : float, default 0.12
        Temperature of the dense head.
    """

    vectors: Tensor

    training_arrays = ("vectors",)

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        vector_dim: LargeOrOff = 0,
        dim: Width = 128,
        encoder_layers: Depth = 1,
        decoder_layers: Depth = 4,
        heads: Heads = 4,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        distill_weight: Weight = 1.0,
        distill_negatives: Count = 2048,
        distill_temperature: Temperature = 0.3,
        encoder_tokens: Literal["codes", "items"] = "codes",
        max_len: Length = 20,
        causal_encoder: bool = False,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
        leaf_embeddings: bool = False,
        recency_bias: bool = False,
        dense_weight: Weight = 0.0,
        dense_temperature: Temperature = 0.12,
    ) -> None:
        super().__init__(locals())
        self.dropout, self.by_items = dropout, encoder_tokens == "items"
        self.group = 1 if self.by_items else len(sizes)
        self.distill_weight = distill_weight if vector_dim else 0.0
        distilled = vector_dim if self.distill_weight else 0
        shape = (dim, decoder_layers, heads, ffn, dropout, distilled, distill_negatives, distill_temperature)
        self.decoder = DistillingDecoder(sizes, items, *shape, max_len * self.group if recency_bias else 0)
        self.leaf_head = LeafHead(items, dim) if leaf_embeddings else None
        self.dense_weight = dense_weight
        if dense_weight:
            self.dense = DenseHead(items, dim, dense_temperature)
        by_row = self.by_items and not dense_weight  # else the rows are the dense head's
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0) if by_row else None
        self.source_position = nn.Embedding(max_len * self.group, dim)
        self.source_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = PostNormEncoder(dim, encoder_layers, heads, ffn, dropout, dropout, causal_encoder)
        self.register_buffer("vectors", torch.zeros(items + 1, vector_dim))
        initialise(self)

    def with_arrays(self, vectors: np.ndarray) -> PRORec:
        """Set the vectors that are distilled, float32 [N, vector_dim]; they are not trained."""
        self.vectors[1:] = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        return self

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets of the step."""
        found = samples(batch, self.encoder.causal)
        targets = found.items
        memory, codes = self.encode_histories(batch.items, batch.lengths), self.code_table[targets].long()
        if found.one_pass:
            states = self.decoder.prefixes(codes, memory, batch.lengths, self.group)
        else:
            states = self.decoder(codes, memory)
        right = self.decoder.vocabulary.targets(codes)
        loss = self.code_loss(self._logits(states, codes), codes, right) / batch.target_count
        parts = {"ce": loss.detach()}
        if self.distill_weight:
            distillation = self.decoder.distill(states[:, -1], targets, self.vectors, batch.seed) / batch.target_count
            parts["distill"] = distillation.detach()
            loss = loss + self.distill_weight * distillation
        return self.with_dense(loss, parts, memory, found, batch)

    def _logits(self, states: Tensor, codes: Tensor) -> list[Tensor]:
        """Logits of every level of target codes [S, L], L of [S, V_l]."""
        return self._coder.all_logits(states, codes)

    @property
    def _coder(self) -> DistillingDecoder | LeafDecoder:
        """Decoder that a search asks."""
        if self.leaf_head is None:
            return self.decoder
        return LeafDecoder(self.decoder, self.leaf_head, self.trie)

    def dense_content(self) -> Tensor:
        """Sums of the embeddings of the items' codes, [N + 1, D]."""
        return self.decoder.embedding(self.decoder.vocabulary.tokens(self.code_table)).sum(1)

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Memory:
        """Encoded tokens of histories: items [B, T], right padded, and lengths [B]."""
        if self.by_items:
            ragged = Ragged.of(lengths, items.shape[1])
            packed = ragged.pack(items)
            if self.dense is not None:
                embedded = self.dense.item_inputs(self.dense_content()[packed], packed)
            else:
                assert self.item_embedding is not None
                embedded = self.item_embedding(packed)
        else:
            vocabulary = self.decoder.vocabulary
            tokens, counts = vocabulary.history(items, lengths, vocabulary.tokens(self.code_table))
            ragged = Ragged.of(counts, tokens.shape[1])
            embedded = self.decoder.embedding(ragged.pack(tokens))
            if self.dense is not None:
                embedded = self._with_items(embedded, Ragged.of(lengths, items.shape[1]).pack(items))
        x = self.source_norm(embedded + self.source_position(ragged.steps))
        memory: Memory = self.encoder(F.dropout(x, self.dropout, self.training), ragged)
        return memory

    def _with_items(self, embedded: Tensor, items: Tensor) -> Tensor:
        """Embedded codes [S * L, D] with the dense head's vector of each item [S] added to its last code."""
        assert self.dense is not None
        known = self.dense.item_inputs(self.dense_content()[items], items)
        return embedded + F.pad(known[:, None], (0, 0, self.group - 1, 0)).flatten(0, 1)

    def start(self, memory: Memory) -> Any:
        """State before the first code."""
        return self._coder.start(memory)

    def step(self, state: Any, parents: Tensor | None, tokens: Tensor | None) -> tuple[Logits, Any]:
        """Logits of the next code; the distilling token is not used."""
        return self._coder.step(state, parents, tokens)
