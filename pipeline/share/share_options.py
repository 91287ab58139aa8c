"""Options of a share: which tracks of a store, in which form, and with which metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.builder.publish import DEFAULT_LICENCE, DEFAULT_TITLE
from melzarr.pipeline.errors import CallError
from melzarr.pipeline.sources.dataset_recipe import is_date
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.zarr_store.reader import Store

NAMED = 20  # known names that an error lists


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareOptions:
    """Which tracks of a store are shared, and how.

    Parameters
    ----------
    labels, splits, tracks : sequence of str
        Labels, splits and ids of the tracks. A track must match one value of each that is given; by default, all match.
    scale, dtype : str, optional
        Scale and type of the share; by default those of the store.
    audio : Directory, optional
        Directory of the audio files, if they are shared too.
    for_hub : bool
        Whether the share is for upload to Hugging Face, with tables that the library `datasets` reads.
    arrays : bool
        Whether these tables contain the windows too.
    published : str, optional
        Date of publication, year first; by default from the dataset's recipe.
    author : str
        Author of the dataset, for citations; empty if not given.
    title, licence, origin : str, optional
        Replacements for the metadata of the store.
    """

    labels: Sequence[str] = ()
    splits: Sequence[str] = ()
    tracks: Sequence[str] = ()
    scale: str | None = None
    dtype: str | None = None
    audio: Directory | None = None
    for_hub: bool = False
    arrays: bool = False
    published: str | None = None
    author: str = ""
    title: str | None = None
    licence: str | None = None
    origin: str | None = None

    def about(self, store: Store) -> dict[str, Any]:
        """Return the attributes of the share, except those that follow from its tracks."""
        about = {name: value for name, value in store.attributes.items() if name != "uuid"}
        given = {name: value for name in ("title", "licence") if (value := getattr(self, name)) is not None}
        recipe = {} if self.origin is None else {"recipe": {**about["recipe"], "origin": self.origin}}
        return {**about, **given, **recipe, "spec": self.spec(store).to_dict()}

    def date(self, store: Store) -> str:
        """Return the date of publication, year first; empty if unknown."""
        said = str(store.attributes["recipe"].get("published", ""))
        return self.published or (said if is_date(said) else "")

    def spec(self, store: Store) -> FeatureSpec:
        """Return the spec of the share."""
        given = {name: value for name in ("scale", "dtype") if (value := getattr(self, name))}
        return FeatureSpec.from_dict({**store.spec.to_dict(), **given})

    def select(self, store: Store) -> npt.NDArray[np.intp]:
        """Return the indices of the tracks that are shared, ascending.

        Raises
        ------
        CallError
            If the store does not have a given label, split or id, or no track is selected.
        """
        chosen = np.ones(store.n_tracks, bool)
        for column, names in (("label", self.labels), ("split", self.splits), ("track", self.tracks)):
            if names:
                values = store.column(column)
                known = np.unique(values).tolist()
                if unknown := sorted(set(names) - set(known)):
                    listed = ", ".join(known[:NAMED]) + (" …" if len(known) > NAMED else "")
                    raise CallError(f"{store.directory} has no {column} {unknown[0]!r}; it has {listed}")
                chosen &= np.isin(values, list(names))
        if not chosen.any():
            raise CallError(f"no track of {store.directory} has these labels, splits and ids together; choose others")
        return np.flatnonzero(chosen)

    def unsaid(self, made: Store) -> list[str]:
        """Return the options for metadata that users of a dataset look for and the share `made` lacks."""
        about = made.attributes
        lacking = {
            "--title": about["title"] == DEFAULT_TITLE,
            "--licence": about["licence"] == DEFAULT_LICENCE,
            "--origin": not about["recipe"].get("origin"),
            "--published": not self.date(made),
        }
        return [name for name, lacks in lacking.items() if lacks]
