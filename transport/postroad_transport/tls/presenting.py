"""What a receive connector presents: its own certificates, and those for other names that clients ask for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from postroad_transport.config import Certificate, ReceiveConnector
from postroad_transport.config.files import SECRETS_DIRECTORY, read_secret
from postroad_transport.policy.certificate import Selection
from postroad_transport.tls.binding import end_point, end_point_of_chain
from postroad_transport.tls.native import own_certificate
from postroad_transport.tls.server import KeyPair, chain_digest, problem_with, server_context
from postroad_transport.tls.staple_store import StapleStore, subject_in
from postroad_transport.tls.tickets import identity_of

EndPoint = Callable[[ssl.SSLObject], "bytes | None"]


class Presented(NamedTuple):
    """A connector's TLS. ``end_point`` gives a session's ``tls-server-end-point``, None where there is no telling.

    ``unusable`` says of certificates besides the connector's own choice why they are left out. ``resumes_as`` is the
    identity under which sessions are resumed (:mod:`~postroad_transport.tls.tickets`); empty: they are not.
    """

    context: ssl.SSLContext
    end_point: EndPoint
    unusable: tuple[str, ...] = ()
    resumes_as: bytes = b""


def present(
    connector: ReceiveConnector,
    selection: Selection,
    names: Mapping[str, Selection],
    directory: Path,
    *,
    asks: bool,
    logs_in: bool,
    staples: StapleStore | None = None,
) -> Presented | None:
    """Build what `connector` presents; None: nothing was selected for it.

    Parameters
    ----------
    selection, names
        What :func:`~postroad_transport.policy.certificate.select` and ``names_served`` say.
    directory
        Where the configuration is, with the secrets beside it.
    asks
        Clients are asked for a certificate.
    logs_in
        Clients may log in. Where it depends on the client which certificate it gets, they then cannot resume: a
        resumed session does not tell which one it was, and a login may be bound to it (RFC 5929).
    staples
        Where the OCSP responses are that go with certificates.

    Raises
    ------
    ConfigError
        The certificate of the choice, or its key, cannot be used.
    """
    own = selection.certificate
    if own is None:
        return None
    secrets = directory / SECRETS_DIRECTORY

    def pair(certificate: Certificate) -> KeyPair:
        return KeyPair(secrets / certificate.chain_file, secrets / certificate.key_file)

    others = {item for found in (selection, *names.values()) for item in found.presented} - {own}
    problems = {item: problem_with(pair(item)) for item in others}

    def pairs(certificates: Sequence[Certificate]) -> tuple[KeyPair, ...]:
        return tuple(pair(item) for item in certificates if not problems.get(item))

    if all(found.presented == selection.presented for found in names.values()):
        names = {}
    by_name = tuple((name, found) for name in names if (found := pairs(names[name].presented)))
    beside = pairs(selection.beside)
    several = bool(beside or by_name)
    shown = (pair(own), *beside, *(item for _, found in by_name for item in found))
    resumes = not asks and not (several and logs_in)
    has_responder = any(subject_in(item.chain) is not None for item in shown)
    context = server_context(
        *pair(own),
        beside=beside,
        names=by_name,
        policy=connector.tls_policy,
        asks=asks,
        resumes=resumes,
        staple=staples.staple if staples is not None and has_responder else None,
    )
    unusable = tuple(sorted(f"{item.source}: {problem}" for item, problem in problems.items() if problem))
    resumes_as = b""
    if resumes:
        resumes_as = identity_of(
            connector.tls_policy,
            [chain_digest(item.chain) for item in (pair(own), *beside)],
            {name: [chain_digest(item.chain) for item in found] for name, found in by_name},
        )
    if several:
        return Presented(context, _end_point_of_session, unusable, resumes_as)
    only = end_point_of_chain(read_secret(directory, own.chain_file))
    return Presented(context, lambda tls: only if tls.context is context else None, unusable, resumes_as)


def _end_point_of_session(tls: Any) -> bytes | None:
    # The engine of connections that ask for certificates knows by itself.
    presented = own_certificate(tls) if isinstance(tls, ssl.SSLObject) else tls.own_certificate()
    return end_point(presented) if presented else None
