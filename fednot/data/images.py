"""Image files in one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from fednot.data.errors import DataError
from fednot.data.in_memory import scaled
from fednot.data.subset import shard_indices

SUFFIXES: Final = frozenset(
    [
        ".bmp",
        ".gif",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
CACHE_BYTES: Final = 512 << 20


class ImageFolder:
    """Image files below `<root>/<class>/`; inputs [C, H, W] in [0, 1], ids the relative paths.

    Classes are the folders' names in sorted order, or `classes` in the given order: clients that do
    not hold every class must be given it, or their numbers differ. `size` is (height, width) to
    resize to. Decoded pixels are kept, up to `cache_bytes`. Raises DataError, at an image's first
    use if it cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: tuple[int, int] | None = None,
        grayscale: bool = False,
        classes: Sequence[str] | None = None,
        shard: str = "",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._root = Path(root)
        self.classes = list(classes) if classes is not None else _classes(self._root)
        found = [
            (path, target)
            for target, name in enumerate(self.classes)
            for path in _images(self._root / name)
        ]
        if not found:
            raise DataError(f"{self._root} has no images in folders named by class")
        self._files = [found[index] for index in shard_indices(len(found), shard)]
        self._size = size
        self._mode = "L" if grayscale else "RGB"
        self._pixels: dict[int, torch.Tensor] = {}
        self._cache_left = cache_bytes

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Input, float32 [C, H, W] in [0, 1], and its class."""
        return scaled(self._image(index)), self._files[index][1]

    def sample_id(self, index: int) -> str:
        """The file's path below the root, with forward slashes."""
        return self._files[index][0].relative_to(self._root).as_posix()

    def target(self, index: int) -> int:
        """The class of the image at an index, which is not decoded."""
        return self._files[index][1]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, C, H, W] and targets int64 [B]. Raises DataError if sizes differ."""
        images = [self._image(index) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"{self._files[index][0]} is {list(image.shape)}, others are "
                    f"{list(images[0].shape)}; give the dataset a size to resize to"
                )
        targets = torch.tensor([self._files[index][1] for index in indices])
        return scaled(torch.stack(images)), targets

    def _image(self, index: int) -> torch.Tensor:
        cached = self._pixels.get(index)
        if cached is not None:
            return cached
        image = _decoded(self._files[index][0], self._mode, self._size)
        if image.numel() <= self._cache_left:
            self._cache_left -= image.numel()
            self._pixels[index] = image
        return image


def _classes(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root} is no folder")
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def _images(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted((path for path in found if path.is_file()), key=lambda path: path.as_posix())


def _decoded(path: Path, mode: str, size: tuple[int, int] | None) -> torch.Tensor:
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
