"""Hugging Face encoders of text and pictures with random weights, small enough to be trained in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

__all__ = ["tiny_bert", "tiny_vision"]


def tiny_bert(folder: Path) -> Path:
    """A folder with a tiny BERT and its tokenizer, which knows "item number 0" to "item number 29"."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "item", "number", *map(str, range(30))]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def tiny_vision(folder: Path, items: int) -> list[Path | None]:
    """Folders "vit" and "resnet" with a tiny encoder each, and pictures of all items but the last: their paths."""
    from PIL import Image
    from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

    torch.manual_seed(1)
    vit = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    ViTModel(vit).save_pretrained(folder / "vit")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(resnet).save_pretrained(folder / "resnet")
    rng = np.random.default_rng(0)
    for number in range(items - 1):
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return [*(folder / f"{number}.png" for number in range(items - 1)), None]
