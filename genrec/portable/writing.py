"""A trained generator as a folder that answers without torch."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genrec.nets.t5 import T5
from genrec.portable.networks import write_networks
from genrec.portable.runtime import CATALOGUE_FILE, DECODER_FILE, ENCODER_FILE, SETTINGS_FILE
from genrec.portable.search import PortableTrie
from recbase.store.folder import FileContent, tensor_bytes
from recbase.store.runs import Run, check_export, save_export

__all__ = ["export_onnx", "onnx_files", "why_not_onnx"]

_README = """# {name} as ONNX

Written by `genrec export --to onnx` from a model that was trained on {data} ({items:,} items).

- `encoder.onnx`: tokens of a history to what the decoder sees of them; `decoder.onnx`: one code more for every prefix.
- `catalogue.safetensors`: tokens of every item and the prefix tree of their codes; `items.parquet`: ids and titles.
- `search.json`: how a history becomes tokens, and what a probability is relative to.
- `model.safetensors`, `config.json`: the model itself; `genrec.load` and all commands open this folder as well.

    pip install semtok onnxruntime
    python example.py ITEM ITEM ...
    genrec recommend . --history ITEM,ITEM --engine onnx

No line that runs here imports torch.
"""


def export_onnx(run: Run, out: str | os.PathLike[str]) -> list[str]:
    """Write a TIGER or LETTER, of any recipe, with its networks as ONNX and its prefix tree as arrays.

    The folder is a run folder with more files, whose names are plain; :class:`genrec.portable.runtime.OnnxGenerator`
    and ``genrec recommend --engine onnx`` find the lists of the model.

    Parameters
    ----------
    run : Run
    out : path
        A new folder, or an earlier export.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed, naming the extra.
    ValueError
        If the model is no T5 over codes of one length, or ``out`` holds something that is no export.
    """
    check_export(out)
    return save_export(run, out, run.manifest["model"], run.model, onnx_files(run))


def onnx_files(run: Run) -> dict[str, FileContent]:
    """Files of the export beside those of a run; see :func:`export_onnx`."""
    name, model = run.manifest["model"], run.model
    if reason := why_not_onnx(name, model):
        raise ValueError(f"{run.folder.path} cannot be exported: {reason}")
    t5, vocabulary, arrays = model.t5, model.vocabulary, PortableTrie.arrays(model.trie)
    users = int(vocabulary.user_buckets > 0)
    moved = copy.deepcopy(t5).to("cpu", torch.float32).eval()
    encoder, decoder = write_networks(moved, model.max_len * vocabulary.levels + users, name)
    stranger = int(vocabulary.user_tokens(torch.tensor([-1]))) if users else 0
    settings = {
        "sizes": list(vocabulary.sizes),
        "first_tokens": list(vocabulary.offsets),
        "max_items": int(model.max_len),
        "start_token": int(t5.start_token),
        "stranger_token": stranger,
        "normalize": model.normalize,
    }
    arrays["tokens"] = vocabulary.tokens(model.code_table.cpu()).int().numpy()
    example = Path(__file__).with_name("example.py").read_bytes()
    data = run.manifest.get("data", {}).get("name", "an unknown data set")
    text = _README.format(name=name, data=data, items=run.items.height)
    return {
        ENCODER_FILE: _saved(encoder),
        DECODER_FILE: _saved(decoder),
        CATALOGUE_FILE: tensor_bytes(arrays),
        SETTINGS_FILE: (json.dumps(settings, indent=1) + "\n").encode(),
        "README.md": text.encode(),
        "example.py": example,
    }


def why_not_onnx(name: str, model: Any) -> str | None:
    """Reason why a generator cannot be exported to ONNX; None where it can."""
    t5: Any = getattr(model, "t5", None)
    if not isinstance(t5, T5) or t5.vocabulary is None or not hasattr(model, "vocabulary"):
        return f"the networks of {name} are no T5; those of tiger and letter are"
    blocks: Any = t5.encoder.blocks
    if any(block.attention.mixer is not None for block in blocks):
        return "the encoder mixes tokens by more than attention"
    if getattr(model, "dense", None) is not None:
        return "lists are ranked by a dense head beside the codes (--dense-weight)"
    if max(model.trie.widths) > 1 or model.trie.ragged:
        return "the codes are tuples or of several lengths, which the portable search cannot walk"
    return None


def _saved(program: Any) -> Callable[[Path], None]:
    return lambda path: program.save(str(path))
