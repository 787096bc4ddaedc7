"""
Scale-in protection of the ECS task that we run in, asked for at the agent's own endpoint.

While associations are open the service must not end this task to shrink; a deployment or a stop still may, and drains.
"""

from __future__ import annotations

import json
from urllib.error import URLError
from urllib.request import Request, urlopen

import attrs

from domain.ports import Clock, Telemetry

_EXPIRES_MINUTES = 60
_RENEW_SECONDS = 1200.0
_TIMEOUT_SECONDS = 5.0


@attrs.define
class EcsTaskProtection:
    """
    Protect the task while it is at work; called every few seconds with how many associations are open.

    Args:
        agent_uri: what ECS puts into the variable ECS_AGENT_URI, ending without a slash.
        clock: the time.
        telemetry: told when the agent refuses.

    """

    _agent_uri: str
    _clock: Clock
    _telemetry: Telemetry
    _is_protected: bool = attrs.field(default=False, init=False)
    _asked_at: float = attrs.field(default=float("-inf"), init=False)

    def __call__(self, open_associations: int) -> None:
        """Ask for protection, renew it in time, and give it up when nothing is open."""
        wanted = open_associations > 0
        now = self._clock.monotonic()
        is_stale = wanted and now - self._asked_at >= _RENEW_SECONDS
        if wanted == self._is_protected and not is_stale:
            return
        try:
            self._ask(is_enabled=wanted)
        except (OSError, URLError, ValueError) as error:
            # Asked for again in a few seconds; without it nothing is lost, since a stopping task drains.
            self._telemetry.event("task.protection_delayed", error=type(error).__name__)
            return
        self._is_protected, self._asked_at = wanted, now

    def _ask(self, *, is_enabled: bool) -> None:
        body: dict[str, object] = {"ProtectionEnabled": is_enabled}
        if is_enabled:
            body["ExpiresInMinutes"] = _EXPIRES_MINUTES
        request = Request(  # noqa: S310  # the agent's own address, given by ECS
            f"{self._agent_uri}/task-protection/v1/state",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="PUT",
        )
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # the same
            said = json.load(answer)
        if "protection" not in said:
            raise ValueError("the agent did not confirm")
