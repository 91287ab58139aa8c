"""What somebody wants to share of a store, and how."""

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
    """What of a store is shared, and how.

    Parameters
    ----------
    labels, splits, tracks : sequence of str
        Which tracks: those of any of the labels, of any of the splits, and any of the ids; all where nothing is said.
    scale, dtype : str, optional
        In place of the store's.
    sharded : bool
        Whether some tracks lie in one file. Where not, no server need give parts of files.
    audio : Directory, optional
        Below which the audio files lie, where they are to be shared too.
    for_hub : bool
        Whether it is to be uploaded to Hugging Face.
    published : str, optional
        Date of publication, year first; by default as the dataset's recipe says.
    author : str
        Who made the dataset, for who cites it; nothing where that is not said.
    title, licence, origin : str, optional
        In place of what the store says of itself.
    """

    labels: Sequence[str] = ()
    splits: Sequence[str] = ()
    tracks: Sequence[str] = ()
    scale: str | None = None
    dtype: str | None = None
    sharded: bool = True
    audio: Directory | None = None
    for_hub: bool = False
    published: str | None = None
    author: str = ""
    title: str | None = None
    licence: str | None = None
    origin: str | None = None

    def about(self, store: Store) -> dict[str, Any]:
        """Give the attributes of what is shared, but for what follows from its tracks."""
        about = {name: value for name, value in store.attributes.items() if name != "uuid"}
        given = {name: value for name in ("title", "licence") if (value := getattr(self, name)) is not None}
        recipe = {} if self.origin is None else {"recipe": {**about["recipe"], "origin": self.origin}}
        return {**about, **given, **recipe, "spec": self.spec(store).to_dict()}

    def date(self, store: Store) -> str:
        """Give the date of publication, year first; nothing where none is known."""
        said = str(store.attributes["recipe"].get("published", ""))
        return self.published or (said if is_date(said) else "")

    def spec(self, store: Store) -> FeatureSpec:
        """Give the spec of what is shared."""
        given = {name: value for name in ("scale", "dtype") if (value := getattr(self, name))}
        return FeatureSpec.from_dict({**store.spec.to_dict(), **given})

    def select(self, store: Store) -> npt.NDArray[np.intp]:
        """Numbers of the tracks that are shared, ascending.

        Raises
        ------
        CallError
            For a name that the store does not know, or where no track is left.
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
            raise CallError(f"no track of {store.directory} is of these labels, splits and ids at once; ask for others")
        return np.flatnonzero(chosen)


def unsaid(store: Store, wish: ShareOptions) -> list[str]:
    """Name the options by which something could be said that those who cite or use a dataset look for.

    Parameters
    ----------
    store : Store
        The share.
    wish : ShareOptions
        What was asked for.
    """
    about = store.attributes
    lacking = {
        "--title": about["title"] == DEFAULT_TITLE,
        "--licence": about["licence"] == DEFAULT_LICENCE,
        "--origin": not about["recipe"].get("origin"),
        "--published": not wish.date(store),
    }
    return [name for name, lacks in lacking.items() if lacks]
