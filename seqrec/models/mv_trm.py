"""MV-TRM: MV-RNN with a causal Transformer in the place of the recurrent network."""

from __future__ import annotations

from typing import Any, Literal, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import (
    Chance,
    Count,
    Depth,
    Dropout,
    Heads,
    Large,
    LargeOrOff,
    Length,
    Weight,
    Width,
    check_arguments,
)
from recbase.nn.transformer import Encoder, Packing
from seqrec.finetuned import Finetuning, FinetuningOptions
from seqrec.models.mv_rnn import MultiViewModel

__all__ = ["MVTRM", "RECIPES"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": {"dim": 128, "layers": 2, "heads": 4, "ffn": 256, "fusion": "concat", "item_table": "untied",
              "dropout": 0.1, "attention_dropout": 0.1, "max_len": 10, "loss": "ce", "lr": 1e-4, "optimizer": "adam",
              "batch_size": 256, "form": "all"},
}  # fmt: skip


class MVTRM(MultiViewModel):
    """MV-RNN (Cui et al., TKDE 2018, arXiv 1611.06668) with a causal Transformer, as TSSR's authors compare with it.

    TSSR's paper says no more than that the recurrent network is replaced "for a fair comparison". Ours: the views of an
    item are joined as in `seqrec.models.mv_rnn.MVRNN` and brought to ``dim`` by a linear layer, which the item vectors
    of the scores share unless they have a table of their own; post-LN blocks with GELU; full softmax at every position.
    Recipe ``paper`` has the sizes, the table and the training of TSSR's paper and code.

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    text_dim : int, default 0
        Width of the text vectors; 0 where an encoder reads the texts.
    image_dim : int, default 0
        Width of the image vectors; 0 where there are none.
    backbone_config : dict, optional
        Configuration of the fine-tuned encoder; set when it is loaded.
    content : {"vectors", "sentences", "pictures"}, default "vectors"
        What is known of the items: frozen vectors of text and images, or raw text or image files, one of them, through
        an encoder that is trained too.
    dim : int, default 64
        Width of each view's part, and of the blocks.
    layers : int, default 2
        Transformer blocks.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    fusion : {"concat", "sum", "dae"}, default "concat"
        Views side by side; their sum; or the code of a denoising autoencoder beside the latent part.
    corruption : float, default 0.2
        How often the autoencoder is not shown a modality.
    rebuild_weight : float, default 0.1
        Weight of its squared error.
    dropout : float, default 0.5
        On embeddings and on the output of every sub-layer.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "sampled", "bce", "bpr"}, default "ce"
        Full softmax; softmax over shared negatives; binary cross-entropy; BPR.
    negatives : int, default 256
        Uniform negatives a target (bce, bpr) or a step (sampled).
    item_table : {"tied", "untied"}, default "tied"
        What states are scored against: the item vectors, or a table of ids with a bias (as in TSSR's code). With an
        encoder that is trained too, ``tied`` is for losses of few items (sampled, bce, bpr).
    backbone, tune, adapter_dim, pooling, max_tokens, picture_size, encoder_chunk
        The encoder of sentences or pictures; see `seqrec.finetuned.Finetuning`.
    """

    setting_groups = (Finetuning,)

    def __init__(
        self,
        items: Large,
        text_dim: LargeOrOff = 0,
        image_dim: LargeOrOff = 0,
        backbone_config: dict[str, Any] | None = None,
        content: Literal["vectors", "sentences", "pictures"] = "vectors",
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        fusion: Literal["concat", "sum", "dae"] = "concat",
        corruption: Chance = 0.2,
        rebuild_weight: Weight = 0.1,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        loss: Literal["ce", "sampled", "bce", "bpr"] = "ce",
        negatives: Count = 256,
        item_table: Literal["tied", "untied"] = "tied",
        **options: Unpack[FinetuningOptions],
    ) -> None:
        super().__init__(locals())
        check_arguments(type(self), self._config)
        self.join = nn.Linear(self.view.width, dim)
        self.position_embedding = nn.Embedding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.encoder = Encoder(layers, dim, heads, ffn, dropout, attention_dropout)
        self.output = self.table(dim)
        self.start_weights()
        nn.init.xavier_normal_(self.join.weight)

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D], or [S, D + 1] with a table of their own."""
        x = self.join(self.view(packing.pack(items))) + self.position_embedding(packing.steps)
        encoded = self.encoder(F.dropout(self.embedding_norm(x), self.dropout, self.training), packing)
        return self.scored(encoded)

    def vectors(self, items: Tensor) -> Tensor:
        """Item vectors of all views, joined: int64 [S] -> [S, D]."""
        joined: Tensor = self.join(self.view(items))
        return joined
