"""A second device, pretended on the CPU: what mixes devices fails as it would on a GPU, and results are the CPU's.

A tensor on it is a wrapper around one of the CPU. Every operation of PyTorch passes `_run`, which refuses what CUDA
refuses (operands of two devices, an index on a device whose tensor is on the CPU, a generator of another device) and
computes the rest on the CPU. Kernels, streams and precision of a real device are the business of tests marked ``gpu``.

The device takes PyTorch's slot for backends from outside and stays registered for the whole process: it is for runs of
``pytest -m gpu --pretend-device``, which `test_devices.py` makes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Backend(_DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretended", backend_module=_Backend())
_AUTOCAST = torch.library.Library("_", "IMPL")
_AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # autocast casts nothing there
CPU, OTHER = torch.device("cpu"), torch.device("pretended", 0)
_MOVES = {"aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense", "aten::set_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}


WAITS: list[str] = []
"""What the program had to wait for the device for, by the line that did."""
_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select", "aten::bincount"}


class Pretended(Tensor):
    """A tensor that says that it is on `OTHER`; its numbers are those of ``held``."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        found: Pretended = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=OTHER
        )
        found.held = held
        return found

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.held!r})"

    def tolist(self) -> Any:
        _wait("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


class _Pretending(TorchDispatchMode):
    """Sends what makes tensors (``torch.zeros(..., device=...)``) through `_run` as well."""

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


class _Making(TorchFunctionMode):
    """What fills tensors behind the back of the dispatcher: ``torch.tensor``, ``as_tensor``, an index as a list."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is Tensor.__getitem__:
            return function(args[0], tree_map(_index, args[1], is_leaf=lambda leaf: isinstance(leaf, list)))
        if function not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return function(*args, **kwargs)
        device = kwargs.pop("device")
        return function(*args, **kwargs).to(device)


def _index(leaf: Any) -> Any:
    return torch.tensor(leaf, dtype=torch.int64) if isinstance(leaf, list) else leaf


def _run(operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    name = operation._schema.name
    asked = kwargs.get("device")
    there = any(isinstance(tensor, Pretended) for tensor in tensors)
    if there and name not in _MOVES:
        _check(name, args, tensors)
    if there and _reads(name, args, asked):
        _wait(name)
    if asked is not None:
        made_there = torch.device(asked).type == OTHER.type
    else:
        made_there = isinstance(args[0], Pretended) if name == "aten::copy_" else there
    drawing = kwargs.get("generator")
    if drawing is not None and made_there:
        raise RuntimeError(f"{name}: a generator of {drawing.device} for a tensor of {OTHER}")
    changed = dict(kwargs) if asked is None else {**kwargs, "device": CPU}
    changed.pop("pin_memory", None)
    found = _KERNELS.get(name, operation)(*tree_map(_held, args), **tree_map(_held, changed))
    if not made_there:
        return found
    found = tree_map(lambda leaf: Pretended(leaf) if isinstance(leaf, Tensor) else leaf, found)
    return return_and_correct_aliasing(operation, args, dict(kwargs), found)


def _gru_cell(inputs: Tensor, hidden: Tensor, state: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step of a GRU from its gates [B, 3 H] and state [B, H]; what the gradient needs as [B, 5 H]."""
    if len(biases) == 2 and biases[0] is not None and biases[1] is not None:
        inputs, hidden = inputs + biases[0], hidden + biases[1]
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = inputs.chunk(3, 1), hidden.chunk(3, 1)
    reset, update = (reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid()
    new = (new_x + reset * new_h).tanh()
    return new + update * (state - new), torch.cat([reset, update, new, state, new_h], 1)


def _gru_cell_backward(grad: Tensor, kept: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    reset, update, new, state, new_h = kept.chunk(5, 1)
    to_new = grad * (1 - update) * (1 - new**2)
    to_update = grad * (state - new) * update * (1 - update)
    to_reset = to_new * new_h * reset * (1 - reset)
    inputs = torch.cat([to_reset, to_update, to_new], 1)
    hidden = torch.cat([to_reset, to_update, to_new * reset], 1)
    return inputs, hidden, grad * update, *((inputs.sum(0), hidden.sum(0)) if has_bias else (None, None))


def _sparse_addmm(start: Tensor, left: Tensor, right: Tensor, **factors: float) -> Tensor:
    """``torch.sparse.mm``; of a wrapper, which does not show that it is sparse, with the transposed operands."""
    assert factors == {"beta": 0}
    return torch.mm(left, right) if left.is_sparse else torch.mm(right.t(), left.t()).t()


_KERNELS = {
    "aten::_thnn_fused_gru_cell": _gru_cell,
    "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "aten::_sparse_addmm": _sparse_addmm,
}
"""What PyTorch asks of devices and a CPU does not have or does otherwise."""


def _reads(name: str, args: tuple[Any, ...], asked: Any) -> bool:
    """Whether an operation on tensors there needs their values or a count of them before it returns."""
    if name == "aten::_to_copy":
        return asked is not None and torch.device(asked).type == "cpu"
    if name in _INDEXED:
        return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in args[1])
    if name == "aten::repeat_interleave":
        return args[-1] is None or isinstance(args[-1], Tensor)
    return name in _READS


def _wait(name: str) -> None:
    stack = [frame for frame in traceback.extract_stack() if "site-packages" not in frame.filename]
    frames = [f"{Path(one.filename).name}:{one.lineno}: {one.line}" for one in stack if one.filename != __file__]
    WAITS.append(f"{name} in {frames[-1] if frames else 'the backward pass'}")


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, Pretended) else leaf


def _check(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """CUDA's rules: one device, but for numbers (tensors without dimensions) and the indices of a tensor there."""
    if name in _INDEXED and isinstance(args[0], Pretended):
        tensors = [leaf for leaf in tree_leaves(args[2:]) if isinstance(leaf, Tensor)]
    apart = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Pretended) and tensor.dim() > 0]
    if apart:
        raise RuntimeError(f"{name}: expected all tensors on {OTHER}, those of shape {apart} are on the CPU")


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The device, while operations on it are pretended."""
    with _Making(), _Pretending():
        yield OTHER
