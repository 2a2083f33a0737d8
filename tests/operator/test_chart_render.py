"""The chart as helm renders it: values, pods, what restarts them, policies, alerts and the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_kit import CHART, documents, helm, is_hook, pod_templates, rendered, values_matrix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from postroad_operator.compile import Snapshot, TierSettings, compile_tier
from postroad_operator.handlers.metrics import OperatorMetrics
from postroad_operator.resources import read
from postroad_transport.config import Role
from postroad_transport.telemetry.metrics import Metrics

MATRIX = values_matrix()
MONITORING = ["--set", "metrics.rules.enabled=true,metrics.dashboard.enabled=true"]
SUPERVISOR = {"postroad_worker_up", "postroad_worker_restarts_total", "postroad_config_last_reload_success"}


def test_the_chart_passes_its_linter() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_the_package_holds_the_definitions(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("postroad-*.tgz")
    shown = helm("show", "crds", str(archive)).stdout
    kinds = re.findall(r"^    kind: (\w+)$", shown, re.MULTILINE)
    assert kinds == ["AcceptedDomain", "ReceiveConnector", "SendConnector", "TransportCertificate"]


@pytest.mark.parametrize("path", sorted((CHART / "ci").glob("*-values.yaml")), ids=lambda path: path.name)
def test_the_shipped_values_files_are_valid(path: Path) -> None:
    assert documents(rendered("mail", "--values", str(path)))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("transport.replicas=-1", "replicas"),
        ("tier.name=Bad_Name", "name"),
        ("transport.service.type=Magic", "type"),
        ("operator.replicsa=2", "replicsa"),
        ("webhok.enabled=true", "webhok"),
        ("transport.ports[0].targetPort=25", "targetPort"),
        ("image.digest=sha256:abc", "digest"),
        ("transport.spool.size=10 GB", "size"),
        ("defaults.send.target.carrierPigeon.x=1", "carrierPigeon"),
        ("transport.service.externalTrafficPolicy=Cluster", "externalTrafficPolicy"),
        ("transport.service.proxyProtocol.enabled=true", "trustedRanges"),
        ("metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true", "serviceMonitor"),
        ("transport.autoscaling.enabled=true,transport.autoscaling.maxReplicas=2", "maxReplicas"),
        ("defaults.domains=null", "existingSecret"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(value: str, named: str) -> None:
    done = helm("template", "pr", str(CHART), "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


@pytest.mark.parametrize("name", MATRIX)
def test_every_pod_runs_restricted_and_within_limits(name: str) -> None:
    templates = pod_templates(documents(rendered("mail", *MATRIX[name])))
    assert templates
    for template in templates.values():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", MATRIX)
def test_references_between_objects_lead_somewhere(name: str) -> None:
    objects = documents(rendered("mail", *MATRIX[name]))
    pods = [template["metadata"]["labels"] for template in pod_templates(objects).values()]
    for item in objects.values():
        spec = item.get("spec", {})
        selector = {
            "Service": spec.get("selector"),
            "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
            "PodMonitor": spec.get("selector", {}).get("matchLabels"),
        }.get(item["kind"])
        if selector:
            assert any(selector.items() <= labels.items() for labels in pods), item["metadata"]["name"]
        if item["kind"] == "ServiceMonitor":
            services = [other for other in objects.values() if other["kind"] == "Service"]
            wanted = spec["selector"]["matchLabels"].items()
            assert sum(wanted <= service["metadata"]["labels"].items() for service in services) == 1
        if item["kind"].endswith("RoleBinding"):
            assert f"{item['roleRef']['kind']}/{item['roleRef']['name']}" in objects
            for subject in item["subjects"]:
                assert f"ServiceAccount/{subject['name']}" in objects
                assert subject["namespace"] == "mail"
    for template in pod_templates(objects).values():
        account = template["spec"].get("serviceAccountName")
        assert account is None or f"ServiceAccount/{account}" in objects


FLAGS = [
    "operator.allNamespaces",
    "tier.clientAddressesHidden",
    "transport.autoscaling.enabled",
    "transport.spool.persistent",
    "transport.podDisruptionBudget.enabled",
    "defaults.enabled",
    "defaults.certificate.enabled",
    "defaults.internet.enabled",
    "defaults.submission.enabled",
    "defaults.send.enabled",
    "networkPolicy.enabled",
    "metrics.podMonitor.enabled",
    "metrics.rules.enabled",
    "metrics.dashboard.enabled",
    "crds.upgrade",
    "test.enabled",
    "webhook.enabled",
    "transport.reviewTokens",
]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    flags=st.lists(st.booleans(), min_size=len(FLAGS), max_size=len(FLAGS)),
    role=st.sampled_from(["hub", "edge"]),
    service=st.sampled_from(["LoadBalancer", "NodePort", "ClusterIP"]),
    tier=st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True),
)
def test_switches_can_be_combined_freely(flags: list[bool], role: str, service: str, tier: str) -> None:
    values = ",".join(f"{name}={str(flag).lower()}" for name, flag in zip(FLAGS, flags, strict=True))
    objects = documents(
        rendered("mail", "--set", f"{values},tier.role={role},transport.service.type={service},tier.name={tier}")
    )
    assert f"StatefulSet/pr-{tier}" in objects
    for item in objects.values():
        assert len(item["metadata"]["name"]) <= 63
        if item["apiVersion"].startswith("postroad.dev/"):
            assert item["spec"]["tier"] == tier


@pytest.mark.parametrize("name", ["defaults", "kind", "edge, node ports", "proxy protocol", "own defaults"])
def test_default_resources_are_accepted_without_an_avoidable_warning(name: str, tmp_path: Path) -> None:
    values = [*MATRIX[name], "--set-json", "defaults.certificate.source={}"]
    if name == "own defaults":
        values += ["--set", "defaults.submission.existingSecret="]
    objects = documents(rendered("mail", *values))
    arguments = objects["Deployment/pr-operator"]["spec"]["template"]["spec"]["containers"][0]["args"]
    wanted = [item for item in objects.values() if item["apiVersion"].startswith("postroad.dev/")]
    wanted += [item for item in objects.values() if item["kind"] == "Secret"]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(wanted))
    manifests = read(tmp_path)
    assert (manifests.faults, manifests.notes) == ([], [])
    settings = TierSettings(
        role=Role.EDGE if "--role=edge" in arguments else Role.HUB,
        hostname="mail.example",
        client_addresses_visible="--client-addresses-hidden" not in arguments,
    )
    verdicts = compile_tier(Snapshot(settings, tuple(manifests.objects))).verdicts
    assert len(verdicts) >= 4
    for verdict in verdicts:
        assert verdict.accepted, verdict
        # Where a tier cannot see its clients, bans are off, and it is told.
        told = [warning for warning in verdict.warnings if "does not see its clients' addresses" not in warning]
        assert told == []
        assert settings.client_addresses_visible <= (not verdict.warnings)


def transport_template(*values: str, chart: Path = CHART) -> Any:
    spec = documents(rendered("mail", *values, chart=chart))["StatefulSet/pr-default"]["spec"]
    return {key: spec[key] for key in ("template", "volumeClaimTemplates", "selector", "serviceName")}


@pytest.mark.parametrize(
    "name",
    [
        *("all namespaces", "internal", "proxy protocol", "load balancer", "pod monitors", "narrow policies"),
        *("no defaults", "own defaults", "no policies", "autoscaling"),
    ],
)
def test_what_is_not_about_the_transport_pods_restarts_none(name: str) -> None:
    values = [value.replace("transport.spool.storageClassName=fast", "commonLabels.a=b") for value in MATRIX[name]]
    assert transport_template(*values) == transport_template()


def test_a_new_port_and_its_connector_restart_no_pod() -> None:
    ports = '[{"name":"smtp","port":25,"targetPort":2525},{"name":"partners","port":26,"targetPort":2526}]'
    objects = documents(rendered("mail", "--set-json", f"transport.ports={ports}"))
    assert objects["StatefulSet/pr-default"]["spec"]["template"] == transport_template()["template"]
    assert {"name": "partners", "port": 26, "targetPort": 2526} in objects["Service/pr-default"]["spec"]["ports"]


def test_a_new_version_with_a_new_operator_only_restarts_no_transport_pod(tmp_path: Path) -> None:
    newer = tmp_path / "postroad"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^(version|appVersion): .*", r"\1: 9.9.9", text))
    before, after = documents(rendered("mail")), documents(rendered("mail", chart=newer))
    image = lambda objects: objects["Deployment/pr-operator"]["spec"]["template"]["spec"]["containers"][0]["image"]  # noqa: E731 (used twice)
    assert image(before) != image(after) == "postroad:9.9.9"
    assert transport_template() == transport_template(chart=newer)


def test_an_upgrade_of_the_operator_alone_leaves_the_transport_pods() -> None:
    before, after = (
        documents(rendered("default", "--set", f"image.tag={tag},operator.leaseDuration=20,transport.image.tag=v1"))
        for tag in ("v1", "v2")
    )
    assert before["Deployment/pr-operator"] != after["Deployment/pr-operator"]
    assert before["StatefulSet/pr-default"]["spec"] == after["StatefulSet/pr-default"]["spec"]


def test_an_image_is_what_the_values_say() -> None:
    def images(*values: str) -> tuple[str, str]:
        objects = documents(rendered("mail", *values))
        operator, transport = (
            objects[name]["spec"]["template"]["spec"]["containers"][0]["image"]
            for name in ("Deployment/pr-operator", "StatefulSet/pr-default")
        )
        return operator, transport

    digest, other = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    assert images("--set", "image.tag=dev") == ("postroad:dev", "postroad:dev")
    assert images("--set", f"image.repository=r.example/p,image.tag=v1,image.digest={digest}") == (
        f"r.example/p:v1@{digest}",
        f"r.example/p:v1@{digest}",
    )
    # The digest of one image is not that of another.
    assert images("--set", f"image.tag=v2,image.digest={digest},transport.image.tag=v1") == (
        f"postroad:v2@{digest}",
        "postroad:v1",
    )
    assert images("--set", f"image.tag=v2,transport.image.tag=v1,transport.image.digest={other}")[1] == (
        f"postroad:v1@{other}"
    )


def test_the_grace_period_covers_what_a_pod_does_on_its_way_out() -> None:
    spec = transport_template("--set-json", "transport.drainTimeout=60.5", "--set", "transport.preStopSeconds=10")[
        "template"
    ]["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 10
    # The supervisor kills workers 5 s after the drain timeout.
    assert spec["terminationGracePeriodSeconds"] >= 10 + 61 + 5


def test_cluster_wide_rights_are_given_only_where_they_are_wanted() -> None:
    namespaced, everywhere = (documents(rendered("mail", *MATRIX[name])) for name in ("defaults", "all namespaces"))
    # Those of the Job that brings definitions go when it is done.
    assert not [name for name, item in namespaced.items() if name.startswith("Cluster") and not is_hook(item)]
    assert "ClusterRole/pr-mail-resources" in everywhere
    none = documents(rendered("mail", "--set", "crds.upgrade=false"))
    assert not any(name.startswith("Cluster") for name in none)


def test_no_right_is_a_wildcard() -> None:
    for name, item in documents(rendered("mail", *MATRIX["all namespaces"])).items():
        if item["kind"] in ("Role", "ClusterRole"):
            for rule in item["rules"]:
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], name


def test_the_definitions_that_an_upgrade_may_change_are_ours() -> None:
    roles = documents(rendered("mail"))["ClusterRole/pr-crds-mail"]["rules"]
    ours = sorted(path.stem for path in (CHART / "crds").glob("*.yaml"))
    assert roles[0]["resourceNames"] == ours
    assert roles[1]["verbs"] == ["create"]


def test_metrics_and_configz_are_for_the_operator_prometheus_and_the_test_only() -> None:
    ingress = documents(rendered("mail"))["NetworkPolicy/pr-default"]["spec"]["ingress"]
    for rule in ingress:
        if any(port["port"] == 9925 for port in rule["ports"]):
            peers = [peer.get("podSelector", peer.get("namespaceSelector"))["matchLabels"] for peer in rule["from"]]
            assert [labels.get("app.kubernetes.io/component") for labels in peers] == ["operator", "test", None]
            break
    else:
        pytest.fail("nobody may read the metrics")
    assert ingress[0].get("from") is None


def test_a_policy_that_names_clients_still_lets_the_tier_reach_itself() -> None:
    objects = documents(rendered("mail", *MATRIX["narrow policies"]))
    (first, *_) = objects["NetworkPolicy/pr-default"]["spec"]["ingress"]
    assert {"ipBlock": {"cidr": "192.0.2.0/24"}} in first["from"]
    assert any("postroad.dev/tier" in peer.get("podSelector", {}).get("matchLabels", {}) for peer in first["from"])


def test_servers_may_send_to_those_of_any_tier_in_the_cluster_on_their_pods_own_ports() -> None:
    objects = documents(rendered("mail", *MATRIX["narrow policies"]))
    (rule,) = [
        rule for rule in objects["NetworkPolicy/pr-default"]["spec"]["egress"] if "namespaceSelector" in str(rule)
    ]
    assert [port["port"] for port in rule["ports"]] == [2525, 2587, 2465]
    (peer,) = rule["to"]
    assert peer["namespaceSelector"] == {}
    template = objects["StatefulSet/pr-default"]["spec"]["template"]
    assert peer["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_the_test_waits_for_a_network_that_hears_of_its_pod_late() -> None:
    (container,) = documents(rendered("mail"))["Pod/pr-test"]["spec"]["containers"]
    assert "--wait=30" in container["args"]


def test_default_connectors_expect_the_proxy_protocol_where_the_service_speaks_it() -> None:
    objects = documents(rendered("mail", *MATRIX["proxy protocol"]))
    bindings = [
        binding
        for item in objects.values()
        if item["kind"] == "ReceiveConnector"
        for binding in item["spec"]["bindings"]
    ]
    assert len(bindings) == 3
    for binding in bindings:
        assert binding["proxyProtocol"]["trustedRanges"] == ["10.0.0.0/8", "fd00::/8"]


def rules(*values: str) -> dict[str, Any]:
    objects = documents(rendered("mail", *MONITORING, *values))
    return dict(objects["PrometheusRule/pr"]["spec"])


def promtool(*arguments: str, cwd: Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("NO PROMTOOL: the alerts are not checked (Debian: prometheus)")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_takes_the_alerts(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    assert "rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", cwd=tmp_path)


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    found = json.loads(json.dumps(rules()))
    for group in found["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["description"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(found))
    shutil.copy(Path(__file__).with_name("alert_cases.yaml"), tmp_path / "cases.yaml")
    assert "SUCCESS" in promtool("test", "rules", "cases.yaml", cwd=tmp_path)


def test_every_alert_has_a_case() -> None:
    cases = yaml.safe_load(Path(__file__).with_name("alert_cases.yaml").read_text())
    tested = {
        case["alertname"] for test in cases["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    assert tested == {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}


def test_alerts_have_a_severity_a_summary_and_thresholds_of_the_values() -> None:
    text = json.dumps(rules("--set", "metrics.rules.queueAgeSeconds=123,metrics.rules.certificateDays=45"))
    assert "> 123" in text
    assert "45 * 86400 >= 0" in text
    assert "@" not in text
    for group in rules()["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]
            assert 'namespace="mail"' in rule["expr"]


def exposed() -> set[str]:
    """Return every series name that a scrape can have."""
    registry = CollectorRegistry()
    Metrics(registry)
    names = set(SUPERVISOR)
    for family in [*registry.collect(), *OperatorMetrics().registry.collect()]:
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_alerts_and_dashboard_speak_of_metrics_that_there_are() -> None:
    objects = documents(rendered("mail", *MONITORING))
    dashboard = json.loads(objects["ConfigMap/pr-dashboard"]["data"]["postroad.json"])
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    assert len(queries) > 40
    used = {name for query in queries for name in re.findall(r"\bpostroad_\w+", query)}
    assert used <= exposed()


def test_the_queries_of_the_dashboard_parse(tmp_path: Path) -> None:
    objects = documents(rendered("mail", *MONITORING))
    dashboard = json.loads(objects["ConfigMap/pr-dashboard"]["data"]["postroad.json"])
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    recorded = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    promtool("check", "rules", "rules.yaml", cwd=tmp_path)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
