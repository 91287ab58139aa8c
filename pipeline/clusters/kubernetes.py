"""Run a build in pods of a Kubernetes cluster, through the operator of dask-kubernetes."""

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import distributed
from dask.utils import parse_bytes

from melzarr.pipeline.clusters.cluster import (
    NANNY_BYTES,
    Cluster,
    Resources,
    Say,
    need,
    orderly_end,
    quiet,
)
from melzarr.pipeline.clusters.worker_versions import require_on_scheduler
from melzarr.pipeline.defaults import MAX_JOBS
from melzarr.pipeline.errors import BuildError, CallError
from melzarr.pipeline.worker_processes import ENVIRONMENT

SCHEDULER_BYTES = 1 << 30  # memory of the scheduler; measured: 100 MB with a few workers
IDLE = 600  # seconds without work after which the operator removes all pods: the client is gone, or publishes
WAIT = 1800  # seconds within which a pod must become a worker: nodes are added and images pulled meanwhile
SAY = 60  # seconds between two messages about pods that the build waits for
PRESET = "ghcr.io/dask/dask:latest"  # dask-kubernetes' default image, which has no libraries that decode audio
# The operator asks the scheduler for the number of workers through its web interface, or else by messages that only the
# same version of Dask is sure to understand.
API = "distributed.http.scheduler.api"
# One worker per shard, as in `job_scaling`: the scheduler divides the expected time of the work by this time.
TARGET = "10ms"
INSTALL = (
    "helm install --repo https://helm.dask.org --create-namespace -n dask-operator --generate-name "
    "dask-kubernetes-operator"
)


@contextmanager
def kubernetes(request: Resources) -> Iterator[Cluster]:
    """Run a scheduler and workers in pods, as many as there is work for; all pods are removed on exit.

    Dask's configuration (``kubernetes``) overrides the presets here, and options override both; a
    ``kubernetes.custom-cluster-spec`` is used unchanged. In addition to dask-kubernetes' settings,
    ``kubernetes.env-from`` is supported: it is envFrom of Kubernetes.
    """
    if request.workers == 0:
        raise CallError("--workers 0 computes in this process; leave out --cluster kubernetes, or request workers")
    try:
        from dask_kubernetes.operator import KubeCluster  # noqa: PLC0415  (an extra, and slow to import)
    except ImportError as error:
        raise need("kubernetes", "--cluster kubernetes", error) from error
    configured = dask.config.get("kubernetes")
    name = f"melzarr-{uuid.uuid4().hex[:8]}"
    spec = configured.get("custom-cluster-spec") or cluster_spec(name, request, configured)
    n_workers = MAX_JOBS if request.workers is None else request.workers
    with quiet(), orderly_end(on_sigterm=True) as held:
        request.say("asking Kubernetes for a scheduler")
        try:
            cluster = held.enter_context(KubeCluster(custom_cluster_spec=spec, quiet=True))
        except Exception as error:
            _take_back(KubeCluster)
            raise BuildError(sentence(error)) from error
        client = held.enter_context(distributed.Client(cluster, set_as_default=False))
        require_on_scheduler(client)
        cluster.adapt(minimum=0, maximum=n_workers)
        request.say(f"at most {n_workers} workers in pods: kubectl get pods -l dask.org/cluster-name={cluster.name}")
        yield Cluster(client, n_workers, watch(client, cluster.name, request.say))


def _take_back(cluster_class: Any) -> None:
    """Remove the remains of a failed cluster; dask-kubernetes would retry with error messages at Python's exit."""
    for cluster in list(cluster_class._instances):  # noqa: SLF001  (the only reference to it)
        with contextlib.suppress(Exception):
            cluster.close(timeout=10)
        cluster_class._instances.discard(cluster)  # noqa: SLF001


def cluster_spec(name: str, request: Resources, configured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the cluster that the operator creates.

    Parameters
    ----------
    name : str
        Name of the cluster.
    request : Resources
        What the build needs, and the user's options.
    configured : mapping
        The section ``kubernetes`` of Dask's configuration.

    Returns
    -------
    dict
        A DaskCluster in the form of its custom resource definition, without workers.

    Raises
    ------
    CallError
        If no image is configured, or a pod has too little memory for a shard.
    """
    from dask_kubernetes.operator import make_cluster_spec  # noqa: PLC0415  (an extra, and slow to import)

    image = configured.get("image")
    if not image or image == PRESET:
        raise CallError(
            "no image with the libraries of melzarr is configured; build one (docs/kubernetes.md has it in four "
            "lines) and set it in Dask's configuration: kubernetes.image, or DASK_KUBERNETES__IMAGE"
        )
    least = request.worker_bytes + NANNY_BYTES
    resources = copy.deepcopy(configured.get("resources") or {})
    given = resources.get("limits", {}).get("memory") or resources.get("requests", {}).get("memory")
    memory = request.memory or (quantity(given) if given else least)
    if memory < least:
        raise CallError(
            f"a pod of {memory / 1e9:.2f} GB is too small: one shard of this spec needs {least / 1e9:.2f} GB; use "
            f"--memory {-(-least // 1_000_000)}MB, or a smaller --tracks-per-shard"
        )
    command = configured.get("worker-command")
    if not command or command == "dask-worker":  # the preset, a command that Dask no longer has
        command = "dask worker --nthreads 1 --death-timeout 60"
    words = command.split() if isinstance(command, str) else list(command)
    spec = make_cluster_spec(
        name=name,
        image=image,
        n_workers=0,
        env=environment(configured.get("env")),
        worker_command=[*words, "--memory-limit", str(memory - NANNY_BYTES)],
        scheduler_service_type=configured.get("scheduler-service-type") or "ClusterIP",
        idle_timeout=int(configured.get("idle-timeout") or IDLE),
    )
    worker, scheduler = (spec["spec"][role]["spec"]["containers"][0] for role in ("worker", "scheduler"))
    if configured.get("env-from"):  # secrets by name: their contents are not read here
        worker["envFrom"] = configured["env-from"]
    worker["resources"] = resources
    for kind in ("requests", "limits"):
        resources.setdefault(kind, {})["memory"] = str(memory)
    resources["requests"].setdefault("cpu", "1")
    scheduler["resources"] = {"requests": {"cpu": "1", "memory": str(SCHEDULER_BYTES)}}
    scheduler["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104  (a pod is reached from outside)
    asked = {
        "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": repr([*dask.config.get("distributed.scheduler.http.routes"), API]),
        "DASK_DISTRIBUTED__ADAPTIVE__TARGET_DURATION": TARGET,
    }
    scheduler["env"] = environment(configured.get("env"), asked)
    return dict(spec)


def environment(configured: Any, preset: Mapping[str, str] = ENVIRONMENT) -> list[dict[str, Any]]:
    """Return a container's environment: presets, overridden by configured variables (a mapping or Kubernetes' list)."""
    given = configured or []
    if isinstance(given, Mapping):
        given = [{"name": key, "value": str(value)} for key, value in given.items()]
    names = {variable["name"] for variable in given}
    return [*({"name": key, "value": value} for key, value in preset.items() if key not in names), *given]


def quantity(text: str | int) -> int:
    """Parse a number of bytes in the notation of Kubernetes, such as 2Gi or 500M."""
    return int(parse_bytes(f"{text}B" if str(text)[-1].isalpha() else text))


def watch(client: distributed.Client, name: str, say: Say) -> Callable[[], None]:
    """Return a function that reports a wait for pods, and raises a BuildError if none comes within `WAIT` s."""
    seen = time.monotonic()
    said = seen

    def look() -> None:
        nonlocal seen, said
        now = time.monotonic()
        if client.nthreads():
            seen = now
        elif now - seen > WAIT:
            raise BuildError(
                f"for {WAIT} s no pod has become a worker; run kubectl describe pods -l dask.org/cluster-name={name}, "
                f"fix the problem that it shows, then run the same command"
            )
        elif now - max(seen, said) > SAY:
            said = now
            say(f"waiting for pods: kubectl get pods -l dask.org/cluster-name={name}")

    return look


def sentence(error: BaseException) -> str:
    """Return a sentence: why Kubernetes starts no scheduler, and what to do."""
    said = " ".join(str(error).split()) or type(error).__name__
    unknown = getattr(getattr(error, "response", None), "status_code", None) == 404  # DaskCluster is unknown
    if unknown or "Custom Resource Definitions" in said or "Operator" in said:
        return f"Kubernetes has no Dask operator that answers ({said}); install it: {INSTALL}"
    if type(error).__name__ == "SchedulerStartupError":
        return f"the scheduler's pod does not start ({said}); the image needs melzarr or its libraries"
    return (
        f"no Kubernetes cluster accepts the scheduler ({type(error).__name__}: {said}); kubectl get daskclusters must "
        f"work here: set a cluster in ~/.kube/config or KUBECONFIG, or run this in a pod that is allowed to create one"
    )
