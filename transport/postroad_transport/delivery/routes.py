"""Routes of recipients, remembered by domain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from postroad_transport.config import Drop, RetryPolicy
from postroad_transport.message import Recipient
from postroad_transport.routing.table import Route, RoutingTable, Unroutable

UNROUTABLE = Route("none", "unroutable", Drop(), None, RetryPolicy())
"""The destination of recipients without a route: so that they fail, wait and are re-routed as all others."""

_MAX_DOMAINS = 10_000


class RouteCache:
    """Looks routes up in the table served now; equal routes are the same object.

    Parameters
    ----------
    table
        The routes served now.
    failed
        Told of an exception that a lookup raised.
    """

    def __init__(self, table: RoutingTable, failed: Callable[[Exception], None]) -> None:
        self._table = table
        self._failed = failed
        self._domains: dict[str, Route] = {}
        self._routes: dict[str, Route] = {}

    def replace(self, table: RoutingTable) -> None:
        """Serve another table from now on."""
        self._table = table
        self._domains.clear()
        self._routes.clear()

    def lookup(self, domain: str) -> Route | Unroutable:
        """Ask the table itself."""
        return self._table.route(domain)

    def resolve(self, recipient: Recipient) -> Route:
        """Return the route of a recipient; :data:`UNROUTABLE` when there is none. Never raises."""
        domain = recipient.address.rpartition("@")[2]
        route = self._domains.get(domain)
        if route is None:
            try:
                found = self._table.route(domain)
            except Exception as error:
                self._failed(error)
                return UNROUTABLE
            route = UNROUTABLE if isinstance(found, Unroutable) else self._intern(found)
            if len(self._domains) >= _MAX_DOMAINS:
                self._domains.clear()
                self._routes.clear()
            self._domains[domain] = route
        return route

    def _intern(self, route: Route) -> Route:
        known = self._routes.setdefault(route.destination, route)
        if known == route:
            return known
        # Two connectors lead to the same host by different terms: two queues.
        route = replace(route, destination=f"{route.destination}#{route.connector}")
        return self._routes.setdefault(route.destination, route)
