"""What the chart lets its pods do: the restricted Pod Security profile by default, and exactly what a profile names.

The rules of the restricted profile are written out here as https://kubernetes.io/docs/concepts/security/pod-security-standards
lists them, so that a pod is judged as the API server would.
"""

from __future__ import annotations

from typing import Any

import pytest

from support import chart

SAFE_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: dict[str, Any]) -> list[str]:
    """Why an API server that enforces the restricted profile would refuse this pod; empty: it would not."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for volume in pod.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - SAFE_VOLUMES]
    shared = pod.get("securityContext", {})
    for container in chart.containers(pod):
        own = container.get("securityContext", {})

        def either(name: str, own: dict[str, Any] = own) -> Any:
            return own.get(name, shared.get(name))

        capabilities = own.get("capabilities", {})
        if own.get("privileged"):
            found.append("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if either("runAsNonRoot") is not True:
            found.append("runAsNonRoot")
        if either("runAsUser") == 0:
            found.append("runAsUser 0")
        if (either("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("seccompProfile")
        if "ALL" not in capabilities.get("drop", []):
            found.append("capabilities not dropped")
        found += [f"capability {name}" for name in capabilities.get("add", []) if name != "NET_BIND_SERVICE"]
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append("hostPort")
        if own.get("procMount", "Default") != "Default":
            found.append("procMount")
    return sorted(found)


def agent(variation: str) -> dict[str, Any]:
    pod: dict[str, Any] = chart.named(chart.manifests(variation), "DaemonSet")["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("variation", chart.RESTRICTED)
def test_every_pod_is_admitted_under_the_restricted_profile(variation: str) -> None:
    for name, pod in chart.pods(chart.manifests(variation)):
        assert violations(pod) == [], name


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_every_container_has_a_root_that_cannot_be_written_and_a_number_as_user(variation: str) -> None:
    for name, pod in chart.pods(chart.manifests(variation)):
        for container in chart.containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "privileged" not in container["securityContext"], name
        assert isinstance(pod["securityContext"]["runAsUser"], int), name


@pytest.mark.parametrize("variation", chart.VARIATIONS)
def test_only_the_agents_pods_ever_leave_the_restricted_profile(variation: str) -> None:
    for name, pod in chart.pods(chart.manifests(variation)):
        if not name.startswith("DaemonSet"):
            assert violations(pod) == [], name


class TestProfiles:
    """Each profile adds what it names, and nothing else."""

    ADDED = {  # noqa: RUF012  # never changed
        "pod-resources": {"runAsNonRoot", "runAsUser 0", "volume hostPath"},
        "rapl": {"runAsNonRoot", "runAsUser 0", "volume hostPath"},
        "host-pid": {"runAsNonRoot", "runAsUser 0", "hostPID", "capability SYS_PTRACE", "capability DAC_READ_SEARCH"},
        "mig": {"runAsNonRoot", "runAsUser 0", "capability SYS_ADMIN", "allowPrivilegeEscalation"},
    }
    PATHS = {  # noqa: RUF012  # never changed
        "pod-resources": {"/var/lib/kubelet/pod-resources"},
        "rapl": {"/sys"},
        "host-pid": set(),
        "mig": set(),
    }

    @pytest.mark.parametrize("profile", ADDED)
    def test_it_adds_what_it_names(self, profile: str) -> None:
        assert set(violations(agent(profile))) == self.ADDED[profile]

    @pytest.mark.parametrize("profile", ADDED)
    def test_it_shows_the_paths_that_it_names_and_none_to_write_to(self, profile: str) -> None:
        pod = agent(profile)
        paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
        assert set(paths.values()) == self.PATHS[profile]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        for name in paths:
            assert mounts[name]["readOnly"] is True

    @pytest.mark.parametrize("profile", ADDED)
    def test_it_is_explained_in_the_values(self, profile: str) -> None:
        values = (chart.CHART / "values.yaml").read_text()
        said = values.partition(f"  #   {profile} ")[2].partition("profiles: []")[0]
        for added in self.ADDED[profile] - {"runAsNonRoot", "volume hostPath"}:
            word = {"runAsUser 0": "user 0"}.get(added, added.removeprefix("capability "))
            assert word in said, f"{profile} adds {added} and values.yaml does not say so"
        for path in self.PATHS[profile]:
            assert path in said

    @pytest.mark.parametrize("profile", ADDED)
    def test_nothing_else_of_the_pod_differs(self, profile: str) -> None:
        """Taken away what a profile is about, its pod is the default one."""
        plain, pod = agent("default"), agent(profile)
        for each in (plain, pod):
            each.pop("hostPID", None)
            each.pop("runtimeClassName", None)
            each.pop("securityContext")
            each["volumes"] = [volume for volume in each["volumes"] if "hostPath" not in volume]
            kept = {volume["name"] for volume in each["volumes"]}
            (container,) = each["containers"]
            container.pop("securityContext")
            container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] in kept]
            container["env"] = [v for v in container["env"] if v["name"] != "NVIDIA_MIG_MONITOR_DEVICES"]
        assert pod == plain

    def test_mig_asks_nvidias_runtime_for_the_monitor(self) -> None:
        assert chart.environment(agent("mig")["containers"][0])["NVIDIA_MIG_MONITOR_DEVICES"] == "all"
        assert "NVIDIA_MIG_MONITOR_DEVICES" not in chart.environment(agent("default")["containers"][0])

    def test_an_unknown_profile_is_refused(self) -> None:
        assert "agent.profiles.0" in chart.refusal("--set", "agent.profiles={privileged}")

    def test_a_spool_on_the_host_is_given_to_the_agent_by_a_container_that_can_do_no_more(self) -> None:
        pod = chart.named(chart.manifests("default", "--set", "agent.spool.hostPath=/var/lib/wattmill"), "DaemonSet")[
            "spec"
        ]["template"]["spec"]
        (owner,), (container,) = pod["initContainers"], pod["containers"]
        assert owner["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "DAC_READ_SEARCH"]}
        assert owner["args"][-2:] == ["/var/lib/wattmill", "65532"]
        assert container["securityContext"] == agent("default")["containers"][0]["securityContext"]
        assert pod["securityContext"]["runAsUser"] == 65532
        assert agent("all-profiles")["initContainers"][0]["args"][-1] == "0", "an agent that runs as root owns it"


class TestRights:
    """Tokens and what they open."""

    @pytest.mark.parametrize("variation", chart.VARIATIONS)
    def test_only_the_agent_has_a_token_and_only_to_see_pods(self, variation: str) -> None:
        found = chart.manifests(variation)
        for name, pod in chart.pods(found):
            reads_pods = name.startswith("DaemonSet") and variation != "agents-only"
            assert pod["automountServiceAccountToken"] is reads_pods, name
        for each in found:
            if each["kind"] == "ServiceAccount":
                assert each["automountServiceAccountToken"] is False
        rules = [rule for each in found if each["kind"].endswith("Role") for rule in each["rules"]]
        allowed = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
        assert rules == ([] if variation in ("agents-only", "service-only") else [allowed])

    def test_the_right_is_the_agents_account_of_this_namespace(self) -> None:
        found = chart.manifests()
        binding = chart.named(found, "ClusterRoleBinding")
        account = chart.named(found, "DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "mill"}]
        assert binding["roleRef"]["name"] == chart.named(found, "ClusterRole")["metadata"]["name"]

    @pytest.mark.parametrize("variation", chart.VARIATIONS)
    def test_the_agent_is_given_no_key_but_its_own(self, variation: str) -> None:
        for name, pod in chart.pods(chart.manifests(variation)):
            for volume in pod.get("volumes", []):
                if volume["name"] == "keys" and name.startswith("DaemonSet"):
                    assert volume["secret"]["items"] == [{"key": "agents", "path": "agents"}]

    @pytest.mark.parametrize("variation", chart.VARIATIONS)
    def test_no_secret_stands_in_a_variable_or_a_configuration(self, variation: str) -> None:
        """But a whole database address, for which libpq has no file, and the secret of webhooks without a name."""
        for name, pod in chart.pods(chart.manifests(variation)):
            for container in chart.containers(pod):
                from_secrets = {v["name"] for v in container.get("env", []) if "secretKeyRef" in v.get("valueFrom", {})}
                assert from_secrets <= {"WATTMILL_DATABASE_URL", "WATTMILL_WEBHOOK_SECRET"}, name
                assert not any("wm_" in value for value in chart.environment(container).values()), name


class TestNetwork:
    """Everything is refused that is not named."""

    @staticmethod
    def policies(variation: str) -> dict[str, dict[str, Any]]:
        return {
            each["metadata"]["name"].partition("-")[2]: each["spec"]
            for each in chart.manifests(variation)
            if each["kind"] == "NetworkPolicy"
        }

    @pytest.mark.parametrize("variation", chart.VARIATIONS)
    def test_one_policy_refuses_everything_to_every_pod_of_the_release(self, variation: str) -> None:
        deny = self.policies(variation)["default-deny"]
        assert sorted(deny["policyTypes"]) == ["Egress", "Ingress"]
        assert not deny.keys() & {"ingress", "egress"}
        chosen = deny["podSelector"]["matchLabels"]
        found = chart.manifests(variation)
        labels = [e["spec"]["template"]["metadata"]["labels"] for e in found if "template" in e.get("spec", {})]
        labels += [e["metadata"]["labels"] for e in found if e["kind"] == "Pod"]
        assert labels
        for each in labels:
            assert chosen.items() <= each.items()

    def test_the_flows_are_these(self) -> None:
        assert set(self.policies("default")) == {
            "default-deny",
            "all-to-dns",
            "clients-to-api",
            "prometheus-to-service",
            "service-to-database",
            "database-from-service",
            "test-to-api",
            "agent-to-service",
            "agent-to-engines",
            "agent-to-kubernetes-api",
            "prometheus-to-agent",
        }
        assert set(self.policies("agents-only")) == {
            "default-deny",
            "all-to-dns",
            "agent-to-service",
            "agent-to-engines",
            "prometheus-to-agent",
        }
        assert set(self.policies("everything")) - set(self.policies("default")) == {"service-to-webhooks"}

    def test_the_database_is_reached_by_the_service_and_nobody_else(self) -> None:
        spec = self.policies("default")["database-from-service"]
        (rule,) = spec["ingress"]
        (peer,) = rule["from"]
        (expression,) = peer["podSelector"]["matchExpressions"]
        assert expression["values"] == ["api", "jobs", "migrate"]
        assert peer.keys() == {"podSelector"}, "of this namespace"
        assert rule["ports"] == [{"port": 5432, "protocol": "TCP"}]
        outward = [name for name, each in self.policies("default").items() if "Egress" in each["policyTypes"]]
        assert "database-from-service" not in outward
        dns = self.policies("default")["all-to-dns"]["podSelector"]["matchExpressions"]
        assert dns == [{"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["database"]}]

    def test_every_flow_but_that_to_engines_and_dns_names_ports_and_peers(self) -> None:
        for variation in ("default", "everything", "cloudnativepg", "managed-database"):
            for name, spec in self.policies(variation).items():
                for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
                    assert rule.get("ports") or name == "agent-to-engines", name
                    open_to_all = not (rule.get("from") or rule.get("to"))
                    assert not open_to_all or name in ("all-to-dns", "clients-to-api"), name

    def test_where_clients_are_named_agents_and_the_test_still_get_in(self) -> None:
        (rule,) = self.policies("everything")["clients-to-api"]["ingress"]
        inside, outside = rule["from"]
        assert inside["podSelector"]["matchExpressions"][0]["values"] == ["agent", "test"]
        assert outside == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}

    def test_an_external_database_is_the_only_one_that_is_reached(self) -> None:
        (rule,) = self.policies("managed-database")["service-to-database"]["egress"]
        assert rule == {
            "ports": [{"port": 6432, "protocol": "TCP"}],
            "to": [{"ipBlock": {"cidr": "10.20.0.0/16"}}],
        }

    def test_they_can_be_left_out(self) -> None:
        assert "NetworkPolicy" not in chart.text("default", "--set", "networkPolicy.enabled=false")
