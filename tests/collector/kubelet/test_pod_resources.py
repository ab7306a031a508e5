"""Who holds which device, as a real gRPC server says it; and what each form of an id means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kubelet_standin import CLASSES, KubeletStandin
from wattmill_collector.kubelet.devices import Names, Part, part_of
from wattmill_collector.kubelet.pod_resources import Device, Holder, list_holders, parse_holders
from wattmill_collector.sources.addresses import FetchError

UUID = "GPU-7d1c4a30-5717-4000-8000-0123456789ab"


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletStandin]:
    with KubeletStandin(tmp_path / "kubelet.sock") as standin:
        yield standin


def test_devices_of_plugins_by_container(kubelet: KubeletStandin) -> None:
    kubelet.give("search", "chat-0", "vllm", {"nvidia.com/gpu": [UUID, "GPU-b"], "rdma/hca": ["mlx5_0"]})
    kubelet.give("search", "chat-0", "proxy", {})
    kubelet.give("ads", "rank-1", "sglang", {"nvidia.com/mig-1g.10gb": ["MIG-c"]})
    assert list_holders(kubelet.socket) == (
        Holder(
            "search",
            "chat-0",
            "vllm",
            (Device("nvidia.com/gpu", UUID), Device("nvidia.com/gpu", "GPU-b"), Device("rdma/hca", "mlx5_0")),
        ),
        Holder("ads", "rank-1", "sglang", (Device("nvidia.com/mig-1g.10gb", "MIG-c"),)),
    )


def test_devices_of_claims(kubelet: KubeletStandin) -> None:
    kubelet.claim("search", "chat-0", "vllm", driver="gpu.nvidia.com", pool="gpu-017", device="gpu-3")
    kubelet.claim("search", "chat-1", "vllm", driver="gpu.nvidia.com", pool="gpu-017", device="gpu-4", share="17")
    kubelet.claim("search", "chat-2", "vllm", cdi="k8s.gpu.nvidia.com/device=gpu-5")
    assert [holder.devices for holder in list_holders(kubelet.socket)] == [
        (Device("gpu.nvidia.com", "gpu-3", claimed=True),),
        (Device("gpu.nvidia.com", "gpu-4", claimed=True, portion=True),),
        (Device("k8s.gpu.nvidia.com/device", "gpu-5", claimed=True),),
    ]


def test_a_device_that_is_listed_for_each_of_its_numa_nodes_is_one_device(kubelet: KubeletStandin) -> None:
    kubelet.give("search", "chat-0", "vllm", {"nvidia.com/gpu": [UUID, UUID]})
    [holder] = list_holders(kubelet.socket)
    assert holder.devices == (Device("nvidia.com/gpu", UUID),)


def test_fields_of_a_later_kubelet_are_passed_over(kubelet: KubeletStandin) -> None:
    """Field 99 as a number, as 8 and as 4 bytes and as bytes, in front of what is known."""
    kubelet.give("search", "chat-0", "vllm", {"nvidia.com/gpu": [UUID]})
    strange = b"\x98\x06\x96\x01" + b"\x99\x06" + bytes(8) + b"\x9d\x06" + bytes(4) + b"\x9a\x06\x02hi"
    answer = strange + kubelet.answer.SerializeToString()
    assert parse_holders(answer) == list_holders(kubelet.socket)


@pytest.mark.parametrize(
    "answer",
    [b"\x0a\x05abc", b"\x0a", b"\x0b", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x02\x08\x01"],
)
def test_what_is_no_list_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_holders(answer)


def test_an_answer_that_is_no_list_has_a_reason(kubelet: KubeletStandin) -> None:
    kubelet.answer = CLASSES["CDIDevice"](name="\x0b")
    with pytest.raises(FetchError) as caught:
        list_holders(kubelet.socket)
    assert caught.value.failure.reason == "not_understood"


NAMES = Names(
    by_index={0: "GPU-first", 1: "GPU-second"},
    by_minor={0: "GPU-second", 1: "GPU-first"},  # the driver counts otherwise than /dev
    parent_of={"MIG-slice": "GPU-second"}.get,
)


@pytest.mark.parametrize(
    ("resource", "name", "part"),
    [
        ("nvidia.com/gpu", UUID, Part(UUID, True)),
        ("nvidia.com/gpu", f"{UUID}::3", Part(UUID, False, replica=True)),
        ("nvidia.com/gpu.shared", f"{UUID}::0", Part(UUID, False, replica=True)),
        ("nvidia.com/mig-1g.10gb", "MIG-slice", Part("GPU-second", False, "MIG-slice")),
        ("nvidia.com/mig-1g.10gb", "MIG-slice::1", Part("GPU-second", False, "MIG-slice", True)),
        ("nvidia.com/gpu", "MIG-elsewhere", Part("", False, "MIG-elsewhere")),
        ("nvidia.com/mig-1g.5gb", f"MIG-{UUID}/7/0", Part(UUID, False, f"MIG-{UUID}/7/0")),
        ("nvidia.com/gpu", "nvidia1", Part("GPU-first", True)),
        ("nvidia.com/gpu", "nvidia0/gi3", Part("GPU-second", False, "GPU-second:3")),
        ("nvidia.com/gpu", "nvidia0/gi3/vgpu1", Part("GPU-second", False, "GPU-second:3", True)),
        ("nvidia.com/gpu", "nvidia0/vgpu1", Part("GPU-second", False, replica=True)),
        ("nvidia.com/gpu", "1", Part("GPU-second", True)),
        ("nvidia.com/gpu", "1::2", Part("GPU-second", False, replica=True)),
        ("nvidia.com/mig-1g.10gb", "0:1", Part("GPU-first", False)),
        ("gpu.nvidia.com", "gpu-1", Part("GPU-first", True)),
        ("gpu.nvidia.com", "gpu-1-mig-19-0-1", Part("GPU-first", False)),
        ("gpu.nvidia.com", "gpu-1-mig-1g10gb-19-4", Part("GPU-first", False)),
        ("k8s.gpu.nvidia.com/claim", "0b8a57d1-4a6e-4d4b-b7cf-5d2f0c7b9c11-gpu-0", Part("GPU-second", True)),
        ("nvidia.com/gpu", "nvidia9", Part("", True)),
        ("nvidia.com/gpu", "a form of tomorrow", Part("", True)),
        ("rdma/hca", "mlx5_0", None),
        ("nvidia.com/hostdev", "0", None),
        ("compute-domain.nvidia.com", "channel-0", None),
    ],
)
def test_what_an_id_means(resource: str, name: str, part: Part | None) -> None:
    assert part_of(Device(resource, name), NAMES) == part


def test_a_portion_of_a_claimed_board_is_not_the_whole_of_it() -> None:
    assert part_of(Device("gpu.nvidia.com", "gpu-0", claimed=True, portion=True), NAMES) == Part(
        "GPU-second", False, replica=True
    )
