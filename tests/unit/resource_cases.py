"""Sound and broken specifications of each kind, for the tests of the models and of their CEL rules."""

from __future__ import annotations

from typing import Any

from postroad_operator.resources import API_VERSION

RECEIVE: dict[str, Any] = {"bindings": [{"port": 25}]}
SEND: dict[str, Any] = {"addressSpaces": [{"domain": "*"}], "dns": {}}
HOSTS: dict[str, Any] = {"addressSpaces": [{"domain": "*"}], "smartHosts": [{"host": "relay.example"}]}
DOMAIN: dict[str, Any] = {"domain": "a.example", "deliver": {"maildir": {"path": "m/{local}"}}}
CERTIFICATE: dict[str, Any] = {"dnsNames": ["a.example"], "ca": {}}


def document(kind: str, spec: object, **metadata: object) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x", **metadata}, "spec": spec}


LDAP: dict[str, Any] = {"urls": ["ldap://a.example"], "baseDN": "dc=example"}
OAUTH2: dict[str, Any] = {"issuer": "https://id.example", "audiences": ["mail"]}
ACCOUNTS: dict[str, Any] = {"audience": "mail", "allow": [{"namespace": "shop", "addresses": ["*@a.example"]}]}


KEYTAB: dict[str, Any] = {"keytabSecretRef": {"name": "s", "key": "keytab"}}
CLIENTS: dict[str, Any] = {"caBundleConfigMapRef": {"name": "c", "key": "ca.pem"}}
TOKENS: dict[str, Any] = {"tokenURL": "https://login.example/token"}


def authentication(**sources: Any) -> dict[str, Any]:
    return RECEIVE | {"authentication": sources}


SOUND: list[tuple[str, dict[str, Any]]] = [
    ("ReceiveConnector", RECEIVE),
    ("ReceiveConnector", RECEIVE | {"authMechanisms": ["TLS", "BasicAuthRequireTLS"], "requireTLS": True}),
    ("ReceiveConnector", RECEIVE | {"usage": "Client", "bindings": [{"port": 465, "tls": "Implicit"}]}),
    ("ReceiveConnector", RECEIVE | {"authMechanisms": ["ExternalAuthoritative"], "remoteIPRanges": ["10.1.0.0/16"]}),
    ("ReceiveConnector", RECEIVE | {"bindings": [{"port": 0}, {"port": 0}], "limits": {"messageSize": 1024}}),
    ("ReceiveConnector", RECEIVE | {"grants": [{"principal": "user:a@b", "permissions": ["SMTP-Submit"]}]}),
    (
        "ReceiveConnector",
        RECEIVE | {"grants": [{"principal": "user:system:serviceaccount:a:b", "permissions": ["SMTP-Submit"]}]},
    ),
    ("ReceiveConnector", authentication(ldap=LDAP, oauth2=OAUTH2, serviceAccounts=ACCOUNTS)),
    ("ReceiveConnector", authentication(ldap=LDAP | {"urls": ["ldaps://[::1]:1636/"], "filter": "(uid={local})"})),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"issuer": "http://127.0.0.1:8080/realms/mail"})),
    ("ReceiveConnector", authentication(bans={"failures": 0, "window": "1h", "allowRanges": ["10.0.0.0/8", "::1"]})),
    (
        "ReceiveConnector",
        authentication(kerberos=KEYTAB | {"realms": ["A.EXAMPLE"]}, ntlmSecretRef={"name": "s", "key": "k"}),
    ),
    ("ReceiveConnector", authentication(kerberos=KEYTAB | {"legacyServers": ["host/a.example@B", "A$@B.EXAMPLE"]})),
    (
        "ReceiveConnector",
        authentication(
            clientCertificates=CLIENTS
            | {"accountFrom": [], "accounts": [{"thumbprint": ":".join(["aB"] * 32), "account": "printer"}]}
        ),
    ),
    (
        "SendConnector",
        HOSTS | {"smartHostAuthMechanism": "BasicAuthRequireTLS", "authSecretRef": {"name": "s"}, "oauth2": TOKENS},
    ),
    ("SendConnector", SEND),
    ("SendConnector", SEND | {"domainSecure": True, "tlsAuthLevel": "DomainValidation", "tlsDomain": "a.example"}),
    ("SendConnector", HOSTS | {"smartHostAuthMechanism": "BasicAuth", "authSecretRef": {"name": "s"}}),
    ("SendConnector", HOSTS | {"limits": {"rate": "10/s"}, "retry": {"schedule": ["1s"]}}),
    (
        "ReceiveConnector",
        RECEIVE
        | {
            "authMechanisms": ["TLS"],
            "domainSecure": True,
            "domainSecurity": {"domains": [{"domain": "p.example", "certificateNames": ["mx.p.example"]}]},
            "tlsTrust": {"systemAuthorities": False, "revocation": {"mode": "Off", "hosts": ["crl.p.example"]}},
        },
    ),
    ("AcceptedDomain", DOMAIN),
    ("AcceptedDomain", {"domain": "b.example", "aliasOf": "a.example"}),
    ("AcceptedDomain", DOMAIN | {"recipients": {"list": ["alice"]}}),
    ("TransportCertificate", CERTIFICATE),
    ("TransportCertificate", {"secretRef": {"name": "tls"}}),
    ("TransportCertificate", CERTIFICATE | {"subject": {"C": "KR", "DC": ["a", "example"], "CN": "a.example"}}),
    (
        "TransportCertificate",
        CERTIFICATE
        | {"subject": {"DC": ["d" * 255], "S": "s" * 128, "L": "l" * 128, "O": "o" * 64, "OU": ["Mail", "u" * 64]}},
    ),
    ("ReceiveConnector", RECEIVE | {"remoteIPRanges": ["10.0.0.1-10.0.0.9", "::1", "fd00::/8"]}),
    (
        "SendConnector",
        HOSTS | {"smartHosts": [{"host": "10.0.0.1"}], "smartHostAuthMechanism": "ExternalAuthoritative"},
    ),
    ("TransportCertificate", CERTIFICATE | {"privateKey": {"algorithm": "RSA", "size": 2048}}),
    ("TransportCertificate", {"subscription": {"role": "Edge", "certificates": "PEM"}}),
]

BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("ReceiveConnector", {"bindings": []}, "spec.bindings"),
    ("ReceiveConnector", {"bindings": [{"port": 25}, {"port": 25}]}, "spec.bindings: each port may be bound once"),
    ("ReceiveConnector", {"bindings": [{"port": 65536}]}, "spec.bindings[0].port"),
    ("ReceiveConnector", {"bindings": [{"port": "25"}]}, "spec.bindings[0].port"),
    ("ReceiveConnector", {"bindings": [{"port": 25, "tls": False}]}, 'write "Off" in quotes'),
    ("ReceiveConnector", {"bindings": [{"port": 25, "prot": 1}]}, "did you mean port?"),
    ("ReceiveConnector", RECEIVE | {"requireTls": True}, "did you mean requireTLS?"),
    ("ReceiveConnector", RECEIVE | {"authMechanisms": ["BasicAuthRequireTLS"]}, "BasicAuthRequireTLS needs TLS"),
    ("ReceiveConnector", RECEIVE | {"authMechanisms": ["None", "TLS"]}, "None stands alone"),
    ("ReceiveConnector", RECEIVE | {"authMechanisms": ["TLS", "TLS"]}, "each value may stand once"),
    ("ReceiveConnector", RECEIVE | {"authMechanisms": ["ExternalAuthoritative"]}, "spec.remoteIPRanges: External"),
    (
        "ReceiveConnector",
        RECEIVE | {"authMechanisms": ["ExternalAuthoritative"], "remoteIPRanges": ["10.0.0.0/8", "::/0"]},
        "spec.remoteIPRanges: External",
    ),
    ("ReceiveConnector", {"bindings": [{"port": 465, "tls": "Implicit"}]}, "add TLS to authMechanisms"),
    ("ReceiveConnector", RECEIVE | {"requireTLS": True}, "requireTLS needs TLS"),
    ("ReceiveConnector", RECEIVE | {"domainSecure": True}, "domainSecure needs TLS"),
    ("ReceiveConnector", RECEIVE | {"remoteIPRanges": ["10.0.0.0/33"]}, "spec.remoteIPRanges[0]: write a CIDR"),
    ("ReceiveConnector", RECEIVE | {"fqdn": "a b"}, "spec.fqdn: write a domain name"),
    ("ReceiveConnector", RECEIVE | {"banner": "a\r\nb"}, "spec.banner"),
    ("ReceiveConnector", RECEIVE | {"limits": {"messageSize": "36X"}}, "spec.limits.messageSize: write a size"),
    ("ReceiveConnector", RECEIVE | {"limits": {"messageSize": []}}, "spec.limits.messageSize"),
    ("ReceiveConnector", RECEIVE | {"limits": {"tarpit": "5 s"}}, "spec.limits.tarpit: write a duration"),
    ("ReceiveConnector", RECEIVE | {"extensions": {"chunking": False}}, "spec.extensions.binaryMIME"),
    ("ReceiveConnector", RECEIVE | {"extensions": {"dsn": "yes"}}, "spec.extensions.dsn"),
    (
        "ReceiveConnector",
        RECEIVE | {"grants": [{"principal": "Everyone", "permissions": ["SMTP-Submit"]}]},
        "spec.grants[0].principal",
    ),
    (
        "ReceiveConnector",
        RECEIVE | {"grants": [{"principal": "Anonymous", "permissions": ["Send-Exch50"]}]},
        "spec.grants[0].permissions[0]: must be one of",
    ),
    ("ReceiveConnector", authentication(bans={"window": "0m0s"}), "must be longer than 0s"),
    ("ReceiveConnector", authentication(bans={"duration": "0s"}), "must be longer than 0s"),
    ("ReceiveConnector", authentication(bans={"failures": 1001}), "authentication.bans.failures"),
    ("ReceiveConnector", authentication(bans={"allowRanges": ["localhost"]}), "authentication.bans.allowRanges[0]"),
    ("ReceiveConnector", authentication(ldap={"urls": ["ldap://a.example"]}), "baseDN: this field is required"),
    ("ReceiveConnector", authentication(ldap=LDAP | {"urls": ["http://a.example"]}), "ldap.urls[0]: write ldap://"),
    (
        "ReceiveConnector",
        authentication(ldap=LDAP | {"urls": ["ldap://a:b@c.example"]}),
        "ldap.urls[0]: write ldap://",
    ),
    ("ReceiveConnector", authentication(ldap=LDAP | {"bindDN": "cn=x"}), "bindDN and bindPasswordSecretRef"),
    ("ReceiveConnector", authentication(ldap=LDAP | {"filter": "(uid=x)"}), "ldap.filter: must ask for {user}"),
    ("ReceiveConnector", authentication(ldap=LDAP | {"connections": 0}), "ldap.connections"),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"issuer": "http://id.example"}), "write an https URL"),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"algorithms": ["HS256"]}), "oauth2.algorithms[0]"),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"algorithms": ["none"]}), "oauth2.algorithms[0]"),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"audiences": []}), "oauth2.audiences"),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"addressesClaim": ""}), "give addressesClaim"),
    ("ReceiveConnector", authentication(oauth2=OAUTH2 | {"addressTemplate": "a@b"}), "oauth2.addressTemplate"),
    ("ReceiveConnector", authentication(serviceAccounts=ACCOUNTS | {"allow": []}), "serviceAccounts.allow"),
    (
        "ReceiveConnector",
        authentication(serviceAccounts=ACCOUNTS | {"allow": [{"namespace": "a", "addresses": ["b"]}]}),
        "serviceAccounts.allow[0].addresses[0]: write an address",
    ),
    ("SendConnector", SEND | {"drop": {}}, "exactly one of dns, smartHosts, lmtp and drop"),
    ("SendConnector", {"addressSpaces": [{"domain": "*"}]}, "exactly one of dns, smartHosts, lmtp and drop"),
    ("SendConnector", SEND | {"addressSpaces": [{"domain": "a*"}]}, "spec.addressSpaces[0].domain"),
    ("SendConnector", HOSTS | {"domainSecure": True}, "domainSecure needs DNS routing"),
    ("SendConnector", HOSTS | {"smartHostAuthMechanism": "ExternalAuthoritative"}, "given by its IP address"),
    ("SendConnector", HOSTS | {"smartHostAuthMechanism": "BasicAuth"}, "spec.authSecretRef"),
    ("SendConnector", HOSTS | {"authSecretRef": {"name": "s"}}, "spec.authSecretRef"),
    ("SendConnector", SEND | {"smartHostAuthMechanism": "ExchangeServer"}, "smartHostAuthMechanism needs smartHosts"),
    (
        "SendConnector",
        SEND | {"domainSecure": True, "domainSecurity": {"domains": []}},
        "spec.domainSecurity.domains",
    ),
    ("SendConnector", SEND | {"tlsTrust": {"revocation": {"mode": "Never"}}}, "spec.tlsTrust.revocation.mode"),
    ("SendConnector", SEND | {"ignoreSTARTTLS": True, "requireTLS": True}, "spec.ignoreSTARTTLS"),
    ("SendConnector", SEND | {"tlsDomain": "a.example"}, "tlsDomain needs tlsAuthLevel: DomainValidation"),
    ("SendConnector", SEND | {"limits": {"rate": "fast"}}, "spec.limits.rate"),
    ("ReceiveConnector", {"bindings": [{"port": 25, "proxyProtocol": {"trustedRanges": ["x"]}}]}, "trustedRanges[0]"),
    ("SendConnector", SEND | {"dns": {"resolvers": ["dns.example"]}}, "spec.dns.resolvers[0]"),
    ("ReceiveConnector", authentication(kerberos={}), "spec.authentication.kerberos.keytabSecretRef"),
    ("ReceiveConnector", authentication(kerberos=KEYTAB | {"realms": ["a/b"]}), "write a realm such as"),
    *(
        (
            "ReceiveConnector",
            authentication(kerberos=KEYTAB | {"legacyServers": [name]}),
            "a principal with its realm",
        )
        for name in ("host/a.example", "@B", "a@", "a b@B", "a@B@C", "a@b/c", "a\\@b@C")
    ),
    ("ReceiveConnector", authentication(kerberos=KEYTAB | {"legacyServers": ["a@B", "a@B"]}), "legacyServers"),
    ("ReceiveConnector", authentication(kerberos=KEYTAB | {"addressTemplate": "a@b"}), "with {account} in it"),
    (
        "ReceiveConnector",
        authentication(clientCertificates=CLIENTS | {"accountFrom": []}),
        "give accountFrom or accounts",
    ),
    (
        "ReceiveConnector",
        authentication(clientCertificates=CLIENTS | {"accounts": [{"account": "a"}]}),
        "give exactly one of email, dnsName, commonName and thumbprint",
    ),
    (
        "ReceiveConnector",
        authentication(clientCertificates=CLIENTS | {"accounts": [{"account": "a", "thumbprint": "abc"}]}),
        "write the SHA-256 of the certificate",
    ),
    ("SendConnector", HOSTS | {"oauth2": TOKENS}, "oauth2 needs authSecretRef"),
    (
        "SendConnector",
        HOSTS
        | {"smartHostAuthMechanism": "BasicAuth", "authSecretRef": {"name": "s"}, "oauth2": {"tokenURL": "http://a"}},
        "write an https URL",
    ),
    ("AcceptedDomain", {}, "spec.domain: this field is required"),
    ("AcceptedDomain", DOMAIN | {"deliver": {}}, "spec.deliver: give exactly one of maildir, lmtp and smtp"),
    ("AcceptedDomain", DOMAIN | {"deliver": {"maildir": {"path": "../{local}"}}}, "spec.deliver.maildir.path"),
    ("AcceptedDomain", DOMAIN | {"deliver": {"maildir": {"path": "{user}"}}}, "spec.deliver.maildir.path"),
    ("AcceptedDomain", DOMAIN | {"recipients": {}}, "spec.recipients: give exactly one of list and configMapRef"),
    ("AcceptedDomain", DOMAIN | {"aliasOf": "b.example"}, "remove deliver and recipients"),
    ("AcceptedDomain", {"domain": "a.example", "aliasOf": "A.example"}, "alias of itself"),
    ("AcceptedDomain", {"domain": "a.example", "aliasOf": "b.example", "default": True}, "spec.default"),
    ("TransportCertificate", CERTIFICATE | {"selfSigned": {}}, "exactly one of selfSigned"),
    (
        "TransportCertificate",
        CERTIFICATE | {"subscription": {"role": "Hub", "certificates": ""}},
        "exactly one of selfSigned",
    ),
    ("TransportCertificate", {"subscription": {"role": "hub", "certificates": ""}}, "spec.subscription.role"),
    (
        "TransportCertificate",
        {"subscription": {"role": "Hub", "certificates": "-----BEGIN EC PRIVATE KEY-----"}},
        "spec.subscription.certificates: a subscription holds certificates only",
    ),
    ("TransportCertificate", {"dnsNames": ["a.example"]}, "exactly one of selfSigned"),
    ("TransportCertificate", {"ca": {}}, "dnsNames are needed"),
    ("TransportCertificate", CERTIFICATE | {"dnsNames": ["*.*.example"]}, "spec.dnsNames[0]"),
    ("TransportCertificate", CERTIFICATE | {"renewBefore": "90d"}, "spec.renewBefore: renewBefore is shorter"),
    ("TransportCertificate", CERTIFICATE | {"privateKey": {"algorithm": "RSA", "size": 256}}, "spec.privateKey.size"),
    ("TransportCertificate", CERTIFICATE | {"subject": {"C": "Korea"}}, "spec.subject.C"),
    ("TransportCertificate", CERTIFICATE | {"subject": {"S": "s" * 129}}, "spec.subject.S"),
    ("TransportCertificate", CERTIFICATE | {"subject": {"O": "o" * 65}}, "spec.subject.O"),
    ("TransportCertificate", CERTIFICATE | {"subject": {"OU": ["u" * 65]}}, "spec.subject.OU[0]"),
    ("TransportCertificate", CERTIFICATE | {"subject": {"OU": "Mail"}}, "spec.subject.OU"),
    ("TransportCertificate", CERTIFICATE | {"subject": {"DC": ["d" * 256]}}, "spec.subject.DC[0]"),
]
