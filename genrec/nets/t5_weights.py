"""Weights of our T5 under the names of transformers' T5, and back. Knows both layouts and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from genrec.nets.t5_blocks import Activation
from genrec.search.vocabulary import END, PAD
from semtok.content.encoders import load_backbone

if TYPE_CHECKING:
    from genrec.nets.t5 import T5

__all__ = ["from_transformers", "to_transformers", "why_not_transformers"]

AnyT5 = TypeVar("AnyT5", bound="T5")


def from_transformers(cls: type[AnyT5], source: Any, dropout: float | None = None) -> AnyT5:
    """A T5 of ours with the weights of one of transformers; see :meth:`genrec.nets.t5.T5.from_transformers`."""
    if isinstance(source, str | os.PathLike):
        from transformers import T5ForConditionalGeneration

        source = load_backbone(T5ForConditionalGeneration, source, "the T5")
    config = source.config
    activations: dict[str, Activation] = {"relu": "relu", "gated-gelu": "gated-gelu"}
    if config.feed_forward_proj not in activations:
        raise ValueError(f"the model's activation is {config.feed_forward_proj!r}; expected 'relu' or 'gated-gelu'")
    weights = dict(source.state_dict())
    tied = torch.equal(weights["lm_head.weight"], weights["shared.weight"])
    model = cls(
        config.vocab_size,
        dim=config.d_model,
        encoder_layers=config.num_layers,
        decoder_layers=config.num_decoder_layers,
        heads=config.num_heads,
        head_dim=config.d_kv,
        ffn=config.d_ff,
        dropout=config.dropout_rate if dropout is None else dropout,
        activation=activations[config.feed_forward_proj],
        tied=tied,
        scale_outputs=getattr(config, "scale_decoder_outputs", config.tie_word_embeddings),
        buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        eps=config.layer_norm_epsilon,
        start_token=config.decoder_start_token_id,
    )
    renamed = {"embedding.weight": weights["shared.weight"]}
    if not tied:
        renamed["heads.0.weight"] = weights["lm_head.weight"]
    for name, pieces in _places(model).items():
        renamed[name] = torch.cat([weights[piece] for piece in pieces])
    model.load_state_dict(renamed)
    return model


def why_not_transformers(model: T5) -> str | None:
    """Reason why a T5 of ours cannot be one of transformers; None where it can."""
    encoder: Any = model.encoder
    if encoder.causal:
        return "the encoder is causal, which transformers' T5 cannot be: train with --form prefix"
    if any(block.attention.mixer is not None for block in encoder.blocks):
        return "the encoder mixes tokens by more than attention, which transformers' T5 cannot"
    if not model.tied or model.scale == 1.0:
        return "the heads are weights of their own or not scaled; transformers' T5 ties and scales its head"
    if model.decoder.recency is not None:
        return "cross-attention has a bias by distance, which transformers' T5 cannot (--recency-bias)"
    if model.search_scale != 1.0:
        return "a search divides its logits by a temperature, which transformers' T5 cannot (--search-temperature)"
    if model.reads_items:
        return "the encoder reads rows of the items, which transformers' T5 cannot (--dense-weight)"
    return None


def to_transformers(model: T5) -> Any:
    """A T5ForConditionalGeneration with the weights of ours; see :meth:`genrec.nets.t5.T5.to_transformers`."""
    from transformers import T5Config, T5ForConditionalGeneration

    encoder: Any = model.encoder
    decoder: Any = model.decoder
    if reason := why_not_transformers(model):
        raise ValueError(reason)
    first, bias = decoder.blocks[0], decoder.bias
    config = T5Config(
        vocab_size=model.embedding.num_embeddings,
        d_model=model.dim,
        d_kv=model.head_dim,
        d_ff=first.feed_forward.down.in_features,
        num_layers=len(encoder.blocks),
        num_decoder_layers=len(decoder.blocks),
        num_heads=first.attention.heads,
        relative_attention_num_buckets=bias.buckets,
        relative_attention_max_distance=bias.max_distance,
        dropout_rate=encoder.dropout,
        layer_norm_epsilon=encoder.final_norm.eps,
        feed_forward_proj="gated-gelu" if first.feed_forward.gated else "relu",
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=model.start_token,  # type: ignore[call-arg]  # goes to the generation settings
    )
    table = model.embedding.weight.detach()
    tables = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    renamed = {f"{name}.weight": table for name in tables}
    ours = model.state_dict()
    for name, pieces in _places(model).items():
        parts = ours[name].tensor_split(len(pieces))
        renamed |= {piece: part.contiguous() for piece, part in zip(pieces, parts, strict=True)}
    found = T5ForConditionalGeneration(config)
    found.load_state_dict({name: weight.to("cpu", torch.float32) for name, weight in renamed.items()})
    return found.eval()


def _places(model: T5) -> dict[str, list[str]]:
    """For each weight of the stacks under our name the weights of transformers that are its rows, one after another."""
    places: dict[str, list[str]] = {}
    stacks: Any = (("encoder", model.encoder.blocks), ("decoder", model.decoder.blocks))
    for stack, blocks in stacks:
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        places |= {f"{stack}.bias.weight": [first], f"{stack}.final_norm.weight": [f"{stack}.final_layer_norm.weight"]}
        for layer, block in enumerate(blocks):
            places |= _block(stack, layer, block.feed_forward.gated)
    return places


def _block(stack: str, layer: int, gated: bool) -> dict[str, list[str]]:
    theirs, ours = f"{stack}.block.{layer}.layer", f"{stack}.blocks.{layer}"
    own = f"{theirs}.0.SelfAttention"
    places = {
        f"{ours}.attention.norm.weight": [f"{theirs}.0.layer_norm.weight"],
        f"{ours}.attention.qkv.weight": [f"{own}.{name}.weight" for name in "qkv"],
        f"{ours}.attention.out.weight": [f"{own}.o.weight"],
    }
    last = 1
    if stack == "decoder":
        last, cross = 2, f"{theirs}.1.EncDecAttention"
        places |= {
            f"{ours}.cross.norm.weight": [f"{theirs}.1.layer_norm.weight"],
            f"{ours}.cross.query.weight": [f"{cross}.q.weight"],
            f"{ours}.cross.key_value.weight": [f"{cross}.{name}.weight" for name in "kv"],
            f"{ours}.cross.out.weight": [f"{cross}.o.weight"],
        }
    dense = f"{theirs}.{last}.DenseReluDense"
    up = ["wi_0", "wi_1"] if gated else ["wi"]
    return places | {
        f"{ours}.feed_forward.norm.weight": [f"{theirs}.{last}.layer_norm.weight"],
        f"{ours}.feed_forward.up.weight": [f"{dense}.{name}.weight" for name in up],
        f"{ours}.feed_forward.down.weight": [f"{dense}.wo.weight"],
    }
