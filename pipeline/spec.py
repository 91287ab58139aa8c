"""FeatureSpec: the parameters of a track's mel windows, and the shape and coordinates that follow from them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from melzarr.pipeline.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PAD_MODES = ("reflect", "constant", "edge")
WINDOW_FUNCTIONS = (  # of scipy.signal.get_window, as in librosa: those without a parameter
    "hann", "hamming", "blackman", "bartlett", "barthann", "blackmanharris", "bohman", "boxcar", "cosine", "flattop",
    "lanczos", "nuttall", "parzen", "triang",
)  # fmt: skip
MEL_SCALES = ("slaney", "htk")
NORMS = ("slaney", "none")
SCALES = ("power", "db")
ITEM_BYTES = {"float32": 4, "float16": 2}
DTYPES = tuple(ITEM_BYTES)
MIDDLE = "middle"  # of each file, in place of a start in s
CHOICES = {
    "window_function": WINDOW_FUNCTIONS,
    "pad_mode": PAD_MODES,
    "mel_scale": MEL_SCALES,
    "norm": NORMS,
    "scale": SCALES,
    "dtype": DTYPES,
}
MAX_CHUNK_BYTES = (1 << 31) - 17  # of a track, because a track is one chunk: Blosc's limit (BLOSC_MAX_BUFFERSIZE)
MAX_N_FFT = 1 << 20  # 48 s at 22050 Hz, far beyond any practical use


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Parameters of the features of a track: windows of mel-spectrogram frames.

    The defaults are those of a 2017 article on genre classification, determined from its author's own data.

    Parameters
    ----------
    sample_rate : int > 0, in Hz
        Sample rate after resampling.
    window : int > 0, in samples
        Length of one window.
    stride : int > 0, in samples
        Distance between the starts of neighbouring windows.
    n_windows : int > 0
        Number of windows taken of each track.
    start : float >= 0, in s, or "middle"
        Where the windows begin in the file; "middle" centres them in it. A manifest may give a start for each track in
        place of 0.
    n_fft : int > 1, even, in samples
        Length of one frame, which is also the length of its window function. The kernel computes powers of two; other
        lengths take several times as long.
    hop_length : int > 0, in samples
        Distance between the centres of neighbouring frames; the first is centred on the window's first sample.
    window_function : {"hann", "hamming", "blackman", …}
        Weights of the samples of a frame, periodic: one of `WINDOW_FUNCTIONS`.
    pad_mode : {"reflect", "constant", "edge"}
        How each window is padded by ``n_fft // 2`` samples at both ends.
    n_mels : int > 0
        Number of mel bands between `fmin` and `fmax`.
    fmin : float >= 0, in Hz
        Lower edge of the lowest band.
    fmax : float > fmin, in Hz, or None
        Upper edge of the highest band. None is ``sample_rate / 2``, which becomes None if it is given as a number, so
        that equal features have equal specs.
    mel_scale : {"slaney", "htk"}
        Scale on which the bands are equally wide: Slaney's, linear up to 1 kHz, or HTK's, logarithmic throughout.
    norm : {"slaney", "none"}
        Whether each band has the area 1, as in Slaney's toolbox, or the height 1.
    power : float > 0
        Exponent of the magnitude spectrum: 2 is power, 1 is magnitude.
    scale : {"power", "db"}
        Stored quantity: the mel spectrum itself, or its level in dB.
    dtype : {"float32", "float16"}
        Stored data type.

    Raises
    ------
    SpecError
        If a field, or a combination of two, is invalid; the message names the field, its value and the remedy.
    """

    sample_rate: int = 22050
    window: int = 2205
    stride: int = 882
    n_windows: int = 599
    start: float | str = 0.0
    n_fft: int = 2048
    hop_length: int = 512
    window_function: str = "hann"
    pad_mode: str = "reflect"
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float | None = None
    mel_scale: str = "slaney"
    norm: str = "slaney"
    power: float = 2.0
    scale: str = "power"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raise SpecError if the features cannot be computed."""
        for name in ("sample_rate", "window", "stride", "n_windows", "n_fft", "hop_length", "n_mels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecError(
                    f"{name}={value!r} is not a whole number above zero; give one, such as {name}={_DEFAULTS[name]}"
                )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecError(f"{name}={getattr(self, name)!r} is unknown; use one of {', '.join(choices)}")
        self._check_start()
        if not isinstance(self.power, int | float) or not 0 < self.power <= 4:
            raise SpecError(f"power={self.power!r} is not a number in (0, 4]; use 2 for power or 1 for magnitude")
        object.__setattr__(self, "power", float(self.power))
        self._check_frequencies()
        if self.n_fft % 2:
            raise SpecError(f"n_fft={self.n_fft} is odd, so no frame has a centre; use {self.n_fft + 1}")
        if self.window < self.hop_length:
            raise SpecError(
                f"window={self.window} is shorter than hop_length={self.hop_length}: no hop fits; "
                f"use window >= {self.hop_length}"
            )
        if self.pad_mode == "reflect" and self.window <= self.n_fft // 2:
            raise SpecError(
                f"window={self.window} is too short to be reflected by n_fft // 2 = {self.n_fft // 2} "
                f"samples; use window > {self.n_fft // 2}, a smaller n_fft, or pad_mode=constant"
            )
        if self.n_mels > self.n_fft // 2:
            raise SpecError(
                f"n_mels={self.n_mels} is more than the {self.n_fft // 2} bins of n_fft={self.n_fft}; "
                f"use n_mels <= {self.n_fft // 2} or a larger n_fft"
            )
        if self.dtype == "float16" and self.scale == "power":
            raise SpecError(
                "dtype=float16 cannot hold scale=power (below 6e-8 it is zero, above 65504 infinite); "
                "use scale=db, or dtype=float32"
            )
        if self.n_fft > MAX_N_FFT:
            raise SpecError(f"n_fft={self.n_fft} is more than the {MAX_N_FFT} that can be computed; use a smaller one")
        if self.track_bytes > MAX_CHUNK_BYTES:
            raise SpecError(
                f"a track of n_windows={self.n_windows} × {self.n_frames} frames × n_mels={self.n_mels} takes "
                f"{self.track_bytes / 1e9:.1f} GB, and a chunk holds {MAX_CHUNK_BYTES / 1e9:.1f}; use fewer windows"
            )

    def _check_start(self) -> None:
        """Raise SpecError if `start` is no time in a file; store a number in its only form."""
        if self.start == MIDDLE:
            return
        if isinstance(self.start, str) or not (_is_number(self.start) and 0 <= self.start < math.inf):
            raise SpecError(
                f"start={self.start!r} is not a number of seconds from 0 on; use one, such as start=30, or "
                f"start={MIDDLE} for the middle of each file"
            )
        object.__setattr__(self, "start", abs(float(self.start)))  # 0.0 also for -0.0

    def _check_frequencies(self) -> None:
        """Raise SpecError if `fmin` and `fmax` are no range; store them in their only form."""
        nyquist = self.sample_rate / 2
        if self.fmax is not None and not (_is_number(self.fmax) and 0 < self.fmax <= nyquist):
            raise SpecError(
                f"fmax={self.fmax!r} is not a frequency above 0 Hz, up to sample_rate / 2 = {nyquist:g} Hz; use one, "
                f"or leave it out for sample_rate / 2"
            )
        if not (_is_number(self.fmin) and 0 <= self.fmin < (self.fmax or nyquist)):
            raise SpecError(
                f"fmin={self.fmin!r} is not a frequency from 0 Hz to below fmax={self.fmax or nyquist:g} Hz; use a "
                f"lower one, such as fmin=0"
            )
        object.__setattr__(self, "fmin", float(self.fmin))
        object.__setattr__(self, "fmax", None if self.fmax in (None, nyquist) else float(self.fmax))

    @property
    def highest_frequency(self) -> float:
        """Upper edge of the highest band, in Hz: `fmax`, or half the sample rate."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def n_samples(self) -> int:
        """Number of samples of a track that the windows cover, at `sample_rate`."""
        return (self.n_windows - 1) * self.stride + self.window

    @property
    def seconds(self) -> float:
        """Seconds of a track that the windows cover."""
        return self.n_samples / self.sample_rate

    @property
    def n_frames(self) -> int:
        """Number of frames of one window: one every `hop_length` samples, the first centred on its first sample."""
        return 1 + self.window // self.hop_length

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one track: (n_windows, n_frames, n_mels)."""
        return self.n_windows, self.n_frames, self.n_mels

    @property
    def track_bytes(self) -> int:
        """Bytes of one track, uncompressed."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def valid_windows(self, n_samples: int) -> int:
        """Return the number of windows that fit completely into `n_samples` samples, at most `n_windows`."""
        if n_samples < self.window:
            return 0
        return min(self.n_windows, 1 + (n_samples - self.window) // self.stride)

    def window_starts(self) -> npt.NDArray[np.float64]:
        """Return the start of each window in its track, in s, shape (n_windows,)."""
        import numpy as np  # noqa: PLC0415  (slow to import; the command line does without)

        return np.arange(self.n_windows) * self.stride / self.sample_rate

    def frame_centres(self) -> npt.NDArray[np.float64]:
        """Return the centre of each frame, in s from the start of its window, shape (n_frames,)."""
        import numpy as np  # noqa: PLC0415  (slow to import; the command line does without)

        return np.arange(self.n_frames) * self.hop_length / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Create a spec from fields by name; missing fields keep their defaults.

        Raises
        ------
        SpecError
            If a field is unknown or a value is invalid.
        """
        if unknown := sorted(fields.keys() - _DEFAULTS.keys()):
            raise SpecError(f"{', '.join(unknown)}: no such field of a spec; the fields are {', '.join(_DEFAULTS)}")
        return cls(**fields)

    @classmethod
    def preset(cls, name: str) -> FeatureSpec:
        """Return the spec of a preset, one of `PRESETS`.

        Raises
        ------
        SpecError
            If there is no preset of that name.
        """
        if name not in PRESETS:
            raise SpecError(f"preset={name!r} is unknown; use one of {', '.join(PRESETS)}")
        return PRESETS[name].spec


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Preset:
    """A spec that others use, and where its parameters are written."""

    spec: FeatureSpec
    origin: str


# Windows are padded by themselves, so each preset has the windows that its network takes: whole numbers of hops, and as
# many as the clips that it was trained on hold. An original that pads a whole clip differs in the frames at the ends of
# a window, which n_fft / 2 samples of padding reach.
PRESETS = {
    "article": Preset(FeatureSpec(), "the defaults: a 2017 article on genre classification, from its author's data"),
    "musicnn": Preset(
        FeatureSpec(
            sample_rate=16000, n_fft=512, hop_length=256, n_mels=96,
            window=186 * 256, stride=187 * 256, n_windows=9,
        ),
        "github.com/jordipons/musicnn, musicnn/extractor.py and configuration.py; windows of the 187 frames that its "
        "networks take, one after the other, in a clip of 29 s",
    ),
    "panns": Preset(
        FeatureSpec(
            sample_rate=32000, n_fft=1024, hop_length=320, n_mels=64, fmin=50.0, fmax=14000.0,
            window=1000 * 320, stride=1000 * 320, n_windows=1,
        ),
        "github.com/qiuqiangkong/audioset_tagging_cnn, pytorch/models.py and inference.py (Kong et al., PANNs, 2020); "
        "one window, a clip of 10 s",
    ),
    "whisper": Preset(
        FeatureSpec(
            sample_rate=16000, n_fft=400, hop_length=160, n_mels=80,
            window=3000 * 160, stride=3000 * 160, n_windows=1,
        ),
        "github.com/openai/whisper, whisper/audio.py; one window of 30 s, of whose 3001 frames Whisper drops the last",
    ),
}  # fmt: skip

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(FeatureSpec)}
