"""A scheduler that is reached by tls://, with certificates as Dask's own configuration names them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Security
from processes import digests

from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess

pytestmark = pytest.mark.slow

PATIENCE = 120  # seconds


def certificate(folder: Path) -> dict[str, str]:
    """Make a certificate that signs itself, and say where it is, as Dask's configuration."""
    folder.mkdir()
    made = Security.temporary()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_text(made.tls_ca_file)
    key.write_text(made.tls_scheduler_key)
    config = {"CA_FILE": str(certificate)}
    for role in ("CLIENT", "SCHEDULER", "WORKER"):
        config |= {f"{role}__CERT": str(certificate), f"{role}__KEY": str(key)}
    config = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": value for name, value in config.items()}
    return {**os.environ, **config, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}


@contextmanager
def cluster(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a scheduler and a worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, dask = f"tls://127.0.0.1:{port}", str(Path(sys.executable).with_name("dask"))
    scheduler = ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = ["worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
    with (folder / "log").open("ab") as log:
        processes = [
            subprocess.Popen([dask, *words], cwd=folder, env=environment, stdout=log, stderr=log)
            for words in (scheduler, worker)
        ]
    try:
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(PATIENCE)


def features(music: Path, target: Path, address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("melzarr")), "features", str(music), str(target)]
    spec = ["--n-windows", "60", "--tracks-per-shard", "5"]
    return subprocess.run(
        [*command, "--cluster", address, *spec],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_a_secure_scheduler_builds_the_same_and_lets_no_stranger_in(music: Path, tmp_path: Path, plan_of) -> None:
    ours, strangers = certificate(tmp_path / "ours"), certificate(tmp_path / "strangers")
    with cluster(ours, tmp_path) as address:
        done = features(music, tmp_path / "s.zarr", address, ours)
        assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
        other = features(music, tmp_path / "t.zarr", address, strangers)
        plain = features(music, tmp_path / "u.zarr", address.replace("tls", "tcp"), dict(os.environ))
    for refused in (other, plain):
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert f"{address.partition('://')[2]}" in refused.stderr
    assert "certificate" in other.stderr
    catalog, plan = plan_of(music)
    build(plan, catalog, tmp_path / "local.zarr", InProcess())
    assert digests(tmp_path / "s.zarr") == digests(tmp_path / "local.zarr")
