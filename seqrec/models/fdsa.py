"""FDSA: a Transformer over items and another over their features, joined at the end."""

from __future__ import annotations

from typing import Any, Literal, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbase.arguments import Count, Depth, Dropout, Heads, Large, LargeOrOff, Length, Width, taken
from recbase.nn.transformer import Encoder, Packing
from seqrec.finetuned import EndToEndModel, FinetunedEncoder, Finetuning, FinetuningOptions
from seqrec.layers import check_table

__all__ = ["FDSA", "RECIPES", "PooledFeatures"]

RECIPES = {
    "default": {"epochs": 60, "batch_size": 256, "patience": 8},
    "paper": {
        "dim": 100,
        "layers": 1,
        "heads": 1,
        "ffn": 100,
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "loss": "bce",
        "negatives": 1,
        "batch_size": 10,
        "lr": 1e-3,
        "form": "all",
    },
    "recbole": {
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "ffn": 256,
        "dropout": 0.5,
        "attention_dropout": 0.5,
        "features": "attributes",
        "form": "prefix",
        "batch_size": 2048,
        "lr": 1e-3,
    },
    "tssr": {
        "dim": 128,
        "layers": 2,
        "heads": 4,
        "ffn": 256,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "max_len": 10,
        "batch_size": 256,
        "lr": 1e-4,
        "optimizer": "adam",
        "form": "all",
    },
}


class PooledFeatures(nn.Module):
    """One vector an item: its attributes' embeddings and its projected text, weighted by vanilla attention.

    Parameters
    ----------
    items, attributes, text_dim, dim : int
        ``attributes`` or ``text_dim`` may be 0, which leaves that part out.
    slots : int, default 1
        Most attributes of an item, K.
    encoder : FinetunedEncoder, optional
        Makes the content's part in the place of text vectors; ``text_dim`` is then 0.
    """

    def __init__(
        self,
        items: int,
        attributes: int,
        text_dim: int,
        dim: int,
        slots: int = 1,
        encoder: FinetunedEncoder | None = None,
    ) -> None:
        super().__init__()
        self.attributes, self.text_dim, self.encoder = attributes, text_dim, encoder
        if attributes:
            self.numbers: Tensor
            self.register_buffer("numbers", torch.zeros(items + 1, slots, dtype=torch.int64))
            self.attribute_embedding = nn.Embedding(attributes + 1, dim)  # row 0: an item without attributes
        if text_dim:
            self.text: Tensor
            self.register_buffer("text", torch.zeros(items + 1, text_dim))
            self.project = nn.Linear(text_dim, dim)
        self.weigh = nn.Linear(dim, 1)

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        return {"numbers": (0, self.attributes)} if self.attributes else {}

    def forward(self, items: Tensor) -> Tensor:
        """int64 [S] -> [S, D]."""
        parts, shown = [], []
        if self.attributes:
            numbers = self.numbers[items]
            known = numbers > 0
            known = torch.cat([known[:, :1] | ~known.any(1, keepdim=True), known[:, 1:]], 1)
            parts.append(self.attribute_embedding(numbers))
            shown.append(known)
        if self.text_dim:
            parts.append(self.project(self.text[items])[:, None])
        if self.encoder is not None:
            parts.append(self.encoder(items)[:, None])
        if self.text_dim or self.encoder is not None:
            shown.append(torch.ones_like(items, dtype=torch.bool)[:, None])
        dtype = torch.result_type(parts[0], parts[-1])
        features, known = torch.cat([part.to(dtype) for part in parts], 1), torch.cat(shown, 1)  # [S, F, D], [S, F]
        weights = self.weigh(features)[..., 0].float().masked_fill(~known, -torch.inf).softmax(1)
        return torch.einsum("sf,sfd->sd", weights, features.float())


class FDSA(EndToEndModel):
    """Feature-level deeper self-attention (Zhang et al., IJCAI 2019).

    Two causal Transformers read the item ids and the items' features (categories, brand and the like, and the text
    vector, pooled by vanilla attention); their states, side by side, go through a linear layer, are normalised and
    scored against the item table. Departures: full softmax at every position, where the paper has binary cross-entropy
    with one negative (recipe ``paper``); post-LN blocks; every stream has positions and norms of its own, where RecBole
    shares them (recipe ``recbole`` is its sizes). The paper's text features are topics; here they are text vectors, or
    an encoder of raw texts or pictures that is trained too, as TSSR (arXiv 2403.07623) compares with it (recipe
    ``tssr`` is its sizes, with our dropout).

    Parameters
    ----------
    items : int
        Items in the catalogue, N.
    attributes : int, default 0
        Attributes, A; 0 if the data set has none.
    text_dim : int, default 0
        Width of the text vectors.
    attribute_slots : int, default 1
        Most attributes of an item, K; set with the content.
    backbone_config : dict, optional
        Configuration of the fine-tuned encoder; set when it is loaded.
    features : {"both", "attributes", "text"}, default "both"
        What the feature stream reads; "both" is what there is, "text" the content alone.
    content : {"text", "sentences", "pictures"}, default "text"
        What its content is: frozen text vectors, or raw text or image files through an encoder that is trained too.
    dim : int, default 64
        Width of embeddings and blocks.
    layers : int, default 2
        Transformer blocks of each stream.
    heads : int, default 2
        Attention heads; must divide ``dim``.
    ffn : int, default 256
        Width of the feed-forward layers.
    dropout : float, default 0.5
        On embeddings, on the output of every sub-layer and on the joined states.
    attention_dropout : float, default 0.0
        On attention weights.
    max_len : int, default 50
        Longest history, in items; older ones are cut.
    loss : {"ce", "bce", "sampled"}, default "ce"
        Full softmax; binary cross-entropy; softmax over shared uniform negatives.
    negatives : int, default 256
        Negatives a target (bce) or a step (sampled).
    backbone, tune, adapter_dim, pooling, max_tokens, picture_size, encoder_chunk
        The encoder of sentences or pictures; see `seqrec.finetuned.Finetuning`.
    """

    setting_groups = (Finetuning,)

    def __init__(
        self,
        items: Large,
        attributes: LargeOrOff = 0,
        text_dim: LargeOrOff = 0,
        attribute_slots: int = 1,
        backbone_config: dict[str, Any] | None = None,
        features: Literal["both", "attributes", "text"] = "both",
        content: Literal["text", "sentences", "pictures"] = "text",
        dim: Width = 64,
        layers: Depth = 2,
        heads: Heads = 2,
        ffn: Width = 256,
        dropout: Dropout = 0.5,
        attention_dropout: Dropout = 0.0,
        max_len: Length = 50,
        loss: Literal["ce", "bce", "sampled"] = "ce",
        negatives: Count = 256,
        **options: Unpack[FinetuningOptions],
    ) -> None:
        super().__init__(locals())
        attributes = 0 if features == "text" else attributes
        text_dim = 0 if features == "attributes" or content != "text" else text_dim
        encoder: FinetunedEncoder | None = None
        if content == "sentences" or content == "pictures":
            if features == "attributes":
                raise ValueError(f"--features attributes leaves --content {content} unread; use both or text")
            encoder = self.made_encoder(content, dim, backbone_config, taken(Finetuning, options))
        if not attributes and not text_dim and encoder is None:
            raise ValueError(f"--features {features} needs items with attributes or text, and these items have none")
        self.loss, self.negatives, self.dropout = loss, negatives, dropout
        self.item_embedding = nn.Embedding(items + 1, dim, padding_idx=0)
        self.features = PooledFeatures(items, attributes, text_dim, dim, attribute_slots, encoder)
        self.positions = nn.ModuleList(nn.Embedding(max_len, dim) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(2))
        self.encoders = nn.ModuleList(Encoder(layers, dim, heads, ffn, dropout, attention_dropout) for _ in range(2))
        self.join = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.start_weights()

    @staticmethod
    def reads(arguments: dict[str, Any]) -> tuple[str, ...]:
        """Inputs under these options."""
        chosen, content = arguments.get("features", "both"), arguments.get("content", "text")
        return ("ids", "attributes", content) if chosen == "both" else ("ids", content if chosen == "text" else chosen)

    def with_content(self, attributes: np.ndarray | None = None, text: np.ndarray | None = None, **raw: Any) -> FDSA:
        """Set the attribute numbers, int [N, K] padded with 0, and the text vectors, float [N, d]; return the model.

        An encoder that is trained too takes ``sentences`` or ``pictures`` in the place of text vectors.

        Raises
        ------
        ValueError
            If a shape does not fit, or content that the model reads is missing.
        """
        layer = self.features
        if layer.attributes:
            if attributes is None or len(attributes) != self.items:
                shape = "none" if attributes is None else list(attributes.shape)
                raise ValueError(f"attributes must be int [{self.items}, K], got {shape}")
            numbers = torch.as_tensor(np.asarray(attributes), device=layer.numbers.device).long()
            layer.numbers = F.pad(numbers, (0, 0, 1, 0))
            self._config["attribute_slots"] = numbers.shape[1]
        if layer.encoder is not None:
            layer.encoder.set(raw.get("sentences"), raw.get("pictures"))
        if layer.text_dim:
            found = torch.as_tensor(np.asarray(text))
            check_table(found, layer.text, "text")
            layer.text[1:] = found
        return self

    def states(self, items: Tensor, packing: Packing, users: Tensor | None = None) -> Tensor:
        """States of all real tokens: items [B, T] -> [S, D]."""
        numbers = packing.pack(items)
        streams = []
        for at, tokens in enumerate((self.item_embedding(numbers), self.features(numbers))):
            x = self.norms[at](tokens + self.positions[at](packing.steps))
            streams.append(self.encoders[at](F.dropout(x, self.dropout, self.training), packing))
        joined: Tensor = self.norm(self.join(torch.cat(streams, 1)))
        return F.dropout(joined, self.dropout, self.training)
