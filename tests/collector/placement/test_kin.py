"""Which processes belong to which engine: the trees that engines really grow, and those that only look like theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.process_tree import ProcessTree, docker
from wattmill_collector.placement.kin import Kin

UNIT = "/system.slice/vllm.service"
POD = "6f1c0b1e-0000-4000-8000-0123456789ab"


@pytest.fixture
def tree(tmp_path: Path) -> ProcessTree:
    return ProcessTree(tmp_path)


def kin(tree: ProcessTree, listeners: dict[str, int], holders: list[int]) -> dict[str, list[int]]:
    """Engine → those of the holders that are its."""
    one = Kin({name: tree[pid] for name, pid in listeners.items()}, tree.table)
    return {name: [pid for pid in holders if name in one.targets_of(pid)] for name in listeners}


def vllm(tree: ProcessTree, server: int, workers: int, parent: int = 1, cgroup: str = "/") -> list[int]:
    """API server, engine core, a worker for each board: tensor parallelism of 4 makes 6 processes."""
    tree.add(server, parent, name="vllm", cgroup=cgroup)
    tree.add(server + 1, server, name="VLLM::EngineCore", group=server, cgroup=cgroup)
    ranks = [server + 2 + rank for rank in range(workers)]
    for rank, pid in enumerate(ranks):
        tree.add(pid, server + 1, name=f"VLLM::Worker_TP{rank}", group=server, cgroup=cgroup)
    return ranks


def test_two_vllm_of_one_shell(tree: ProcessTree) -> None:
    tree.add(10, name="bash")
    one, two = vllm(tree, 100, 4, 10), vllm(tree, 200, 4, 10)
    assert kin(tree, {"one": 100, "two": 200}, one + two) == {"one": one, "two": two}


def test_data_parallel_ranks_are_children_of_the_one_that_listens(tree: ProcessTree) -> None:
    tree.add(100, name="vllm")
    cores = [tree.add(110 + rank, 100, name=f"VLLM::EngineCore_DP{rank}").pid for rank in range(4)]
    workers = [tree.add(120 + n, cores[n // 2], name=f"VLLM::Worker_TP{n % 2}").pid for n in range(8)]
    assert kin(tree, {"dp": 100}, workers) == {"dp": workers}


def test_sglang_schedulers_and_llama_cpp_itself(tree: ProcessTree) -> None:
    tree.add(100)
    ranks = [tree.add(110 + rank, 100, name=f"sglang::scheduler_TP{rank}").pid for rank in range(2)]
    tree.add(200, name="llama-server")
    assert kin(tree, {"sglang": 100, "llama": 200}, [*ranks, 200]) == {"sglang": ranks, "llama": [200]}


@pytest.mark.parametrize("where", ["/", docker(7)])
def test_shards_and_router_of_tgi_have_one_launcher_and_groups_of_their_own(tree: ProcessTree, where: str) -> None:
    """The router listens; the shards are older than it, and nothing but the launcher leads from them to it."""
    for base in (100, 200):
        cgroup = where if base == 100 or where == "/" else docker(8)
        tree.add(base, name="text-generation-launcher", cgroup=cgroup)
        tree.add(base + 1, base, name="text-generation-server", cgroup=cgroup)
        tree.add(base + 2, base, name="text-generation-server", cgroup=cgroup)
        tree.add(base + 3, base, name="text-generation-router", cgroup=cgroup)
    holders = [101, 102, 201, 202]
    assert kin(tree, {"a": 103, "b": 203}, holders) == {"a": [101, 102], "b": [201, 202]}


def test_ranks_under_mpirun_belong_to_the_one_that_listens(tree: ProcessTree) -> None:
    """Triton with TensorRT-LLM: rank 0 serves."""
    tree.add(100, name="mpirun")
    ranks = [tree.add(101 + rank, 100, name="tritonserver").pid for rank in range(4)]
    assert kin(tree, {"triton": 101}, ranks) == {"triton": ranks}


def test_python_backends_of_triton_are_its_children(tree: ProcessTree) -> None:
    tree.add(100, name="tritonserver")
    assert kin(tree, {"triton": 100}, [tree.add(101, 100, name="triton_python_backend_stub").pid]) == {"triton": [101]}


@pytest.mark.parametrize(
    "form",
    [
        "/system.slice/docker-{}.scope",
        "/docker/{}",
        "/machine.slice/libpod-{}.scope/container",
        f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{{}}.scope",
        f"12:pids:/kubepods/burstable/pod{POD}/{{}}\n0::/",
        "/docker/" + "e" * 64 + "/kubelet/kubepods/pod1/{}",
    ],
)
def test_a_container_joins_what_descent_does_not(tree: ProcessTree, form: str) -> None:
    """Ray's workers in the container of their engine, started from a raylet that is nobody's child."""
    for base in (100, 200):
        tree.add(base, name="vllm", cgroup=docker(base, form))
        tree.add(base + 1, name="raylet", cgroup=docker(base, form))
        tree.add(base + 2, base + 1, name="ray::RayWorkerWrapper", cgroup=docker(base, form))
    assert kin(tree, {"a": 100, "b": 200}, [102, 202]) == {"a": [102], "b": [202]}


def test_in_one_container_descent_tells_engines_apart(tree: ProcessTree) -> None:
    where = docker(7)
    one, two = vllm(tree, 100, 2, cgroup=where), vllm(tree, 200, 2, cgroup=where)
    tree.add(300, cgroup=where)  # fits both
    assert kin(tree, {"one": 100, "two": 200}, [*one, *two, 300]) == {"one": one, "two": two}


def test_a_proxy_in_a_container_of_the_engines_pod(tree: ProcessTree) -> None:
    form = f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{{}}.scope"
    tree.add(100, name="envoy", cgroup=docker(1, form))
    workers = vllm(tree, 200, 2, cgroup=docker(2, form))
    other = vllm(tree, 300, 2, cgroup=docker(3))
    assert kin(tree, {"proxy": 100}, workers + other) == {"proxy": workers}


def test_a_service_joins_what_it_started(tree: ProcessTree) -> None:
    tree.add(100, cgroup=UNIT)
    tree.add(101, cgroup=UNIT)  # went its own way after the server had started it
    tree.add(102, cgroup="/system.slice/train.service")
    assert kin(tree, {"e": 100}, [101, 102]) == {"e": [101]}


# --- what is nobody's ---


def test_a_worker_that_outlived_its_server_is_not_the_next_servers(tree: ProcessTree) -> None:
    """The service was restarted with KillMode=process: the same unit, and boards that are still held."""
    old = vllm(tree, 100, 2, cgroup=UNIT)
    tree.end(100)
    new = vllm(tree, 200, 2, cgroup=UNIT)
    assert kin(tree, {"e": 200}, old + new) == {"e": new}


@pytest.mark.parametrize("manager", ["systemd", "tini", "containerd-shim"])
def test_nor_under_what_adopts_orphans(tree: ProcessTree, manager: str) -> None:
    """A user's own service manager, or the init of a container, is the next parent of both."""
    tree.add(50, name=manager, cgroup=UNIT)
    for base in (100, 200):
        tree.add(base, 50, name="server", cgroup=UNIT)
        tree.add(base + 1, base, name="worker", cgroup=UNIT, group=base)
        if base == 100:
            tree.end(100, heir=50)
    assert kin(tree, {"e": 200}, [101, 201]) == {"e": [201]}


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_worker_by_its_own_name_that_a_shell_inherited(tree: ProcessTree, shell: str) -> None:
    """The entry point of a container starts the server anew: one container, one parent for both."""
    where = docker(7)
    tree.add(50, name=shell, cgroup=where)
    old = vllm(tree, 100, 2, 50, cgroup=where)
    tree.end(100, heir=50)
    new = vllm(tree, 200, 2, 50, cgroup=where)
    assert kin(tree, {"e": 200}, old + new) == {"e": new}
    assert Kin({}, tree.table).has_lost_its_server(old[0])
    assert not Kin({}, tree.table).has_lost_its_server(new[0])


def test_what_the_server_itself_left_without_a_parent_is_its_own(tree: ProcessTree) -> None:
    tree.add(100, cgroup=UNIT)
    tree.add(101, cgroup=UNIT)
    tree.add(102, group=100)
    assert kin(tree, {"e": 100}, [101, 102]) == {"e": [101, 102]}


def test_a_script_that_starts_an_engine_and_a_training_joins_nothing(tree: ProcessTree) -> None:
    tree.add(50, name="bash", cgroup="/user.slice/user-1000.slice/session-3.scope")
    tree.add(100, 50, group=50, cgroup="/user.slice/user-1000.slice/session-3.scope")
    tree.add(200, 50, group=50, cgroup="/user.slice/user-1000.slice/session-3.scope")
    assert kin(tree, {"e": 100}, [200]) == {"e": []}


def test_what_started_one_server_holds_its_board_and_what_started_two_holds_nobodys(tree: ProcessTree) -> None:
    tree.add(50)
    tree.add(100, 50)
    assert kin(tree, {"e": 100}, [50]) == {"e": [50]}
    tree.add(200, 50)
    assert kin(tree, {"e": 100, "f": 200}, [50]) == {"e": [], "f": []}


def test_a_process_that_is_gone_is_nobodys(tree: ProcessTree) -> None:
    tree.add(100)
    assert kin(tree, {"e": 100}, [4711]) == {"e": []}
