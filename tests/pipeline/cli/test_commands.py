"""The command line, as a person and as a script use it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import xarray as xr
from click.testing import CliRunner, Result

from melzarr.cli import main

SMALL = ["--workers", "0", "--n-windows", "60", "--tracks-per-shard", "5"]


def melzarr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def store(music: Path, tmp_path: Path) -> Path:
    result = melzarr("features", music, tmp_path / "s.zarr", *SMALL)
    assert result.exit_code == 0, result.output
    return tmp_path / "s.zarr"


def test_help_lists_the_commands_in_the_order_of_the_work() -> None:
    text = melzarr("--help").output
    places = [text.index(f"\n  {name} ") for name in ("fetch", "scan", "features", "inspect", "verify")]
    assert places == sorted(places)


def test_help_is_light_and_nothing_in_the_pipeline_imports_tensorflow() -> None:
    code = (
        "import sys, pkgutil, importlib, melzarr.cli\n"
        "heavy = {'tensorflow', 'keras', 'librosa', 'distributed', 'zarr', 'xarray', 'numba'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "from melzarr import pipeline\n"
        "for module in pkgutil.walk_packages(pipeline.__path__, 'melzarr.pipeline.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_features_says_what_was_made_names_what_failed_and_what_comes_next(music: Path, tmp_path: Path) -> None:
    result = melzarr("features", music, tmp_path / "s.zarr", *SMALL)
    assert result.exit_code == 0
    assert "mel (12, 60, 5, 128)" in result.output
    assert "9 ok" in result.output
    assert "'drums/drums.00004.wav' failed: libsndfile finds no audio in the file" in result.output
    assert f"next: melzarr verify {tmp_path / 's.zarr'} --source {music} --sample 20" in result.output


def test_a_second_run_does_nothing_and_says_so(store: Path, music: Path) -> None:
    before = store.stat().st_mtime_ns
    result = melzarr("features", music, store, *SMALL)
    assert result.exit_code == 0
    assert "finished and up to date" in result.output
    assert store.stat().st_mtime_ns == before


def test_a_finished_store_is_replaced_only_by_force(store: Path, music: Path) -> None:
    other = [*SMALL, "--n-mels", "64"]
    result = melzarr("features", music, store, *other)
    assert result.exit_code == 1
    assert "n_mels was 128, is 64" in result.output
    assert "--force" in result.output
    assert xr.open_zarr(store).sizes["band"] == 128
    assert melzarr("features", music, store, *other, "--force").exit_code == 0
    assert xr.open_zarr(store).sizes["band"] == 64


def test_what_is_no_store_is_never_replaced(music: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    result = melzarr("features", music, tmp_path / "precious", *SMALL, "--force")
    assert result.exit_code == 1
    assert (tmp_path / "precious/thesis.txt").read_text() == "years of work"


def test_every_field_of_the_spec_is_an_option(music: Path, tmp_path: Path) -> None:
    fields = {
        "sample_rate": 11025, "window": 1200, "stride": 400, "n_windows": 30, "start": 0.5, "n_fft": 512,
        "hop_length": 200, "window_function": "blackman", "pad_mode": "constant", "n_mels": 32, "fmin": 60.0,
        "fmax": 5000.0, "mel_scale": "htk", "norm": "none", "power": 1.0, "scale": "db", "dtype": "float16",
    }  # fmt: skip
    options = [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = melzarr("features", music, tmp_path / "s.zarr", "--workers", 0, *options)
    assert result.exit_code == 0, result.output
    assert xr.open_zarr(tmp_path / "s.zarr").attrs["spec"] == fields
    assert melzarr("verify", tmp_path / "s.zarr", "--source", music, "--sample", 3).exit_code == 0


def test_inspect_says_the_same_to_a_person_and_to_a_script(store: Path) -> None:
    said, facts = melzarr("inspect", store).output, json.loads(melzarr("inspect", store, "--json").output)
    assert facts["dims"] == {"track": 12, "window": 60, "frame": 5, "band": 128}
    assert sum(row["tracks"] for row in facts["tracks"]) == 12
    assert facts["bytes"] == sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert facts["uuid"] in said
    assert "drums/drums.00004.wav" in said


def test_inspect_draws_a_picture(store: Path, tmp_path: Path) -> None:
    assert melzarr("inspect", store, "--picture", tmp_path / "mel.png").exit_code == 0
    assert (tmp_path / "mel.png").read_bytes().startswith(b"\x89PNG")


def test_verify_passes_a_sound_store_and_ends_with_1_on_another(store: Path, music: Path) -> None:
    result = melzarr("verify", store, "--source", music, "--sample", 4)
    assert result.exit_code == 0
    assert "4 tracks computed again by librosa" in result.output
    assert result.output.endswith("sound\n")
    shard = store / "mel/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    result = melzarr("verify", store)
    assert result.exit_code == 1
    assert "bells/bells.00000" in result.output
    verdict = json.loads(melzarr("verify", store, "--json").output)
    assert verdict["problems"]
    assert verdict["max_db"] is None


def test_scan_says_what_is_there_and_what_a_build_would_cost(music: Path) -> None:
    said = melzarr("scan", music, "--n-windows", 60).output
    assert "drums/drums.00004.wav: libsndfile finds no audio" in said
    assert "a build would take about" in said
    found = json.loads(melzarr("scan", music, "--n-windows", 60, "--json").output)
    assert sum(sum(parts.values()) for parts in found["labels"].values()) == 12
    assert found["rates"] == {"22050": 11}
    assert list(found) == ["labels", "codecs", "rates", "channels", "hours", "durations", "problems", "n_problems",
                           "left_out", "cost"]  # fmt: skip
    assert list(found["cost"]) == ["store_bytes", "seconds", "worker_bytes", "n_workers"]
    assert found["cost"]["store_bytes"] > 0


def test_errors_are_sentences_with_exit_codes_and_debug_shows_more(music: Path, tmp_path: Path) -> None:
    wrong_call = melzarr("features", music, tmp_path / "s.zarr", "--n-fft", 2047)
    assert wrong_call.exit_code == 2
    assert wrong_call.output.startswith("melzarr features: n_fft=2047 is odd")
    no_store = melzarr("inspect", tmp_path / "none.zarr")
    assert no_store.exit_code == 1
    assert "Traceback" not in no_store.output
    assert melzarr("features", music).exit_code == 2
    assert melzarr("verify", tmp_path / "s.zarr", "--sample", 3).exit_code == 2
    assert type(melzarr("inspect", tmp_path / "none.zarr", "--debug").exception).__name__ == "StoreError"


def test_a_place_that_is_no_store_is_left_alone_and_said(music: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = melzarr("features", music, tmp_path / "empty", *SMALL)
    assert result.exit_code == 1
    assert "exists and is not a melzarr store; choose another path" in result.output


@pytest.mark.parametrize(("name", "damage"), [("label/c/0", b"\0" * 80), ("zarr.json", b"{}"), ("zarr.json", b"")])
def test_a_damaged_store_is_replaced_by_force_alone(store: Path, music: Path, name: str, damage: bytes) -> None:
    (store / name).write_bytes(damage)
    result = melzarr("features", music, store, *SMALL)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert melzarr("inspect", store).exit_code == 1
    result = melzarr("features", music, store, *SMALL, "--force")
    assert result.exit_code == 0, result.output
    assert melzarr("verify", store, "--source", music).exit_code == 0


def test_the_next_command_can_be_run_as_it_is_printed(music: Path, tmp_path: Path) -> None:
    result = melzarr("features", music, tmp_path / "my store's.zarr", *SMALL)
    printed = result.output.splitlines()[-1].removeprefix("next: melzarr ")
    assert melzarr(*shlex.split(printed)).exit_code == 0


def test_features_append_and_scan_say_the_same_of_a_source(own_music: Path, tmp_path: Path) -> None:
    (own_music / "bells/notes.txt").touch()
    (own_music / "Bells").symlink_to(own_music / "bells")
    (own_music / "Drums").mkdir()
    (own_music / "drums/drums.00000.wav").rename(own_music / "Drums/first.aifc")
    alike = "'Drums' (1), 'drums' (5); if they are one, write them alike"
    said = [
        "links to folders left out: 1 (Bells/); follow them with --follow-links",
        f"labels that differ only by case, spaces or Unicode form: {alike}",
    ]
    left_out = "files left out, not audio by their extension: 1 (bells/notes.txt)"
    features = melzarr("features", own_music, tmp_path / "s.zarr", *SMALL).output.splitlines()
    assert features[:3] == [left_out, *said]
    assert melzarr("append", tmp_path / "s.zarr", own_music).output.splitlines()[:3] == [left_out, *said]
    assert melzarr("job-array", "init", own_music, tmp_path / "j.zarr", *SMALL[2:]).output.splitlines()[:3] == [
        left_out,
        *said,
    ]
    scan = json.loads(melzarr("scan", own_music, "--json", *SMALL[2:]).output)
    assert (scan["problems"][:2], scan["left_out"]) == (said, ["bells/notes.txt"])
    assert scan["n_problems"] >= len(scan["problems"])


def test_the_options_of_a_manifest_are_in_the_next_commands(music: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(music)};{path.parent.name}" for path in music.glob("*/*.wav")]
    (tmp_path / "tracks.tsv").write_text("\n".join(["file;genre", *rows]))
    options = ["--path-column", "File", "--label-column", "genre", "--audio-root", str(music)]
    *_, after = melzarr("scan", tmp_path / "tracks.tsv", "--n-windows", 60, *options).output.splitlines()
    assert shlex.split(after) == ["next:", "melzarr", "features", str(tmp_path / "tracks.tsv"), "tracks.zarr", *options]
    *_, after = melzarr("features", tmp_path / "tracks.tsv", tmp_path / "s.zarr", *options, *SMALL).output.splitlines()
    assert f"--source {music} --sample" in after
    linked = melzarr("scan", music, "--follow-links", "--n-windows", 60).output.splitlines()[-1]
    assert linked.endswith(f"features {music} {music.name}.zarr --follow-links")


def test_options_that_do_not_go_together_are_refused(music: Path, tmp_path: Path) -> None:
    for words, said in [
        (["--group", "album"], "names a column of a manifest"),
        (["--label-column", "genre"], "--label-column genre names a column of a manifest, but"),
        (["--audio-root", tmp_path], f"--audio-root {tmp_path} names the folder of the files of a manifest, but"),
        (["--split", "fault-filtered", "--seed", 3], "leave out --seed"),
        (["--cluster", "moon"], "cluster='moon' is unknown"),
        (["--cluster", "tcp://127.0.0.1:1", "--workers", 2], "is for a local cluster"),
        (["--n-windows", 10**9, "--workers", 1], "use fewer windows"),
    ]:
        result = melzarr("features", music, tmp_path / "s.zarr", *words)
        assert result.exit_code == 2, words
        assert said in result.output
    (tmp_path / "m.csv").write_text("path,label\na,b\n")
    result = melzarr("features", tmp_path / "m.csv", tmp_path / "s.zarr", "--follow-links")
    assert (result.exit_code, "--follow-links is for a folder" in result.output) == (2, True)


def test_a_picture_of_an_unknown_kind_is_a_sentence(store: Path, tmp_path: Path) -> None:
    result = melzarr("inspect", store, "--picture", tmp_path / "mel.foo")
    assert result.exit_code == 1
    assert "not a supported image format" in result.output


def test_features_says_which_label_has_no_test_track(music: Path, tmp_path: Path) -> None:
    result = melzarr("features", music, tmp_path / "s.zarr", *SMALL)
    assert "has no" in result.output


def test_an_audio_file_that_cannot_be_opened_is_a_failed_track(
    own_music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, locked = os.open, own_music / "bells/bells.00000.wav"

    def denied(path, *arguments, **options):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)
    assert "bells.00000.wav: the file cannot be read: Permission denied" in melzarr("scan", own_music).output
    result = melzarr("features", own_music, tmp_path / "s.zarr", *SMALL)
    assert result.exit_code == 0
    assert "'bells/bells.00000.wav' failed: the file cannot be read: Permission denied" in result.output


def test_a_manifest_may_name_what_is_no_audio(music: Path, tmp_path: Path) -> None:
    rows = [f"bells/bells.{number:05d}.wav,bells" for number in (0, 2, 3)]
    (tmp_path / "music").symlink_to(music)
    (tmp_path / "noise.raw").write_bytes(bytes(1000))
    names = "\n".join(["path,label", *(f"music/{row}" for row in rows), "noise.raw,x", "gone.wav,x"])
    (tmp_path / "tracks.csv").write_text(names + "\n")
    result = melzarr("features", tmp_path / "tracks.csv", tmp_path / "s.zarr", *SMALL)
    assert result.exit_code == 0, result.output
    assert "'noise.raw' failed: libsndfile finds no audio" in result.output
    assert "'gone.wav' failed: the file cannot be read: No such file" in result.output
    (tmp_path / "tracks.csv").write_text("path,label\na\0b.wav,x\n")
    result = melzarr("features", tmp_path / "tracks.csv", tmp_path / "t.zarr", *SMALL)
    assert result.exit_code == 2
    assert "NUL" in result.output


def test_a_failed_write_names_the_path(music: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = melzarr("features", music, tmp_path / "file/s.zarr", *SMALL)
    assert result.exit_code == 1
    assert (
        f"{tmp_path / 'file'} is not a folder, so nothing can be written into it; choose another path" in result.output
    )


def test_a_source_without_recipes_says_where_they_were_sought(tmp_path: Path) -> None:
    result = melzarr("features", "mine", tmp_path / "s.zarr", "--datasets", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert f"no recipe called 'mine' in {tmp_path / 'nowhere'}" in result.output
    assert "--datasets" in result.output


def test_a_manifest_keeps_groups_together(music: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(music)},{path.parent.name},{path.name[-5]}" for path in sorted(music.rglob("*.wav"))]
    (music / "tracks.csv").write_text("\n".join(["path,label,album", *rows]) + "\n")
    result = melzarr("features", music / "tracks.csv", tmp_path / "s.zarr", *SMALL, "--group", "album")
    assert result.exit_code == 0, result.output
    assert melzarr("verify", tmp_path / "s.zarr", "--source", music / "tracks.csv", "--sample", 2).exit_code == 0
    (music / "tracks.csv").unlink()
    assert len(set(xr.open_zarr(tmp_path / "s.zarr").group.values.tolist())) == len({row[-1] for row in rows})


@pytest.mark.slow
def test_the_demo_from_fetch_to_verify(tmp_path: Path) -> None:
    """The README's way, on four tracks of the real recipe with two workers, in processes of its own."""
    recipe = tmp_path / "datasets/demo/recipe.toml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(Path(__file__).parents[3].joinpath("datasets/demo/recipe.toml").read_text())
    base = [sys.executable, "-c", "from melzarr.cli import main; main()"]

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*base, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300, env=os.environ
        ).stdout

    assert "10 tracks of demo are in" in run("fetch", "demo", "--tracks-per-label", "1")
    assert "they were already there" in run("fetch", "demo", "--tracks-per-label", "1")
    assert "(10, 599, 5, 128)" in run("features", "demo", "demo.zarr", "--workers", "2")
    assert "sound" in run("verify", "demo.zarr", "--source", "demo", "--sample", "5")
    dataset = xr.open_zarr(tmp_path / "demo.zarr")
    assert dataset.attrs["title"] == "Ten synthesised styles"
    assert dataset.attrs["recipe"]["name"] == "demo"
    assert np.isfinite(dataset.mel.values).all()
    assert len(set(dataset.label.values.tolist())) == 10


def test_a_tree_of_broken_files_builds_and_each_has_its_status_and_sentence(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "music"
    (root / "a").mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30 * 48000).astype(np.float32)
    soundfile.write(root / "a/cut.wav", noise[: 30 * 22050], 22050)
    whole = (root / "a/cut.wav").read_bytes()
    (root / "a/cut.wav").write_bytes(whole[: len(whole) // 3])
    (root / "a/zero.wav").write_bytes(b"")
    (root / "a/text.wav").write_text("no audio")
    soundfile.write(root / "a/nan.wav", np.full(1000, np.nan), 22050, subtype="FLOAT")
    soundfile.write(root / "a/tiny.wav", noise[:1102], 22050)
    soundfile.write(root / "a/stereo.mp3", np.stack([noise, noise[::-1]], axis=1), 48000)
    (root / "a/._stereo.mp3").write_bytes(b"\0\5\x16\7")
    m4a = shared / "music/formats/love_theme.96k.44100.stereo.m4a"
    (root / "a/song.m4a").write_bytes(m4a.read_bytes())
    result = melzarr("features", root, tmp_path / "s.zarr", "--workers", 0)
    assert result.exit_code == 0, result.output
    dataset = xr.open_zarr(tmp_path / "s.zarr")
    found = {
        str(source): (str(status), str(error))
        for source, status, error in zip(
            dataset.source.values, dataset.status.values, dataset.error.values, strict=True
        )
    }
    assert found.pop("a/stereo.mp3") == found.pop("a/song.m4a") == ("ok", "")
    for source, status, said in [
        ("a/cut.wav", "short", "10.00 s of the 24.02 s that the spec takes: windows from 248 on are missing"),
        ("a/cut.wav", "short", "its header promises 30.00 s, so the file was cut off"),
        ("a/zero.wav", "failed", "the file is empty (0 bytes)"),
        ("a/text.wav", "failed", "libsndfile finds no audio in the file"),
        ("a/nan.wav", "failed", "sample 0 (0.000 s) is not a finite number"),
        ("a/tiny.wav", "short", "shorter than one window of 0.100 s"),
    ]:  # fmt: skip
        assert found[source][0] == status
        assert said in found[source][1]
    assert len(found) == 5  # the ._ twin is no track
    assert melzarr("verify", tmp_path / "s.zarr", "--source", root, "--sample", 9).exit_code == 0
