"""Augmented images are cuts of the padded image, one draw each, and mirrored where asked for."""

from __future__ import annotations

import pytest
import torch

from fednot.data.in_memory import InMemoryDataset
from lab.augmentation import PADDING, augmented


@pytest.fixture
def data() -> InMemoryDataset:
    images = torch.arange(1.0, 1 + 40 * 2 * 6 * 6).view(40, 2, 6, 6)
    return InMemoryDataset(images, torch.arange(40), [f"s{i}" for i in range(40)])


def cuts(image: torch.Tensor) -> list[torch.Tensor]:
    padded = torch.nn.functional.pad(image, (PADDING,) * 4)
    places = range(2 * PADDING + 1)
    return [padded[:, row : row + 6, column : column + 6] for row in places for column in places]


def test_each_image_is_a_cut_of_its_own(data: InMemoryDataset) -> None:
    torch.manual_seed(0)
    images, targets = augmented(data, "crop").batch(range(40))  # type: ignore[attr-defined]
    assert targets.tolist() == list(range(40))
    found = []
    for index in range(40):
        places = [
            i for i, cut in enumerate(cuts(data[index][0])) if torch.equal(cut, images[index])
        ]
        assert places
        found.append(places[0])
    assert len(set(found)) > 10


def test_half_are_mirrored(data: InMemoryDataset) -> None:
    torch.manual_seed(0)
    images, _ = augmented(data, "crop-flip").batch([0] * 100)  # type: ignore[attr-defined]
    straight = [any(torch.equal(cut, image) for cut in cuts(data[0][0])) for image in images]
    mirrored = [
        any(torch.equal(cut.flip(2), image) for cut in cuts(data[0][0])) for image in images
    ]
    assert all(one or other for one, other in zip(straight, mirrored, strict=True))
    assert 30 < sum(straight) < 70


def test_one_sample_and_its_id(data: InMemoryDataset) -> None:
    found = augmented(data, "crop")
    image, target = found[3]
    assert (image.shape, int(target), found.sample_id(3), len(found)) == ((2, 6, 6), 3, "s3", 40)


def test_none_and_unknown(data: InMemoryDataset) -> None:
    assert augmented(data, "") is data
    with pytest.raises(ValueError, match="is no augmentation"):
        augmented(data, "blur")
