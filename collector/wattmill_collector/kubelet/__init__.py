"""What Kubernetes knows of this node: which pod holds which device, and where pods serve their pages.

Two sources, each with its own file: the kubelet's pod-resources socket (`pod_resources.py` over `http2.py`, `hpack.py`
and `protobuf.py`) and the Kubernetes API (`api.py`, `pods.py`). `book.py` keeps what both said last. Standard library
only (docs/decisions/0006): a gRPC library would take half of what the agent may hold in memory.
"""
