"""A dataset recipe becomes audio files: whole or not at all, and nothing lands outside its folder."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import re
import shutil
import socket
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile as sf
from filelock import FileLock

from melzarr.pipeline.errors import CallError, FetchError
from melzarr.pipeline.sources import demo_music, http_download
from melzarr.pipeline.sources import synthesise_dataset as room
from melzarr.pipeline.sources.dataset_folder import Fetched
from melzarr.pipeline.sources.dataset_recipe import Archive, Recipe, Synthesis, find_recipe
from melzarr.pipeline.sources.fetch_dataset import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = ("blues", "jazz")
N_TRACKS = 3
DATASETS = Path(__file__).parents[3] / "datasets"


def noise(seed: int, n_bytes: int = 20_000) -> bytes:
    return np.random.default_rng(seed).bytes(n_bytes)


TREE = {f"{label}/{label}.{n:05d}.au": noise(10 * n + i) for i, label in enumerate(LABELS) for n in range(N_TRACKS)}


def tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def regular(directory: dict[str, bytes], prefix: str = "genres/") -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(tarfile.TarInfo(prefix + name), content) for name, content in directory.items()]


ARCHIVE = tar(regular(TREE))


def recipe_of(archive: bytes, folder: Path, *urls: str) -> Recipe:
    folder.mkdir(exist_ok=True)
    source = Archive(urls, len(archive), hashlib.sha256(archive).hexdigest())
    return Recipe(folder, "small", "A small archive", "none", "noise", LABELS, N_TRACKS, source)


def files(folder: Path) -> dict[str, bytes]:
    """All visible files below a folder, by name."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@dataclasses.dataclass
class Server:
    """What a loopback server serves, and what it was asked for."""

    address: str
    content: bytes = ARCHIVE
    asked: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
    sent: list[int] = dataclasses.field(default_factory=list)

    def url(self, manner: str) -> str:
        return f"{self.address}/{manner}/small.tar.gz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve on loopback, in the manner that the address names."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            manner = self.path.split("/")[1]
            wanted = self.headers["Range"]
            first_time = manner not in {asked for asked, _ in state.asked}
            state.asked.append((manner, wanted))
            content = {"wrong": noise(99, len(state.content)), "page": b"<html>Sign in</html>"}.get(
                manner, state.content
            )
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and manner != "rangeless" else 0
            start = max(start - 1000, 0) if manner == "generous" else start
            status = 404 if manner == "missing" else 503 if manner == "busy" and first_time else 206 if start else 200
            body = content[start:] if status < 400 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if manner == "gzipped":
                self.send_header("Content-Encoding", "x-gzip")
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            body = body[: len(body) // 2] if manner == "cutting" or (manner == "cut" and first_time) else body
            state.sent.append(len(body))
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http_download, "PAUSES_S", (0, 0, 0))
    monkeypatch.setattr(http_download, "BLOCK", 4096)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state = Server(f"http://127.0.0.1:{httpd.server_port}")
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join(10)


@pytest.fixture
def nowhere() -> str:
    """Give an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}/small.tar.gz"


# Downloaded -----------------------------------------------------------------------------------------------------------


def test_an_archive_is_downloaded_checked_and_unpacked(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))
    assert fetch(recipe) == Fetched(recipe.audio, 6, made=True)
    assert files(recipe.folder) == {f"audio/{name}": content for name, content in TREE.items()}
    assert server.asked == [("good", None)]


def test_the_second_time_nothing_is_done(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))
    fetch(recipe)
    assert fetch(recipe) == Fetched(recipe.audio, 6, made=False)
    assert len(server.asked) == 1


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("cut"))
    assert fetch(recipe).n_tracks == 6
    (_, first), (_, second) = server.asked
    assert first is None
    assert second is not None
    kept = int(second.removeprefix("bytes=").removesuffix("-"))
    assert len(ARCHIVE) // 2 - 4096 <= kept <= len(ARCHIVE) // 2
    assert server.sent[1] == len(ARCHIVE) - kept < len(ARCHIVE)


def test_a_later_run_asks_for_the_rest_only(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))
    (recipe.folder / "small.tar.gz.part").write_bytes(ARCHIVE[:50_000])
    assert fetch(recipe).n_tracks == 6
    assert server.asked == [("good", "bytes=50000-")]
    assert server.sent == [len(ARCHIVE) - 50_000]


@pytest.mark.parametrize("manner", ["rangeless", "generous"])
def test_a_server_may_send_more_than_the_rest(server: Server, tmp_path: Path, manner: str) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url(manner))
    (recipe.folder / "small.tar.gz.part").write_bytes(ARCHIVE[:50_000])
    assert fetch(recipe).n_tracks == 6
    assert server.sent[0] > len(ARCHIVE) - 50_000


def test_an_archive_that_is_whole_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))
    (recipe.folder / "small.tar.gz.part").write_bytes(ARCHIVE)
    assert fetch(recipe).made
    assert server.asked == []


@pytest.mark.parametrize("n_bytes", [len(ARCHIVE), len(ARCHIVE) + 1])
def test_a_spoilt_rest_of_another_run_is_removed(server: Server, tmp_path: Path, n_bytes: int) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))
    (recipe.folder / "small.tar.gz.part").write_bytes(noise(1, n_bytes))
    assert fetch(recipe).n_tracks == 6
    assert server.asked == [("good", None)]


def test_a_server_that_marks_the_archive_as_compressed_does_not_change_it(server: Server, tmp_path: Path) -> None:
    assert fetch(recipe_of(ARCHIVE, tmp_path / "small", server.url("gzipped"))).n_tracks == 6


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    assert fetch(recipe_of(ARCHIVE, tmp_path / "small", server.url("busy"))).n_tracks == 6
    assert server.asked == [("busy", None)] * 2


def test_a_wrong_checksum_is_refused_and_the_file_removed(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("wrong"))
    found = hashlib.sha256(noise(99, len(ARCHIVE))).hexdigest()
    with pytest.raises(FetchError, match=rf"SHA-256 is {found}, .* removed.*--from PATH"):
        fetch(recipe)
    assert files(recipe.folder) == {}


def test_a_page_in_place_of_the_archive_leaves_what_arrived_before(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("page"))
    (recipe.folder / "small.tar.gz.part").write_bytes(ARCHIVE[:10])
    with pytest.raises(FetchError, match=r"page.*it offers 20 bytes, but the archive has.*\(10 bytes are kept,"):
        fetch(recipe)
    assert files(recipe.folder) == {"small.tar.gz.part": ARCHIVE[:10]}


def test_the_next_address_is_tried(server: Server, nowhere: str, tmp_path: Path) -> None:
    urls = nowhere, *(server.url(manner) for manner in ("missing", "wrong", "good"))
    assert fetch(recipe_of(ARCHIVE, tmp_path / "small", *urls)).n_tracks == 6
    assert [manner for manner, _ in server.asked] == ["missing", "wrong", "good"]


def test_what_one_server_began_another_ends(server: Server, tmp_path: Path) -> None:
    assert fetch(recipe_of(ARCHIVE, tmp_path / "small", server.url("cutting"), server.url("good"))).n_tracks == 6
    assert [manner for manner, _ in server.asked] == ["cutting"] * 4 + ["good"]
    assert server.sent[-1] < len(ARCHIVE) // 8


def test_where_no_address_gives_it_each_is_named_with_its_reason(server: Server, nowhere: str, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", nowhere, server.url("missing"))
    with pytest.raises(FetchError) as caught:
        fetch(recipe)
    assert re.search(rf"{nowhere}: no connection \(.*refused\); {server.url('missing')}: HTTP 404", str(caught.value))
    assert "--from PATH" in str(caught.value)
    assert not recipe.audio.exists()


def test_an_unpacking_that_was_interrupted_starts_again_without_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(recipe)
    assert files(recipe.folder) == {"small.tar.gz.part": ARCHIVE}
    assert fetch(recipe).n_tracks == 6
    assert len(server.asked) == 1


def test_two_fetches_of_one_dataset_do_not_meet(server: Server, tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small", server.url("good"))
    with FileLock(recipe.folder / ".fetch.lock"), pytest.raises(FetchError, match="by another process; wait"):
        fetch(recipe)
    assert server.asked == []


# Unpacked -------------------------------------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o4777
    return info, noise(5, 100)


def unpack(members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path) -> Recipe:
    archive = tar(members)
    recipe = recipe_of(archive, tmp_path / "small")
    (tmp_path / "copy.tar.gz").write_bytes(archive)
    fetch(recipe, copy_from=tmp_path / "copy.tar.gz")
    return recipe


@pytest.mark.parametrize("name", ["/blues/outside.au", "../blues/outside.au", "genres/../../../blues/outside.au"])
def test_a_member_that_leads_out_spoils_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(FetchError, match=re.escape(f"member {name!r} that points outside its folder")):
        unpack([*regular(TREE), member(name)], tmp_path)
    assert files(tmp_path).keys() == {"copy.tar.gz"}
    assert not Path("/blues").exists()


def test_nothing_but_audio_files_of_the_labels_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    hostile = [
        member("genres/blues/to.au", tarfile.SYMTYPE, "../../../outside/x.au"),
        member("genres/blues/to.au"),  # through that link, were it made
        member("jazz", tarfile.SYMTYPE, str(tmp_path / "outside")),
        member("jazz/through.au"),
        member("genres/blues/hard.au", tarfile.LNKTYPE, "/etc/hostname"),
        member("genres/blues/device.au", tarfile.CHRTYPE),
        member("genres/blues/pipe.au", tarfile.FIFOTYPE),
        member("genres/blues/folder.au", tarfile.DIRTYPE),
        member("genres/blues/._blues.00000.au"),
        member("genres/blues/.au"),
        member("genres/blues/blues.mf"),
        member("genres/polka/polka.00000.au"),
        member("blues.au"),
        member("blues"),
    ]
    recipe = unpack([*hostile[:4], *regular(TREE), *hostile[4:]], tmp_path)
    plain = noise(5, 100)
    assert files(recipe.audio) == TREE | {"blues/to.au": plain, "jazz/through.au": plain}
    assert not any(path.is_symlink() or path.stat().st_mode & 0o7111 for path in recipe.audio.glob("*/*"))
    assert not any((tmp_path / "outside").iterdir())


def test_an_archive_that_unpacks_to_far_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="over 20 times its size"):
        unpack([(tarfile.TarInfo("blues/zeros.wav"), bytes(1_000_000))], tmp_path)
    assert files(tmp_path).keys() == {"copy.tar.gz"}


@pytest.mark.parametrize("archive", [noise(1), ARCHIVE[:-30_000], tar(regular(TREE))[:400] + noise(2)])
def test_what_is_no_whole_archive_is_said(tmp_path: Path, archive: bytes) -> None:
    path = tmp_path / "copy.tar.gz"
    path.write_bytes(archive)
    recipe = recipe_of(archive, tmp_path / "small")
    with pytest.raises(FetchError, match="cannot be unpacked"):
        fetch(recipe, copy_from=path)
    assert files(recipe.folder) == {}


def test_an_archive_without_any_track_makes_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no audio file was found as label/file"):
        unpack([member("genres/polka/polka.00000.au")], tmp_path)


# Copied ---------------------------------------------------------------------------------------------------------------


def write(directory: dict[str, bytes], folder: Path) -> Path:
    for name, content in directory.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_copy_of_the_archive_is_checked_and_stays(tmp_path: Path) -> None:
    recipe = unpack(regular(TREE), tmp_path)
    assert files(recipe.audio) == TREE
    assert (tmp_path / "copy.tar.gz").exists()


def test_another_archive_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "other.tar.gz"
    path.write_bytes(ARCHIVE[:-1] + b"x")
    with pytest.raises(FetchError, match=r"other.tar.gz: its SHA-256 is [0-9a-f]{64}, but"):
        fetch(recipe_of(ARCHIVE, tmp_path / "small"), copy_from=path)
    assert path.exists()


@pytest.mark.parametrize("above", ["", "genres", "a/b/genres"])
def test_a_tree_is_found_at_or_below_the_path(tmp_path: Path, above: str) -> None:
    clutter = {"blues/._blues.00000.au": b"", "blues/blues.mf": b"", "bextract_single.mf": b"", "polka/polka.au": b""}
    write(TREE | clutter, tmp_path / "copy" / above)
    recipe = recipe_of(ARCHIVE, tmp_path / "small")
    assert fetch(recipe, copy_from=tmp_path / "copy") == Fetched(recipe.audio, 6, made=True)
    assert files(recipe.audio) == TREE


def test_tracks_that_a_copy_lacks_are_said(tmp_path: Path) -> None:
    directory = {name.replace(".au", ".wav"): content for name, content in TREE.items() if name != "jazz/jazz.00002.au"}
    copy = write(directory, tmp_path / "copy" / "genres_original")
    write({name.replace(".au", ".png"): b"" for name in TREE}, tmp_path / "copy" / "aaa_images_original")
    recipe = recipe_of(ARCHIVE, tmp_path / "small")
    note = "5 tracks, but the recipe has 6 (jazz 2)"
    assert fetch(recipe, copy_from=copy.parent) == Fetched(recipe.audio, 5, made=True, note=note)
    assert files(recipe.audio) == directory
    assert fetch(recipe) == Fetched(recipe.audio, 5, made=False, note=note)


@pytest.mark.parametrize("above", ["a/b/c/d", ".hidden"])
def test_where_no_folder_holds_all_labels_what_was_sought_is_named(tmp_path: Path, above: str) -> None:
    write(TREE, tmp_path / "copy" / above)
    with pytest.raises(FetchError, match=r"copy: neither it nor .* all of the folders blues, jazz with audio files"):
        fetch(recipe_of(ARCHIVE, tmp_path / "small"), copy_from=tmp_path / "copy")


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="typo: there is no such file or folder"):
        fetch(recipe_of(ARCHIVE, tmp_path / "small"), copy_from=tmp_path / "typo")


def test_files_that_somebody_else_put_there_are_left_alone(tmp_path: Path) -> None:
    recipe = recipe_of(ARCHIVE, tmp_path / "small")
    write({"blues/blues.00000.au": b"mine"}, recipe.audio)
    with pytest.raises(FetchError, match="contains 1 tracks, but 6 are expected; move it away"):
        fetch(recipe)
    assert files(recipe.audio) == {"blues/blues.00000.au": b"mine"}


def test_a_full_disk_leaves_no_half_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    recipe = recipe_of(ARCHIVE, tmp_path / "small")
    with pytest.raises(FetchError, match=r"blues.00000.au: No space left on device; make room"):
        fetch(recipe, copy_from=write(TREE, tmp_path / "copy"))
    assert files(recipe.folder) == {}


def test_a_dataset_that_comes_whole_has_no_number_of_tracks_to_choose(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="small is always fetched whole"):
        fetch(recipe_of(ARCHIVE, tmp_path / "small"), tracks_per_label=1)


# Synthesised ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path) -> Recipe:
    source = Synthesis(seed=1, sample_rate=8000, seconds=0.2)
    return Recipe(tmp_path, "tiny", "Tiny", "CC0-1.0", "synthesised", ("bells", "drums"), 2, source)


def test_tracks_are_synthesised_as_label_and_number(demo: Recipe) -> None:
    assert fetch(demo, workers=0) == Fetched(demo.audio, 4, made=True, note="made 4 tracks")
    names = {f"{label}/{label}.{n:05d}.wav" for label in demo.labels for n in range(2)}
    assert files(demo.audio).keys() == names
    info = sf.info(demo.audio / "drums/drums.00001.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (8000, 1, 1600, "PCM_16")


def test_several_processes_make_the_same_bytes(demo: Recipe, tmp_path: Path) -> None:
    alone = dataclasses.replace(demo, folder=tmp_path / "alone")
    alone.folder.mkdir()
    fetch(alone, workers=0)
    fetch(demo, workers=2)
    assert files(demo.audio) == files(alone.audio)


def test_tracks_that_are_there_are_not_made_again(demo: Recipe) -> None:
    fetch(demo, workers=0)
    before = {path: path.stat().st_mtime_ns for path in demo.audio.rglob("*")}
    assert fetch(demo, workers=0) == Fetched(demo.audio, 4, made=False)
    assert {path: path.stat().st_mtime_ns for path in demo.audio.rglob("*")} == before


def test_a_run_that_was_interrupted_is_completed(demo: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(demo, workers=0)
    whole = files(demo.audio)
    (demo.audio / "bells/bells.00001.wav").rename(demo.audio / "bells/bells.00001.wav.part")
    made: list[Path] = []
    write_track = demo_music.write_track
    monkeypatch.setattr(
        demo_music, "write_track", lambda path, *args, **kw: made.append(path) or write_track(path, *args, **kw)
    )
    assert fetch(demo, workers=0).note == "made 1 tracks, removed 1"
    assert made == [demo.audio / "bells/bells.00001.wav"]
    assert files(demo.audio) == whole


def test_where_fewer_are_asked_the_surplus_goes_and_nothing_else(demo: Recipe) -> None:
    fetch(demo, workers=0)
    mine = {"bells/mine.wav": b"", "drums/bells.00001.wav": b"", "bells/bells.1.wav": b"", "other/other.00005.wav": b""}
    write(mine, demo.audio)
    first = {f"{label}/{label}.00000.wav" for label in demo.labels}
    assert fetch(demo, tracks_per_label=1, workers=0) == Fetched(
        demo.audio, 2, made=True, note="made 0 tracks, removed 2"
    )
    assert files(demo.audio).keys() == first | mine.keys()


def test_another_seed_makes_all_tracks_anew(demo: Recipe) -> None:
    fetch(demo, workers=0)
    before = files(demo.audio)
    other = dataclasses.replace(demo, source=Synthesis(seed=2, sample_rate=8000, seconds=0.2))
    assert fetch(other, workers=0).note == "made 4 tracks, removed 4"
    after = files(demo.audio)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def test_another_version_of_the_synthesis_makes_all_tracks_anew(demo: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(demo, workers=0)
    monkeypatch.setattr(demo_music, "VERSION", demo_music.VERSION + 1)
    assert fetch(demo, workers=0).note == "made 4 tracks, removed 4"
    assert not fetch(demo, workers=0).made


def test_audio_that_is_not_quite_that_of_the_recipe_is_said(demo: Recipe) -> None:
    fetch(demo, workers=0)
    listed = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files(demo.audio).items())
    )
    named = dataclasses.replace(demo.source, sha256=hashlib.sha256(listed.encode()).hexdigest())
    for sha256, unlike in ((named.sha256, False), ("0" * 64, True)):
        shutil.rmtree(demo.audio)
        other = dataclasses.replace(demo, source=dataclasses.replace(named, sha256=sha256))
        note = fetch(other, workers=0).note
        assert note.startswith("made 4 tracks")
        assert (f"their bytes differ from those of the recipe (sha256 {named.sha256}, not 000" in note) == unlike
        assert (
            fetch(other, tracks_per_label=1, workers=0).note == "made 0 tracks, removed 2"
        )  # whose digest nobody names


def test_files_of_unknown_origin_are_left_alone(demo: Recipe) -> None:
    write({"drums/drums.00000.wav": b"mine"}, demo.audio)
    with pytest.raises(FetchError, match="melzarr did not make them and does not change them; move them away"):
        fetch(demo, workers=0)
    assert files(demo.audio) == {"drums/drums.00000.wav": b"mine"}


def test_a_worker_that_dies_is_said(demo: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_start_worker", sys.exit)
    with pytest.raises(FetchError, match="was killed; run again with fewer workers to continue"):
        fetch(demo, workers=1)
    monkeypatch.undo()
    assert fetch(demo, workers=0).made


def test_what_cannot_be_asked_of_a_synthesised_dataset_is_said(demo: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="is synthesised, so no copy is needed"):
        fetch(demo, copy_from=tmp_path)
    with pytest.raises(CallError, match="0 tracks per label cannot be made; choose 1"):
        fetch(demo, tracks_per_label=0)
    with pytest.raises(FetchError, match=r"'polka' cannot be synthesised; use one of arpeggio"):
        fetch(dataclasses.replace(demo, labels=("polka",)), workers=0)


def test_the_demo_asks_for_the_styles_that_there_are() -> None:
    assert find_recipe("demo", DATASETS).labels == demo_music.STYLES
