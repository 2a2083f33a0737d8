"""No combination of resources relays for strangers, unless one of them says so in the field for it."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from permission_matrix import ALL, ANY_RCPT, GROUPS, HUB_ONLY, PRINCIPALS, SUBMIT, USAGES

from postroad_operator.compile import Reason, Snapshot, TierSettings, compile_tier
from postroad_operator.resources import Ignored, Invalid, parse
from postroad_transport.config import Role
from postroad_transport.policy.explain import Scenario, explain
from postroad_transport.policy.tier import TierPolicy

PORTS = (25, 587)
STRANGERS = ("203.0.113.9", "8.8.8.8", "2001:db8::9", "::ffff:198.51.100.1", "11.0.0.1", "192.0.2.200")
NEIGHBOURS = ("10.1.2.3", "192.168.7.7", "192.0.2.7", "fd00::1")
NETWORKS = ("10.0.0.0/8", "192.168.0.0/16", "fc00::/7", "192.0.2.0/25")
RANGES = {
    "0.0.0.0/0": False, "0.0.0.0-255.255.255.255": False, "10.0.0.0/8": True, "10.0.0.0-11.255.255.255": False,
    "10.1.2.3": True, "192.0.2.0/24": False, "192.0.2.0-192.0.2.99": True, "::/0": False, "fd00::/8": True,
    "::ffff:10.0.0.0/104": True, "::ffff:0.0.0.0/96": False, "203.0.113.9": False, "2000::/3": False,
}  # fmt: skip
"""Each range, and whether it lies within NETWORKS or the private ranges."""

grant = st.fixed_dictionaries(
    {
        "principal": st.sampled_from(PRINCIPALS),
        "permissions": st.lists(st.sampled_from([SUBMIT, ANY_RCPT, *ALL]), min_size=1, max_size=4, unique=True),
        "effect": st.sampled_from(["Allow", "Allow", "Allow", "Deny"]),
    }
)
relay = st.sampled_from(["Anonymous", "ExternallySecuredServers"]).map(
    lambda principal: {"principal": principal, "permissions": [SUBMIT, ANY_RCPT], "effect": "Allow"}
)
binding = st.fixed_dictionaries(
    {"port": st.sampled_from(PORTS)},
    optional={"proxyProtocol": st.just({"trustedRanges": ["10.9.9.9/32"]})},
)
connector = st.fixed_dictionaries(
    {"bindings": st.lists(binding, min_size=1, max_size=1), "grants": st.lists(grant | relay, max_size=4)},
    optional={
        "usage": st.sampled_from(sorted(USAGES)),
        "permissionGroups": st.lists(st.sampled_from(sorted(GROUPS)), max_size=3, unique=True),
        "remoteIPRanges": st.lists(st.sampled_from(sorted(RANGES)), min_size=1, max_size=3, unique=True),
        "authMechanisms": st.sampled_from([["None"], ["TLS"], ["ExternalAuthoritative"], ["BasicAuth"]]),
        "allowOpenRelay": st.booleans(),
        "enabled": st.sampled_from([True, True, True, False]),
    },
)


def relays_for_strangers(spec: dict[str, Any], role: str, visible: bool) -> bool:
    """The definition, from the resource as written: who need prove nothing, may relay, from where?"""
    anyone = "ExternallySecuredServers" if "ExternalAuthoritative" in spec.get("authMechanisms", []) else "Anonymous"
    groups = spec.get("permissionGroups", USAGES[spec.get("usage", "Custom")])
    members = [g for g in groups if anyone in GROUPS[g][0] and (role == "hub" or g not in HUB_ONLY)]
    mine = [g for g in spec["grants"] if g["principal"] == anyone]
    allowed = {p for g in members for p in GROUPS[g][1]} | {
        p for g in mine if g["effect"] == "Allow" for p in g["permissions"]
    }
    denied = {p for g in mine if g["effect"] == "Deny" for p in g["permissions"]}
    wide = not all(RANGES[text] for text in spec.get("remoteIPRanges", ["0.0.0.0/0"]))
    seen = visible or "proxyProtocol" in spec["bindings"][0]
    return {SUBMIT, ANY_RCPT} <= allowed - denied and (wide or not seen)


@settings(max_examples=300, deadline=None)
@given(
    specs=st.lists(connector, min_size=1, max_size=4),
    role=st.sampled_from(["hub", "edge"]),
    visible=st.sampled_from([True, True, False]),
)
def test_nobody_relays_for_strangers_unless_a_resource_asks_for_it(
    specs: list[dict[str, Any]], role: str, visible: bool
) -> None:
    objects = []
    for index, spec in enumerate(specs):
        metadata = {"name": f"c{index}"}
        body = {"apiVersion": "postroad.dev/v1alpha1", "kind": "ReceiveConnector", "metadata": metadata, "spec": spec}
        parsed = parse(body)
        assert not isinstance(parsed, Ignored)
        objects.append(parsed)
    settings_ = TierSettings(role=Role(role), networks=NETWORKS, client_addresses_visible=visible)
    compilation = compile_tier(Snapshot(settings_, tuple(objects)))
    invalid = {item.source for item in objects if isinstance(item, Invalid)}
    by_source = {f"ReceiveConnector/default/c{index}": spec for index, spec in enumerate(specs)}

    # What is refused as an open relay is one, and what is one and was not asked for is not served.
    for verdict in compilation.verdicts:
        if verdict.source in invalid:
            continue
        spec = by_source[verdict.source]
        relays = relays_for_strangers(spec, role, visible)
        if verdict.reason in (Reason.OPEN_RELAY, Reason.CLIENT_ADDRESSES_HIDDEN):
            assert relays, (verdict, spec)
            assert not spec.get("allowOpenRelay"), (verdict, spec)
        elif verdict.accepted and spec.get("enabled", True):
            assert not relays or spec["allowOpenRelay"], (verdict, spec)

    # And by trying: whoever gets mail to elsewhere taken without logging in was let by a resource that says so.
    tier = TierPolicy(compilation.config)
    for port in PORTS:
        for address in STRANGERS if visible else STRANGERS + NEIGHBOURS:
            scenario = Scenario(port=port, remote_ip=address, tls=False, recipients=("x@elsewhere.example",))
            explanation = explain(tier, scenario)
            if explanation.accepted:
                spec = by_source[next(choice.source for choice in explanation.choices if choice.chosen)]
                named = "proxyProtocol" in spec["bindings"][0] and address in NEIGHBOURS
                assert spec.get("allowOpenRelay") or named, (spec, address)


def test_the_ranges_of_the_test_are_judged_as_it_says() -> None:
    """Guards the guard: every stranger lies outside every range that counts as the tier's own."""
    for text, own in RANGES.items():
        if own and "-" not in text:
            network = ipaddress.ip_network(text.replace("::ffff:", "").replace("/104", "/8"))
            assert not any(
                ipaddress.ip_address(stranger.removeprefix("::ffff:")) in network for stranger in STRANGERS
            )
