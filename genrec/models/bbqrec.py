"""BBQRec: one token a level that carries the codes of three streams, and attention that knows how alike items are."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genrec.dense import DenseHead, DenseSettings
from genrec.generator import Generator, samples
from genrec.nets.attention import Ragged
from genrec.nets.t5 import DecoderState, T5Decoder, T5Encoder
from genrec.nets.t5_blocks import Memory
from genrec.preparation import Ingredients, Sources
from genrec.preparation import Preparation as ItemCodePreparation
from genrec.search.decoding import Logits
from recbase.arguments import (
    Count,
    Depth,
    Deviation,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Temperature,
    Weight,
    Width,
    taken,
)
from recbase.data.sequences import SequenceBatch
from recbase.train.loop import LossOutput

if TYPE_CHECKING:
    from recbase.data.catalog import Dataset

__all__ = ["RECIPES", "BBQRec", "Preparation", "SimilarityGate", "similarity_buckets"]

RECIPES = {
    "default": {"epochs": 40, "batch_size": 256, "lr": 1e-3, "warmup_steps": 300, "patience": 5, "precision": "auto"},
    "paper": {
        "epochs": 200,
        "batch_size": 256,
        "lr": 5e-4,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_share": 0.01,
        "patience": 20,
        "precision": "no",
        "init_std": 0.01,
        "levels": 3,
        "codebook_size": 256,
        "tokenizer_recipe": "paper",
        "pca": None,
        "whiten": False,
        "encoder": "sentence-transformers/sentence-t5-base",
        "views": ("title", "description"),
    },
    # Not the paper's model: no similarity, a dense head beside the codes.
    "small": {
        "form": "all",
        "normalize": "children",
        "similarity": False,
        "dim": 96,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "heads": 3,
        "head_dim": 32,
        "ffn": 384,
        "dropout": 0.3,
        "recency_bias": True,
        "dense_weight": 1.0,
        "whiten": False,
        "epochs": 12,
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
class Preparation(ItemCodePreparation):
    """Behaviour-bound codes of text, image and the item itself, and their quantized vectors."""

    method: ClassVar[str] = "behavior"
    streams: tuple[Literal["id", "text", "image"], ...] = ("id", "text", "image")
    """Streams that are quantized, of those the data have (figure 4 leaves one out)."""
    mim: bool = True
    """Keep specific and aligned parts of a modality apart (table 3: w/o MIM)."""
    rec: bool = True
    """Bind codes to behaviour by the sequence-to-item contrast (table 3: w/o rec)."""
    shared_codebook: bool = True
    """One codebook a level for all streams (table 3: w/o shared codebook)."""

    def tokenizer_arguments(self, dataset: Dataset, seed: int, method: str | None = None) -> dict[str, Any]:
        """As without ablations, and these."""
        found = super().tokenizer_arguments(dataset, seed, method)
        ablations = {"streams": self.streams, "mim": self.mim, "rec": self.rec}
        return found | ablations | {"shared_codebook": self.shared_codebook}

    def prepare(self, sources: Sources) -> Ingredients:
        """Codes [N, L * streams], level by level, and the quantized vectors that items are compared by."""
        import semtok

        dataset, codes, record = sources.dataset, sources.codes, {}
        if codes is None:
            content = self.item_embeddings(sources, "image" in self.streams)
            record = {"embeddings": content.hash, "vectors": content.reduction}
            codes = self.fitted(sources, content)
        tokenizer = semtok.load(codes)
        if dataset.images is not None and "image" in self.streams and "image" not in tokenizer.streams_:
            where = codes if sources.embeddings is None else sources.embeddings
            warnings.warn(f"{dataset.name} has images but {where} has none: there is no image stream", stacklevel=2)
        if tokenizer.method != self.method:
            raise ValueError(f"{codes} holds {tokenizer.method} codes; bbqrec generates behavior codes")
        found = semtok.load_codes(codes).align(sources.item_ids)
        widths = {part.stop - part.start for part in tokenizer.blocks_.values()}
        if len(widths) != 1 or len(found.sizes) != len(tokenizer.sizes_):
            raise ValueError(
                f"levels of the codes in {codes} have different streams; make them unique by another policy (--unique)"
            )
        arrays = {"vectors": tokenizer.decode(found.codes)}
        arrays["codebooks"] = np.stack([np.asarray(book, dtype=np.float32) for book in tokenizer.codebooks_])
        record |= {"codes": found.hash, "codes_folder": str(codes), "streams": list(tokenizer.streams_)}
        shapes = {"streams": widths.pop(), "vector_dim": arrays["vectors"].shape[1]}
        shapes["codebook_dim"] = arrays["codebooks"].shape[2]
        return Ingredients(found, arrays, shapes, record)


def similarity_buckets(vectors: Tensor, count: int) -> Tensor:
    """Bucket of the cosine of every two items of a row: [B, T, D] to int64 [B, T, T], min(K - 1, (s + 1) / 2 * K)."""
    unit = F.normalize(vectors.float(), dim=-1)
    cosines = (unit @ unit.transpose(1, 2)).clamp(-1, 1)
    return ((cosines + 1) / 2 * count).floor().long().clamp(max=count - 1)


class SimilarityGate(nn.Module):
    """Attention whose values pass a gate by how alike the two items are, element by element.

    out_i = sum_j a_ij (R[b_ij] * v_j) with one vector R a bucket, shared by the heads and one at first, so that it
    starts as plain attention (BBQRec, eq. 17). Tokens of an item are summed before they are gated, one head at a time,
    so that nothing of the size tokens x tokens x width is ever held.

    Parameters
    ----------
    buckets : int
    head_dim : int
    group : int
        Tokens an item.
    trained : bool, default True
        Off: the gate stays one (ablation "w/o sim").
    """

    def __init__(self, buckets: int, head_dim: int, group: int, trained: bool = True) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(buckets, head_dim), requires_grad=trained)
        self.group = group

    def forward(self, weights: Tensor, values: Tensor, buckets: Tensor | None) -> Tensor:
        """Weights [b, H, Q, K], values [b, H, K, d] and buckets [b, T, T] of the items to [b, H, Q, d]."""
        if buckets is None or not self.gate.requires_grad:
            return weights @ values
        items = weights.shape[2] // self.group
        gate = F.embedding(buckets[:, :items, :items], self.gate).to(values.dtype).transpose(1, 2)  # [b, Tj, Ti, d]
        parts = []
        for head in range(weights.shape[1]):
            given = (weights[:, head], values[:, head], gate)
            if torch.is_grad_enabled():
                parts.append(cast(Tensor, checkpoint(self._head, *given, use_reentrant=False)))
            else:
                parts.append(self._head(*given))
        return torch.stack(parts, 1)

    def _head(self, weights: Tensor, values: Tensor, gate: Tensor) -> Tensor:
        rows, tokens, _ = weights.shape
        items = tokens // self.group
        near = weights.unflatten(2, (items, self.group)).transpose(1, 2)  # [b, Tj, Q, L]
        summed = near @ values.unflatten(1, (items, self.group))  # [b, Tj, Q, d]
        summed = summed.unflatten(2, (items, self.group)) * gate[:, :, :, None]
        return summed.sum(1).reshape(rows, tokens, -1)


@dataclass(frozen=True)
class Comparing:
    """Settings of the comparison of items in the attention of the encoder; `BBQRec` says what each setting means."""

    similarity: bool = True
    buckets: Count = 100


@dataclass(frozen=True)
class TokenEmbeddings:
    """Settings of the start of the token embeddings; `BBQRec` says what each setting means."""

    inherit: bool = False
    init_std: Deviation = 1.0


class BBQRecOptions(TypedDict, total=False):
    """The settings of `Comparing`, `TokenEmbeddings` and `DenseSettings`, as keywords of `BBQRec`."""

    similarity: bool
    buckets: Count
    inherit: bool
    init_std: Deviation
    dense_weight: Weight
    dense_temperature: Temperature


class BBQRec(Generator):
    """Behavior-bind quantization for multi-modal sequential recommendation (arXiv 2504.06636), the generator.

    An item is L tokens; a token carries the codes of all streams (id, text, image) at its level: its input is a linear
    map of their embeddings side by side, its output one softmax a stream, and the probability of a tuple is the
    product. The tuples of the catalogue form a tree, so only those that exist are scored. The T5-style encoder weighs
    the values of its attention by how alike two items' quantized vectors are. No code is public; where the text leaves
    sizes open they are TIGER's. Recipe ``paper`` reads title and description with Sentence-T5. Controls that the paper
    does not have: ``layout`` ``autoregressive`` lets each stream see those before it at its level, ``flatten`` makes
    every code a token. Recipe ``small`` is ours, for machines without a GPU, and another model: one pass a user among
    codes that exist, no similarity, a bias by recency, and a dense head that ranks lists with the codes.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int [L * streams]
        Codes of each column, level by level.
    streams : int, default 3
        Codes of each level.
    vector_dim : int, default 0
        Width of the quantized vectors that items are compared by; 0 leaves similarity out.
    codebook_dim : int, default 0
        Width of the tokenizer's codebooks, for ``inherit``.
    dim : int, default 128
        Width of tokens, D.
    encoder_layers : int, default 4
        Blocks of the encoder.
    decoder_layers : int, default 4
        Blocks of the decoder.
    heads : int, default 6
        Attention heads.
    head_dim : int, default 64
        Width of a head.
    ffn : int, default 1024
        Width of the feed-forward layers.
    dropout : float, default 0.1
        On the output of every sub-layer, and on attention weights.
    activation : {"relu", "gated-gelu"}, default "relu"
        Of the feed-forward layers.
    layout : {"product", "autoregressive", "flatten"}, default "product"
        How the streams of a level are generated: at once, one after the other, or as tokens of their own.
    similarity : bool, default True
        Weigh values by the similarity of items (table 4: w/o sim).
    buckets : int, default 100
        Buckets of similarity.
    inherit : bool, default False
        Start the token embeddings from the tokenizer's codebooks. Table 4's "inherit" turns ``similarity`` off as well:
        its numbers lie below those of "w/o sim".
    init_std : float, default 1.0
        Standard deviation of the token embeddings at the start; recipe ``paper``: 0.01.
    max_len : int, default 20
        Longest history, in items; older ones are cut.
    causal_encoder : bool, default False
        Whether tokens of the history see only what came before them. Sample form ``all`` needs it and turns it on: one
        pass a user, in which every item is a target whose decoder sees the items before it (ours, not the paper's).
    normalize : {"vocabulary", "children"}, default "vocabulary"
        See TIGER.
    recency_bias : bool, default False
        See TIGER.
    dense_weight : float, default 0.0
        Weight of the loss of a dense head, which ranks lists together with the codes (:mod:`genrec.dense`; ours). 0
        leaves the head out. With it the encoder also reads a row of every item, added to its last token.
    dense_temperature : float, default 0.12
        Temperature of the dense head.
    """

    vectors: Tensor
    setting_groups = (Comparing, TokenEmbeddings, DenseSettings)

    def __init__(
        self,
        items: Large,
        sizes: list[int],
        streams: Heads = 3,
        vector_dim: LargeOrOff = 0,
        codebook_dim: LargeOrOff = 0,
        dim: Width = 128,
        encoder_layers: Depth = 4,
        decoder_layers: Depth = 4,
        heads: Heads = 6,
        head_dim: Width = 64,
        ffn: Width = 1024,
        dropout: Dropout = 0.1,
        activation: Literal["relu", "gated-gelu"] = "relu",
        layout: Literal["product", "autoregressive", "flatten"] = "product",
        max_len: Length = 20,
        causal_encoder: bool = False,
        normalize: Literal["vocabulary", "children"] = "vocabulary",
        recency_bias: bool = False,
        **options: Unpack[BBQRecOptions],
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(arguments, width=streams if layout == "product" else 1)
        comparing, start = taken(Comparing, options), taken(TokenEmbeddings, options)
        if len(sizes) % streams:
            raise ValueError(
                f"there are {len(sizes)} code columns for {streams} streams; expected as many for every stream"
            )
        if start.inherit and not codebook_dim:
            raise ValueError("--inherit needs the codebooks of the tokenizer")
        self.streams, self.layout, self.dim, self.dropout = streams, layout, dim, dropout
        self.buckets, self.inherit = comparing.buckets, start.inherit
        self.token_streams = 1 if layout == "flatten" else streams  # columns that one token carries
        self.group = len(sizes) // self.token_streams  # tokens an item
        width = codebook_dim if start.inherit else dim
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.projections = nn.Linear(self.token_streams * width, dim, bias=False)
        self.start_vector = nn.Parameter(torch.randn(dim))
        gated = comparing.similarity and vector_dim > 0
        gates = [SimilarityGate(comparing.buckets, head_dim, self.group, gated) for _ in range(encoder_layers)]
        shape = (heads, head_dim, ffn, dropout, activation)
        self.encoder = T5Encoder(dim, encoder_layers, *shape, mixers=gates if gated else None, causal=causal_encoder)
        self.decoder = T5Decoder(dim, decoder_layers, *shape, recency=max_len * self.group if recency_bias else 0)
        self.heads = nn.ModuleList(nn.Linear(dim, size, bias=False) for size in sizes)
        following = len(sizes) if layout == "autoregressive" else 0
        self.within = nn.ModuleList(nn.Linear(width, dim, bias=False) for _ in range(following))
        self.register_buffer("vectors", torch.zeros(items + 1, vector_dim if gated else 0))
        self._initialise()
        dense = taken(DenseSettings, options)
        self.dense_weight = dense.dense_weight
        if self.dense_weight:
            self.dense = DenseHead(items, dim, dense.dense_temperature)

    def _initialise(self) -> None:
        """T5's scheme: by fan-in; queries also by sqrt(head_dim), as scores are not scaled."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=float(self._config["init_std"]))
        for name, parameter in self.named_parameters():
            if name.endswith(".bias.weight"):
                nn.init.normal_(parameter, std=self.dim**-0.5)
        inner = int(self._config["heads"]) * int(self._config["head_dim"])
        scale = float(self._config["head_dim"]) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("attention.qkv.weight"):
                    parameter[:inner].mul_(scale)
                elif name.endswith("cross.query.weight"):
                    parameter.mul_(scale)

    def with_arrays(self, vectors: np.ndarray, codebooks: np.ndarray | None = None) -> BBQRec:
        """Set the quantized vectors, float32 [N, vector_dim], and the codebooks, float32 [L * streams, K, D].

        The vectors are not trained; the codebooks start the token embeddings where these inherit them, scaled to unit
        variance.
        """
        if self.vectors.shape[1]:
            self.vectors[1:] = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        if self.inherit and codebooks is not None:
            with torch.no_grad():
                for table, size, book in zip(self.tables, self.sizes, codebooks, strict=True):
                    rows = torch.from_numpy(np.asarray(book[:size], dtype=np.float32))
                    cast(nn.Embedding, table).weight.copy_(rows / rows.std().clamp(min=1e-6))
        return self

    # ------------------------------------------------------------------------------------------------- tokens

    def _token(self, codes: Tensor, first: int) -> Tensor:
        """One token of the codes [..., token_streams] of the columns from ``first`` on: [..., D]."""
        parts = [self.tables[first + stream](codes[..., stream]) for stream in range(codes.shape[-1])]
        token: Tensor = self.projections(torch.cat(parts, -1))
        return token

    def _tokens(self, codes: Tensor) -> Tensor:
        """All tokens of items: codes [..., L * streams] to [..., group, D]."""
        width = self.token_streams
        return torch.stack(
            [self._token(codes[..., lo : lo + width], lo) for lo in range(0, len(self.sizes), width)], -2
        )

    def encode_histories(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Memory:
        """Encoded tokens of histories: items [B, T], right padded, and lengths [B]."""
        counts = lengths * self.group
        ragged = Ragged.of(counts, items.shape[1] * self.group)
        packed = Ragged.of(lengths, items.shape[1])  # the same rows in the same order
        numbers = packed.pack(items)
        tokens = self._tokens(self.code_table[numbers].long())
        if self.dense is not None:  # an item's vector stands with its last token, at the size of a token's entries
            known = self.dense.item_inputs(self.dense_content()[numbers], numbers) * self.dim**0.5
            tokens = tokens + F.pad(known[:, None], (0, 0, self.group - 1, 0))
        tokens = tokens.flatten(0, 1)
        buckets = similarity_buckets(self.vectors[items], self.buckets) if self.vectors.shape[1] else None
        memory: Memory = self.encoder(tokens, ragged, buckets)
        return memory

    def dense_content(self) -> Tensor:
        """Sums of the items' tokens, [N + 1, D]; zeros for padding."""
        codes = self.code_table.long().clamp(min=0)
        return self._tokens(codes).sum(1) * (self.code_table[:, :1] >= 0)

    def forward(self, batch: SequenceBatch) -> LossOutput:
        """This batch's share of the mean loss over all targets: the mean over levels of the sum over streams."""
        found = samples(batch, self.encoder.causal)
        memory = self.encode_histories(batch.items, batch.lengths)
        codes = self.code_table[found.items].long()
        tokens = self._tokens(codes)[:, :-1]
        start = self.start_vector.expand(len(codes), 1, -1).to(tokens.dtype)
        given = torch.cat([start, tokens], 1)
        if found.one_pass:
            states = self.decoder.prefixes(given, memory, Ragged.of(batch.lengths * self.group))
        else:
            states = self.decoder(given, memory)  # [S, group, D]
        logits = [
            self._logits(states[:, column // self.token_streams], column, codes) for column in range(len(self.sizes))
        ]
        steps = len(self.sizes) if self.normalize == "vocabulary" else self.trie.steps  # that the mean is over
        mean = self.code_loss(logits, codes, codes) / batch.target_count
        loss = mean * steps * self.streams / len(self.sizes)
        parts = {"ce": loss.detach()}
        return self.with_dense(loss, parts, memory, found, batch)

    def _logits(self, states: Tensor, column: int, codes: Tensor | None = None) -> Tensor:
        """Logits of one column; ``codes`` [..., columns so far] where its stream sees those before it at its level."""
        if self.within and codes is not None:
            for before in range(column // self.streams * self.streams, column):
                states = states + self.within[before](self.tables[before](codes[..., before]))
        logits: Tensor = self.heads[column](states)
        return logits

    # ------------------------------------------------------------------------------------------------- search

    def start(self, memory: Memory) -> SearchState:
        """State before the first code."""
        return SearchState(self.decoder.start(memory))

    def step(self, state: SearchState, parents: Tensor | None, tokens: Tensor | None) -> tuple[Logits, SearchState]:
        """Logits of the next codes: of all streams of a level, or of one stream after the other."""
        if tokens is None:
            rows = len(state.decoder.keys[0])
            return self._after(state, None, self.start_vector.expand(rows, 1, -1), None)
        given = tokens if tokens.ndim == 3 else tokens[..., None]
        if state.codes is not None and parents is not None:
            index = parents[..., None].expand(-1, -1, state.codes.shape[2])
            given = torch.cat([state.codes.gather(1, index), given], 2)
        column = given.shape[2]
        if column % self.token_streams:  # within a level: the decoder has nothing new to read
            assert state.hidden is not None
            assert parents is not None
            hidden = state.hidden.gather(1, parents[..., None].expand(-1, -1, self.dim))
            settled = parents if state.parents is None else state.parents.gather(1, parents)
            state = replace(state, hidden=hidden, codes=given, parents=settled)
            return self._logits(hidden, column, given), state
        origin = parents
        if state.parents is not None and parents is not None:
            origin = state.parents.gather(1, parents)
        first = column - self.token_streams
        return self._after(state, origin, self._token(given[..., first:], first), given)

    def _after(
        self, state: SearchState, parents: Tensor | None, token: Tensor, codes: Tensor | None
    ) -> tuple[Logits, SearchState]:
        """Read one more token, then the logits of what follows it."""
        column = 0 if codes is None else codes.shape[2]
        hidden, decoder = self.decoder.step(state.decoder, parents, token)
        state = SearchState(decoder, hidden, codes, None)
        if column == len(self.sizes):
            return hidden, state
        if self.layout == "product":
            parts = [self._logits(hidden, column + stream) for stream in range(self.streams)]
            return tuple(parts), state
        return self._logits(hidden, column, codes), state


@dataclass(frozen=True)
class SearchState:
    """Memory of the prefixes of a batch.

    Attributes
    ----------
    decoder : DecoderState
        Of the last token that was read.
    hidden : Tensor [B, W, D], optional
        Its state, from which the streams of a level are generated.
    codes : int64 Tensor [B, W, c], optional
        The codes so far.
    parents : int64 Tensor [B, W], optional
        Which prefix of ``decoder`` each one continues, where codes were added within a level.
    """

    decoder: DecoderState
    hidden: Tensor | None = None
    codes: Tensor | None = None
    parents: Tensor | None = None
