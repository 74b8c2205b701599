"""Hidden states of a text model to one vector a text, as the model's own files say.

Reads the folders that sentence-transformers writes (``modules.json``): pooling, dense layers and normalisation. Where
there is no such file the vector is the mean over tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MEAN", "SentencePooling", "read_pooling"]

_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = ("Tanh", "Identity", "GELU", "ReLU", "SiLU", "Sigmoid")
_READ = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")

Reader = Callable[[str], "Path | None"]
"""Path of a file of the model by its name, None where it has none."""


@dataclass(frozen=True)
class Dense:
    """A dense layer behind the pooling.

    Attributes
    ----------
    weight : float32 [P, D]
    bias : float32 [P] or None
    activation : str
        Class of ``torch.nn``.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str


@dataclass(frozen=True)
class SentencePooling:
    """Way from hidden states to the vector of a text.

    Attributes
    ----------
    modes : tuple of str
        Kinds of pooling, whose vectors are joined: cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken.
    layers : tuple of Dense or None
        What follows, in order; None is a division by the Euclidean norm.
    max_tokens : int or None
        Tokens of a text that the model reads.
    prompt : str
        What stands before every text.
    lower : bool
        Whether texts are put in small letters.
    """

    modes: tuple[str, ...] = ("mean",)
    layers: tuple[Dense | None, ...] = field(default=())
    max_tokens: int | None = None
    prompt: str = ""
    lower: bool = False

    def describe(self) -> str:
        """A few words, for manifests."""
        names = {"mean": "mean over tokens", "cls": "first token", "lasttoken": "last token", "max": "maximum"}
        parts = [" and ".join(names.get(mode, mode) for mode in self.modes)]
        for layer in self.layers:
            parts.append("normalised" if layer is None else f"dense {layer.weight.shape[0]} ({layer.activation})")
        if self.prompt:
            parts.append(f"prompt {self.prompt!r}")
        return ", ".join(parts + (["small letters"] if self.lower else []))

    def read(self, texts: Sequence[str]) -> list[str]:
        """Texts as the model is given them."""
        return [self.prompt + (text.lower() if self.lower else text) for text in texts]

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Vectors of texts: hidden states [B, S, D] and mask [B, S], padded on the right, to float32 [B, P]."""
        import torch
        import torch.nn.functional as F

        hidden = hidden.float()
        x = torch.cat([_pooled(mode, hidden, mask) for mode in self.modes], 1)
        for layer in self.layers:
            if layer is None:
                x = F.normalize(x)
                continue
            weight, bias = (
                None if part is None else torch.from_numpy(part).to(x) for part in (layer.weight, layer.bias)
            )
            assert weight is not None
            x = getattr(torch.nn, layer.activation)()(F.linear(x, weight, bias))
        return x


MEAN = SentencePooling()
"""The mean over tokens, for models that say nothing."""


def _pooled(mode: str, hidden: Tensor, mask: Tensor) -> Tensor:
    import torch

    there = mask.to(hidden.dtype)[:, :, None]  # [B, S, 1]
    count = there.sum(1)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return hidden.masked_fill(there == 0, -torch.inf).amax(1).masked_fill(count == 0, 0.0)
    if mode == "lasttoken":
        last = (mask.sum(1) - 1).clamp(min=0)
        return hidden[torch.arange(len(hidden), device=hidden.device), last] * (count > 0)
    if mode == "weightedmean":
        there = there * torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)[None, :, None]
        count = there.sum(1)
    if mode == "mean_sqrt_len_tokens":
        count = count.sqrt()
    return (hidden * there).sum(1) / count.clamp(min=1e-9)


def read_pooling(name: str, file: Reader) -> SentencePooling:
    """Pooling of a model as its files say; the mean over tokens where they say nothing.

    Parameters
    ----------
    name : str
        The model's name, for messages.
    file : callable
        Path of one of its files, None where there is none.

    Raises
    ------
    OSError
        If a file is damaged, or a module is of a kind that is not read here; the sentence names it.
    """
    listed = file("modules.json")
    if listed is None:
        return MEAN
    modules = _json(name, listed)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise _refused(name, f"{listed.name} is no list of modules")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds) <= set(_READ) or kinds.count("Transformer") > 1:
        strange = next((kind for kind in kinds if kind not in _READ), " and ".join(kinds) or "nothing")
        raise _refused(
            name,
            f"its modules are {', '.join(kinds)}, of which {strange} is not read here (a Transformer, a Pooling, then "
            "Dense and Normalize are): encode the texts with sentence-transformers and give the file of vectors to "
            "--embeddings",
        )
    folders = [str(module.get("path", "")) for module in modules]
    layers: list[Dense | None] = []
    for kind, folder in zip(kinds[2:], folders[2:], strict=True):
        if kind == "Normalize":
            layers.append(None)
        elif kind == "Dense":
            layers.append(_dense(name, folder, file))
    pooling = _config(name, f"{folders[1]}/config.json", file)
    prompt = _prompt(name, file)
    if prompt and not pooling.get("include_prompt", True):
        raise _refused(name, "its pooling leaves the tokens of a prompt out, which is not read here")
    about = _config(name, f"{folders[0]}/sentence_bert_config.json".lstrip("/"), file)
    most = about.get("max_seq_length")
    lower = bool(about.get("do_lower_case", False))
    return SentencePooling(_modes(name, pooling), tuple(layers), most if type(most) is int else None, prompt, lower)


def _modes(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    given = config.get("pooling_mode")
    modes = [given] if isinstance(given, str) else list(given or [])
    modes = modes or [mode for key, mode in _LEGACY.items() if config.get(key)] or ["mean"]
    for mode in modes:
        if mode not in _LEGACY.values():
            raise _refused(name, f"its pooling is {mode!r}; expected {', '.join(_LEGACY.values())}")
    return tuple(modes)


def _dense(name: str, folder: str, file: Reader) -> Dense:
    from recbase.store.folder import load_arrays

    config, weights = _config(name, f"{folder}/config.json", file), file(f"{folder}/model.safetensors")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS or config.get("use_residual"):
        raise _refused(name, f"its dense layer {folder} has the activation {activation} or a residual, not read here")
    if weights is None:
        raise _refused(name, f"its dense layer {folder} has no model.safetensors; pickled weights are not read")
    try:
        arrays = load_arrays(weights)
        weight, bias = arrays["linear.weight"], arrays.get("linear.bias")
    except (ValueError, KeyError) as error:
        raise _refused(name, f"the weights of {folder} are damaged: {error}") from error
    return Dense(weight.astype(np.float32), None if bias is None else bias.astype(np.float32), activation)


def _prompt(name: str, file: Reader) -> str:
    config = _config(name, "config_sentence_transformers.json", file)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    return str(prompts.get(default, "")) if default else ""


def _config(name: str, path: str, file: Reader) -> dict[str, Any]:
    found = file(path)
    config = {} if found is None else _json(name, found)
    if not isinstance(config, dict):
        raise _refused(name, f"{path} is no JSON object")
    return config


def _json(name: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(name, f"{path.name} is not valid JSON") from error


def _refused(name: str, reason: str) -> OSError:
    return OSError(f"encoder {name!r} cannot be loaded: {reason}")
