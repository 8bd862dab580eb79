"""python -m lab.datasets.spoken_digits WAV_FOLDER OUT.npz

Makes the lab's file of spoken digits out of the recordings of the Free Spoken Digit Dataset
(Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset): mono 16-bit WAV of 8 kHz
named DIGIT_SPEAKER_TAKE.wav. Each becomes a picture of 32 mel bands by 32 frames of one second, the
natural logarithm of the power; what is longer is cut, what is shorter is padded with silence.
Figures depend on how the pictures are made: compare only runs of one file.
"""

from __future__ import annotations

import argparse
import re
import sys
import wave
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fednot.data.errors import DataError

RATE: Final = 8000
BANDS: Final = 32
FRAMES: Final = 32
WINDOW: Final = 512
HOP: Final = 250
FLOOR: Final = 1e-10
NAME: Final = re.compile(r"(\d)_([A-Za-z]+)_(\d+)\.wav")

Floats = NDArray[np.float64]


def mel_filters() -> Floats:
    """Triangles [BANDS, WINDOW // 2 + 1] evenly spaced in mel (HTK's) from 0 to half the rate."""
    top = 2595.0 * np.log10(1 + RATE / 2 / 700.0)
    edges = 700.0 * (10 ** (np.linspace(0.0, top, BANDS + 2) / 2595.0) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)), dtype=np.float64)


def log_mel(samples: Floats) -> NDArray[np.float16]:
    """The picture [BANDS, FRAMES] of a recording in [-1, 1]; silence is log(FLOOR)."""
    needed = HOP * (FRAMES - 1) + WINDOW
    padded = np.zeros(needed)
    padded[: min(needed, len(samples))] = samples[:needed]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2 / WINDOW
    return np.log(mel_filters() @ power.T + FLOOR).astype(np.float16)


def read_wav(path: Path) -> Floats:
    """The samples of a recording, in [-1, 1]. Raises DataError unless it is mono, 16 bit, 8 kHz."""
    try:
        with wave.open(str(path), "rb") as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"{path} cannot be read as WAV: {error}") from error
    if form != (1, 2, RATE):
        raise DataError(f"{path} has (channels, bytes, rate) {form}; convert it to {(1, 2, RATE)}")
    return np.frombuffer(raw, dtype="<i2").astype(np.float64) / 32768.0


def convert(folder: Path, out: Path) -> int:
    """Writes `out` of all recordings in a folder; how many there were. Raises DataError."""
    named = ((path, NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.wav")))
    found = [(path, match.groups()) for path, match in named if match is not None]
    if not found:
        raise DataError(f"{folder} has no recordings such as 0_george_3.wav")
    speakers = sorted({speaker for _, (_, speaker, _) in found})
    np.savez_compressed(
        out,
        x=np.stack([log_mel(read_wav(path)) for path, _ in found]),
        y=np.array([int(digit) for _, (digit, _, _) in found], dtype=np.uint8),
        speaker=np.array([speakers.index(name) for _, (_, name, _) in found], dtype=np.uint8),
        speakers=np.array(speakers),
        take=np.array([int(take) for _, (_, _, take) in found], dtype=np.uint16),
    )
    return len(found)


def main() -> int:
    """Converts the folder that the command line names; 2 if it cannot."""
    parser = argparse.ArgumentParser(prog="python -m lab.datasets.spoken_digits")
    parser.add_argument("folder", type=Path, help="the recordings, such as 0_george_3.wav")
    parser.add_argument("out", type=Path, help="the .npz to write")
    options = parser.parse_args()
    try:
        count = convert(options.folder, options.out)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{options.out}: {count} recordings\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
