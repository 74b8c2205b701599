"""Options with which every generator trains in seconds, all its stages included."""

from __future__ import annotations

TINY = ["--epochs", "1", "--valid-users", "50", "--beams", "20", "--valid-beams", "10", "--quiet"]
T5 = [
    "--dim",
    "16",
    "--heads",
    "2",
    "--head-dim",
    "8",
    "--ffn",
    "32",
    "--encoder-layers",
    "1",
    "--decoder-layers",
    "1",
]
_BERT = ["--dim", "16", "--heads", "2", "--ffn", "32", "--decoder-layers", "1", "--stage1-epochs", "1"]
_BERT += ["--stage1-dim", "16", "--codebook-size", "16"]
_LEARNED = ["--tokenizer-steps", "20", "--codebook-size", "16"]
FAST: dict[str, list[str]] = {
    "tiger": [*T5, *_LEARNED],
    "letter": [*T5, *_LEARNED, "--form", "all"],
    "prorec": _BERT,
    "eager": _BERT,
    "bbqrec": [*T5, *_LEARNED],
    "marius": ["--dim", "16", "--heads", "2", "--ffn", "32", "--layers", "1", "--depth-layers", "1", *_LEARNED],
}
