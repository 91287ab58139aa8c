"""The cluster that Kubernetes is asked for: its form, its commands, and what is said where it cannot be had.

There is no Kubernetes here. What is sent is held against the definitions that Kubernetes itself would hold it against,
and the commands of its containers are run as processes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from dask.utils import parse_bytes
from processes import Processes, digests

import melzarr
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.cluster import NANNY_BYTES, Resources
from melzarr.pipeline.clusters.kubernetes import WAIT, cluster_spec, quantity, watch
from melzarr.pipeline.clusters.task_runner import InProcess, connect
from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.worker_processes import ENVIRONMENT

pytest.importorskip("dask_kubernetes", reason="dask-kubernetes is not installed: pip install 'melzarr[kubernetes]'")
jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

MANIFESTS = Path(__file__).parents[3] / "docs/kubernetes"
IMAGE = {"image": "registry.example/melzarr:0.1.0"}
NEED = 500 << 20  # bytes of a worker
KUBERNETES = "1.31"  # whose definitions of pods, jobs and the like are used


def strict(schema: Any) -> Any:
    """A schema that lets no field pass that it does not name: Kubernetes would drop it without a word."""
    if isinstance(schema, list):
        return list(map(strict, schema))
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


@cache
def operator() -> Any:
    """Validator of what the operator takes for a DaskCluster, as it is installed in Kubernetes."""
    import dask_kubernetes

    chart = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator"
    (version,) = yaml.safe_load((chart / "crds/daskcluster.yaml").read_text())["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {"const": "kubernetes.dask.org/v1"}, "kind": {"const": "DaskCluster"}}
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


def check(manifest: dict[str, Any]) -> None:
    """Hold a manifest against what Kubernetes, or the operator, says that it has to be."""
    if manifest["kind"] != "DaskCluster":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    operator().validate(manifest)
    for role in ("scheduler", "worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": manifest["spec"][role]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def manifests() -> list[Any]:
    return [
        pytest.param(manifest, id=f"{path.stem}-{manifest['kind']}")
        for path in sorted(MANIFESTS.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
    ]


def containers(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Container of the scheduler, and of a worker."""
    return tuple(spec["spec"][role]["spec"]["containers"][0] for role in ("scheduler", "worker"))  # type: ignore[return-value]


def memory_limit(worker: dict[str, Any]) -> int:
    return parse_bytes(worker["args"][worker["args"].index("--memory-limit") + 1])


@pytest.mark.parametrize("manifest", manifests())
def test_manifests_are_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    check(manifest)


def test_the_check_finds_a_field_that_does_not_exist() -> None:
    wrong = cluster_spec("a", Resources(NEED), IMAGE)
    containers(wrong)[1]["envForm"] = []
    with pytest.raises(jsonschema.ValidationError, match="envForm"):
        check(wrong)


@pytest.mark.parametrize(
    "configured",
    [
        {},
        {"env": {"A": 1}, "env-from": [{"secretRef": {"name": "s"}}], "scheduler-service-type": "LoadBalancer"},
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"resources": {"limits": {"memory": "2Gi", "cpu": "1"}}, "worker-command": "dask worker --nthreads 1"},
    ],
)
def test_the_cluster_is_what_the_operator_takes(configured: dict[str, Any]) -> None:
    check(cluster_spec("melzarr-1", Resources(NEED), {**IMAGE, **configured}))


def test_a_worker_has_one_thread_the_memory_of_a_shard_and_ends_without_its_scheduler() -> None:
    spec = cluster_spec("melzarr-1", Resources(NEED), IMAGE)
    scheduler, worker = containers(spec)
    words = " ".join(worker["args"])
    assert "--nthreads 1 " in words
    assert "--death-timeout 60 " in words
    assert memory_limit(worker) == NEED
    assert (
        worker["resources"]["limits"]["memory"] == worker["resources"]["requests"]["memory"] == str(NEED + NANNY_BYTES)
    )
    assert {variable["name"]: variable["value"] for variable in worker["env"]} == ENVIRONMENT
    assert spec["spec"]["idleTimeout"] > 0
    assert spec["spec"]["worker"]["replicas"] == 0
    assert {scheduler["image"], worker["image"]} == set(IMAGE.values())


def test_the_configuration_goes_before_presets_and_options_before_both() -> None:
    limits = {"resources": {"limits": {"memory": "2Gi"}, "requests": {"cpu": "500m"}}}
    configured = {**IMAGE, **limits, "env": {"OMP_NUM_THREADS": "2"}, "idle-timeout": 5, "worker-command": "mine --so"}
    _, worker = containers(spec := cluster_spec("a", Resources(NEED), configured))
    assert memory_limit(worker) == (2 << 30) - NANNY_BYTES
    assert worker["resources"]["requests"] == {"cpu": "500m", "memory": str(2 << 30)}
    assert [v["value"] for v in worker["env"] if v["name"] == "OMP_NUM_THREADS"] == ["2"]
    assert worker["args"][:2] == ["mine", "--so"]
    assert spec["spec"]["idleTimeout"] == 5
    assert limits == {"resources": {"limits": {"memory": "2Gi"}, "requests": {"cpu": "500m"}}}, "it is the user's"
    _, worker = containers(cluster_spec("a", Resources(NEED, memory=10**9), configured))
    assert worker["resources"]["limits"]["memory"] == str(10**9)


def test_a_secret_is_named_and_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    spec = cluster_spec("a", Resources(NEED), {**IMAGE, "env-from": [{"secretRef": {"name": "store"}}]})
    assert containers(spec)[1]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "do-not-tell" not in json.dumps(spec)


def test_without_an_image_of_ones_own_there_is_a_sentence() -> None:
    for configured in ({}, {"image": "ghcr.io/dask/dask:latest"}):
        with pytest.raises(
            CallError, match=r"no image with the libraries of melzarr is configured.* kubernetes\.image"
        ):
            cluster_spec("a", Resources(NEED), configured)


def test_a_pod_that_is_too_small_is_a_sentence() -> None:
    with pytest.raises(CallError, match=r"a pod of 0\.10 GB is too small.*--memory 630MB"):
        cluster_spec("a", Resources(NEED, memory=10**8), IMAGE)


@pytest.mark.parametrize(("text", "n_bytes"), [("2Gi", 2 << 30), ("500M", 500_000_000), ("1024", 1024), (5, 5)])
def test_quantities_are_read_as_kubernetes_does(text: str | int, n_bytes: int) -> None:
    assert quantity(text) == n_bytes


class Api(BaseHTTPRequestHandler):
    """Kubernetes' interface, where no operator is installed: it knows of nothing."""

    asked: list[tuple[str, str, Any]]

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.command, self.path, json.loads(body) if body else None))
        known = self.path.rstrip("/") == "/version"
        facts = (
            {"major": "1", "minor": "31", "gitVersion": "v1.31.0"}
            if known
            else {"kind": "Status", "code": 404, "message": "not found"}
        )
        said = json.dumps(facts).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815  (names of http.server)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[tuple[int, list[tuple[str, str, Any]]]]:
    """The port of a Kubernetes without the operator, and what it was asked."""
    Api.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, Api.asked
        server.shutdown()


def refused(port: int, music: Path, folder: Path) -> str:
    """Start a build on the Kubernetes that answers at a port, and on no other; return what it says at its end."""
    lists: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "music"}}],
        "users": [{"name": "u", "user": {"token": "none"}}],
    }
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", **lists}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [Path(sys.executable).with_name("melzarr"), "features", music, folder / "made.zarr", "--cluster", "kubernetes"],
        env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "DASK_KUBERNETES__IMAGE": IMAGE["image"]},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    asking, sentence = done.stderr.splitlines()
    assert asking == "asking Kubernetes for a scheduler"
    return sentence


def test_no_kubernetes_is_a_sentence(music: Path, tmp_path: Path) -> None:
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        sentence = refused(held.getsockname()[1], music, tmp_path)
    assert "no Kubernetes cluster accepts the scheduler" in sentence
    assert "KUBECONFIG" in sentence


@pytest.mark.slow
def test_no_operator_is_a_sentence_and_the_cluster_was_asked_for_as_it_should_be(
    api: tuple[int, list[tuple[str, str, Any]]], music: Path, tmp_path: Path
) -> None:
    port, asked = api
    assert "helm install --repo https://helm.dask.org" in refused(port, music, tmp_path)
    ((path, sent),) = [(path, body) for method, path, body in asked if method == "POST"]
    assert path.startswith("/apis/kubernetes.dask.org/v1/namespaces/music/daskclusters")
    check({**sent, "metadata": {"name": sent["metadata"]["name"]}})
    assert containers(sent)[1]["image"] == IMAGE["image"]


def test_no_worker_is_asked_for_where_none_is_wanted() -> None:
    with pytest.raises(CallError, match="--workers 0 computes in this process"), connect("kubernetes", 0, NEED):
        pass


def test_who_waits_for_pods_is_told_so_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now, threads, said = [0.0], {"tcp://worker": 1}, list[str]()
    monkeypatch.setattr("melzarr.pipeline.clusters.kubernetes.time.monotonic", lambda: now[0])
    look = watch(SimpleNamespace(nthreads=lambda: threads), "melzarr-1", said.append)
    now[0] = 2 * WAIT
    look()
    assert said == []
    threads.clear()
    now[0] += WAIT / 2
    look()
    look()
    assert said == ["waiting for pods: kubectl get pods -l dask.org/cluster-name=melzarr-1"]
    now[0] += WAIT
    with pytest.raises(BuildError, match=r"no pod has become a worker; run kubectl describe pods"):
        look()


@pytest.mark.slow
def test_the_commands_of_the_containers_run_a_build(music: Path, tmp_path: Path, plan_of) -> None:
    catalog, plan = plan_of(music)
    scheduler, worker = containers(cluster_spec("a", Resources(plan.worker_bytes), IMAGE))
    with Processes(tmp_path) as processes:
        program = {"dask": str(Path(sys.executable).with_name("dask"))}
        operator = {"DASK_WORKER_NAME": "a-worker-1", "DASK_SCHEDULER_ADDRESS": processes.address}
        operator["PYTHONPATH"] = str(Path(melzarr.__file__).parents[1])
        ports = ["--port", str(processes.port), "--dashboard-address", "127.0.0.1:0"]
        for container, more in ((scheduler, ports), (worker, [])):
            given = {variable["name"]: variable["value"] for variable in container["env"]}
            words = [operator[word[2:-1]] if word.startswith("$(") else word for word in container["args"]]
            processes.start([program[words[0]], *words[1:], *more], {**given, **operator})
        with connect(processes.address, None, plan.worker_bytes) as runner:
            assert list(runner.run(os.getenv, [*ENVIRONMENT])) == [*ENVIRONMENT.values()]
            build(plan, catalog, tmp_path / "made.zarr", runner)
            waiting = runner.client.map(time.sleep, [5] * 20, pure=False)
            port = runner.client.scheduler_info()["services"]["dashboard"]
            with urlopen(
                f"http://127.0.0.1:{port}/api/v1/adaptive_target", timeout=30
            ) as answer:  # as the operator does
                assert json.load(answer) == {"workers": len(waiting)}
            runner.client.cancel(waiting)
    build(plan, catalog, tmp_path / "local.zarr", InProcess())
    assert digests(tmp_path / "made.zarr") == digests(tmp_path / "local.zarr")


def test_the_programs_of_the_manifests_exist() -> None:
    folder = str(Path(sys.executable).parent)
    for path in MANIFESTS.glob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            for words in _commands(manifest):
                assert shutil.which(words[0], path=folder), words


def _commands(value: Any) -> Iterator[list[str]]:
    """All lists that are called args."""
    if isinstance(value, dict):
        if isinstance(value.get("args"), list):
            yield value["args"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _commands(item)
