"""Describe a shared store for crawlers and loaders in Croissant 1.1, the vocabulary of MLCommons for datasets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from melzarr.pipeline.inspection.describe import Description
from melzarr.pipeline.share.dataset_card import About, citation, description
from melzarr.pipeline.zarr_store.companion_files import CARD, CROISSANT, REPORT, TABLES, TRACKS
from melzarr.pipeline.zarr_store.tracks_table import columns

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"

# The vocabulary of each name, from the specification (docs.mlcommons.org/croissant, appendix 1).
OF_CROISSANT: Final = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
    "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
    "subField", "transform",
)  # fmt: skip
CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in OF_CROISSANT},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}

TABLES_WORDS: Final = "The tracks as tables, one per split, each with a picture of its mel spectrogram."
KINDS: Final = {str: "sc:Text", int: "sc:Integer", float: "sc:Float"}
MEDIA: Final = {
    CARD: "text/markdown",
    CROISSANT: "application/ld+json",
    REPORT: "text/html",
    TRACKS: "text/csv",
    "zarr.json": "application/json",
}


def croissant(facts: Description, about: About, digests: Mapping[str, str]) -> bytes:
    """Describe a shared store in Croissant.

    Parameters
    ----------
    facts : Description
        Description of the store.
    about : About
        What the store itself does not have.
    digests : mapping of str to str
        SHA-256 of the files that are described individually, by path; tracks.csv is one of them.

    Returns
    -------
    bytes
        JSON-LD. The only record set is the table of tracks. For the array mel it only gives the paths of the chunks,
        because no Croissant loader reads Zarr.
    """
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.plain_name,
        "alternateName": facts.title,
        "description": description(facts),
        "license": facts.licence,
        "url": f"urn:uuid:{facts.uuid}",
        "citeAs": citation(facts, about),
        "version": f"1.0.0+{facts.uuid[:8]}",  # the part after + does not affect order; it identifies the content
        **({"creator": {"@type": "sc:Person", "name": about.author}} if about.author else {}),
        **({"datePublished": about.published} if about.published else {}),
        "keywords": ["music", "audio", "mel spectrogram", "genre classification", "zarr"],
        "distribution": [
            *(_file(name, digest) for name, digest in sorted(digests.items())),
            _files(
                "chunks-of-mel",
                "Mel windows, as chunks of the Zarr array mel, whose metadata are mel/zarr.json.",
                "application/octet-stream",
                "mel/c/**",
            ),
            *(
                [_files("tables", TABLES_WORDS, "application/vnd.apache.parquet", f"{TABLES}/**")]
                if about.tables
                else []
            ),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "tracks",
                "name": "tracks",
                "description": "One row per track, in the order of the array mel.",
                "key": {"@id": "tracks/track"},
                "field": [_field(name, kind, words) for name, (kind, words) in columns().items()],
            }
        ],
    }
    return (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()


def _files(name: str, words: str, kind: str, pattern: str) -> dict[str, str]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": words,
        "encodingFormat": kind,
        "includes": pattern,
    }


def _file(name: str, digest: str) -> dict[str, str]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": MEDIA.get(name, "application/octet-stream"),
        "sha256": digest,
    }


def _field(name: str, kind: type, words: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"tracks/{name}",
        "name": name,
        "description": words,
        "dataType": KINDS[kind],
        "source": {"fileObject": {"@id": TRACKS}, "extract": {"column": name}},
    }
