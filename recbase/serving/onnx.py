"""Networks as ONNX: written by torch, opened by ONNX Runtime. Knows nothing of recommenders."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["exported", "need", "open_session"]

_EXTRA = {"faiss": "faiss", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}


def need(name: str) -> Any:
    """A package of an extra; ImportError, naming the extra, if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs the package {name}: pip install 'semtok[{_EXTRA[name]}]'") from error


def exported(
    network: nn.Module,
    example: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    outputs: Sequence[str],
    owner: str,
) -> Any:
    """An ONNX program of a network; its ``save(path)`` writes it.

    Parameters
    ----------
    network : module
        Called with the values of ``example`` in their order.
    example : mapping of str to Tensor
        Inputs by name.
    shapes : mapping
        Free axes of each input, as ``torch.onnx.export`` takes them.
    outputs : sequence of str
        Names of the outputs.
    owner : str
        Whose network it is, for the message.

    Raises
    ------
    ImportError
        If a package is missing, naming the extra.
    ValueError
        If the network computes something that ONNX cannot express.
    """
    import torch

    for package in ("onnx", "onnxscript"):
        need(package)
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                network.eval(),
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=dict(shapes),
                input_names=list(example),
                output_names=list(outputs),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ValueError(f"{owner} computes something that ONNX cannot express") from error
    finally:
        log.setLevel(level)


def open_session(path: str | os.PathLike[str]) -> Any:
    """A session of ONNX Runtime on the CPU.

    Raises
    ------
    ImportError
        If ONNX Runtime is missing, naming the extra.
    ValueError
        If the file is no ONNX file that can be read.
    """
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # it would print to the terminal what is raised below
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no parent of their own
        raise ValueError(f"{path} is not a readable ONNX file: truncated or damaged") from error
