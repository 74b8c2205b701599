"""The two networks of a T5 generator as ONNX: the encoder, and one step of the decoder with its cache.

The model's own code packs real tokens and shares work over beams, which ONNX has no words for. Here stand the same sums
over padded rows, on the same weights; a test holds them equal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.nets.attention import recency_bias
from recbase.serving.onnx import exported

__all__ = ["EncoderNetwork", "StepNetwork", "write_networks"]


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of heads side by side, unscaled as T5's: [..., Q, d] -> [..., Q, d]."""
    return (query @ keys.transpose(-1, -2) + bias).softmax(-1) @ values


def _hidden(lengths: Tensor, width: int) -> Tensor:
    """0 where a row has a token and -inf where it is padded, [B, 1, 1, T]."""
    padded = torch.arange(width) >= lengths[:, None]
    return torch.zeros(padded.shape).masked_fill(padded, -torch.inf)[:, None, None]


class EncoderNetwork(nn.Module):
    """Tokens of histories to what the decoder's layers see of them.

    Parameters
    ----------
    t5 : genrec.nets.t5.T5
    longest : int
        Tokens of the longest history.
    """

    bias: Tensor

    def __init__(self, t5: Any, longest: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.embedding = t5.encoder, t5.decoder, t5.embedding
        bias = t5.encoder.bias(longest, longest).detach().clone()
        if t5.encoder.causal:
            later = torch.ones(longest, longest, dtype=torch.bool).triu(1)
            bias = bias.masked_fill(later, -torch.inf)
        self.register_buffer("bias", bias)  # [H, T, T], made once: buckets of distances are no part of the graph

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode tokens [B, T] of which ``lengths`` [B] are real: keys and values [layers, B, H, T, d]."""
        width = tokens.shape[1]
        bias = self.bias[:, :width, :width] + _hidden(lengths, width)
        x = self.embedding(tokens)
        for block in self.encoder.blocks:
            attention = block.attention
            qkv = attention.qkv(attention.norm(x)).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = _attend(qkv[0], qkv[1], qkv[2], bias).transpose(1, 2).flatten(2)
            x = _feed_forward(block.feed_forward, x + attention.out(mixed))
        x = self.encoder.final_norm(x)
        keys, values = [], []
        for block in self.decoder.blocks:
            pair = block.cross.key_value(x).unflatten(-1, (2, block.cross.heads, -1)).permute(2, 0, 3, 1, 4)
            keys.append(pair[0])
            values.append(pair[1])
        return torch.stack(keys), torch.stack(values)


class StepNetwork(nn.Module):
    """One code more for every prefix: logits of the next, of all levels side by side, and what the cache keeps.

    Parameters
    ----------
    t5 : genrec.nets.t5.T5
        Over the vocabulary of codes.
    """

    bias: Tensor
    weight: Tensor

    def __init__(self, t5: Any) -> None:
        super().__init__()
        self.decoder, self.embedding, self.scale = t5.decoder, t5.embedding, t5.scale * t5.search_scale
        levels = t5.vocabulary.levels
        later = torch.ones(levels, levels, dtype=torch.bool).triu(1)
        bias = t5.decoder.bias(levels, levels).detach().masked_fill(later, -torch.inf)
        self.register_buffer("bias", bias.transpose(0, 1).contiguous())  # [L, H, L]: a step, its heads, what they see
        if t5.heads is None:
            weight = t5.embedding.weight[torch.cat([t5.vocabulary.level_tokens(level) for level in range(levels)])]
        else:
            weight = torch.cat([head.weight for head in t5.heads])
        self.register_buffer("weight", weight.detach().clone())

    def forward(
        self, tokens: Tensor, step: Tensor, past: Tensor, keys: Tensor, values: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add one token to each prefix.

        Parameters
        ----------
        tokens : int64 Tensor [B, W]
            The token that each prefix ends with.
        step : int64 Tensor [1]
            Codes before it.
        past : float32 Tensor [layers, B, W, L, 2 * H * d]
            Keys and values of the codes before, by step; the rest is not read.
        keys, values : float32 Tensor [layers, B, H, T, d]
            Of the encoder.
        lengths : int64 Tensor [B]

        Returns
        -------
        logits : float32 Tensor [B, W, V]
            V: codes of all levels, one level after the other.
        fresh : float32 Tensor [layers, B, W, 2 * H * d]
            Keys and values of this token.
        """
        bias = self.bias.index_select(0, step)[0][:, None]  # [H, 1, L]
        here = (torch.arange(self.bias.shape[0]) == step)[:, None]  # [L, 1]
        hidden = _hidden(lengths, keys.shape[3])
        if self.decoder.recency is not None:
            hidden = hidden + recency_bias(self.decoder.recency, lengths, keys.shape[3])
        x, kept = self.embedding(tokens), []
        for layer, block in enumerate(self.decoder.blocks):
            attention, cross = block.attention, block.cross
            query, fresh = attention.qkv(attention.norm(x)).tensor_split([attention.inner], -1)
            kept.append(fresh)
            seen = torch.where(here, fresh[:, :, None], past[layer])  # [B, W, L, 2 H d]
            pair = seen.unflatten(-1, (2, attention.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [2, B, W, H, L, d]
            asked = query.unflatten(-1, (attention.heads, -1))[:, :, :, None]  # [B, W, H, 1, d]
            x = x + attention.out(_attend(asked, pair[0], pair[1], bias).flatten(2))
            asked = cross.query(cross.norm(x)).unflatten(-1, (cross.heads, -1)).transpose(1, 2)  # [B, H, W, d]
            mixed = _attend(asked, keys[layer], values[layer], hidden)
            x = _feed_forward(block.feed_forward, x + cross.out(mixed.transpose(1, 2).flatten(2)))
        states = self.decoder.final_norm(x) * self.scale
        return F.linear(states, self.weight), torch.stack(kept)


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    inner = layer.up(layer.norm(x))
    if layer.gated:
        gate, inner = inner.chunk(2, -1)
        inner = F.gelu(gate, approximate="tanh") * inner
    else:
        inner = F.relu(inner)
    result: Tensor = x + layer.down(inner)
    return result


def write_networks(t5: Any, longest: int, owner: str) -> tuple[Any, Any]:
    """ONNX programs of both networks; ``save(path)`` of each writes it.

    Parameters
    ----------
    t5 : genrec.nets.t5.T5
        On the CPU, in eval mode.
    longest : int
        Tokens of the longest history.
    owner : str
        Name of the model, for messages.

    Raises
    ------
    ImportError
        If a package is missing, naming the extra.
    ValueError
        If the network computes something that ONNX cannot express.
    """
    layers, heads, width = len(t5.decoder.blocks), t5.decoder.blocks[0].cross.heads, t5.head_dim
    batch, beams = torch.export.Dim("batch"), torch.export.Dim("beams")
    length = torch.export.Dim("length", max=longest)
    shown = max(2, longest - 1)  # shorter than the longest, or the length of the example would be the only one
    encoder = exported(
        EncoderNetwork(t5, longest),
        {"tokens": torch.ones(3, shown, dtype=torch.int64), "lengths": torch.full((3,), shown)},
        {"tokens": {0: batch, 1: length}, "lengths": {0: batch}},
        ["keys", "values"],
        owner,
    )
    levels, memory = t5.vocabulary.levels, (layers, 3, heads, shown, width)
    decoder = exported(
        StepNetwork(t5),
        {
            "tokens": torch.ones(3, 4, dtype=torch.int64),
            "step": torch.zeros(1, dtype=torch.int64),
            "past": torch.zeros(layers, 3, 4, levels, 2 * heads * width),
            "keys": torch.zeros(memory),
            "values": torch.zeros(memory),
            "lengths": torch.full((3,), shown),
        },
        {
            "tokens": {0: batch, 1: beams},
            "step": {},
            "past": {1: batch, 2: beams},
            "keys": {1: batch, 3: length},
            "values": {1: batch, 3: length},
            "lengths": {0: batch},
        },
        ["logits", "fresh"],
        owner,
    )
    return encoder, decoder
