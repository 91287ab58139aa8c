"""Share a run: its model with card, figures and checksums, in a folder, an archive or an object store."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from melzarr.model.model_card import model_card
from melzarr.model.onnx_export import export_onnx, require_onnx
from melzarr.model.run_directory import MODEL, PICTURES, TRAINED, Run
from melzarr.model.shared_run import checksums_of_run, files_of_run
from melzarr.pipeline.errors import CallError, RunError
from melzarr.pipeline.publishing.open_workspace import open_workspace
from melzarr.pipeline.publishing.target_guard import Kind, refuse_place
from melzarr.pipeline.publishing.workspace import DERIVED, Workspace
from melzarr.pipeline.report.run_files import CONFIG, HISTORY, METRICS
from melzarr.pipeline.share.write_share import archive_sha256
from melzarr.pipeline.storage.atomic import sync
from melzarr.pipeline.storage.digests import digest_of
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.local import LocalDirectory
from melzarr.pipeline.storage.zip import OLDEST, ZipDirectory
from melzarr.pipeline.zarr_store.companion_files import CARD, CHECKSUMS, checksum_lines

ONNX = "model.onnx"
ATTRIBUTES = ".gitattributes"
COPIED = (CONFIG, METRICS, HISTORY, TRAINED, *PICTURES)
SHARED_RUN = Kind("shared run", is_one=lambda target: bool(checksums_of_run(target)), has_file=lambda _: False)


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


def share_run(
    run: Run,
    target: Directory,
    options: RunShareOptions,
    *,
    replace: bool = False,
    step: Callable[[str, None], object] = lambda _, __: None,
) -> dict[str, int | str]:
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
    step : callable
        Called with the name of each step, and None: it cannot be counted.

    Returns
    -------
    dict
        Number of files and of their bytes, and the SHA-256 of an archive (``sha256``), else an empty text.

    Raises
    ------
    RunError
        If the run is not finished.
    CallError, BuildError
        If `target` cannot be a share, something else is there, or another process writes to it.
    MelzarrError
        If ONNX is wanted, and what exports it is not installed.
    """
    if said := run.unfinished():
        raise RunError(f"{said}, and share it then")
    if options.onnx:
        require_onnx()
    target = files_of_run(target) if target.folder else target
    if options.for_hub and isinstance(target, ZipDirectory):
        raise CallError(f"{target} is one file, and Hugging Face reads a folder of files; give the path of a folder")
    workspace, note = open_workspace(target, entry=CHECKSUMS), repr((options, replace)).encode()
    if not replace and _is_made(run, workspace, note):
        with workspace.locked():
            workspace.discard()
    else:
        refuse_place(workspace, [LocalDirectory(run.path)], replace=replace, kind=SHARED_RUN)
        with workspace.locked():
            workspace.refuse_occupied(replace)
            with workspace.publishing([], [], replace=replace) as folder:
                try:
                    _write_files(run, folder, target, options, step)
                except BaseException:
                    shutil.rmtree(folder)  # nothing in it would be used again
                    raise
                workspace.root.write(DERIVED, note)
                step("publish", None)
    sizes = [size for _, size in target.files()]
    return {"files": len(sizes), "bytes": sum(sizes), "sha256": archive_sha256(target)}


def _is_made(run: Run, workspace: Workspace, note: bytes) -> bool:
    """Return whether a share with this note was published, and the process was killed before it returned."""
    if not workspace.occupied() or not (workspace.has_made(note) or workspace.notes(note)):
        return False
    listed = checksums_of_run(workspace.target)
    return all(listed.get(name) == digest_of(run.path / name, hashlib.sha256) for name in (CONFIG, METRICS))


def _write_files(
    run: Run,
    folder: Path,
    target: Directory,
    options: RunShareOptions,
    step: Callable[[str, None], object],
) -> None:
    """Write all files of a share into an empty folder; the checksums come last."""
    step("read the model", None)
    model = run.model()
    for copied in COPIED:
        if (run.path / copied).is_file():
            shutil.copyfile(run.path / copied, folder / copied)
    _save(model, folder / MODEL)
    files = {path.name for path in folder.iterdir()} | ({ONNX} if options.onnx else set())
    (folder / CARD).write_text(model_card(run, model, target, files, options), encoding="utf-8")
    if options.onnx:
        step(f"export {ONNX}", None)
        export_onnx(model, folder / ONNX)
    if options.for_hub:
        lines = [f"{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("*.keras", "*.onnx", "*.png")]
        (folder / ATTRIBUTES).write_text("".join(lines))
    digests = {path.name: digest_of(path, hashlib.sha256) for path in folder.iterdir()}
    (folder / CHECKSUMS).write_bytes(checksum_lines(digests))
    for path in (*folder.iterdir(), folder):
        sync(path)


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
