"""The chart as helm renders it, and a release on an API server whose Jobs and Pods a thread plays."""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_kit import ENVIRONMENT, Cluster, Operator, TransportPod
from control_plane import ApiError, ControlPlane, binary, free_port

CHART = Path(__file__).parents[2] / "charts" / "postroad"
RELEASE = "pr"


def helm(*arguments: str, kubeconfig: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    program = binary("helm")
    if program is None:
        pytest.skip("NO HELM: not found in $KUBEBUILDER_ASSETS, in /usr/local/kubebuilder/bin or on the PATH")
    options = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
    return subprocess.run(
        [program, *arguments, *options], capture_output=True, text=True, timeout=timeout, check=False
    )


@functools.cache
def rendered(namespace: str, *values: str, chart: Path = CHART) -> str:
    done = helm("template", RELEASE, str(chart), "--namespace", namespace, *values)
    assert done.returncode == 0, done.stderr
    return done.stdout


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, which YAML parsers commonly let pass."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key is given twice: {keys}"
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def documents(text: str) -> dict[str, dict[str, Any]]:
    """Return the objects by KIND/NAME; hooks included."""
    found = [item for item in yaml.load_all(text, _Loader) if item]
    named = {f"{item['kind']}/{item['metadata']['name']}": item for item in found}
    assert len(named) == len(found), "two objects have one name"
    return named


def pod_templates(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the metadata and spec of every pod that the objects would make, by object."""
    found = {}
    for name, item in objects.items():
        if item["kind"] == "Pod":
            found[name] = {"metadata": item["metadata"], "spec": item["spec"]}
        elif "template" in item.get("spec", {}):
            found[name] = item["spec"]["template"]
    return found


def is_hook(item: dict[str, Any]) -> bool:
    return "helm.sh/hook" in (item["metadata"].get("annotations") or {})


class ReleasePod(TransportPod):
    """A pod of the release's StatefulSet: its template's labels and spec, with a port and a volume of its own."""

    def __init__(self, cluster: Cluster, statefulset: dict[str, Any], number: int) -> None:
        super().__init__(cluster.client, cluster.namespace, number, cluster.directory / "release")
        self.name = f"{statefulset['metadata']['name']}-{number}"
        self.template = json.loads(json.dumps(statefulset["spec"]["template"]))

    def create(self) -> None:
        spec = self.template["spec"]
        (container,) = spec["containers"]
        (port,) = container["ports"]
        assert port["name"] == "metrics"
        port["containerPort"] = self.port
        spec["volumes"].append({"name": "state", "emptyDir": {}})
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": self.template["metadata"]["labels"]},
            "spec": spec,
        }
        self.client.request("POST", self.client.path("Pod", self.namespace), document)


class Release(Cluster):
    """A release of the chart, installed by helm; a thread does what its hooks' Jobs and Pods would do."""

    def __init__(self, plane: ControlPlane, namespace: str, directory: Path) -> None:
        super().__init__(plane, namespace, directory)
        self.ports = {name: free_port() for name in ("smtp", "submission", "smtps")}
        numbers = {"smtp": 25, "submission": 587, "smtps": 465}
        ports = [{"name": name, "port": numbers[name], "targetPort": port} for name, port in self.ports.items()]
        self.values = ["--set-json", f"transport.ports={json.dumps(ports)}"]
        self.played: list[str] = []
        self.notes = ""
        self._end = threading.Event()
        self._controllers = threading.Thread(target=self._play, daemon=True)
        self._controllers.start()

    def helm(self, *arguments: str) -> str:
        done = helm(*arguments, "-n", self.namespace, kubeconfig=self.plane.kubeconfig)
        assert done.returncode == 0, "\n".join((done.stdout, done.stderr, *self.played[-1:]))
        return done.stdout

    def install(self, *values: str) -> str:
        return self.helm("install", RELEASE, str(CHART), *self.values, *values)

    def upgrade(self, *values: str, chart: Path = CHART) -> str:
        return self.helm("upgrade", RELEASE, str(chart), *self.values, *values)

    def object(self, path: str) -> Any:
        """Return an object by its path below the namespace, such as ``apis/apps/v1/deployments/x``; None: no such."""
        prefix, _, rest = path.partition("/v1/")
        try:
            return self.client.request("GET", f"/{prefix}/v1/namespaces/{self.namespace}/{rest}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def start(self) -> None:
        """Run the operator as its Deployment says, with its service account's rights, and a pod for each replica."""
        self.start_operator()
        statefulset = self.object(f"apis/apps/v1/statefulsets/{RELEASE}-default")
        self.pods = [ReleasePod(self, statefulset, number) for number in range(statefulset["spec"]["replicas"])]
        self.start_pods()

    def start_operator(self) -> Operator:
        deployment = self.object(f"apis/apps/v1/deployments/{RELEASE}-operator")
        spec = deployment["spec"]["template"]["spec"]
        arguments = [
            argument.replace("$(POD_NAMESPACE)", self.namespace) for argument in spec["containers"][0]["args"][1:]
        ]
        account = f"system:serviceaccount:{self.namespace}:{spec['serviceAccountName']}"
        log = self.directory / f"operator-{len(self.operators)}.log"
        operator = Operator(self.plane.user_kubeconfig(account), self.namespace, log, tuple(arguments)).start()
        self.operators.append(operator)
        return operator

    def stop(self) -> None:
        self._end.set()
        self._controllers.join()
        super().stop()

    def _play(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(ApiError, OSError):
                for job in self.object("apis/batch/v1/jobs")["items"]:
                    if not job.get("status", {}).get("conditions"):
                        self._play_job(job)
                for pod in self.client.list("Pod", self.namespace):
                    labels = pod["metadata"].get("labels", {})
                    if labels.get("app.kubernetes.io/component") == "test" and pod["status"]["phase"] == "Pending":
                        self._play_test(pod)
            time.sleep(0.1)

    def _play_job(self, job: dict[str, Any]) -> None:
        spec = job["spec"]["template"]["spec"]
        account = f"system:serviceaccount:{self.namespace}:{spec['serviceAccountName']}"
        code, text = self._run(spec["containers"][0]["args"], self.plane.user_kubeconfig(account))
        self.played.append(text)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        outcome = ["SuccessCriteriaMet", "Complete"] if code == 0 else ["FailureTarget", "Failed"]
        status = {
            "startTime": now,
            "conditions": [{"type": name, "status": "True", "lastTransitionTime": now} for name in outcome],
        } | ({"completionTime": now, "succeeded": 1} if code == 0 else {"failed": 1})
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{job['metadata']['name']}/status"
        self.client.request("PATCH", path, {"status": status}, "application/merge-patch+json")

    def _play_test(self, pod: dict[str, Any]) -> None:
        """Run the test's command; the first pod's address stands for the names that the cluster's DNS would know."""
        server = self.pods[0]
        service = f"{RELEASE}-default.{self.namespace}.svc:25"
        metrics = f"--metrics={RELEASE}-default-pods.{self.namespace}.svc:9925"
        names = {
            service: f"{server.address}:{self.ports['smtp']}",
            metrics: f"--metrics={server.address}:{server.port}",
        }
        arguments = pod["spec"]["containers"][0]["args"]
        assert set(names) <= set(arguments)
        code, text = self._run([names.get(argument, argument) for argument in arguments], None)
        self.played.append(text)
        path = self.client.path("Pod", self.namespace, pod["metadata"]["name"]) + "/status"
        status = {"phase": "Succeeded" if code == 0 else "Failed"}
        self.client.request("PATCH", path, {"status": status}, "application/merge-patch+json")

    @staticmethod
    def _run(arguments: list[str], kubeconfig: Path | None) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "postroad_operator.cli", *arguments],
            env=ENVIRONMENT | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


def secret_value(document: dict[str, Any], key: str) -> str:
    return base64.b64decode(document["data"][key]).decode()


@functools.cache
def values_matrix() -> dict[str, list[str]]:
    """Values that users would give, by what they are for."""
    monitors = "metrics.rules.enabled=true,metrics.dashboard.enabled=true,metrics.rules.labels.team=mail"
    return {
        "defaults": [],
        "kind": ["--values", str(CHART / "ci" / "kind-values.yaml")],
        "all namespaces": ["--set", "operator.allNamespaces=true,tier.clientAddressesHidden=true"],
        "edge, node ports": ["--set", "tier.role=edge,transport.service.type=NodePort,transport.replicas=1"],
        "internal": ["--set", "transport.service.type=ClusterIP,transport.spool.storageClassName=fast"],
        "own images": ["--set", "image.tag=v1,transport.image.tag=v2,imagePullSecrets[0].name=pull"],
        "by digest": ["--set", f"image.digest=sha256:{'a' * 64}"],
        "autoscaling": ["--set", "transport.autoscaling.enabled=true,transport.autoscaling.scaleDown=true"],
        "no volumes": ["--set", "transport.spool.persistent=false,transport.podDisruptionBudget.enabled=false"],
        "proxy protocol": [
            *(
                "--set",
                "transport.service.proxyProtocol.enabled=true,transport.service.externalTrafficPolicy=Cluster",
            ),
            *("--set", "transport.service.proxyProtocol.trustedRanges={10.0.0.0/8,fd00::/8}"),
        ],
        "load balancer": [
            *(
                "--set",
                "transport.service.loadBalancerClass=example.com/lb,transport.service.ipFamilyPolicy=SingleStack",
            ),
            *("--set", "transport.service.loadBalancerSourceRanges={192.0.2.0/24}"),
            *("--set-json", 'transport.service.annotations={"example.com/internal":"true"}'),
        ],
        "pod monitors": ["--set", f"{monitors},metrics.podMonitor.enabled=true"],
        "service monitors": ["--set", f"{monitors},metrics.serviceMonitor.enabled=true"],
        "webhook": ["--set", "webhook.enabled=true,webhook.failurePolicy=Fail"],
        "token reviews": ["--set", "transport.reviewTokens=true"],
        "no policies": ["--set", "networkPolicy.enabled=false,crds.upgrade=false,test.enabled=false"],
        "narrow policies": [
            *("--set-json", 'networkPolicy.smtpFrom=[{"ipBlock":{"cidr":"192.0.2.0/24"}}]'),
            *("--set-json", 'networkPolicy.extraEgress=[{"ports":[{"port":636}]}]'),
            *("--set-json", "networkPolicy.metricsFrom=[]"),
        ],
        "service account tokens": ["--set", "transport.reviewTokens=true"],
        "no defaults": ["--set", "defaults.enabled=false,operator.replicas=1"],
        "own defaults": [
            *("--set", "defaults.submission.existingSecret=accounts,defaults.certificate.dnsNames={a.example}"),
            *("--set-json", 'defaults.certificate.source={"secretRef":{"name":"tls"}}'),
            *("--set-json", 'defaults.send.target={"smartHosts":[{"host":"relay.example"}]}'),
            *(
                "--set-json",
                'defaults.domains=[{"domain":"b.example","deliver":{"lmtp":{"host":"dovecot"}}},'
                '{"domain":"Sub.B.example","aliasOf":"b.example"}]',
            ),
        ],
        "scheduling": [
            *("--set-json", 'transport.affinity={"nodeAffinity":{}}'),
            *("--set-json", 'transport.tolerations=[{"key":"mail","operator":"Exists"}]'),
            *("--set", "transport.nodeSelector.disk=ssd,operator.podLabels.a=b,transport.podAnnotations.c=d"),
            *("--set", "transport.priorityClassName=system-cluster-critical,commonLabels.team=mail"),
        ],
        "one more port": [
            *("--set-json", 'transport.ports=[{"name":"smtp","port":25,"targetPort":2525,"nodePort":30025}]'),
            *("--set", "transport.addresses={0.0.0.0},transport.preStopSeconds=0,tier.networks={10.0.0.0/8}"),
            *("--set", "fullnameOverride=mail,operator.serviceAccount.annotations.x=y"),
        ],
    }


def release_objects(plane: ControlPlane, namespace: str) -> dict[str, dict[str, Any]]:
    """Return what in a namespace belongs to the release, by KIND/NAME."""
    kinds = (
        "deployment,statefulset,service,serviceaccount,role,rolebinding,configmap,secret,networkpolicy,pdb,hpa,job"
    )
    ours = "receiveconnector,sendconnector,accepteddomain,transportcertificate"
    output = plane.kubectl(
        *("get", f"{kinds},{ours}", "-n", namespace, "-o", "json"),
        *("-l", f"app.kubernetes.io/managed-by=Helm,app.kubernetes.io/instance={RELEASE}"),
    )
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in json.loads(output)["items"]}
