"""What `postroad run` prints of a large tier."""

from __future__ import annotations

import io

from rich.console import Console

from postroad_operator.run.announce import ROWS, announce
from postroad_transport.config import AcceptedDomain, DomainType, TierConfig


def _announced(domains: int, tmp_path) -> str:
    config = TierConfig(
        tier="mail/default",
        hostname="mail.example",
        accepted_domains=tuple(
            AcceptedDomain(source=f"AcceptedDomain/mail/d{n}", domain=f"d{n}.example", type=DomainType.EXTERNAL_RELAY)
            for n in range(domains)
        ),
    )
    console = Console(file=io.StringIO(), width=200)
    announce(
        console,
        config,
        addresses=("127.0.0.1",),
        config_dir=tmp_path,
        state_dir=tmp_path,
        ca=tmp_path / "ca.crt",
        metrics="127.0.0.1:9925",
        password_hint="x",
    )
    return console.file.getvalue()


def test_every_domain_of_a_small_tier_is_listed(tmp_path):
    text = _announced(ROWS, tmp_path)
    assert all(f"d{n}.example " in text for n in range(ROWS))
    assert "more" not in text


def test_of_a_large_tier_the_first_domains_are_listed_and_the_others_counted(tmp_path):
    text = _announced(10_000, tmp_path)
    assert text.count(".example ") <= ROWS + 5
    assert "and 9,950 more" in text
