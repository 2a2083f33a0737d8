"""The tier on a real cluster with kubelets: `make e2e` runs these after `make kind` has installed it."""

from __future__ import annotations

import contextlib
import json
import re
import smtplib
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
from kind_kit import CONTEXT, NAMESPACE, SELECTOR, kubectl, needs_kind, pods

pytestmark = needs_kind


def restarts() -> dict[str, int]:
    """Count by pod how often its container began anew; a new pod has a new key."""
    return {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods()}


def send(subject: str, body: object = "hello") -> None:
    with smtplib.SMTP("127.0.0.1", 25, timeout=10) as client:
        client.sendmail("a@far.example", "postmaster@mail.example", f"Subject: {subject}\n\n{body}\n")


def delivered(subject: str) -> int:
    """Count the messages with this subject in the Maildirs of all pods."""
    return sum(
        len(
            kubectl(
                "exec", pod["metadata"]["name"], "--", "grep", "-rl", subject, "maildir", check=False
            ).splitlines()
        )
        for pod in pods()
    )


def wait_delivered(subject: str, count: int = 1, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while delivered(subject) < count:
        assert time.monotonic() < deadline, f"{delivered(subject)} of {count} messages with the subject {subject}"
        time.sleep(1)


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def subject() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def account() -> tuple[str, str]:
    template = "{{.data.username | base64decode}} {{.data.password | base64decode}}"
    user, _, password = kubectl("get", "secret", "postroad-account", "-o", f"go-template={template}").partition(" ")
    return user, password


def test_mail_from_outside_is_delivered(subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", 25, timeout=30) as client:
        client.starttls(context=unverified())
        client.sendmail("a@far.example", "postmaster@mail.example", f"Subject: {subject}\n\nhello\n")
    wait_delivered(subject)


@pytest.mark.parametrize("port", [587, 465])
def test_the_account_may_send(subject: str, account: tuple[str, str], port: int) -> None:
    client = (
        smtplib.SMTP_SSL("127.0.0.1", port, timeout=30, context=unverified())
        if port == 465
        else smtplib.SMTP("127.0.0.1", port, timeout=30)
    )
    with client:
        if port == 587:
            client.starttls(context=unverified())
        client.login(*account)
        client.sendmail("postmaster@mail.example", "bob@mail.example", f"Subject: {subject}\n\nhello\n")
    wait_delivered(subject)


@pytest.fixture
def connector() -> Iterator[None]:
    yield
    patch = json.dumps([{"op": "remove", "path": "/spec/banner"}])
    kubectl("patch", "rconn", "postroad-internet", "--type=json", "-p", patch, check=False)


@pytest.mark.usefixtures("connector")
def test_a_changed_connector_is_programmed_within_seconds_and_restarts_no_pod(subject: str) -> None:
    before = restarts()
    started = time.monotonic()
    kubectl("patch", "rconn", "postroad-internet", "--type=merge", "-p", json.dumps({"spec": {"banner": subject}}))
    generation = kubectl("get", "rconn", "postroad-internet", "-o", "jsonpath={.metadata.generation}")
    programmed = '{.status.conditions[?(@.type=="Programmed")].observedGeneration}'
    kubectl("wait", "rconn/postroad-internet", f"--for=jsonpath={programmed}={generation}", "--timeout=60s")
    kubectl("wait", "rconn/postroad-internet", "--for=condition=Programmed", "--timeout=60s")
    assert time.monotonic() - started < 30
    with smtplib.SMTP(timeout=30) as client:
        assert subject.encode() in client.connect("127.0.0.1", 25)[1]
    assert restarts() == before


def test_a_new_operator_restarts_no_transport_pod(subject: str) -> None:
    before = restarts()
    kubectl("rollout", "restart", "deployment/postroad-operator")
    while kubectl("rollout", "status", "deployment/postroad-operator", "--watch=false").startswith("Waiting"):
        send(subject)
    send(subject)
    wait_delivered(subject, 2)
    assert restarts() == before


def test_pods_run_as_nobody_on_a_root_that_is_read_only() -> None:
    for pod in pods():
        name = pod["metadata"]["name"]
        assert kubectl("exec", name, "--", "id", "-u").strip() == "10001"
        status = kubectl("exec", name, "--", "cat", "/proc/1/status")
        assert re.findall(r"(?m)^(CapBnd|NoNewPrivs|Seccomp):\t(\w+)$", status) == [
            ("CapBnd", "0" * 16),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ]
        assert "Read-only file system" in kubectl(
            "exec", name, "--", "sh", "-c", "touch /opt/postroad/x 2>&1", check=False
        )


def test_pod_security_restricted_has_nothing_against_the_pods() -> None:
    label = ("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", "--dry-run=server")
    answer = subprocess.run(
        ["kubectl", "--context", CONTEXT, *label, "--overwrite"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # The API server checks the pods that are there, and warns of each that it would not let in.
    assert "postroad" not in answer.stderr


def test_a_command_in_a_pod_finds_its_tier() -> None:
    for pod in pods():
        assert kubectl("exec", pod["metadata"]["name"], "--", "postroad", "queue", "list")


def test_a_session_outlives_the_end_of_its_pod_by_the_message_it_is_sending(subject: str) -> None:
    with contextlib.closing(smtplib.SMTP("127.0.0.1", 25, timeout=60)) as client:
        client.ehlo("far.example")
        client.mail("a@far.example")
        client.rcpt("postmaster@mail.example")
        assert client.docmd("DATA")[0] == 354
        kubectl("delete", "pod", "--selector", SELECTOR, "--wait=false")
        # Past the time in which a pod that ends still takes connections, and into its drain.
        time.sleep(7)
        client.send(f"Subject: {subject}\r\n\r\nhello\r\n.\r\n".encode())
        assert client.getreply()[0] == 250
    kubectl("rollout", "status", "statefulset/postroad-default", "--timeout=300s")
    wait_delivered(subject, timeout=120)


def test_no_acknowledged_message_is_lost_with_a_pod_that_is_killed(subject: str) -> None:
    accepted, ends = 0, time.monotonic() + 20
    kills = [(ends - 15, "postroad-default-0"), (ends - 8, "postroad-default-1")]
    while time.monotonic() < ends:
        if kills and time.monotonic() > kills[0][0]:
            kubectl("delete", "pod", kills.pop(0)[1], "--grace-period=0", "--force")
        try:
            send(subject)
        except (OSError, smtplib.SMTPException):
            time.sleep(0.1)
        else:
            accepted += 1
    assert not kills
    kubectl("rollout", "status", "statefulset/postroad-default", "--timeout=300s")
    assert accepted
    wait_delivered(subject, accepted, timeout=120)


def test_no_message_is_lost_while_every_pod_is_restarted(subject: str) -> None:
    accepted = 0
    kubectl("rollout", "restart", "statefulset/postroad-default")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and accepted < 50:
        # A client comes back when it is told to, or finds nobody.
        try:
            send(subject, accepted)
        except (OSError, smtplib.SMTPException):
            time.sleep(0.5)
        else:
            accepted += 1
    kubectl("rollout", "status", "statefulset/postroad-default", "--timeout=300s")
    assert accepted
    wait_delivered(subject, accepted, timeout=120)
