"""Item vectors of a model's width made from content: text or image vectors, codes, codes that read text.

Knows no histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.nn.transformer import Attention

__all__ = ["FEATURES", "FeatureKind", "FusionLayer", "ItemFeatures", "biased_rows", "check_table", "with_one"]

FeatureKind = Literal["text", "images", "codes"]
FEATURES = ("text", "images", "codes")


class ItemFeatures(nn.Module):
    """A trained map of frozen content to vectors: a linear layer of vectors, or the sum of an embedding a code.

    The text vector of an item holds its views side by side, so its linear layer is the sum of one a view. An item
    without a picture has a learned vector of its own.

    Parameters
    ----------
    items : int
        N.
    dim : int
        Width D of the result.
    content : {"text", "images", "codes"}
    text_dim : int, default 0
        Width of the text vectors, for ``text``.
    image_dim : int, default 0
        Width of the image vectors, for ``images``.
    sizes : sequence of int, optional
        Codes of each level, for ``codes``.

    Raises
    ------
    ValueError
        If the content that is asked for is not there.
    """

    def __init__(
        self,
        items: int,
        dim: int,
        content: FeatureKind,
        text_dim: int = 0,
        image_dim: int = 0,
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.items, self.content = items, content
        width = {"text": text_dim, "images": image_dim, "codes": len(sizes or ())}[content]
        if not width:
            missing = {"text": "text vectors", "images": "pictures", "codes": "codes"}[content]
            raise ValueError(f"--content {content} needs items with {missing}, and these items have none")
        if content == "codes":
            self.sizes = [int(size) for size in sizes or ()]
            self.codes: Tensor
            self.register_buffer("codes", torch.zeros(items + 1, width, dtype=torch.int64))
            self.code_embedding = nn.Embedding(sum(self.sizes) + 1, dim, padding_idx=0)
            return
        self.vectors: Tensor
        self.register_buffer("vectors", torch.zeros(items + 1, width))
        self.project = nn.Linear(width, dim)
        if content == "images":
            self.missing: Tensor
            self.register_buffer("missing", torch.zeros(items + 1, dtype=torch.bool))
            self.absent = nn.Parameter(torch.zeros(dim))

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"codes": (0, np.cumsum(self.sizes))} if self.content == "codes" else {}

    def set(self, given: Mapping[str, Any]) -> None:
        """Copy what this layer reads out of a model's content.

        Parameters
        ----------
        given : mapping
            ``text`` float [N, d], ``images`` float [N, d] and ``missing_images`` bool [N], ``codes`` int [N, L];
            the others are left alone.

        Raises
        ------
        ValueError
            If the array is not there or has another shape.
        """
        if given.get(self.content) is None:
            raise ValueError(f"content has no {self.content}; it has {', '.join(sorted(given)) or 'nothing'}")
        found = torch.as_tensor(np.asarray(given[self.content]))
        if self.content == "codes":
            check_table(found, self.codes, "codes")
            sizes = torch.tensor(self.sizes)
            if bool((found < 0).any()) or bool((found >= sizes).any()):
                raise ValueError(f"codes must lie below the sizes {self.sizes}, got up to {found.amax(0).tolist()}")
            self.codes[1:] = found + sizes.cumsum(0) - sizes + 1
            return
        check_table(found, self.vectors, self.content)
        self.vectors[1:] = found
        if self.content == "images" and given.get("missing_images") is not None:
            self.missing[1:] = torch.as_tensor(np.asarray(given["missing_images"]))

    def forward(self, items: Tensor) -> Tensor:
        """Vectors of some items: int64 [S] -> [S, D]."""
        if self.content == "codes":
            embedded: Tensor = self.code_embedding(self.codes[items]).sum(1)
            return embedded
        return self._projected(self.vectors[items], items)

    def table(self) -> Tensor:
        """Vectors of items 1..N: [N, D]."""
        if self.content == "codes":
            return F.embedding_bag(self.codes[1:], self.code_embedding.weight, mode="sum")
        return self._projected(self.vectors[1:], slice(1, None))

    def _projected(self, vectors: Tensor, items: Tensor | slice) -> Tensor:
        projected: Tensor = self.project(vectors)
        if self.content == "images":
            return torch.where(self.missing[items][:, None], self.absent.to(projected.dtype), projected)
        return projected


def with_one(states: Tensor) -> Tensor:
    """States [S, D] with a constant 1 behind them, which meets the bias of `biased_rows`: [S, D + 1]."""
    return torch.cat([states, torch.ones_like(states[:, :1])], 1)


def biased_rows(output: nn.Linear) -> Tensor:
    """Item vectors of an output layer onto N items, with its bias behind them: [N, D + 1]."""
    return torch.cat([output.weight, output.bias[:, None]], 1)


def check_table(found: Tensor, buffer: Tensor, what: str) -> None:
    """Refuse content whose shape is not that of the buffer without its padding row."""
    expected = (buffer.shape[0] - 1, *buffer.shape[1:])
    if tuple(found.shape) != expected:
        raise ValueError(f"{what} has shape {list(found.shape)} but the model expects {list(expected)}")


class FusionLayer(nn.Module):
    """Codes attend to each other, then to the text views, then a feed-forward layer; each with residual and LN."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float, attention_dropout: float, text_dim: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attention = Attention(dim, heads, attention_dropout)
        self.cross_attention = Attention(dim, heads, attention_dropout, context_dim=text_dim)
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(3))

    def forward(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [M, L, D], text [M, m, E] -> [M, L, D]."""
        x = self.norms[0](codes + self._drop(self.self_attention(codes, codes)))
        x = self.norms[1](x + self._drop(self.cross_attention(x, text)))
        fused: Tensor = self.norms[2](x + self._drop(self.down(F.gelu(self.up(x)))))
        return fused

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
