"""NTLM (MS-NLMP, MS-SMTPNTLM): version 2 only, checked against the accounts' NT hashes.

pyspnego reads and writes the messages. Its own acceptor is not used: it takes its accounts and its policy from the
environment of the process, where each connector has its own, and it accepts version 1.
"""

from __future__ import annotations

import hmac
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC

from spnego._ntlm_raw.crypto import hmac_md5, md5, ntowfv2, rc4k
from spnego._ntlm_raw.messages import (
    Authenticate,
    AvFlags,
    AvId,
    FileTime,
    Negotiate,
    NegotiateFlags,
    NTClientChallengeV2,
    TargetInfo,
)
from spnego._ntlm_raw.messages import (
    Challenge as NtlmChallenge,
)
from spnego.channel_bindings import GssChannelBindings

from postroad_transport.auth.accounts import Account
from postroad_transport.auth.exchange import Accepted, Channel, Rejected
from postroad_transport.auth.sasl import MALFORMED, Challenge, SaslError

_HASH = re.compile(r"[0-9A-Fa-f]{32}")
_MAX_MESSAGE = 8192
_NO_BINDINGS = bytes(16)
_NT_PROOF = 16
_V1_RESPONSE = 24
_DECOY = os.urandom(16)


@dataclass(frozen=True, slots=True)
class NtAccount:
    """An account and the MD4 of its password in UTF-16, which is as good as the password to whoever has it."""

    account: Account
    nt_hash: bytes = field(repr=False)


class NtAccounts:
    """Accounts by name, in any case. ``problems`` holds one sentence for each line that was left out."""

    def __init__(self, accounts: Mapping[str, NtAccount], problems: tuple[str, ...] = ()) -> None:
        self._accounts = dict(accounts)
        self.problems = problems

    def __len__(self) -> int:
        return len(self._accounts)

    def find(self, username: str, domain: str) -> NtAccount | None:
        r"""Return the account ``DOMAIN\username``, else the one called ``username`` in any domain."""
        name = username.casefold()
        return self._accounts.get(f"{domain.casefold()}\\{name}") or self._accounts.get(name)


def parse_nt_accounts(content: bytes) -> NtAccounts:
    r"""Read lines ``user:NTHASH`` or ``user:NTHASH:address,address``, or those of an ``smbpasswd`` file.

    ``user`` may be ``DOMAIN\user``. Total: what cannot be used ends up in ``problems``, never with its hash.
    """
    accounts: dict[str, NtAccount] = {}
    problems: list[str] = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, *rest = text.split(":")
        # smbpasswd(5): user, number, LM hash, NT hash, flags, time of the last change.
        smbpasswd = len(rest) >= 4 and _HASH.fullmatch(rest[2]) is not None
        encoded = rest[2] if smbpasswd else rest[0] if rest else ""
        addresses = (
            ()
            if smbpasswd or len(rest) < 2
            else tuple(a for item in rest[1].split(",") if (a := item.strip().lower()))
        )
        if not name or not _HASH.fullmatch(encoded):
            problems.append(f"line {number}: expected user:NTHASH, with 32 hexadecimal digits")
        elif name.casefold() in accounts:
            problems.append(f"line {number}: user {name!r} is there already; the first line counts")
        elif any("@" not in address.strip("@") or " " in address for address in addresses):
            problems.append(f"line {number}: user {name!r}: the addresses are not a comma-separated list")
        else:
            accounts[name.casefold()] = NtAccount(Account(name, addresses), bytes.fromhex(encoded))
    return NtAccounts(accounts, tuple(problems))


class Ntlm:
    """One run of NTLM: the client's NEGOTIATE, our CHALLENGE, the client's AUTHENTICATE.

    Parameters
    ----------
    accounts
        Whose hashes are known.
    hostname
        What the challenge calls this server.
    challenge, now
        Where the eight random bytes and the time come from.
    """

    def __init__(
        self,
        accounts: NtAccounts,
        channel: Channel,
        hostname: str,
        *,
        challenge: Callable[[], bytes] = lambda: os.urandom(8),
        now: Callable[[], FileTime] = lambda: FileTime.now(UTC),
    ) -> None:
        self._accounts = accounts
        self._channel = channel
        self._hostname = hostname
        self._random = challenge
        self._now = now
        self._negotiate = b""
        self._challenge = b""
        self._nonce = b""

    async def step(self, response: bytes | None) -> Challenge | Accepted | Rejected:
        """See :meth:`Exchange.step`."""
        if response is None:
            return Challenge(b"")
        if len(response) > _MAX_MESSAGE:
            raise SaslError(MALFORMED)
        try:
            return self._judge(response) if self._challenge else Challenge(self._begin(response))
        except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error):
            # Whatever a message that is none makes of the parser.
            raise SaslError(MALFORMED) from None

    def _begin(self, message: bytes) -> bytes:
        wanted = Negotiate.unpack(message).flags
        encoding = wanted & NegotiateFlags.unicode or wanted & NegotiateFlags.oem
        if not encoding:
            raise ValueError("no encoding for text")
        flags = (
            wanted
            & (
                NegotiateFlags.key_128
                | NegotiateFlags.key_56
                | NegotiateFlags.key_exch
                | NegotiateFlags.sign
                | NegotiateFlags.seal
                | NegotiateFlags.always_sign
            )
            | encoding
            | NegotiateFlags.ntlm
            | NegotiateFlags.request_target
            | NegotiateFlags.target_info
            | NegotiateFlags.target_type_server
            | NegotiateFlags.extended_session_security
        )
        short = self._hostname.partition(".")[0].upper()[:15]
        info = TargetInfo()
        info[AvId.nb_computer_name] = info[AvId.nb_domain_name] = short
        info[AvId.dns_computer_name] = info[AvId.dns_domain_name] = self._hostname
        # With our time in it, Windows protects the messages by a MIC.
        info[AvId.timestamp] = self._now()
        self._nonce = self._random()
        self._negotiate = message
        self._challenge = NtlmChallenge(flags, self._nonce, target_name=short, target_info=info).pack()
        return self._challenge

    def _judge(self, message: bytes) -> Accepted | Rejected:
        # Without Unicode (curl) a byte is a character: what such a client derives its key from, too.
        answer = Authenticate.unpack(message, encoding="latin-1")
        username, domain = answer.user_name or "", answer.domain_name or ""
        known = self._accounts.find(username, domain)
        # Without the domain, which is the client's to choose: a new one each time must not make it a new account.
        claimed = known.account.name if known else username
        response = answer.nt_challenge_response or b""
        if not username or not response:
            return Rejected(claimed, "anonymous")
        if len(response) <= _V1_RESPONSE:
            return Rejected(claimed, "ntlmv1")
        key = ntowfv2(username, known.nt_hash if known else _DECOY, domain)
        proof, blob = response[:_NT_PROOF], response[_NT_PROOF:]
        # MS-NLMP 3.3.2.
        good = hmac.compare_digest(hmac_md5(key, self._nonce + blob), proof)
        if not good or known is None:
            return Rejected(claimed)
        pairs = NTClientChallengeV2.unpack(blob).av_pairs
        if not self._bound(pairs.get(AvId.channel_bindings, _NO_BINDINGS)):
            return Rejected(claimed, "channel_binding")
        if pairs.get(AvId.flags, 0) & AvFlags.mic and not self._untampered(answer, hmac_md5(key, proof)):
            return Rejected(claimed, "mic")
        return Accepted(known.account)

    def _bound(self, shown: bytes) -> bool:
        """Tell whether the client's channel bindings are this channel's, or none: few clients of SMTP have any."""
        if shown == _NO_BINDINGS:
            return True
        end_point = self._channel.binding("tls-server-end-point")
        if end_point is None:
            return False
        bindings = GssChannelBindings(application_data=b"tls-server-end-point:" + end_point)
        return hmac.compare_digest(md5(bindings.pack()), shown)

    def _untampered(self, answer: Authenticate, key: bytes) -> bool:
        """Check the MIC over all three messages (MS-NLMP 3.1.5.1.2)."""
        if answer.flags & NegotiateFlags.key_exch and answer.flags & (NegotiateFlags.sign | NegotiateFlags.seal):
            key = rc4k(key, answer.encrypted_random_session_key or b"")
        shown = answer.mic
        if shown is None:
            return False
        answer.mic = bytes(16)
        return hmac.compare_digest(hmac_md5(key, self._negotiate + self._challenge + answer.pack()), shown)
