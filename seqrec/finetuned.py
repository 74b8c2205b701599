"""Item vectors from a Hugging Face encoder of text or pictures that is trained together with the model.

Only the items of a batch are encoded, in chunks whose activations are computed again in the backward pass, so that
memory does not grow with the batch. For scoring, all items are encoded once. A model takes part by `EndToEndModel` as
its base and `Finetuning` in its ``setting_groups``; its option ``content`` then has ``sentences`` and ``pictures``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recbase.arguments import Length, ModelName, Samples, Width
from recbase.model import initialise
from recbase.store.manifests import shown
from semtok.content.encoders import load_backbone
from seqrec.sequential import SequentialModel, TableScorer

__all__ = [
    "BACKBONES",
    "Adapter",
    "EncodedItems",
    "EndToEndModel",
    "FinetunedEncoder",
    "Finetuning",
    "FinetuningOptions",
    "Tuning",
]

Tuning = Literal["all", "adapters", "projection"]
BACKBONES = {"sentences": "bert-base-uncased", "pictures": "microsoft/resnet-50"}
"""Encoders of TSSR's paper."""


@dataclass(frozen=True)
class Finetuning:
    """Settings of an encoder of raw texts or pictures that is trained together with the model."""

    backbone: ModelName | None = None
    """Name or folder of the Hugging Face encoder of sentences or pictures; BERT-base or ResNet-50 if not given."""
    tune: Literal["all", "adapters", "projection"] = "all"
    """Trained part of that encoder: all of it, bottleneck adapters, or only the linear layer behind it."""
    adapter_dim: Width = 64
    """Width of the bottleneck adapters."""
    pooling: Literal["pooled", "mean"] = "pooled"
    """The encoder's pooled output where it has one, or the mean over its tokens."""
    max_tokens: Length = 64
    """Longest text of an item, in tokens."""
    picture_size: Width = 224
    """Side of the pictures, in pixels."""
    encoder_chunk: Samples = 64
    """Items that the encoder takes at a time; fewer need less memory."""


class FinetuningOptions(TypedDict, total=False):
    """The settings of `Finetuning`, as keywords of a model."""

    backbone: ModelName | None
    tune: Literal["all", "adapters", "projection"]
    adapter_dim: Width
    pooling: Literal["pooled", "mean"]
    max_tokens: Length
    picture_size: Width
    encoder_chunk: Samples


class Adapter(nn.Module):
    """A bottleneck with a residual, x + W2 gelu(W1 x), at first the identity (Houlsby et al., ICML 2019).

    Parameters
    ----------
    width, inner : int
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        widened: Tensor = self.up(F.gelu(self.down(x)))
        return x + widened


class FinetunedEncoder(nn.Module):
    """A linear layer over the pooled output of a text or vision encoder of transformers.

    Parameters
    ----------
    items : int
        N.
    dim : int
        Width D of the result.
    content : {"sentences", "pictures"}
    backbone : str, optional
        Name or folder of a Hugging Face model; BERT-base or ResNet-50 if not given.
    config : dict, optional
        Configuration of a backbone whose weights are loaded afterwards; nothing is then read from ``backbone``.
    tune : {"all", "adapters", "projection"}, default "all"
        What is trained: everything; a bottleneck behind every Transformer layer and the linear layer; or that alone.
    adapter_dim : int, default 64
        Width of the bottlenecks.
    pooling : {"pooled", "mean"}, default "pooled"
        The pooled output of the encoder, where it has one; or the mean over its tokens.
    max_tokens : int, default 64
        Longest text, in tokens.
    picture_size : int, default 224
        Side of the pictures in pixels; their shorter side is first brought to 8/7 of it, and the centre is cut out.
    chunk : int, default 64
        Items encoded at a time.

    Raises
    ------
    ValueError
        If the backbone has no Transformer layers that adapters could follow.
    """

    def __init__(
        self,
        items: int,
        dim: int,
        content: Literal["sentences", "pictures"],
        backbone: str | None = None,
        config: dict[str, Any] | None = None,
        tune: Tuning = "all",
        adapter_dim: int = 64,
        pooling: Literal["pooled", "mean"] = "pooled",
        max_tokens: int = 64,
        picture_size: int = 224,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        self.items, self.content, self.tune, self.pooling, self.chunk = items, content, tune, pooling, chunk
        self.name, self.picture_size = backbone or BACKBONES[content], picture_size
        whole = _backbone(self.name, config)
        self.backbone_config: dict[str, Any] = json.loads(whole.config.to_json_string(use_diff=False))
        part = {"sentences": "text_model", "pictures": "vision_model"}[content]  # of two-tower models such as CLIP
        self.backbone = getattr(whole, part, whole)
        width = _width(self.backbone.config)
        self.project = nn.Linear(width, dim)
        if tune != "all":
            self.backbone.requires_grad_(False)
        if tune == "adapters":
            layers = _layers(self.backbone, self.name)
            self.adapters = nn.ModuleList(Adapter(width, adapter_dim) for _ in layers)
            for layer, adapter in zip(layers, self.adapters, strict=True):
                layer.register_forward_hook(_follow(adapter))
        self.vectors: Tensor  # of all items, as last computed for scoring; row 0 is padding
        self.register_buffer("vectors", torch.zeros(items + 1, dim))
        self.fresh = False
        self.pictures: np.ndarray | None = None
        if content == "sentences":
            self.tokens: Tensor
            self.token_counts: Tensor
            self.register_buffer("tokens", torch.zeros(items + 1, max_tokens, dtype=torch.int32))
            self.register_buffer("token_counts", torch.ones(items + 1, dtype=torch.int64))
        else:
            self.missing: Tensor
            self.register_buffer("missing", torch.ones(items + 1, dtype=torch.bool))
            self.absent = nn.Parameter(torch.zeros(dim))

    def index_ranges(self) -> dict[str, Any]:
        """Least and largest value of the buffers that index tables."""
        if self.content != "sentences":
            return {}
        words = int(self.backbone.config.vocab_size)
        return {"tokens": (0, words - 1), "token_counts": (1, self.tokens.shape[1])}

    def start(self) -> None:
        """Set the bottlenecks to the identity; called after the model around this has set its weights."""
        for adapter in getattr(self, "adapters", []):
            nn.init.zeros_(adapter.up.weight)
            nn.init.zeros_(adapter.up.bias)

    def set(self, sentences: Sequence[str] | None = None, pictures: Sequence[Path | None] | None = None) -> None:
        """Read the content: texts become tokens, pictures pixels.

        Raises
        ------
        ValueError
            If what this encoder reads is missing, or not there for every item.
        """
        given: Sequence[Any] | None = sentences if self.content == "sentences" else pictures
        if given is None or len(given) != self.items:
            found = "none" if given is None else f"{len(given)}"
            raise ValueError(f"--content {self.content} needs {self.content} of {self.items} items, got {found}")
        self.fresh = False
        if sentences is not None and self.content == "sentences":
            self._tokenize(list(sentences))
        elif pictures is not None:
            if all(picture is None for picture in pictures):
                raise ValueError("--content pictures needs items with pictures, and these items have none")
            self._read(pictures)

    def _tokenize(self, sentences: list[str]) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.name)
        longest = self.tokens.shape[1]
        rows: list[list[int]] = tokenizer(sentences, truncation=True, max_length=longest)["input_ids"]
        self.tokens.fill_(tokenizer.pad_token_id or 0)
        for number, row in enumerate(rows, 1):  # once a data set
            self.tokens[number, : len(row)] = torch.tensor(row, dtype=torch.int32)
            self.token_counts[number] = max(1, len(row))

    def _read(self, pictures: Sequence[Path | None]) -> None:
        """Pixels of all pictures in a file without a name, uint8 [N + 1, 3, size, size]."""
        size = self.picture_size
        shape = (len(pictures) + 1, 3, size, size)
        with tempfile.TemporaryFile() as file:
            store = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)

        def read(number: int) -> None:
            path = pictures[number - 1]
            if path is not None:
                store[number] = _pixels(path, size)

        with ThreadPoolExecutor() as pool:
            list(pool.map(read, range(1, len(pictures) + 1)))
        self.pictures = store
        self.missing[1:] = torch.tensor([path is None for path in pictures])
        self.mean, self.std = _normalization(self.name)

    def train(self, mode: bool = True) -> FinetunedEncoder:
        """As any module; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.tune == "projection":
            self.backbone.eval()
        if mode:
            self.fresh = False
        return self

    def forward(self, items: Tensor) -> Tensor:
        """Vectors of some items: int64 [S] -> [S, D]; in eval mode from the table where it is up to date."""
        if not self.training and (self.fresh or not self._readable):
            return self.vectors[items]
        if not self._readable:
            raise ValueError("the pictures are not there to train on; give them with with_content(pictures=...)")
        # Row 0 is always among them: every process encodes something, of an empty batch too.
        unique, places = torch.cat([items.new_zeros(1), items]).unique(return_inverse=True)
        return self.encode(unique)[places[1:]]

    def table(self) -> Tensor:
        """Vectors of items 1..N as last computed, without gradient: [N, D]."""
        return self.vectors[1:]

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode all items in eval mode for scoring."""
        if self.fresh or not self._readable:
            return
        training = self.training
        self.eval()
        numbers = torch.arange(self.items + 1, device=self.vectors.device)
        self.vectors.copy_(self.encode(numbers))
        self.train(training)
        self.fresh = not training

    def encode(self, items: Tensor) -> Tensor:
        """Vectors of items, each once: int64 [M] -> [M, D]."""
        parts = []
        for part in items.split(self.chunk):
            if self.training and torch.is_grad_enabled() and self.tune != "projection":
                parts.append(checkpoint(self._encode, part, use_reentrant=False))
            else:
                parts.append(self._encode(part))
        return torch.cat(parts)

    @property
    def _readable(self) -> bool:
        return self.content == "sentences" or self.pictures is not None

    def _encode(self, items: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tune != "projection"):
            pooled = self._texts(items) if self.content == "sentences" else self._pictures(items)
        projected: Tensor = self.project(pooled)
        if self.content == "pictures":
            return torch.where(self.missing[items][:, None], self.absent.to(projected.dtype), projected)
        return projected

    def _texts(self, items: Tensor) -> Tensor:
        counts = self.token_counts[items]
        longest = int(counts.max())
        mask = torch.arange(longest, device=items.device) < counts[:, None]
        output = self.backbone(input_ids=self.tokens[items, :longest].long(), attention_mask=mask.long())
        if self.pooling == "pooled" and getattr(output, "pooler_output", None) is not None:
            pooled: Tensor = output.pooler_output
            return pooled
        weights = mask[..., None].to(output.last_hidden_state.dtype)
        mean: Tensor = (output.last_hidden_state * weights).sum(1) / weights.sum(1)
        return mean

    def _pictures(self, items: Tensor) -> Tensor:
        assert self.pictures is not None
        pixels = torch.from_numpy(self.pictures[items.cpu().numpy()]).to(items.device)
        mean, std = (torch.tensor(value, device=items.device)[:, None, None] for value in (self.mean, self.std))
        output = self.backbone(pixel_values=(pixels.float() / 255 - mean) / std)
        if self.pooling == "pooled" and getattr(output, "pooler_output", None) is not None:
            pooled: Tensor = output.pooler_output.flatten(1)
            return pooled
        hidden: Tensor = output.last_hidden_state
        return hidden.mean(1) if hidden.dim() == 3 else hidden.mean((2, 3))


class EncodedItems:
    """Item vectors of which only the rows that a loss takes are encoded, for losses that look at few items.

    Stands in the place of a table [N, D]: its length is N, and int64 rows 0..N - 1 of any shape give vectors [..., D].

    Parameters
    ----------
    items : int
        N.
    encode : callable
        ``encode(numbers)``: item numbers int64 [M], each once, to vectors [M, D].
    """

    def __init__(self, items: int, encode: Callable[[Tensor], Tensor]) -> None:
        self.items, self.encode = items, encode

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, rows: Tensor) -> Tensor:
        unique, places = rows.flatten().unique(return_inverse=True)
        return self.encode(unique + 1)[places].unflatten(0, rows.shape)


class EndToEndModel(SequentialModel):
    """Base of models whose content may come from a `FinetunedEncoder`, anywhere among their modules.

    All items are encoded once before scores are made or the model is saved. Without an encoder it does nothing.
    """

    def finetuned(self) -> FinetunedEncoder | None:
        """The encoder that is trained too; None where content is frozen."""
        return next((module for module in self.modules() if isinstance(module, FinetunedEncoder)), None)

    def made_encoder(
        self, content: Literal["sentences", "pictures"], dim: int, config: dict[str, Any] | None, tuning: Finetuning
    ) -> FinetunedEncoder:
        """Make the encoder of vectors of width ``dim``; its configuration joins the arguments of the model."""
        made = FinetunedEncoder(
            self.items,
            dim,
            content,
            tuning.backbone,
            config,
            tuning.tune,
            tuning.adapter_dim,
            tuning.pooling,
            tuning.max_tokens,
            tuning.picture_size,
            tuning.encoder_chunk,
        )
        self._config["backbone_config"] = made.backbone_config
        self.unused_parameters = True  # frozen ones, and a pooling layer that is not asked for
        return made

    def start_weights(self) -> None:
        """Set the weights as `recbase.model.initialise` does; those of the encoder stay as they were pretrained."""
        encoder = self.finetuned()
        initialise(self, spared=() if encoder is None else encoder.backbone.modules())
        if encoder is not None:
            encoder.start()

    def check_table(self, tied: bool) -> None:
        """Refuse a loss that would need the vectors of all items at every step.

        Parameters
        ----------
        tied : bool
            Whether states are scored against vectors that are made of the content.
        """
        encoder = self.finetuned()
        if encoder is not None and tied and self.loss == "ce":
            raise ValueError(
                f"--loss ce would encode all items at every step with --content {encoder.content}; use "
                "--item-table untied, or a loss of few items such as sampled"
            )

    def rows_of(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Vectors of all items by ``encode(numbers)``: [N, D]; in training only those that a loss takes are made."""
        if self.training:
            return cast(Tensor, EncodedItems(self.items, encode))  # all that such a loss does with a table
        device = next(self.parameters()).device
        return encode(torch.arange(1, self.items + 1, device=device))

    @staticmethod
    def check_saved(arguments: Mapping[str, Any]) -> None:
        """Refuse a saved model that would have to fetch its encoder: opening a run reads its folder alone."""
        config = arguments.get("backbone_config")
        if arguments.get("content") not in BACKBONES:
            return
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise ValueError(
                f"'arguments.backbone_config' is {shown(config)}, expected the configuration of the encoder "
                f"{arguments.get('backbone') or 'that was trained'}, with its 'model_type'"
            )

    def scorer(self) -> TableScorer:
        """Scores of all items from the last state of a history; a fine-tuned encoder reads every item once."""
        self.encode_items()
        return super().scorer()

    def save_pretrained(self, folder: Any, item_ids: Any = None, titles: Any = None) -> None:
        """Write the model as a run folder (see :meth:`seqrec.sequential.Pretrained.save_pretrained`)."""
        self.encode_items()
        super().save_pretrained(folder, item_ids, titles)

    def encode_items(self) -> None:
        """Bring the vectors of all items up to date, where an encoder makes them; the model is then in eval mode."""
        encoder = self.finetuned()
        if encoder is not None:
            self.eval()
            encoder.refresh()


def _backbone(name: str, config: dict[str, Any] | None) -> Any:
    from transformers import AutoConfig, AutoModel

    if config is None:
        return load_backbone(AutoModel, name, "--backbone", dtype=torch.float32)
    rest = {key: value for key, value in _local(config).items() if key != "model_type"}
    made = AutoConfig.for_model(config["model_type"], **rest)
    return AutoModel.from_config(made, dtype=torch.float32, trust_remote_code=False)


_FETCHED = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")


def _local(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what makes transformers fetch code or weights: a saved run holds all there is."""
    kept = {key: _local(value) if isinstance(value, dict) else value for key, value in config.items()}
    kept = {key: value for key, value in kept.items() if key not in _FETCHED}
    return kept | {"use_pretrained_backbone": False} if "use_pretrained_backbone" in kept else kept


def _width(config: Any) -> int:
    sizes = getattr(config, "hidden_sizes", None)  # of convolutional networks
    return int(sizes[-1] if sizes else config.hidden_size)


def _layers(backbone: nn.Module, name: str) -> list[nn.Module]:
    """The Transformer layers of an encoder."""
    count = getattr(backbone.config, "num_hidden_layers", None)
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and count and len(module) == count:
            return list(module)
    raise ValueError(f"--tune adapters needs a Transformer, but {name} has no Transformer layers; use projection")


def _follow(adapter: nn.Module) -> Any:
    """A hook that sends the hidden states of a layer through an adapter."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)

    return hook


def _pixels(path: Path, size: int) -> np.ndarray:
    """A picture with its shorter side brought to 8/7 of ``size`` and its centre cut out: uint8 [3, size, size]."""
    from PIL import Image

    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    factor = round(size * 8 / 7) / min(rgb.size)
    wide, high = (max(size, round(side * factor)) for side in rgb.size)
    left, top = (wide - size) // 2, (high - size) // 2
    cut = rgb.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(cut, dtype=np.uint8).transpose(2, 0, 1)


def _normalization(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the colours that an encoder expects; ImageNet's where it does not say."""
    from transformers import AutoImageProcessor
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    return list(processor.image_mean), list(processor.image_std)
