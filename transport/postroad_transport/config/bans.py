"""When failed logins ban an address or close an account."""

from __future__ import annotations

from postroad_transport.config.part import Part


class Bans(Part, frozen=True, kw_only=True):
    """Automatic bans of one connector. Times in seconds."""

    failures: int = 10
    """Failed logins within the window that ban an address; 0: addresses are not banned."""
    account_failures: int = 50
    """Failed logins within the window that close an account to unusual addresses; 0: accounts are not closed."""
    window: float = 600.0
    duration: float = 3600.0
    allow_ranges: tuple[str, ...] = ()
    """CIDRs whose failures never count."""

    @property
    def on(self) -> bool:
        """Whether anything is ever banned."""
        return bool(self.failures or self.account_failures)
