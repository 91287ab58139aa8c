"""Where a build runs."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import dask
import distributed
import psutil
import pytest
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from melzarr.pipeline.clusters.cluster import quiet, security
from melzarr.pipeline.clusters.local_cluster import local_workers
from melzarr.pipeline.clusters.task_runner import InProcess, OnDask, connect
from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.features.extract import one_thread
from melzarr.pipeline.worker_processes import ENVIRONMENT


def environment(names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def pool_sizes(_: object) -> dict[str, int]:
    import numba
    import scipy.linalg  # noqa: F401  (brings its BLAS)
    import threadpoolctl
    import zarr

    with one_thread():
        sizes = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        return {**sizes, "numba": numba.get_num_threads(), "zarr": zarr.config.get("async.concurrency")}


def test_no_worker_is_this_process() -> None:
    with connect("local", 0, 1 << 28) as runner:
        assert isinstance(runner, InProcess)
        assert list(runner.run(lambda _: os.getpid(), [1])) == [os.getpid()]


def test_every_thread_pool_of_a_worker_has_one_thread(one_worker: OnDask) -> None:
    (found,) = one_worker.run(environment, [tuple(ENVIRONMENT)])
    (sizes,) = one_worker.run(pool_sizes, [None])
    assert found == ENVIRONMENT
    assert len(sizes) >= 3
    assert set(sizes.values()) == {1}


def test_the_local_cluster_and_its_dashboard_listen_on_loopback_alone(one_worker: OnDask) -> None:
    assert list(one_worker.run(environment, [()])) == [{}]  # the worker is there
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert urlsplit(one_worker.dashboard).hostname == "127.0.0.1"
    with urlopen(one_worker.dashboard, timeout=30) as page:  # noqa: S310  (on loopback)
        assert b"Dask" in page.read()


def test_nobody_without_the_certificate_of_the_build_reaches_its_scheduler_or_a_worker(one_worker: OnDask) -> None:
    client = one_worker.client
    list(one_worker.run(environment, [()]))  # the worker is there
    for address in (client.scheduler.address, *client.nthreads()):
        assert address.startswith("tls://127.0.0.1:")
        for other in (address, address.replace("tls://", "tcp://")):
            settings = {"security": distributed.Security.temporary()} if other.startswith("tls") else {}
            with pytest.raises((OSError, TimeoutError)), quiet():
                distributed.Client(other, timeout=2, set_as_default=False, **settings)


def written(folder: Path) -> dict[str, str]:
    """Write a certificate and its key; return their paths by their names in Dask's configuration."""
    made = distributed.Security.temporary()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_text(made.tls_ca_file)
    key.write_text(made.tls_scheduler_key)
    roles = ("client", "scheduler", "worker")
    return {"ca-file": str(certificate)} | {
        f"{role}.{name}": str(path) for role in roles for name, path in (("cert", certificate), ("key", key))
    }


def test_connections_need_a_certificate_whatever_the_configuration_has(tmp_path: Path) -> None:
    everything = written(tmp_path)
    for required in (None, False, True):
        for names in ((), ("ca-file",), ("ca-file", "client.cert", "client.key"), tuple(everything)):
            settings = {f"distributed.comm.tls.{name}": everything[name] for name in names}
            with dask.config.set({**settings, "distributed.comm.require-encryption": required}):
                found = security()
            assert found.require_encryption
            for role in ("client", "scheduler", "worker"):
                assert found.get_connection_args(role)["ssl_context"]
                assert (found.get_tls_config_for_role(role)["cert"] == everything["client.cert"]) is (len(names) == 7)


def test_a_certificate_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    for text in (None, "no certificate"):
        settings = {f"distributed.comm.tls.{name}": path for name, path in written(tmp_path).items()}
        (tmp_path / "certificate.pem").unlink() if text is None else (tmp_path / "certificate.pem").write_text(text)
        with dask.config.set(settings):
            with pytest.raises(CallError, match=r"the client's certificate .* cannot be used .*distributed\.comm\.tls"):
                security()
            with (
                pytest.raises(CallError, match="the client's certificate"),
                connect("tls://127.0.0.1:9", None, 1),
            ):
                pass


def test_encryption_that_an_address_does_not_have_is_a_sentence() -> None:
    with (
        dask.config.set({"distributed.comm.require-encryption": True}),
        pytest.raises(CallError, match=r"tcp://127\.0\.0\.1:9 is not encrypted.*comm\.require-encryption"),
        connect("tcp://127.0.0.1:9", None, 1),
    ):
        pass


@pytest.mark.parametrize("text", ["distributed: {a: [", "distributed"])
def test_a_configuration_that_does_not_parse_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path)}
    for words in (("scan", "none"), ("features", "none", "s.zarr", "--memory", "2GB"), ("fetch", "demo")):
        done = subprocess.run(
            [sys.executable, "-m", "melzarr", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert f"A dask config file at '{tmp_path}/mine.yaml' is malformed" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.endswith("; fix or remove this file\n")


def test_there_is_no_dashboard_unless_it_is_asked_for() -> None:
    with connect("local", 1, 1 << 28) as runner:
        assert isinstance(runner, OnDask)
        assert runner.dashboard == ""
        port = runner.client.scheduler_info()["services"]["dashboard"]
        for page in ("status", "info/main/workers.html", "json/identity.json", "metrics"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30)
        listening = {
            found.laddr.ip for found in psutil.Process().net_connections() if found.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}


def test_workers_are_as_many_as_cores_and_memory_allow() -> None:
    assert local_workers(None, 1) == CPU_COUNT
    assert local_workers(1000, 1) == 1000
    assert local_workers(1, 1) == 1
    assert local_workers(None, MEMORY_LIMIT) == 1
    assert local_workers(None, 10 * MEMORY_LIMIT) == 1  # it is tried all the same
    assert local_workers(2, MEMORY_LIMIT // 2) == min(2, CPU_COUNT)


def test_an_unknown_cluster_is_refused() -> None:
    with pytest.raises(CallError, match="cluster='moon' is unknown; use local"), connect("moon", None, 1):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "tcp://127.0.0.1:abc", "tcp://", "tls://:8786"])
def test_an_address_that_is_none_is_a_sentence(address: str) -> None:
    with pytest.raises(CallError, match="is not the address of a scheduler; give tcp://"), connect(address, None, 1):
        pass


def test_a_secure_address_without_a_certificate_is_a_sentence() -> None:
    with pytest.raises(CallError, match=r"needs a certificate.*distributed\.comm\.tls"), connect("tls://a:1", None, 1):
        pass


def test_a_spec_whose_shard_fits_no_worker_is_refused() -> None:
    with pytest.raises(CallError, match="use a smaller --n-windows"), connect("local", 1, MEMORY_LIMIT + 1):
        pass


@pytest.mark.parametrize(
    ("cluster", "options", "sentence"),
    [
        (
            "local",
            {"walltime": 60},
            "--walltime is for jobs of slurm, pbs, sge, lsf; --cluster local does not use jobs",
        ),
        ("kubernetes", {"walltime": 60}, "--cluster kubernetes does not use jobs"),
        ("tcp://127.0.0.1:1", {"memory": 1}, "--memory is for jobs and pods; --cluster tcp://127.0.0.1:1 uses neither"),
        ("local", {"memory": 1}, "--cluster local uses neither"),
    ],
)
def test_options_that_a_place_does_not_have_are_refused(cluster: str, options: dict[str, int], sentence: str) -> None:
    with pytest.raises(CallError, match=sentence), connect(cluster, 0, 1, **options):
        pass


@pytest.mark.parametrize(
    ("cluster", "module", "extra"),
    [("slurm", "dask_jobqueue", "cluster"), ("kubernetes", "dask_kubernetes.operator", "kubernetes")],
)
def test_a_missing_library_is_a_sentence(
    cluster: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    sentence = rf"--cluster {cluster} needs {module}: pip install 'melzarr\[{extra}\]'"
    with pytest.raises(CallError, match=sentence), connect(cluster, None, 1 << 28):
        pass


def test_what_is_not_asked_for_is_not_imported() -> None:
    program = (
        "import melzarr.pipeline.clusters.task_runner, sys; "
        "print([m for m in sys.modules if m.startswith(('dask_', 'kr8s'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def lacks(_: object) -> None:
    raise ModuleNotFoundError("No module named 'moon'", name="moon")


def test_a_worker_that_lacks_something_is_a_sentence(one_worker: OnDask) -> None:
    with pytest.raises(BuildError, match="a worker lacks moon; install the same packages there"):
        list(one_worker.run(lacks, [1]))


def slowly(_: object) -> None:
    time.sleep(4)  # longer than the client's patience, and the scheduler's end waits for it


def test_a_scheduler_that_has_lost_its_workers_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melzarr.pipeline.clusters.task_runner.PATIENCE", 1)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as cluster, connect(cluster.scheduler_address, None, 1) as runner:  # fmt: skip
        results = runner.run(slowly, [1])
        threading.Timer(0.5, cluster.scale, [0]).start()
        with pytest.raises(BuildError, match="there has been no worker; start some"):
            next(results)


def test_a_clock_that_is_set_back_while_nothing_is_heard_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melzarr.pipeline.clusters.task_runner.PATIENCE", 0.1)
    clocks = iter([10, 3610, 10, 10])
    monkeypatch.setattr("melzarr.pipeline.clusters.task_runner._time_of_day", lambda: next(clocks))
    runner = OnDask(SimpleNamespace(nthreads=lambda: {"tcp://worker": 1}, dashboard_link=""))
    with pytest.raises(BuildError, match="clock was set back by 3600 s"):
        runner._next(queue.SimpleQueue())


def test_a_scheduler_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melzarr.pipeline.clusters.existing_scheduler.PATIENCE", 1)
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(BuildError, match=r"no scheduler answers at .*dask scheduler"), connect(address, None, 1):
            pass


def raises(_: object) -> None:
    raise ValueError("from the worker")


def ends_itself(_: object) -> None:
    os._exit(1)


def test_an_error_in_a_worker_comes_back_as_it_is(one_worker: OnDask) -> None:
    with pytest.raises(ValueError, match="from the worker"):
        list(one_worker.run(raises, [1]))


@pytest.mark.slow
def test_workers_that_die_again_and_again_are_a_sentence() -> None:
    with connect("local", 1, 1 << 28) as runner, pytest.raises(BuildError, match=r"workers of .* died 2 times"):
        list(runner.run(ends_itself, [1]))
