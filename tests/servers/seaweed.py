"""A real S3 server on loopback, SeaweedFS, that a test can stop, kill and have come back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 60  # in which it has to answer
KEYS = {"owner": ("testkey", "testsecret"), "reader": ("rokey", "rosecret"), "stranger": ("testkey", "wrong")}
IDENTITIES = [
    {"name": "owner", "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "reader", "actions": ["Read:zarr", "List:zarr", "Read:audio", "List:audio"]},
]


def weed() -> str | None:
    """Program of SeaweedFS, if it is there."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Ports that are free, and so are those 10,000 further, which SeaweedFS takes for its own talk."""
    found: list[int] = []
    for port in range(21000 + 13 * (os.getpid() % 500), 31000):
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10000))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


class Seaweed:
    """The server. Its bucket ``zarr`` may be read by "reader"; "owner" may do all.

    Parameters
    ----------
    folder : Path
        Where its state lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, None
        self.ports = dict(zip(("s3", "filer", "master", "volume"), free_ports(4), strict=True))
        (folder / "data").mkdir(parents=True)
        known = [
            {**who, "credentials": [dict(zip(("accessKey", "secretKey"), KEYS[who["name"]], strict=True))]}
            for who in IDENTITIES
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": known}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def web(self) -> str:
        """Address below which the buckets are plain files on the web."""
        return f"http://127.0.0.1:{self.ports['filer']}/buckets"

    def environment(self, who: str = "owner") -> dict[str, str]:
        key, secret = KEYS[who]
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it, or have it come back with what it held."""
        ports = [f"-{name}.port={port}" for name, port in self.ports.items()]
        command = [
            weed(), f"-logdir={self.folder}", "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", "-volume.max=50", "-master.volumeSizeLimitMB=256", "-filer", "-s3",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-s3.config={self.folder / 's3.json'}", *ports,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"SeaweedFS does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.web}/", timeout=5), urllib.request.urlopen(self.endpoint, timeout=5):  # noqa: S310
                return True
        except urllib.error.HTTPError as error:
            return error.code == 403 and error.url == self.endpoint
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a power cut would; a gentle end takes it long."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=SECONDS)
            self.process = None
