"""Ten synthesised styles: the same every time, all different, and each sounding as its instrument must."""

import hashlib
import subprocess
import sys
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from melzarr.pipeline.errors import FetchError
from melzarr.pipeline.sources.dataset_recipe import Synthesis, find_recipe
from melzarr.pipeline.sources.demo_instruments import SCALES, SEMITONES, Dice, Piece, level, partials
from melzarr.pipeline.sources.demo_music import PLAYERS, STEPS, STYLES, _mixed, synthesise, write_track

DATASETS = Path(__file__).parents[3] / "datasets"
RATE = 22050
make = partial(synthesise, seed=2017, sample_rate=RATE, seconds=1.5)
write = partial(write_track, seed=2017, sample_rate=RATE, seconds=1.5)


def piece(number=0, seconds=4.0):
    return Piece(Dice([number]), RATE, round(seconds * RATE), beat=0.5, tonic=0, scale=SCALES[0])


def spectrum(sound):
    """Power at each frequency (Hz) of a whole sound."""
    return np.fft.rfftfreq(len(sound), 1 / RATE), np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2


def centroid(style):
    """Median over a few players of the centre of gravity of what the style alone plays, in Hz."""
    spectra = (spectrum(PLAYERS[style](piece(number))) for number in range(5))
    return np.median([np.average(frequency, weights=power) for frequency, power in spectra])


def flatness(sound):
    """Geometric over arithmetic mean of the power spectrum: near 0 for a tone, 0.56 for white noise."""
    power = spectrum(sound)[1] + 1e-12
    return np.exp(np.mean(np.log(power))) / np.mean(power)


# What a track is


def test_styles_are_the_labels_of_the_demo_recipe():
    recipe = find_recipe("demo", DATASETS)
    assert isinstance(recipe.source, Synthesis)
    assert recipe.labels == STYLES


@pytest.mark.parametrize("style", STYLES)
def test_track_is_finite_audible_and_within_full_scale(style):
    for number in range(3):
        track = make(style, number)
        assert track.dtype == np.float32
        assert track.shape == (round(1.5 * RATE),)
        assert np.all(np.isfinite(track))
        assert 0.3 <= np.abs(track).max() <= 0.9501
        assert np.sqrt(np.mean(track**2)) > 0.01


@pytest.mark.parametrize("style", STYLES)
def test_track_sounds_nearly_throughout(style):
    track = make(style, 0, seconds=10)
    power = np.mean(track.reshape(100, -1) ** 2, axis=1)  # windows of 100 ms
    assert np.mean(power > power.max() * 1e-4) > 0.95


@pytest.mark.parametrize(("sample_rate", "seconds"), [(8000, 0.1), (16000, 1.0), (44100, 0.25), (48000, 0.5)])
@pytest.mark.parametrize("style", STYLES)
def test_any_rate_and_length_will_do(style, sample_rate, seconds):
    track = synthesise(style, 1, seed=0, sample_rate=sample_rate, seconds=seconds)
    assert track.shape == (round(sample_rate * seconds),)
    assert np.all(np.isfinite(track))


@pytest.mark.parametrize("style", ["polka", "", "Drums"])
def test_unknown_style_is_named_beside_those_that_exist(style, tmp_path):
    with pytest.raises(FetchError, match=f"style='{style}'.*arpeggio, bassline, .*, wind"):
        write(tmp_path / "track.wav", style, 0)
    assert list(tmp_path.iterdir()) == []


# The same every time


@pytest.mark.parametrize("style", STYLES)
def test_same_arguments_give_same_samples(style):
    np.testing.assert_array_equal(make(style, 7), make(style, 7))


def test_every_argument_matters():
    tracks = [make("bells", 0), make("bells", 1), make("choir", 0), make("bells", 0, seed=1)]
    assert len({track.tobytes() for track in tracks}) == len(tracks)


def test_file_is_the_same_bytes_twice_and_in_a_fresh_process(tmp_path):
    paths = [tmp_path / name for name in ("once.wav", "twice.wav", "elsewhere.wav")]
    write(paths[0], "arpeggio", 3)
    write(paths[1], "arpeggio", 3)
    program = (
        "import sys; from pathlib import Path; from melzarr.pipeline.sources.demo_music import write_track; "
        f"write_track(Path(sys.argv[1]), 'arpeggio', 3, seed=2017, sample_rate={RATE}, seconds=1.5)"
    )
    subprocess.run([sys.executable, "-c", program, paths[2]], check=True, cwd=DATASETS.parent)
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}) == 1


def test_no_sample_of_the_demos_first_tracks_lies_where_the_last_bit_of_a_sum_could_turn_its_rounding():
    """Between libraries a sample differs by up to 2e-11 of a step; of the whole demo the nearest is 6e-10 away."""
    for style in STYLES:
        steps = _mixed(style, 0, seed=2017, sample_rate=RATE, seconds=30)
        assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-9


def test_semitones_are_the_nearest_doubles():
    with localcontext(prec=50):
        assert [float(Decimal(2) ** (Decimal(n) / 12)) for n in range(12)] == list(SEMITONES)


def test_dice_are_fair_and_the_same_everywhere():
    dice = Dice([1, 2])
    assert [dice.integer(1, 6) for _ in range(10)] == [3, 3, 3, 2, 5, 1, 1, 6, 4, 2]
    drawn = dice.uniforms(100_000)
    assert 0 <= drawn.min() < drawn.max() < 1
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0], 10_000, atol=400)  # four deviations
    assert {dice.integer(-1, 1) for _ in range(100)} == {-1, 0, 1}
    assert sorted(dice.permutation("abcd")) == ["a", "b", "c", "d"]


# The file


def test_file_is_the_samples_in_16_bits_behind_a_bare_header(tmp_path):
    path = tmp_path / "track.wav"
    write(path, "drums", 0)
    info = sf.info(path)
    assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, RATE)
    assert path.stat().st_size == 44 + 2 * info.frames  # the canonical header holds no time stamp
    stored, _ = sf.read(path, dtype="int16")
    np.testing.assert_array_equal(stored / STEPS, make("drums", 0))


def test_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def stop_half_way(file, *_args, **_kwargs):
        Path(file).write_bytes(b"RIFF")
        raise OSError("no space left on device")

    path = tmp_path / "track.wav"
    write(path, "wind", 0)
    before = path.read_bytes()
    monkeypatch.setattr("melzarr.pipeline.sources.demo_music.sf.write", stop_half_way)
    with pytest.raises(OSError, match="no space left"):
        write(path, "wind", 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# What it sounds like


def test_partials_are_damped_sinusoids():
    frequency, gain, decay = np.array([220.0, 731.0, 12000.0]), np.array([1.0, 0.5, 1.0]), np.array([3.0, 9.0, 1.0])
    t = np.arange(RATE // 2) / RATE
    expected = sum(
        g * np.exp(-d * t) * np.sin(2 * np.pi * f * t) for f, g, d in zip([220, 731], gain, decay, strict=False)
    )
    inside = slice(
        round(0.002 * RATE), -round(0.02 * RATE)
    )  # between the ramps; what is above half the rate is left out
    sound = partials(piece(), frequency, gain, decay, 0.5)
    np.testing.assert_allclose(sound[inside], expected[inside], atol=1e-5)


def test_level_is_rms_in_decibels():
    sound = level(np.random.default_rng(0).standard_normal(1000, np.float32), -20)
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(0.1)


def test_pitch_is_equal_tempered():
    assert piece().pitch(5) == pytest.approx(440)  # la of C major
    assert piece().pitch(-7) == pytest.approx(130.81, abs=0.01)  # an octave below middle C


def test_low_strings_lie_below_pulse_waves():
    # A plucked bass has its fundamental at 33 to 131 Hz and harmonics that fall; a pulse wave two octaves higher has
    # harmonics of nearly equal strength up to 1 / duty.
    assert 2 * centroid("bassline") < centroid("chiptune")


def test_drone_stays_low():
    assert centroid("drone") < min(centroid("bells"), centroid("wind"))


def test_bells_are_higher_than_the_bass():
    assert centroid("bells") > 2 * centroid("bassline")


def test_drums_are_the_noisiest():
    flat = {style: np.median([flatness(PLAYERS[style](piece(number))) for number in range(3)]) for style in STYLES}
    assert max(flat, key=flat.__getitem__) == "drums"


def test_choir_sings_its_formants_whatever_the_pitch():
    # All four vowels have their first formant at 300 to 730 Hz and lose more than 20 dB up to 4 kHz.
    frequency, power = spectrum(PLAYERS["choir"](piece()))
    assert power[(frequency > 4000)].sum() < 0.01 * power[(frequency > 200) & (frequency < 1000)].sum()


def test_drums_repeat_their_bar():
    # Four beats of 0.5 s: the envelope is like itself 2 s later, and less so at any other shift of up to 3 s that is
    # no whole number of half bars.
    envelope = np.abs(PLAYERS["drums"](piece(seconds=12))).reshape(-1, RATE // 50).mean(axis=1)  # every 20 ms
    envelope -= envelope.mean()
    likeness = np.array([np.corrcoef(envelope[lag:], envelope[: -lag or None])[0, 1] for lag in range(151)])
    assert likeness[100] > 0.5
    assert likeness[100] > np.delete(likeness, [*range(4), *range(48, 53), *range(98, 103), *range(148, 151)]).max()
