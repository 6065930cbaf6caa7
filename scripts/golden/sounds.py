"""Makes runtime/tests/sounds: small recordings of every kind that is decoded, and `NAME.f32`, the samples at 24 kHz that
transformers' `load_audio` makes of each by soundfile and soxr: the mean of the channels, resampled.

    golden/bin/pip install numpy soundfile soxr && golden/bin/python scripts/golden/sounds.py
"""

from pathlib import Path

import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[2] / "runtime" / "tests" / "sounds"
RATE = 24000


def chord(rate: int, seconds: float, channels: int) -> np.ndarray:
    """Tones below half of what the lowest rate holds, each channel its own, fading in and out."""
    t = np.arange(int(rate * seconds)) / rate
    fade = np.sin(np.pi * np.arange(len(t)) / len(t)) ** 2
    tones = [fade * (np.sin(2 * np.pi * (310 + 170 * c) * t) + 0.5 * np.sin(2 * np.pi * (1700 + 90 * c) * t)) for c in range(channels)]
    return 0.5 * np.stack(tones, -1)


RECORDINGS = {
    "mono.wav": (24000, 0.03, 1, "PCM_16"),
    "stereo.wav": (44100, 0.05, 2, "PCM_24"),
    "float.wav": (16000, 0.04, 1, "FLOAT"),
    "bytes.wav": (8000, 0.06, 1, "PCM_U8"),
    "wide.wav": (48000, 0.03, 3, "PCM_32"),
    "mono.flac": (24000, 0.03, 1, "PCM_16"),
    "stereo.flac": (44100, 0.1, 2, "PCM_16"),
    "deep.flac": (96000, 0.03, 2, "PCM_24"),
}


def main() -> None:
    ROOT.mkdir(exist_ok=True)
    for name, (rate, seconds, channels, kind) in RECORDINGS.items():
        soundfile.write(ROOT / name, chord(rate, seconds, channels), rate, subtype=kind)
        samples, own = soundfile.read(ROOT / name, dtype="float32", always_2d=True)
        mono = samples.mean(-1)
        made = mono if own == RATE else soxr.resample(mono, own, RATE)
        (ROOT / f"{name}.f32").write_bytes(made.astype("<f4").tobytes())
        print(name, own, channels, len(samples), len(made))


if __name__ == "__main__":
    main()
