"""Asking the pods what they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import aiohttp

from postroad_operator.status import Answer, Pod

#: Seconds that a pod has to answer.
TIMEOUT = 2.0
#: Pods asked at the same time.
CONCURRENCY = 32
#: Characters of a pod's own error that go into a condition.
_MAX_ERROR = 300


class PodClient:
    """Asks ``/configz`` of transport pods. Close it after use."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT), connector=aiohttp.TCPConnector(limit=CONCURRENCY)
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, pods: Iterable[Pod]) -> tuple[Answer, ...]:
        """Ask each pod; one that does not answer has its reason in place of a hash."""
        return tuple(await asyncio.gather(*map(self._ask, pods)))

    async def _ask(self, pod: Pod) -> Answer:
        if not pod.port or not pod.address:
            return Answer(pod.name, error="it has no address, or does not say on which port it is asked")
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        try:
            async with self._session.get(f"http://{host}:{pod.port}/configz") as response:
                if response.status != 200:
                    return Answer(pod.name, error=f"/configz answered {response.status}")
                return answer_of(pod.name, await response.json(content_type=None))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Answer(pod.name, error=f"/configz does not answer ({type(error).__name__})")


def answer_of(pod: str, body: Any) -> Answer:
    """Read the body of a ``/configz`` answer. Total: whatever it is."""
    if not isinstance(body, dict):
        return Answer(pod, error="/configz answered something else")
    generations, thumbprints = body.get("generations"), body.get("thumbprints")
    return Answer(
        pod,
        hash=str(body.get("hash") or ""),
        generations={
            str(source): generation
            for source, generation in (generations.items() if isinstance(generations, dict) else ())
            if isinstance(generation, int)
        },
        thumbprints=frozenset(map(str, thumbprints if body.get("hash") and isinstance(thumbprints, list) else ())),
        error=str(body.get("lastError") or "")[:_MAX_ERROR],
    )
