"""Conditions on a training checkpoint before a training goes on from it.

Everything is compared with the training that resumes: the same names, shapes and types, and no NaN among weights and
moments, so that a damaged checkpoint is refused before anything of it is taken over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from recbase.store.manifests import FLAG, NUMBER, OBJECT, TEXT, WHOLE, list_of, map_of, maybe, null_or, record
from recbase.store.restoring import Expected, check_arrays

__all__ = ["CHECKPOINT", "check_generators", "check_moments", "check_weights"]

CHECKPOINT = record(
    {
        "run": OBJECT,
        "loop": record(
            {
                "epoch": WHOLE,
                "step": WHOLE,
                "seconds": NUMBER,
                "between": maybe(FLAG),
                "validated": WHOLE,
                "stale": WHOLE,
                "best": maybe(map_of(NUMBER)),
                "best_epoch": maybe(WHOLE),
                "history": list_of(OBJECT),
            }
        ),
        "batches": OBJECT,
        "scaler": maybe(null_or(OBJECT)),
        "loss_names": list_of(TEXT),
    }
)
"""Schema of ``checkpoint.json``."""


def check_weights(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Compare saved weights with those of the model that takes them; ValueError names the file and the tensor."""
    unfilled = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "unfilled", ())
    }
    expected = {
        name: Expected(tuple(value.shape), _kind(value), finite=name not in unfilled)
        for name, value in model.state_dict().items()
    }
    check_arrays(path, _arrays(tensors), expected, "this model")


def check_moments(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], model: nn.Module, trained: list[str]
) -> None:
    """Compare saved moments of the optimizer with the parameters that it trains."""
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    expected: dict[str, Expected] = {}
    for name in trained:
        expected |= {f"{key}/{name}": Expected(shapes[name], required=False) for key in ("exp_avg", "exp_avg_sq")}
        expected[f"step/{name}"] = Expected((), required=False)
    check_arrays(path, _arrays(tensors), expected, "the optimizer of this model")


def check_generators(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], losses: int
) -> None:
    """Compare saved states of the random generators, and sums of losses, with those of this process.

    Parameters
    ----------
    path : path
    arrays : mapping of str to ndarray
        What was saved.
    own : mapping of str to ndarray
        What this process would save now.
    losses : int
        Parts of the loss.
    """
    kinds = {"f": "f", "b": "b", "i": "i", "u": "i"}
    expected = {
        name: Expected(value.shape, kinds[value.dtype.kind], finite=False, required=name != "cuda")
        for name, value in own.items()
        if not name.startswith("loss_")
    }
    expected |= {"loss_totals": Expected((losses,), finite=False), "loss_steps": Expected((1,), "i")}
    found = {name: value for name, value in arrays.items() if name != "cuda" or name in own}
    check_arrays(path, found, expected, "a process of this training")


def _kind(value: Tensor) -> str:
    return "f" if value.is_floating_point() else "b" if value.dtype.itemsize == 1 else "i"


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The tensors as NumPy sees them; half precision, which it does not have, in float32."""
    return {
        name: (value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value).numpy()
        for name, value in tensors.items()
    }
