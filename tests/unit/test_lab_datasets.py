"""The lab's data sets, on small made files: draws, splits, groups, normalising, errors."""

from __future__ import annotations

import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fednot.data.errors import DataError
from lab.datasets import NAMES, Pool, ScaledDataset, load, stratified
from lab.datasets.pool import Scale
from lab.datasets.readers import CIFAR10_SCALE
from lab.datasets.spoken_digits import FLOOR, convert, log_mel

SPEAKERS = ("ann", "bob")


def classes_of(data: ScaledDataset) -> Counter[int]:
    return Counter(data.targets.tolist())


def cifar_files(root: Path, names: dict[str, int], labels: int) -> Path:
    """Files of so many records, the classes in turn, each pixel of a record its number."""
    for name, count in names.items():
        rows = [
            np.concatenate([np.full(labels, i % 10), np.full(3072, i)]).astype(np.uint8)
            for i in range(count)
        ]
        (root / f"{name}.bin").write_bytes(np.stack(rows).tobytes())
    return root


def cifar10_files(root: Path) -> Path:
    return cifar_files(root, {f"data_batch_{n}": 20 for n in range(1, 6)} | {"test_batch": 30}, 1)


def caltech_files(root: Path) -> Path:
    sizes = {"accordion": 5, "BACKGROUND_Google": 7, "camera": 15}
    for number, (name, count) in enumerate(sizes.items()):
        place = root / "101_ObjectCategories" / name
        place.mkdir(parents=True)
        for index in range(count):
            pixels = np.full((20, 30, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"image_{index:04d}.png")
    return root


def spoken_file(root: Path, takes: int = 5) -> Path:
    order = [(d, s, t) for d in range(10) for s in range(len(SPEAKERS)) for t in range(takes)]
    rows = np.array(order)
    x = np.random.default_rng(0).normal(-20.0, 3.0, (len(rows), 32, 32)).astype(np.float16)
    np.savez(
        root / "spoken.npz",
        x=x,
        y=rows[:, 0],
        speaker=rows[:, 1],
        speakers=SPEAKERS,
        take=rows[:, 2],
    )
    return root


@pytest.fixture
def pools(tmp_path: Path) -> dict[str, Pool]:
    """Every data set, of made files."""
    places = {name: tmp_path / name for name in NAMES}
    for place in places.values():
        place.mkdir()
    cifar10_files(places["cifar10"])
    cifar_files(places["cifar100"], {"train": 20, "test": 10}, 2)
    caltech_files(places["caltech101"])
    spoken_file(places["spoken-digits"])
    return {name: load(name, place, seed=3) for name, place in places.items()}


def test_every_data_set_gives_normal_inputs_and_known_classes(pools: dict[str, Pool]) -> None:
    shapes = {name: pool.shape for name, pool in pools.items()}
    assert shapes == {
        "digits": (1, 28, 28),
        "cifar10": (3, 32, 32),
        "cifar100": (3, 32, 32),
        "caltech101": (3, 32, 32),
        "spoken-digits": (1, 32, 32),
    }
    for pool in pools.values():
        for data in (pool.train, pool.test):
            inputs, targets = data.batch([1, 0])
            assert inputs.dtype is torch.float32
            assert inputs.shape == (2, *pool.shape)
            assert torch.equal(inputs[0], data[1][0])
            assert torch.equal(data.inputs[0], inputs[1])
            assert int(targets.max()) < pool.num_classes
        assert set(pool.train.ids).isdisjoint(pool.test.ids)


def test_pixels_are_normalised_by_channel(pools: dict[str, Pool]) -> None:
    image, _ = pools["cifar10"].train[7]
    expected = (7 / 255 - torch.tensor(CIFAR10_SCALE.mean)) / torch.tensor(CIFAR10_SCALE.deviation)
    assert torch.allclose(image[:, 4, 4], expected)


def test_sizes_of_the_fixed_splits(pools: dict[str, Pool]) -> None:
    sizes = {name: (len(pool.train), len(pool.test)) for name, pool in pools.items()}
    assert sizes == {
        "digits": (4000, 1000),
        "cifar10": (100, 30),
        "cifar100": (20, 10),
        "caltech101": (16, 4),
        "spoken-digits": (80, 20),
    }


def test_clutter_is_no_class(pools: dict[str, Pool]) -> None:
    pool = pools["caltech101"]
    assert pool.num_classes == 2
    assert classes_of(pool.test) == {0: 1, 1: 3}
    assert not any("BACKGROUND" in name for name in pool.train.ids)


def test_images_are_resized(tmp_path: Path) -> None:
    assert load("caltech101", caltech_files(tmp_path), size=48).shape == (3, 48, 48)


def test_the_test_takes_are_a_fifth_of_each_speaker_and_digit(pools: dict[str, Pool]) -> None:
    pool = pools["spoken-digits"]
    assert pool.groups is not None
    assert pool.test_groups is not None
    pairs = Counter(zip(pool.test_groups, pool.test.targets.tolist(), strict=True))
    assert set(pairs.values()) == {1}
    assert len(pairs) == 20
    assert all(pool.train.ids[i].split("_")[1] == pool.groups[i] for i in range(80))
    assert abs(float(pool.train.inputs.mean())) < 1e-3
    assert float(pool.train.inputs.std()) == pytest.approx(1, abs=1e-3)


def test_a_draw_keeps_the_classes_and_follows_the_seed(tmp_path: Path) -> None:
    folder = cifar10_files(tmp_path)
    pool = load("cifar10", folder, train=40, test=10, seed=5)
    assert set(classes_of(pool.train).values()) == {4}
    assert set(classes_of(pool.test).values()) == {1}
    assert load("cifar10", folder, train=40, test=10, seed=5).train.ids == pool.train.ids
    assert load("cifar10", folder, train=40, test=10, seed=6).train.ids != pool.train.ids


def test_a_draw_of_speakers_keeps_each_speaker_and_digit(tmp_path: Path) -> None:
    pool = load("spoken-digits", spoken_file(tmp_path), train=40, seed=1)
    assert pool.groups is not None
    pairs = Counter(zip(pool.groups, pool.train.targets.tolist(), strict=True))
    assert set(pairs.values()) == {2}


def test_remainders_are_shared_out() -> None:
    strata = np.repeat([0, 1, 2], [5, 3, 2])
    chosen = stratified(strata, 7, 0, "samples")
    assert np.bincount(strata[chosen]).tolist() in ([4, 2, 1], [3, 2, 2], [3, 3, 1])
    assert len(set(chosen.tolist())) == 7


def test_the_split_follows_the_seed() -> None:
    ids = [tuple(load("digits", seed=seed).test.ids) for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_taken_part_keeps_ids_targets_and_scale() -> None:
    scale = Scale((0.5,), (2.0,))
    data = ScaledDataset(torch.zeros(3, 1, 2, 2), torch.arange(3), ["a", "b", "c"], scale)
    part = data.taken([2, 0])
    assert (part.ids, part.targets.tolist(), part.scale) == (["c", "a"], [2, 0], scale)
    assert float(part[0][0].mean()) == -0.25


def test_white_is_the_brightest_stored_value() -> None:
    pixels = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    assert ScaledDataset(pixels, torch.zeros(1), ["a"]).white == 255
    assert ScaledDataset(torch.tensor([[[[-3.0, -1.5]]]]), torch.zeros(1), ["a"]).white == -1.5


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mnist", {}, "take one of digits, cifar10"),
        ("cifar10", {"folder": None}, "give the one where you have it"),
        ("digits", {"train": 4001}, "choose from 10 (one of each class) to 4000"),
        ("digits", {"test": 3}, "choose from 10"),
    ],
)
def test_what_cannot_be_loaded_is_said(name: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(DataError) as error:
        load(name, **options)
    assert words in str(error.value)


def test_a_folder_without_the_data_says_what_belongs_there(tmp_path: Path) -> None:
    for name, words in (
        ("cifar10", "unpack the binary version"),
        ("cifar100", "unpack the binary version"),
        ("caltech101", "no images in folders named by class"),
        ("spoken-digits", "python -m lab.datasets.spoken_digits makes it"),
    ):
        with pytest.raises(DataError, match=words):
            load(name, tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        load("caltech101", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("x", np.full((200, 32, 32), np.nan, dtype=np.float16), "NaN"),
        ("x", np.zeros((100, 16, 16), dtype=np.float16), r"must be \[N, 32, 32\]"),
        ("speaker", np.full(100, 7), "without a name"),
        ("y", np.full(100, 10), "above 9"),
        ("take", np.zeros(3), r"take \[N\]"),
    ],
)
def test_a_wrong_file_of_spoken_digits_is_refused(
    tmp_path: Path, key: str, value: np.ndarray, words: str
) -> None:
    path = spoken_file(tmp_path) / "spoken.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays[key] = value[: len(arrays["x"])] if key == "x" else value
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words):
        load("spoken-digits", path)


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def tone(hertz: float, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(8000 * seconds)) / 8000)


def test_a_higher_tone_lies_in_a_higher_band_and_silence_is_the_floor() -> None:
    low, high = (log_mel(tone(hertz, 0.5)) for hertz in (300.0, 3000.0))
    assert low.shape == (32, 32)
    assert low[:, 3].argmax() < high[:, 3].argmax()
    assert np.allclose(low[:, -1].astype(float), np.log(FLOOR), atol=0.01)
    assert log_mel(tone(300.0, 3.0)).shape == (32, 32)


def test_recordings_become_a_file_that_loads(tmp_path: Path) -> None:
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in range(5):
                write_wav(tmp_path / f"{digit}_{speaker}_{take}.wav", tone(200 + 90 * digit, 0.4))
    write_wav(tmp_path / "notes.wav", tone(100, 0.1))
    (tmp_path / "out").mkdir()
    assert convert(tmp_path, tmp_path / "out" / "digits.npz") == 100
    pool = load("spoken-digits", tmp_path / "out")
    assert (len(pool.train), len(pool.test)) == (80, 20)
    assert set(pool.groups or ()) == set(SPEAKERS)


def test_recordings_of_another_rate_are_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "0_ann_0.wav", tone(300, 0.1), rate=16000)
    with pytest.raises(DataError, match="convert it to"):
        convert(tmp_path, tmp_path / "digits.npz")
    with pytest.raises(DataError, match="has no recordings"):
        convert(tmp_path / "nowhere", tmp_path / "digits.npz")
