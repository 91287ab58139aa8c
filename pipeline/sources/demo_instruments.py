"""Ten styles of synthesised music; each is a function that returns the samples of a `Piece`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import fft

Samples = npt.NDArray[np.float64]
Colour = Callable[[Samples], Samples]  # gain at each frequency (Hz)
Value = TypeVar("Value")
Score = Iterable[tuple[float, int]]  # onset in beats, and key of the instrument: a degree or a drum

# 2 ** (n / 12) to the nearest double: a computed power could differ in its last bit and change a late sample.
SEMITONES = (
    1.0, 1.0594630943592953, 1.122462048309373, 1.189207115002721, 1.2599210498948732,
    1.3348398541700344, 1.4142135623730951, 1.4983070768766815, 1.5874010519681996,
    1.681792830507429, 1.7817974362806785, 1.887748625363387,
)  # fmt: skip

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10))

# Three formants of four vowels, in Hz: Peterson & Barney, 1952.
VOWELS = ((730, 1090, 2440), (570, 840, 2410), (300, 870, 2240), (530, 1840, 2480))

CHURCH_BELL = np.array([0.5, 1, 1.2, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43])  # hum, prime, minor third, fifth, ...

LOOP = 1 << 16  # samples: 3 s at 22050 Hz, longer than most notes, with harmonics as narrow as 0.3 Hz


class Dice:
    """Random numbers that are the same for every version of numpy.

    They come from the raw bits of PCG64, which numpy keeps stable. The methods of its generators may change.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self._bits = np.random.PCG64(seed)

    def uniforms(self, n: int) -> Samples:
        """Draw n random numbers in [0, 1), each with 53 random bits."""
        return (self._bits.random_raw(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a random number between low and high."""
        return low + (high - low) * ((self._bits.random_raw() >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """Draw a random integer from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, values: Sequence[Value]) -> Value:
        """Draw one of the values."""
        return values[self.integer(0, len(values) - 1)]

    def permutation(self, values: Sequence[Value]) -> list[Value]:
        """Return the values in random order."""
        return [values[n] for n in np.argsort(self.uniforms(len(values)), kind="stable")]


@dataclass(frozen=True, slots=True)
class Piece:
    """Settings that all instruments of a track share.

    Parameters
    ----------
    dice : Dice
        Random numbers of the track.
    rate : int, in Hz
        Sample rate.
    n_samples : int
        Length of the track.
    beat : float, in s
        Duration of a beat.
    tonic : int
        First note of the scale, in semitones above C.
    scale : tuple of int
        Degrees of the scale, in semitones above the tonic.
    """

    dice: Dice
    rate: int
    n_samples: int
    beat: float
    tonic: int
    scale: tuple[int, ...]

    def octave(self, low: int, high: int) -> int:
        """Draw a random octave from `low` to `high`, and return its first degree."""
        return self.dice.integer(low, high) * len(self.scale)

    def pitch(self, degree: int) -> float:
        """Return the frequency of a degree of the scale, in Hz; degree 0 is the tonic closest to middle C."""
        octave, step = divmod(degree, len(self.scale))
        octaves, semitone = divmod(self.tonic + self.scale[step] - 9, 12)
        return 440 * SEMITONES[semitone] * 2.0 ** (octave + octaves)

    def onsets(self, step: float) -> Iterator[float]:
        """Yield an onset every `step` beats, to the end of the track."""
        return (index * step for index in range(math.ceil(self.n_samples / (self.rate * self.beat * step))))

    def progression(self, beats: float) -> Score:
        """Yield the onset and root of each chord; a random sequence of four chords of `beats` beats repeats."""
        roots = [0, *(self.dice.integer(0, len(self.scale) - 1) for _ in range(3))]
        return ((onset, roots[index % 4]) for index, onset in enumerate(self.onsets(beats)))

    def melody(self, step: float, low: int, high: int, rest: float) -> Score:
        """Yield a random walk between two degrees, with a note every `step` beats; `rest` is the share of rests."""
        degree = self.dice.integer(low, high)
        for onset in self.onsets(step):
            degree = min(max(degree + self.dice.integer(-3, 3), low), high)
            if onset == 0 or self.dice.uniform() >= rest:
                yield onset, degree

    def play(self, score: Score, instrument: Callable[[int], Samples]) -> Samples:
        """Return the sum of a score's notes at random levels, shape (n_samples,); each sound is computed once."""
        track = np.zeros(self.n_samples)
        sounds: dict[int, Samples] = {}
        for onset, key in score:
            if key not in sounds:
                sounds[key] = instrument(key)
            place = track[round(onset * self.beat * self.rate) :][: len(sounds[key])]
            place += self.dice.uniform(0.5, 1) * sounds[key][: len(place)]
        return track


def level(sound: Samples, decibels: float) -> Samples:
    """Scale a sound to an RMS level in dB, relative to full scale (1.0)."""
    return sound * float(10 ** (decibels / 20) / np.sqrt(np.mean(sound**2)))


def fade(piece: Piece, sound: Samples, attack: float, release: float) -> Samples:
    """Fade a sound in and out, in place, over `attack` and `release` seconds, each at most half of the sound."""
    n_in, n_out = (min(round(seconds * piece.rate), len(sound) // 2) for seconds in (attack, release))
    sound[:n_in] *= np.linspace(0, 1, n_in)
    sound[len(sound) - n_out :] *= np.linspace(1, 0, n_out)
    return sound


def partials(piece: Piece, frequency: Samples, gain: Samples, decay: Samples, seconds: float) -> Samples:
    """Sum damped sinusoids with the given frequencies (Hz), gains and decays (1/s).

    Each is the imaginary part of ``gain * z**n``. Because ``z**(b * m + k)`` equals ``(z**m)**b * z**k``, one product
    of two small matrices gives all samples of the sum.
    """
    heard = frequency < piece.rate / 2
    n_samples = round(seconds * piece.rate)
    m = math.isqrt(n_samples) + 1
    log_z = ((2j * np.pi * frequency - decay) / piece.rate)[heard, None]
    coarse = gain[heard, None] * np.exp(log_z * m * np.arange(m))
    fine = np.exp(log_z * np.arange(m))
    # einsum: a matrix product would start BLAS threads, which cost more than they gain and slow other processes.
    sound = np.einsum("pb,pk->bk", coarse.real, fine.imag) + np.einsum("pb,pk->bk", coarse.imag, fine.real)
    return fade(piece, sound.ravel()[:n_samples], 0.002, 0.02)


def pluck(piece: Piece, degree: int, tilt: float, decay: float, seconds: float) -> Samples:
    """Pluck or strike a string: harmonic n has gain ``n**-tilt``, and higher harmonics decay faster."""
    n = np.arange(1.0, 41.0)
    return partials(piece, n * piece.pitch(degree), n**-tilt, decay * (1 + n / 4), seconds)


def loop(piece: Piece, colour: Colour) -> Samples:
    """Make a seamless loop of coloured noise, of unit RMS, shape (LOOP,)."""
    frequency = np.arange(1, LOOP // 2 + 1, dtype=np.float64) * (piece.rate / LOOP)
    spectrum = np.zeros(LOOP // 2 + 1, np.complex128)
    # Real and imaginary parts are uniform: a sum over so many bins is as normal as one of normal parts.
    spectrum[1:] = (piece.dice.uniforms(LOOP) - 0.5).view(np.complex128) * colour(frequency)
    return level(fft.irfft(spectrum), 0)


def ensemble(piece: Piece, degree: int, width: float, colour: Colour) -> Samples:
    """Make a loop of many players near one pitch: bands of noise, `width` times their frequency wide (PADsynth)."""
    pitch = piece.pitch(degree)

    def bands(frequency: Samples) -> Samples:
        harmonic = np.maximum(np.rint(frequency / pitch), 1)
        band = np.maximum(width * frequency, piece.rate / LOOP)  # at least one bin, or it could fall between two
        return np.asarray(np.exp(-(((frequency - pitch * harmonic) / band) ** 2)) * colour(frequency))

    return loop(piece, bands)


def held_chords(piece: Piece, width: float, colour: Colour, attack: float) -> Samples:
    """Play slow chords of three voices, each an ensemble."""
    base, beats = piece.octave(-1, 0), piece.dice.choice([2.0, 4.0])
    voicing = piece.dice.choice([(0, 2, 4), (0, 4, 9), (0, 2, 7)])
    n_samples = round((beats * piece.beat + 0.2) * piece.rate)  # overlap the next chord, to leave no gap

    def voice(degree: int) -> Samples:
        return fade(piece, np.resize(ensemble(piece, degree, width, colour), n_samples), attack, 0.25)

    return piece.play(((on, base + root + tone) for on, root in piece.progression(beats) for tone in voicing), voice)


def arpeggio(piece: Piece) -> Samples:
    """Play broken chords of quick plucked notes."""
    base, tilt, decay = piece.octave(-1, 0), piece.dice.uniform(0.8, 1.8), piece.dice.uniform(3, 7)
    step = piece.dice.choice([1 / 4, 1 / 3])
    figure = list(enumerate(np.resize(piece.dice.permutation([0, 2, 4, 7]), round(2 / step)).tolist()))
    score = ((on + i * step, base + root + tone) for on, root in piece.progression(2) for i, tone in figure)
    return piece.play(score, lambda degree: pluck(piece, degree, tilt, decay, 0.8))


def bassline(piece: Piece) -> Samples:
    """Play a low riff, one note at a time."""
    base, tilt, decay = piece.octave(-3, -2), piece.dice.uniform(0.9, 1.8), piece.dice.uniform(1, 4)
    seconds = piece.beat * piece.dice.uniform(0.45, 0.9)
    riff = piece.melody(0.5, base, base + 7, rest=0.15)
    return piece.play(riff, lambda degree: pluck(piece, degree, tilt, decay, seconds))


def bells(piece: Piece) -> Samples:
    """Play struck bells, whose partials are not harmonic."""
    base, decay = piece.octave(0, 1), piece.dice.uniform(0.8, 3)
    ratio = CHURCH_BELL * (0.98 + 0.04 * piece.dice.uniforms(len(CHURCH_BELL)))
    gain = (0.3 + 0.7 * piece.dice.uniforms(len(ratio))) / np.sqrt(ratio)
    tune = piece.melody(piece.dice.choice([0.5, 1.0]), base, base + 9, rest=0.3)
    return piece.play(tune, lambda degree: partials(piece, ratio * piece.pitch(degree), gain, decay * ratio**0.5, 2.5))


def chiptune(piece: Piece) -> Samples:
    """Play a tune and a bass with pulse waves, which alias as on an early game console."""
    base, duty, seconds = (
        piece.octave(0, 1),
        piece.dice.choice([1 / 8, 1 / 4, 1 / 2]),
        piece.beat * piece.dice.uniform(0.2, 0.5),
    )

    def pulse(degree: int) -> Samples:
        cycles = np.arange(round(seconds * piece.rate)) * (piece.pitch(degree) / piece.rate)
        return fade(piece, np.where(cycles % 1 < duty, 1 - duty, -duty), 0.002, 0.01)

    tune = piece.play(piece.melody(0.25, base, base + 9, rest=0.15), pulse)
    return tune + 0.5 * piece.play(piece.melody(0.5, -14, -7, rest=0.1), pulse)


def choir(piece: Piece) -> Samples:
    """Synthesise slow chords sung on one vowel; its formants are the same at every pitch."""
    formants = list(zip(piece.dice.choice(VOWELS), (200, 100, 30), strict=True))

    def vowel(f: Samples) -> Samples:
        resonances = [gain / (1 + ((f - centre) / 90) ** 2) for centre, gain in formants]
        return np.asarray(sum(resonances) / (200 + f))

    return held_chords(piece, piece.dice.uniform(0.008, 0.014), vowel, attack=0.3)


def chords(piece: Piece) -> Samples:
    """Play piano chords in a repeating rhythm."""
    base, tilt, decay = piece.octave(-1, 0), piece.dice.uniform(1.2, 2.2), piece.dice.uniform(0.6, 2)
    rhythm = [0, *(np.flatnonzero(piece.dice.uniforms(7) < 0.4) / 2 + 0.5).tolist()]
    hits = ((on + beat, root) for on, root in piece.progression(4) for beat in rhythm)
    score = ((on, base + root + tone) for on, root in hits for tone in (-7, 0, 2, 4))
    return piece.play(score, lambda degree: pluck(piece, degree, tilt, decay, 1.5))


def drone(piece: Piece) -> Samples:
    """Play one low chord for the whole track; its harmonics beat slowly."""
    base, width, tilt = piece.octave(-2, -1), piece.dice.uniform(0.0005, 0.002), piece.dice.uniform(0.8, 2)

    def voice(degree: int) -> Samples:
        return np.resize(ensemble(piece, base + degree, width, lambda f: f**-tilt), piece.n_samples)

    return piece.play(((0, degree) for degree in (0, 4, 7)), voice)


def drums(piece: Piece) -> Samples:
    """Play kick, snare, hi-hat and shaker, bar after bar."""
    time = np.arange(round(0.6 * piece.rate)) / piece.rate
    noise, hiss = (loop(piece, colour)[: len(time)] for colour in (np.ones_like, np.square))
    skin = np.sin(2 * np.pi * (piece.dice.uniform(40, 65) * time + piece.dice.uniform(3, 6) * (1 - np.exp(-40 * time))))
    shell = np.sin(2 * np.pi * piece.dice.uniform(150, 250) * time)

    def hit(sound: Samples, slow: float, fast: float) -> Samples:
        return np.asarray(sound * np.exp(-piece.dice.uniform(slow, fast) * time))

    kick, snare = hit(level(skin, 6), 8, 14), hit(noise + shell, 17, 25)
    kit = kick, snare, hit(level(hiss, -6), 15, 50), hit(level(noise, -10), 20, 40)
    step = np.arange(16)  # sixteenths of a bar
    kicked = (step % 8 == 0) | (piece.dice.uniforms(16) < 0.15)
    chance = np.array([kicked, step % 8 == 4, 0.9 * (step % 2 == 0), np.full(16, 0.6)])
    bars = (
        (bar, np.argwhere(piece.dice.uniforms(chance.size).reshape(chance.shape) < chance).tolist())
        for bar in piece.onsets(4)
    )
    return piece.play(((bar + i / 4, drum) for bar, hits in bars for drum, i in hits), kit.__getitem__)


def strings(piece: Piece) -> Samples:
    """Play slow chords of a string section: the harmonics of a saw wave, up to the roll-off of the body."""
    roll_off = piece.dice.uniform(1500, 4000)
    return held_chords(
        piece, piece.dice.uniform(0.003, 0.008), lambda f: 1 / f / (1 + (f / roll_off) ** 2), attack=0.12
    )


def wind(piece: Piece) -> Samples:
    """Play a tune on a breathy pipe: few harmonics, and the noise of breath around them."""
    base, tilt, breath = piece.octave(0, 1), piece.dice.uniform(2, 3.5), piece.dice.uniform(-20, -6)
    step = piece.dice.choice([0.5, 1.0])
    air = level(loop(piece, lambda f: f * np.exp(f / -700)), breath)

    def note(degree: int) -> Samples:
        tone = ensemble(piece, degree, 0.0012, lambda f: f**-tilt)
        return fade(piece, np.resize(tone + air, round(1.05 * step * piece.beat * piece.rate)), 0.05, 0.08)

    return piece.play(piece.melody(step, base, base + 8, rest=0.1), note)


ALL = (arpeggio, bassline, bells, chiptune, choir, chords, drone, drums, strings, wind)
