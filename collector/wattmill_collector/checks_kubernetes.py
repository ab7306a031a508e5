"""What `wattmill doctor` looks at in Kubernetes: the kubelet's socket and the API, each with what to do."""

from __future__ import annotations

from collections.abc import Iterable

from wattmill_collector.checks import Check
from wattmill_collector.settings import Settings
from wattmill_collector.sources.addresses import FetchError

MOUNT = "Mount /var/lib/kubelet/pod-resources of the host, read-only (a volume of type hostPath)."
FIXES = {
    "no_socket": f"{MOUNT} Or set kubernetes.pod_resources to off: engines are then placed by their processes.",
    "permission_denied": "The socket is root's: run the agent as user 0 (no capability is needed), or switch it off.",
    "connection_refused": "Look at the kubelet; a socket without listener is left over from one that has ended.",
    "grpc_unimplemented": "This kubelet is too old for pod-resources v1 (Kubernetes 1.20 and later have it).",
    "forbidden": "Bind a ClusterRole with get, list and watch on pods to the agent's service account.",
    "unauthorised": "Let the pod have its service account's token (automountServiceAccountToken: true).",
    "tls": "Check ca.crt beside the token, and kubernetes.api.",
}


def check_kubernetes(settings: Settings) -> Iterable[Check]:
    """Whether pods can be placed and named here; nothing outside Kubernetes."""
    kubernetes = settings.kubernetes
    inside = bool(kubernetes.api)
    if kubernetes.asks_kubelet():
        yield _kubelet(settings)
    elif inside:
        yield Check("kubelet", "WARN", "The kubelet is not asked which pod holds which board.", MOUNT)
    if kubernetes.asks_api():
        yield _api(settings)
    elif inside:
        fix = "Set NODE_NAME from spec.nodeName, and let the pod have its service account's token."
        yield Check("kubernetes", "WARN", "The Kubernetes API is not asked for the pods of this node.", fix)


def _kubelet(settings: Settings) -> Check:
    from wattmill_collector.kubelet.pod_resources import list_holders

    socket = settings.kubernetes.socket
    try:
        holders = list_holders(socket)
    except FetchError as error:
        return _failed("kubelet", error)
    devices = sum(len(holder.devices) for holder in holders)
    return Check("kubelet", "OK", f"{socket}: {len(holders)} containers hold {devices} devices")


def _api(settings: Settings) -> Check:
    from wattmill_collector.kubelet.api import GoneError, PodApi

    kubernetes = settings.kubernetes
    node = kubernetes.node_name or settings.node
    try:
        count = sum(len(page) for page, _ in PodApi(kubernetes.api, node, kubernetes.service_account).pages())
    except FetchError as error:
        return _failed("kubernetes", error)
    except GoneError:
        return Check("kubernetes", "WARN", f"{kubernetes.api}: the list changed while it was read.", "Try again.")
    if not count:
        fix = "Set kubernetes.node_name, or NODE_NAME from spec.nodeName: the agent's own pod should be among them."
        return Check("kubernetes", "WARN", f"{kubernetes.api} shows no pod on node {node}.", fix)
    return Check("kubernetes", "OK", f"{kubernetes.api} shows {count} pods on node {node}")


def _failed(subject: str, error: FetchError) -> Check:
    failure = error.failure
    fix = FIXES.get(failure.reason, "Look at what the sentence names; the agent goes on with what it knew last.")
    return Check(subject, "FAIL", f"{failure.reason}: {failure.detail}", fix)
