"""Share a run: its model with card, figures and checksums, in a folder, an archive or an object store."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras

from melzarr.model.model_card import AboutModel, model_card
from melzarr.model.onnx_export import export_onnx, require_onnx
from melzarr.model.run_directory import MODEL, PICTURES, TRAINED, Run
from melzarr.model.shared_run import REQUIRED, ZIP
from melzarr.pipeline.errors import BuildError, CallError, RunError, StoreError
from melzarr.pipeline.publishing.target_guard import refuse_inside
from melzarr.pipeline.publishing.zip_workspace import digest_file
from melzarr.pipeline.report import run_files
from melzarr.pipeline.storage.atomic import files_below, sync, write_whole
from melzarr.pipeline.storage.digests import digest_of
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.ignored_files import is_worthless
from melzarr.pipeline.storage.zip import OLDEST, ZipDirectory, pack_folder
from melzarr.pipeline.zarr_store.companion_files import CARD, CHECKSUMS, checksum_lines, read_checksums

ONNX = "model.onnx"
ATTRIBUTES = ".gitattributes"
COPIED = (run_files.CONFIG, run_files.METRICS, run_files.HISTORY, TRAINED, *PICTURES)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunShareOptions:
    """How a run is shared.

    Parameters
    ----------
    for_hub : bool
        Whether the folder is for upload to Hugging Face.
    onnx : bool
        Whether the model is written as ONNX too.
    title, licence, author, published : str
        Metadata of the model; empty if not given.
    """

    for_hub: bool = False
    onnx: bool = False
    title: str = ""
    licence: str = ""
    author: str = ""
    published: str = ""


def share_run(run: Run, target: Directory, options: RunShareOptions, *, replace: bool = False) -> dict[str, int | str]:
    """Share a run. It appears at `target` as a whole; the same run and options give the same bytes.

    Parameters
    ----------
    run : Run
        The finished run.
    target : Directory
        A folder, ``NAME.zip`` on this machine, or an address in an object store.
    options : RunShareOptions
        How it is shared.
    replace : bool
        Whether a shared run at `target` is replaced.

    Returns
    -------
    dict
        Number of files and of their bytes, and the SHA-256 of an archive (``sha256``), else an empty text.

    Raises
    ------
    RunError
        If the run is not finished.
    CallError, BuildError
        If `target` cannot be a share, or something else is there.
    MelzarrError
        If ONNX is wanted, and what exports it is not installed.
    """
    if said := run.unfinished():
        raise RunError(f"{said}, and share it then")
    if options.onnx:
        require_onnx()
    archive = _archive(target)
    _refuse(run, target, archive, options, replace=replace)
    with _staging(target if archive is None else target.sibling("")) as folder:
        _write_files(run, folder, target.name, options, is_zip=archive is not None)
        sizes = [entry.stat().st_size for _, entry in files_below(folder)]
        sha256 = ""
        if archive is not None:
            sha256 = _put_archive(folder, archive)
        elif target.folder is not None:
            _put_folder(folder, target.folder)
        else:
            _put_objects(folder, target)
    return {"files": len(sizes), "bytes": sum(sizes), "sha256": sha256}


def _archive(target: Directory) -> Path | None:
    """Return the path of the archive that is written, or None for a folder and an object store."""
    if isinstance(target, ZipDirectory):
        return target.path
    return target.folder if target.folder is not None and target.name.endswith(ZIP) else None


def _refuse(run: Run, target: Directory, archive: Path | None, options: RunShareOptions, *, replace: bool) -> None:
    """Raise an error if the target is no place for a share, or holds something that may not be replaced."""
    refuse_inside(target)
    if archive is not None and options.for_hub:
        raise CallError(f"{target} is one file, and Hugging Face reads a folder of files; give the path of a folder")
    if archive is None and target.folder is None and target.name.endswith(ZIP):
        raise CallError(f"{target} would not be an archive; choose a folder there")
    if target.name in {"", ".", ".."}:
        raise CallError(f"{target} is not the name of a share; give the path of a new folder")
    place, own = archive or target.folder, run.path.resolve()
    if place is not None and (own.is_relative_to(place.resolve()) or place.resolve().is_relative_to(own)):
        raise CallError(f"{target} is the run {run.path}, inside it or around it; choose another path")
    if place is not None and place.is_symlink():
        raise BuildError(f"{target} is a link, and nothing is written through it; choose another path")
    if archive is not None:
        if archive.exists() and not (archive.is_file() and _is_share(ZipDirectory(archive))):
            raise BuildError(f"{target} exists and is not a shared run; choose another path, or remove it yourself")
        if archive.exists() and not replace:
            raise BuildError(f"{target} already exists; choose another path, or replace it with --force")
        return
    there = {name for name, _ in target.files() if not is_worthless(name)} if target.exists() else set[str]()
    if not there:
        return
    if not _is_share(target):
        raise BuildError(f"{target} exists and is not a shared run; choose another path, or remove it yourself")
    if not replace:
        raise BuildError(f"{target} already exists; choose another path, or replace it with --force")
    if foreign := min(there - read_checksums(target.read(CHECKSUMS)).keys() - {CHECKSUMS, ATTRIBUTES}, default=""):
        raise BuildError(f"{target} contains {foreign}, which is not part of the shared run; move it")


def _is_share(where: Directory) -> bool:
    """Return whether a directory is a shared run."""
    try:
        return {CARD, *REQUIRED} <= read_checksums(where.read(CHECKSUMS)).keys()
    except (OSError, ValueError, StoreError):
        return False


@contextmanager
def _staging(target: Directory) -> Iterator[Path]:
    """Provide a folder for the files, which is on the disk of a target on this machine."""
    beside = None if target.folder is None else target.folder.absolute().parent
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".melzarr-share-", dir=beside) as folder:
        (Path(folder) / "files").mkdir()
        yield Path(folder) / "files"


def _write_files(run: Run, folder: Path, name: str, options: RunShareOptions, *, is_zip: bool) -> None:
    """Write all files of a share into a new folder; the checksums come last."""
    model = run.model()
    for copied in COPIED:
        if (run.path / copied).is_file():
            write_whole(folder / copied, (run.path / copied).read_bytes())
    _save(model, folder / MODEL)
    names = [name for name, _ in files_below(folder)] + [ONNX] * options.onnx
    about = AboutModel(
        name=name, is_zip=is_zip, title=options.title, licence=options.licence, author=options.author,
        published=options.published, files=names,
    )  # fmt: skip
    write_whole(folder / CARD, model_card(run, model, about).encode())
    if options.onnx:
        export_onnx(model, folder / ONNX)
    if options.for_hub:
        kinds = ("*.keras", "*.onnx", "*.png")
        write_whole(
            folder / ATTRIBUTES, "".join(f"{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in kinds).encode()
        )
    digests = {name: digest_of(folder / name, hashlib.sha256) for name, _ in files_below(folder)}
    write_whole(folder / CHECKSUMS, checksum_lines(digests))
    for saved in (MODEL, *([ONNX] * options.onnx)):  # the others are on the disk
        sync(folder / saved)


def _save(model: keras.Model, path: Path) -> None:
    """Save a model without the state of its optimizer, and without times: the same model gives the same bytes."""
    part = path.with_name(".model.keras")
    model.save(part)
    with zipfile.ZipFile(part) as saved, zipfile.ZipFile(path, "w") as archive:
        for name in sorted(saved.namelist()):
            data = saved.read(name)
            if name == "metadata.json":
                facts = json.loads(data)
                data = json.dumps({key: facts[key] for key in sorted(facts) if key != "date_saved"}).encode()
            archive.writestr(zipfile.ZipInfo(name, OLDEST), data)
    part.unlink()


def _put_archive(folder: Path, archive: Path) -> str:
    """Pack the files into an archive, and write its digest beside it; return the digest."""
    packed = folder.with_name("archive")
    sha256 = pack_folder(folder, packed)
    write_whole(digest_file(archive), checksum_lines({archive.name: sha256}))
    packed.replace(archive)
    return sha256


def _put_folder(folder: Path, place: Path) -> None:
    """Move the folder to its place; a shared run that is there is moved aside first, and removed."""
    if place.exists():
        place.rename(folder.with_name("old"))  # which goes with the temporary folder
    folder.rename(place)


def _put_objects(folder: Path, target: Directory) -> None:
    """Write the files below an address; without its checksums, which come last, a share is incomplete."""
    names = {name for name, _ in files_below(folder)}
    target.remove([CHECKSUMS])
    target.remove(sorted({name for name, _ in target.files()} - names))
    for name in sorted(names, key=lambda name: (name == CHECKSUMS, name)):
        target.write(name, (folder / name).read_bytes())
