"""aiosmtpd's own test suite, from its distribution, against our class.

Each of its tests is run and has to pass, except those in `NOT_APPLICABLE`, which have to fail: an entry that is no
longer needed is an error, too.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WRITES = "counts writes to the transport: replies to a pipelined group leave in one write"
EXCEPTIONS = "expects the text of an exception in the reply: ours says 451 4.3.0 and nothing else"
HALF_CLOSED = "expects a half-closed client to get no reply: ours answers what it has received"
PRIVATE = "replaces a private of aiosmtpd's DATA loop, which ours does not have"
AS_SENT = "expects parameters in upper case: ours keeps them as sent (RFC 3461: ENVID is case-sensitive)"

NOT_APPLICABLE = {
    "TestProtocol.test_honors_mail_delimiters": WRITES,
    "TestProtocol.test_empty_email": WRITES,
    "TestSMTPWithController.test_unexpected_errors_unhandled": EXCEPTIONS,
    "TestSMTPWithController.test_exception_handler_exception": EXCEPTIONS,
    "TestSMTPWithController.test_exception_handler_undescribable": EXCEPTIONS,
    "TestSMTPWithController.test_long_line_leak": PRIVATE,
    "TestSleepingHandler.test_close_after_helo": HALF_CLOSED,
    "TestDebugging.test_debugging": AS_SENT,
    "TestDebugging.test_debugging_bytes": AS_SENT,
    "TestDebugging.test_debugging_with_options": AS_SENT,
}

MODULES = {
    # module: how many tests it has at least, so that a suite that is not found does not pass
    "test_smtp": 260,
    "test_starttls": 25,
    "test_smtps": 1,
    "test_smtpsmuggling": 1,
    "test_proxyprotocol": 100,
    "test_handlers": 40,
    "test_lmtp": 4,
    "test_server": 30,
}


def outcomes(module: str, directory: Path) -> dict[str, str]:
    """Run one module of the suite in a process of its own; return "passed" or the failure by test name."""
    report = directory / "report.xml"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT / "operator"), str(ROOT / "transport")]),
        "ASYNCIO_CATCHUP_DELAY": "0.2",
        "PYTEST_ADDOPTS": "",
    }
    options = ["-q", "-c", os.devnull, f"--rootdir={directory}", f"--junit-xml={report}", "-p", "no:cacheprovider"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        "-p",
        "aiosmtpd_with_ours",
        "--pyargs",
        f"aiosmtpd.tests.{module}",
    ]
    # The suite binds port 8025.
    with open(Path(tempfile.gettempdir()) / "postroad-aiosmtpd-suite.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=300)
    assert report.exists(), run.stdout + run.stderr
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        fault = case.find("failure") if case.find("failure") is not None else case.find("error")
        if case.find("skipped") is None:
            found[name] = "passed" if fault is None else (fault.get("message") or "failed")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_aiosmtpd_suite_passes_on_our_class(module, tmp_path):
    found = outcomes(module, tmp_path)
    assert len(found) >= MODULES[module]
    unexpected = {
        name: outcome for name, outcome in found.items() if (outcome == "passed") == (name in NOT_APPLICABLE)
    }
    assert not unexpected
