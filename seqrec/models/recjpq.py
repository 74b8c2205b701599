"""RecJPQ: SASRec whose item table is made of a few codes an item, which are trained with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from recbase.arguments import (
    CodebookSize,
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    Length,
    Levels,
    ShareOrOff,
    Temperature,
    Width,
    check_arguments,
)
from recbase.data.sequences import Histories
from recbase.model import initialise
from semtok.content.encoders import signed
from seqrec.layers import check_table
from seqrec.models.sasrec import SASRec

__all__ = ["RECIPES", "JointCodes", "SASRecJPQ", "random_codes", "svd_codes"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8, "code_levels": 8},
    "paper": {
        "dim": 512,
        "layers": 2,
        "heads": 8,
        "splits": 8,
        "split_size": 256,
        "assign": "svd",
        "loss": "gbce",
        "negatives": 256,
        "calibration": 0.75,
        "max_len": 200,
    },
}


def svd_codes(histories: Histories, items: int, splits: int, size: int) -> np.ndarray:
    """Codes from the training histories alone: bins of equally many items along the main directions of who had what.

    The matrix of users and items is factored; the items are sorted along each factor and cut into ``size`` bins. Equal
    items are told apart by a little seeded noise.

    Parameters
    ----------
    histories : Histories
        The training part.
    items : int
        N.
    splits : int
        Factors, L: as many codes has an item.
    size : int
        Codes of each.

    Returns
    -------
    int32 array [N, L]
    """
    columns, offsets = histories.flat()
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    table = sparse.csr_array(
        (np.ones(len(columns)), (rows, np.asarray(columns, dtype=np.int64) - 1)), shape=(len(offsets) - 1, items)
    )
    table.data[:] = 1.0  # once or often: it is known that, not how strongly, a user had an item
    generator = np.random.default_rng(0)
    factors = generator.standard_normal((items, splits)) * 1e-9  # a factor more than the matrix has is chance
    count = min(splits, min(table.shape) - 1)
    if count > 0:
        start = generator.standard_normal(min(table.shape))
        found = signed(svds(table, k=count, v0=start)[2][::-1]).T  # the largest singular value first: [N, count]
        low, high = found.min(0), found.max(0)
        factors[:, :count] = (found - low) / np.maximum(high - low, 1e-12)
    factors += generator.normal(0, 1e-5, factors.shape)
    return _bins(factors, size)


def random_codes(items: int, splits: int, size: int) -> np.ndarray:
    """Codes by chance, seeded, each of equally many items: int32 [N, L]."""
    return _bins(np.random.default_rng(0).random((items, splits)), size)


def _bins(values: np.ndarray, size: int) -> np.ndarray:
    """The bin of each value of a column, all bins holding equally many."""
    ranks = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    return (ranks * size // len(values)).astype(np.int32)


class JointCodes(nn.Module):
    """An item's vector: the embeddings of its codes, one behind the other.

    Parameters
    ----------
    items : int
        N.
    dim : int
        Width D of the vectors; a multiple of the number of levels.
    sizes : sequence of int [L]
        Codes of each level.

    Raises
    ------
    ValueError
        If ``dim`` is no multiple of L.
    """

    codes: Tensor

    def __init__(self, items: int, dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = [int(size) for size in sizes]
        if not self.sizes or dim % len(self.sizes):
            raise ValueError(f"dim is {dim}; expected a multiple of {len(self.sizes)}, the codes of an item")
        self.register_buffer("codes", torch.zeros(items + 1, len(self.sizes), dtype=torch.int32))
        self.code_embedding = nn.Embedding(sum(self.sizes) + 1, dim // len(self.sizes), padding_idx=0)

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"codes": (0, np.cumsum(self.sizes))}

    def set(self, codes: np.ndarray) -> None:
        """Set the codes, int [N, L].

        Raises
        ------
        ValueError
            If the shape is another one, or a code is not below its level's size.
        """
        found = torch.as_tensor(np.asarray(codes))
        check_table(found, self.codes, "codes")
        sizes = torch.tensor(self.sizes)
        if bool((found < 0).any()) or bool((found >= sizes).any()):
            raise ValueError(
                f"codes must lie in 0 up to below the sizes {self.sizes}, got {codes.min()}..{codes.max()}"
            )
        self.codes[1:] = (found + sizes.cumsum(0) - sizes + 1).to(torch.int32)

    def forward(self, items: Tensor) -> Tensor:
        """Vectors of some items: int64 [S] -> [S, D]."""
        vectors: Tensor = self.code_embedding(self.codes[items]).flatten(-2)
        return vectors

    def table(self) -> Tensor:
        """Vectors of items 1..N: [N, D]."""
        vectors: Tensor = self.code_embedding(self.codes[1:]).flatten(1)
        return vectors

    def levels(self) -> list[Tensor]:
        """Embeddings of the codes of each level: [K_l, D / L] each."""
        return list(self.code_embedding.weight[1:].split(self.sizes))


class SASRecJPQ(SASRec):
    """Joint product quantisation of the item table (Petrov and Macdonald, WSDM 2024, arXiv 2312.06165), in SASRec.

    An item is its codes, and a code of level l has a vector of ``dim / L`` numbers that is trained; an item's vector is
    those of its codes, one behind the other. The table takes ``sum(sizes) * dim / L`` numbers in place of ``items *
    dim``, and histories are read with the same vectors that are scored. ``--engine codes`` of recommend and serve finds
    the best items without making their vectors. Recipe ``paper`` is the paper's SASRecJPQ (gSASRec's loss, width 512).
    Departures of the default: this package's SASRec under it, with full softmax and width 128. Of the paper's
    assignments BPR is missing.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    sizes : list of int, optional
        Codes of each level, where ``assign`` is codes.
    assign : {"svd", "random", "codes"}, default "svd"
        Codes from the training histories, by chance, or of a tokenizer: of ``--codes``, or made of the items' texts.
    splits : int, default 8
        Codes an item, L, where ``assign`` is not codes; must divide ``dim``.
    split_size : int, default 256
        Codes of each level, likewise.
    dim : int, default 128
        Width of item vectors and blocks.
    layers : int, default 2
        Transformer blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "bce", "gbce", "sampled"}, default "ce"
        Next-item loss, as SASRec's.
    negatives : int, default 256
        Negatives a target (bce, gbce) or a step (sampled).
    calibration : float, default 0.75
        t of gBCE, between 0 (BCE) and 1.
    temperature : float, default 1.0
        Divides the logits of ce and sampled.
    """

    item_embedding: Any  # a layer of this file in place of the table of ids

    def __init__(
        self,
        items: Large,
        sizes: list[int] | None = None,
        assign: Literal["svd", "random", "codes"] = "svd",
        splits: Levels = 8,
        split_size: CodebookSize = 256,
        dim: Width = 128,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        loss: Literal["ce", "bce", "gbce", "sampled"] = "ce",
        negatives: Count = 256,
        calibration: ShareOrOff = 0.75,
        temperature: Temperature = 1.0,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(
            items, dim, layers, heads, ffn, dropout, attention_dropout, max_len=max_len, loss=loss,
            negatives=negatives, calibration=calibration, temperature=temperature,
        )  # fmt: skip
        self._config = arguments
        check_arguments(type(self), arguments)
        if assign == "codes" and not sizes:
            raise ValueError("assign codes needs items with codes, and these items have none")
        self.assign, given = assign, list(sizes or ()) if assign == "codes" else [split_size] * splits
        self.item_embedding = JointCodes(items, dim, given)
        initialise(self)

    @staticmethod
    def reads(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        return ("codes",) if arguments.get("assign") == "codes" else ("histories",)

    def with_content(self, histories: Histories | None = None, codes: np.ndarray | None = None, **_: Any) -> SASRecJPQ:
        """Set the codes: those given, int [N, L], or those that the training histories make; return the model.

        Raises
        ------
        ValueError
            If what ``assign`` reads is not given, or codes do not fit the sizes.
        """
        if self.assign == "codes":
            if codes is None:
                raise ValueError("assign codes needs codes of the items, and none were given")
            self.item_embedding.set(codes)
            return self
        sizes = self.item_embedding.sizes
        if self.assign == "random":
            self.item_embedding.set(random_codes(self.items, len(sizes), sizes[0]))
            return self
        if histories is None:
            raise ValueError("assign svd needs the training histories, and none were given")
        self.item_embedding.set(svd_codes(histories, self.items, len(sizes), sizes[0]))
        return self

    def candidates(self) -> Tensor:
        """Item vectors, with gradient: [N, D]."""
        table: Tensor = self.item_embedding.table()
        return table

    def item_codes(self) -> tuple[np.ndarray, list[int]]:
        """Codes of items 1..N, int32 [N, L], and the sizes of the levels."""
        sizes = self.item_embedding.sizes
        first = np.cumsum([0, *sizes[:-1]]) + 1
        return self.item_embedding.codes[1:].cpu().numpy() - first.astype(np.int32), sizes

    def code_scores(self, vectors: Tensor) -> list[Tensor]:
        """Parts that every code adds to the score of an item, level by level: user vectors [B, D] -> [B, K_l] each."""
        levels = self.item_embedding.levels()
        parts = vectors.chunk(len(levels), 1)
        return [part @ level.T for part, level in zip(parts, levels, strict=True)]
