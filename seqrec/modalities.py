"""Text and image vectors of the items as buffers of a model; images are optional, for a data set and for an item.

Knows nothing of sequences: models project these vectors and decide what to do where there is no picture.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ModalityVectors"]


class ModalityVectors(nn.Module):
    """Vectors of unit length, row 0 and the rows behind the last item zeros; so are the vectors of missing images.

    Parameters
    ----------
    items : int
        N.
    text_dim : int
    image_dim : int
        0: there are no pictures.
    extra : int, default 0
        Rows of zeros behind the last item ([MASK]).
    """

    text: Tensor
    images: Tensor
    missing: Tensor

    def __init__(self, items: int, text_dim: int, image_dim: int = 0, extra: int = 0) -> None:
        super().__init__()
        for name, value, lowest in (("text_dim", text_dim, 1), ("image_dim", image_dim, 0)):
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        self.items, self.image_dim = items, image_dim
        rows = items + 1 + extra
        self.register_buffer("text", torch.zeros(rows, text_dim))
        if image_dim:
            self.register_buffer("images", torch.zeros(rows, image_dim))
            self.register_buffer("missing", torch.ones(rows, dtype=torch.bool))

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that there are: text, and images or not."""
        return ("text", "images") if self.image_dim else ("text",)

    @property
    def widths(self) -> list[int]:
        """Width of the vectors of each modality."""
        return [table.shape[1] for table in self.tables()]

    def tables(self) -> list[Tensor]:
        """Vectors of each modality, [N + 1 + extra, d] each."""
        return [self.text, self.images] if self.image_dim else [self.text]

    def present(self) -> list[Tensor]:
        """Marks of the rows that have a vector in each modality, bool [N + 1 + extra] each; every item has a text."""
        has_text = torch.zeros(len(self.text), dtype=torch.bool, device=self.text.device)
        has_text[1 : self.items + 1] = True
        return [has_text, ~self.missing] if self.image_dim else [has_text]

    def fill(self, text: np.ndarray | None, images: np.ndarray | None, missing_images: np.ndarray | None) -> None:
        """Set the vectors: text [N, text_dim], images [N, image_dim], missing_images bool [N] (None: none is missing).

        Raises
        ------
        ValueError
            If an array has another shape, or the images that the model was built for are not given.
        """
        if text is None:
            raise ValueError(f"no text was given but the model was built with text_dim {self.text.shape[1]}")
        self._check("text", text, self.text.shape[1])
        self.text[1 : self.items + 1] = F.normalize(torch.from_numpy(np.asarray(text, dtype=np.float32)), dim=1)
        if not self.image_dim:
            if images is not None:
                raise ValueError("images were given but the model was built with image_dim 0")
            return
        if images is None:
            raise ValueError(f"no images were given but the model was built with image_dim {self.image_dim}")
        self._check("images", images, self.image_dim)
        gone = np.zeros(self.items, dtype=bool) if missing_images is None else np.asarray(missing_images, dtype=bool)
        vectors = F.normalize(torch.from_numpy(np.nan_to_num(np.asarray(images, dtype=np.float32))), dim=1)
        self.missing[1 : self.items + 1] = torch.from_numpy(gone)
        self.images[1 : self.items + 1] = vectors.masked_fill(torch.from_numpy(gone)[:, None], 0.0)

    def _check(self, name: str, array: np.ndarray, width: int) -> None:
        if array.shape != (self.items, width):
            raise ValueError(f"{name} has shape {list(array.shape)}, expected {[self.items, width]}")
