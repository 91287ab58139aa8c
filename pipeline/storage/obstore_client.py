"""Object stores by way of obstore: opened with what the environment says, their refusals told as sentences."""

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

# How long a server that does not answer is asked again: a worker's shard is worth more than a person's first try.
PATIENCE = {"at once": (10, 5), "soon": (40, 20), "patient": (300, 120)}  # retries, half a second apart, and seconds
UNHEARD = re.compile("error sending request|timed? ?out|connect", re.IGNORECASE)  # how obstore says that nobody answers


@functools.lru_cache(maxsize=64)
def open_service(url: str, patience: str) -> Any:
    """Open a store; obstore finds region, endpoint and credentials by itself."""
    retries, seconds = PATIENCE[patience]
    settings: dict[str, Any] = {
        "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=seconds)},
        "client_options": {
            "timeout": timedelta(seconds=10 if patience == "at once" else 300),  # of a whole shard on a slow line
            "allow_http": True,  # who says http:// means it
        },
    }
    if url.startswith("s3://") and "AWS_ACCESS_KEY_ID" not in os.environ and importlib.util.find_spec("boto3"):
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415  (slow to import)
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415  (likewise)

        try:
            settings["credential_provider"] = Boto3CredentialProvider()
        except BotoCoreError as error:
            raise StorageError(f"{url}: no profile of AWS can be read ({error}); see ~/.aws and AWS_PROFILE") from error
        except ValueError:  # it knows of none; a role of the machine may still do
            pass
    with told(url):
        return store.from_url(url, **settings)


def head(client: Any, name: str) -> Any | None:
    """Return what a service says of an object; None where there is none."""
    try:
        return obstore.head(client, name)
    except FileNotFoundError:
        return None


@contextmanager
def told(where: str) -> Iterator[None]:
    """Have what a service refuses be a sentence: what, where, and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageError(f"{where}: there is no such bucket; make it, or name another") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        raise FileExistsError(errno.EEXIST, "it is not as it was last seen", where) from error
    except ValueError as error:  # it takes no such name, so nothing can be there
        raise FileNotFoundError(errno.ENOENT, f"no object can have this name ({error})", where) from error
    except exceptions.InvalidPathError as error:
        said = str(error).partition("\n")[0]
        raise StorageError(f"{where}: a name there cannot be used ({said}); rename or remove that object") from error
    except exceptions.NotSupportedError as error:
        said = str(error).partition("\n")[0]
        raise StorageError(f"{where}: this server lacks what is needed ({said}); use another") from error
    except exceptions.BaseError as error:
        raise StorageError(f"{where}: {_sentence(str(error), where)}") from error


def _sentence(said: str, where: str) -> str:
    """Make a sentence of what obstore says; nothing of it but code and message, since the rest may name keys."""
    status, code = re.search(r"status code: (\d+)", said), re.search(r"<Code>([A-Za-z]+)</Code>", said)
    reason = code[1] if code else status[1] if status else ""
    if reason == "NoSuchBucket":
        return "there is no such bucket; make it, or name another"
    if "169.254.169.254" in said or "metadata.google" in said:
        return "no credentials were found; set those of the service in the environment, such as AWS_ACCESS_KEY_ID"
    if status and status[1] in {"401", "403"}:
        return (
            f"access was denied ({reason}); see that bucket and key in the environment are the right ones, and that "
            f"the key may do this"
        )
    if status:
        return f"the server refused ({reason}); mend that and run the same command again"
    first = said.partition("\n")[0].rpartition(" - ")[2]
    if not UNHEARD.search(said):
        return f"the request failed ({first}); mend that and run the same command again"
    address = " (AWS_ENDPOINT_URL)" if where.startswith("s3://") else ""
    return (
        f"the server does not answer ({first}); see that it runs, and that its address is right{address}, then run the "
        f"same command again"
    )
