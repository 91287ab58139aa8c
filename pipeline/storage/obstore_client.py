"""Open object stores through obstore with settings from the environment, and make their errors readable."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions, store

from melzarr.pipeline.errors import StorageError

# How long requests to an unresponsive server are retried: a worker's shard is worth more than a user's first try.
PATIENCE = {"at once": (10, 5), "soon": (40, 20), "patient": (300, 120)}  # retries, half a second apart, and seconds
BROKEN_LISTS = 5  # responses that may break off; the next request waits for the server
UNHEARD = re.compile("error sending request|timed? ?out|connect", re.IGNORECASE)  # obstore: the server is unresponsive


@functools.lru_cache(maxsize=64)
def open_service(url: str, patience: str) -> Any:
    """Open an object store; obstore finds region, endpoint and credentials itself."""
    retries, seconds = PATIENCE[patience]
    settings: dict[str, Any] = {
        "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=seconds)},
        "client_options": {
            "timeout": timedelta(seconds=10 if patience == "at once" else 300),  # for a whole shard on a slow line
            "allow_http": True,  # a user who writes http:// intends it
        },
    }
    if url.startswith("s3://") and "AWS_ACCESS_KEY_ID" not in os.environ and importlib.util.find_spec("boto3"):
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415  (slow to import)
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415  (likewise)

        try:
            settings["credential_provider"] = Boto3CredentialProvider()
        except BotoCoreError as error:
            raise StorageError(
                f"{url}: the AWS profile cannot be read ({error}); see ~/.aws and AWS_PROFILE"
            ) from error
        except ValueError:  # boto3 finds no credentials; a role of the machine may provide them
            pass
    with readable_errors(url):
        return store.from_url(url, **settings)


def list_blocks(client: Any, chunk_size: int) -> Iterator[Any]:
    """Yield a service's metadata of all objects, in blocks.

    obstore sends a request again until a response begins. If the body of a list breaks off, this continues after the
    last name, a few times.
    """
    last, n_broken = None, 0
    while True:
        try:
            for some in obstore.list(client, offset=last, chunk_size=chunk_size):
                yield some
                last = some[-1]["path"] if some else last
        except exceptions.BaseError as error:
            n_broken += 1
            if n_broken == BROKEN_LISTS or "response body" not in str(error):
                raise
        else:
            return


def head(client: Any, name: str) -> Any | None:
    """Return a service's metadata of an object, or None if it does not exist."""
    try:
        return obstore.head(client, name)
    except FileNotFoundError:
        return None


@contextmanager
def readable_errors(where: str) -> Iterator[None]:
    """Re-raise errors of a service as StorageError, FileNotFoundError or FileExistsError with a readable message."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageError(f"{where}: there is no such bucket; create it, or use another") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        raise FileExistsError(errno.EEXIST, "it has changed since it was last read", where) from error
    except ValueError as error:  # the service does not accept the name, so no such object exists
        raise FileNotFoundError(errno.ENOENT, f"no object can have this name ({error})", where) from error
    except exceptions.InvalidPathError as error:
        said = str(error).partition("\n")[0]
        raise StorageError(f"{where}: a name there cannot be used ({said}); rename or remove that object") from error
    except exceptions.NotSupportedError as error:
        said = str(error).partition("\n")[0]
        raise StorageError(f"{where}: this server lacks a required feature ({said}); use another") from error
    except exceptions.BaseError as error:
        raise StorageError(f"{where}: {_sentence(str(error), where)}") from error


def _sentence(said: str, where: str) -> str:
    """Return a readable message for an obstore error: only its code and message, because the rest may contain keys."""
    status, code = re.search(r"status code: (\d+)", said), re.search(r"<Code>([A-Za-z]+)</Code>", said)
    reason = code[1] if code else status[1] if status else ""
    if reason == "NoSuchBucket":
        return "there is no such bucket; create it, or use another"
    if "169.254.169.254" in said or "metadata.google" in said:
        return "no credentials were found; set those of the service in the environment, such as AWS_ACCESS_KEY_ID"
    if status and status[1] in {"401", "403"}:
        return (
            f"access was denied ({reason}); check that the bucket and the key in the environment are the right ones, "
            f"and that the key permits this"
        )
    if status:
        return f"the server refused ({reason}); fix this and run the same command again"
    return _unanswered(said, where)


def _unanswered(said: str, where: str) -> str:
    """Return a readable message for a request without an answer."""
    if untrusted := re.search(r"InvalidCertificate\(\s*(\w+)", said):
        return (
            f"the certificate is not trusted ({untrusted[1]}); check the address, or set SSL_CERT_FILE to a file with "
            f"that of the authority that signed it"
        )
    first = said.partition("\n")[0].rpartition(" - ")[2]
    if not UNHEARD.search(said):
        return f"the request failed ({first}); fix this and run the same command again"
    address = " (AWS_ENDPOINT_URL)" if where.startswith("s3://") else ""
    return (
        f"the server does not answer ({first}); check that it runs, and that its address is right{address}, then run "
        f"the same command again"
    )
