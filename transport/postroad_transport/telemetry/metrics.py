"""The tier's metrics, all in one place (documented in docs/metrics.md).

Each worker counts in its own registry; the supervisor adds the workers up (`merge`), so a scrape sees one tier.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from postroad_transport.telemetry.tally import TallyCounter, TallyHistogram

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DELIVERY_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120, 600, 3600, 14400, 86400)

#: Gauges where the tier's value is the largest of the workers', not their sum.
MAXIMUM_GAUGES = frozenset(
    {
        "postroad_queue_oldest_age_seconds",
        "postroad_certificate_not_after_timestamp_seconds",
        "postroad_ocsp_staple_expiry_timestamp_seconds",
        "postroad_config_generation_info",
        "postroad_config_last_reload_timestamp_seconds",
        "postroad_domain_security_last_success_timestamp_seconds",
    }
)


class Metrics:
    """One worker's metrics. Label values are bounded: names from the configuration, and fixed words."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry
        # Receiving
        self.sessions = Counter("postroad_sessions", "Sessions accepted.", ["connector"], registry=r)
        self.sessions_open = Gauge("postroad_sessions_open", "Sessions open now.", ["connector"], registry=r)
        self.sessions_refused = Counter(
            "postroad_sessions_refused", "Connections refused before a greeting.", ["reason"], registry=r
        )
        self.refusals = Counter(
            "postroad_refusals",
            "Commands and messages refused, by rule, reply code and missing permission.",
            ["connector", "verb", "rule", "code", "permission"],
            registry=r,
        )
        self.authentications = Counter(
            "postroad_authentications", "AUTH attempts.", ["connector", "mechanism", "result"], registry=r
        )
        self.authentication_lookups = Counter(
            "postroad_authentication_lookups",
            "Questions to a source of accounts: ldap, oauth2 or serviceAccounts; result ok, refused or unavailable.",
            ["source", "result"],
            registry=r,
        )
        self.authentication_lookup_seconds = Histogram(
            "postroad_authentication_lookup_seconds",
            "How long a source of accounts takes to answer.",
            ["source"],
            buckets=_LATENCY,
            registry=r,
        )
        self.password_wait_seconds = Histogram(
            "postroad_password_wait_seconds",
            "How long a password waits to be checked, by source (htpasswd or ldap) and turn: free, or paced as a"
            " likely guess.",
            ["source", "turn"],
            buckets=_LATENCY,
            registry=r,
        )
        self.passwords_sent_away = Counter(
            "postroad_passwords_sent_away",
            "Passwords that were not checked because others came first; reason crowded (too many waited) or patience"
            " (a likely guess waited too long).",
            ["source", "reason"],
            registry=r,
        )
        self.bans = Counter(
            "postroad_bans",
            "Bans begun after failed logins; kind is address or account.",
            ["connector", "kind"],
            registry=r,
        )
        self.ban_refusals = Counter(
            "postroad_ban_refusals",
            "Connections and logins refused by a ban; kind is address or account.",
            ["connector", "kind"],
            registry=r,
        )
        self.tls_handshakes = Counter(
            "postroad_tls_handshakes",
            "TLS handshakes; direction in or out, version such as TLSv1.3, result ok or a reason.",
            ["direction", "version", "result"],
            registry=r,
        )
        self.tls_resumed = Counter(
            "postroad_tls_sessions_resumed",
            "Of the inbound handshakes with result ok, those that resumed a session.",
            ["version"],
            registry=r,
        )
        self.direct_trust_handshakes = Counter(
            "postroad_direct_trust_handshakes",
            "X-ANONYMOUSTLS: direction in or out, who the peer is, result ok or why it is nobody.",
            ["direction", "principal", "result"],
            registry=r,
        )
        self.messages_received = TallyCounter(
            "postroad_messages_received", "Messages that got a 250.", ["connector"], registry=r
        )
        self.bytes_received = TallyCounter(
            "postroad_received_bytes", "Bytes of messages that got a 250.", ["connector"], registry=r
        )
        self.accept_seconds = TallyHistogram(
            "postroad_accept_seconds",
            "From the last byte of a message to its 250.",
            ["connector"],
            buckets=_LATENCY,
            registry=r,
        )
        # Domain security
        self.domain_security = Counter(
            "postroad_domain_security",
            "Mail with partners' domains put to the proof; direction in (by MAIL) or out (by session), result ok"
            " or a reason.",
            ["direction", "connector", "domain", "result"],
            registry=r,
        )
        self.domain_security_success = Gauge(
            "postroad_domain_security_last_success_timestamp_seconds",
            "When mutual TLS with a partner's domain was proved last.",
            ["direction", "connector", "domain"],
            registry=r,
        )
        self.crl_fetches = Counter(
            "postroad_crl_fetches", "Revocation lists asked for; result ok or a reason.", ["result"], registry=r
        )
        # OCSP stapling
        self.ocsp_fetches = Counter(
            "postroad_ocsp_fetches",
            "Certificates' responders asked; result ok or a reason.",
            ["result"],
            registry=r,
        )
        self.ocsp_staple_expiry = Gauge(
            "postroad_ocsp_staple_expiry_timestamp_seconds",
            "When the OCSP response ends that is stapled to a certificate; 0: there is none.",
            ["name", "thumbprint"],
            registry=r,
        )
        # Spool
        self.spool_commits = Counter("postroad_spool_commits", "Durable transactions.", registry=r)
        self.spool_batch = Histogram(
            "postroad_spool_batch_operations",
            "Operations in one durable transaction.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=r,
        )
        self.spool_failures = Counter("postroad_spool_failures", "Failed transactions.", ["reason"], registry=r)
        # Queue and delivery
        self.queue_messages = Gauge(
            "postroad_queue_recipients", "Recipients queued, by destination.", ["destination"], registry=r
        )
        self.queue_oldest_age = Gauge(
            "postroad_queue_oldest_age_seconds",
            "Age of the oldest queued message.",
            ["destination"],
            registry=r,
        )
        self.deliveries = TallyCounter(
            "postroad_deliveries",
            "Delivery attempts by recipient; result is delivered, deferred, failed or expired.",
            ["connector", "result"],
            registry=r,
        )
        self.bytes_sent = TallyCounter(
            "postroad_sent_bytes",
            "Bytes of message delivered, once a transaction.",
            ["connector"],
            registry=r,
        )
        self.deliver_seconds = TallyHistogram(
            "postroad_deliver_seconds",
            "From accepting a message to delivering it, by recipient.",
            ["connector"],
            buckets=_DELIVERY_LATENCY,
            registry=r,
        )
        self.outbound_connections = Gauge(
            "postroad_outbound_connections", "Open connections to next hops.", ["connector"], registry=r
        )
        self.outbound_logins = Counter(
            "postroad_outbound_authentications",
            "Logins at smart hosts; result ok, refused, deferred, not-offered, no-credentials or broken.",
            ["connector", "mechanism", "result"],
            registry=r,
        )
        self.notices = Counter("postroad_notices", "RFC 3464 notices sent, by kind.", ["kind"], registry=r)
        # Configuration and certificates
        self.certificate_not_after = Gauge(
            "postroad_certificate_not_after_timestamp_seconds",
            "When a certificate expires.",
            ["name", "thumbprint"],
            registry=r,
        )
        self.certificate_events = Counter(
            "postroad_certificate_events",
            "Certificate selection events: 12014 no certificate for the name, 12016 expired (spec.md 3).",
            ["connector", "event"],
            registry=r,
        )
        self.reloads = Counter(
            "postroad_config_reloads", "Configuration loads by result (ok, refused).", ["result"], registry=r
        )
        self.reload_timestamp = Gauge(
            "postroad_config_last_reload_timestamp_seconds",
            "When the served configuration was loaded.",
            registry=r,
        )
        self.config_info = Gauge(
            "postroad_config_generation_info", "Hash of the served configuration.", ["hash"], registry=r
        )
