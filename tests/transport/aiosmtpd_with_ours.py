"""A pytest plugin that puts our protocol class in the place of aiosmtpd's, before aiosmtpd's tests import it."""

from __future__ import annotations

import aiosmtpd.controller
import aiosmtpd.smtp

from postroad_transport.smtp.protocol import SMTP

aiosmtpd.smtp.SMTP = SMTP
aiosmtpd.controller.SMTP = SMTP

import aiosmtpd.lmtp  # noqa: E402 (derives from whatever is SMTP by then)
import aiosmtpd.main  # noqa: E402 (needs what stands above)

assert issubclass(aiosmtpd.lmtp.LMTP, SMTP)
aiosmtpd.main.SMTP = SMTP


def pytest_configure(config):
    for marker in ("client_data", "controller_data", "handler_data"):
        config.addinivalue_line("markers", f"{marker}: aiosmtpd's own")
