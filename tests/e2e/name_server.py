"""A name server on loopback, over UDP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@contextmanager
def name_server(records: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[int]:
    """Answer from `records`, values by ``(name., type)``; ``broken.example`` is SERVFAIL, the rest does not exist."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    names = {name for name, _ in records}

    def answer() -> None:
        while True:
            data, peer = server.recvfrom(4096)
            if data == b"stop":
                return
            query = dns.message.from_wire(data)
            question = query.question[0]
            name = question.name.to_text().lower()
            response = dns.message.make_response(query)
            response.flags |= dns.flags.RA | dns.flags.AA
            values = records.get((name, dns.rdatatype.to_text(question.rdtype)), [])
            if values:
                response.answer = [dns.rrset.from_text(question.name, 60, "IN", question.rdtype, *values)]
            elif name == "broken.example.":
                response.set_rcode(dns.rcode.SERVFAIL)
            elif name not in names:
                response.set_rcode(dns.rcode.NXDOMAIN)
            server.sendto(response.to_wire(), peer)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.sendto(b"stop", server.getsockname())
        thread.join(10)
        server.close()
