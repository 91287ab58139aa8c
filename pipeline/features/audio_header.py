"""The header of an audio file, and the exceptions of its decoders."""

from __future__ import annotations

import math
from dataclasses import dataclass

from melzarr.pipeline.errors import AudioError

RATES = (1_000, 768_000)  # Hz, of real audio; outside, a header is wrong and would need absurd amounts of memory
LIBSNDFILE, FFMPEG = "libsndfile", "FFmpeg"


class UntrustedError(AudioError):
    """libsndfile cannot read a file, or its description is implausible; another decoder may read the file.

    Parameters
    ----------
    reason : str
        The sentence.
    end : float, in s, optional
        Where the usable audio ends, if the reason is why it ends.
    """

    def __init__(self, reason: str, end: float = math.inf) -> None:
        super().__init__(reason)
        self.end = end


@dataclass(frozen=True, slots=True)
class Header:
    """Header of an audio file.

    Parameters
    ----------
    sample_rate : int, in Hz
        Sample rate of the file.
    channels : int
        Number of channels of the file.
    duration : float, in s
        Length of the audio in the file; NaN if it is not known without decoding.
    promised : float, in s
        Length according to the header; longer than `duration` if the file was cut off.
    codec : str
        Container and encoding, such as "FLAC PCM_16".
    decoder : {"libsndfile", "FFmpeg"}
        Which library decodes it.
    """

    sample_rate: int
    channels: int
    duration: float
    promised: float
    codec: str
    decoder: str = LIBSNDFILE


def checked_rate(rate: int) -> int:
    """Return a sample rate.

    Raises
    ------
    AudioError
        If no audio has this rate.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"a sample rate of {rate} Hz is outside {RATES[0]} to {RATES[1]} Hz; the header is wrong")
    return rate
