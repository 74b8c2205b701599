"""A trained autoencoder as plain arrays: what an RQ-VAE keeps, saves and encodes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from semtok.methods.autoencoder import Autoencoder

_CHUNK_ROWS = 4096

__all__ = ["Fitted", "as_arrays", "checked_array", "latents_of", "layer_arrays", "restored_rows"]


@dataclass(frozen=True)
class Fitted:
    """Arrays that are fitted on one view.

    Attributes
    ----------
    shift, scale : float32 [D]
    encoder, decoder : list of (float32 [out, in], float32 [out])
        Weight and bias of each layer.
    codebooks : float32 [L, K, d]
    usable : bool [L, K]
        False for a codeword that equals an earlier one of its level: it is never assigned.
    """

    shift: np.ndarray
    scale: np.ndarray
    encoder: list[tuple[np.ndarray, np.ndarray]]
    decoder: list[tuple[np.ndarray, np.ndarray]]
    codebooks: np.ndarray
    usable: np.ndarray


def as_arrays(network: Autoencoder) -> Fitted:
    """Weights and codebooks of a trained network, float32 on the CPU."""

    def layers(part: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
        linear = [layer for layer in part if isinstance(layer, nn.Linear)]
        return [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in linear]

    assert network.codebooks is not None
    books = network.codebooks.codebooks.detach().numpy().copy()
    usable = np.zeros(books.shape[:2], dtype=bool)
    for level, book in enumerate(books):
        usable[level, np.unique(book, axis=0, return_index=True)[1]] = True
    return Fitted(
        network.shift.numpy().copy(),
        network.scale.numpy().copy(),
        layers(network.encoder),
        layers(network.decoder),
        books,
        usable,
    )


def _run(layers: list[tuple[np.ndarray, np.ndarray]], values: Tensor) -> Tensor:
    """Linear layers with ReLU between them, in float64."""
    for place, (weight, bias) in enumerate(layers):
        values = torch.addmm(torch.from_numpy(bias).to(values), values, torch.from_numpy(weight).to(values).T)
        if place + 1 < len(layers):
            values.relu_()
    return values


def latents_of(fitted: Fitted, rows: Tensor) -> Tensor:
    """float64 [N, d]."""
    parts = []
    for part in rows.split(_CHUNK_ROWS):
        values = part.double()
        shift, scale = torch.from_numpy(fitted.shift).to(values), torch.from_numpy(fitted.scale).to(values)
        parts.append(_run(fitted.encoder, (values - shift) / scale))
    return torch.cat(parts)


def restored_rows(fitted: Fitted, codes: Tensor) -> Tensor:
    """float32 [N, D]."""
    books = torch.from_numpy(fitted.codebooks).double()
    total = torch.stack([book[column] for book, column in zip(books, codes.T, strict=True)]).sum(0)
    restored = _run(fitted.decoder, total)
    return (restored * torch.from_numpy(fitted.scale) + torch.from_numpy(fitted.shift)).float()


def layer_arrays(arrays: Mapping[str, np.ndarray], name: str, widths: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight [out, in] and bias [out] of every layer of a saved network, for these widths."""
    return [
        (
            checked_array(arrays, f"{name}.{place}.weight", (out, width)),
            checked_array(arrays, f"{name}.{place}.bias", (out,)),
        )
        for place, (width, out) in enumerate(pairwise(widths))
    ]


def checked_array(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Array of a saved network; ValueError where it is missing or of another shape."""
    found = arrays.get(name)
    if found is None or found.shape != shape:
        what = "missing" if found is None else f"of shape {found.shape}"
        raise ValueError(f"{name} is {what}; the manifest expects {shape}")
    return found
