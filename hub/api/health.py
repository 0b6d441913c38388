# SPDX-License-Identifier: Apache-2.0
"""/healthz, /readyz and /metrics: for supervisors, probes and Prometheus."""

from typing import Final

from aiohttp import web

from hub.api.answers import answer, errors_as_json
from hub.api.counters import Counters
from hub.api.daemon import Daemon

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Health:
    """Read-only handlers that every listener for people and probes carries."""

    def __init__(self, daemon: Daemon, counters: Counters) -> None:
        self._daemon, self._counters = daemon, counters

    async def healthz(self, _request: web.Request) -> web.Response:
        """Answer while the event loop turns."""
        return answer({"ok": True})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer 200 when the hub can do its work, or 503 with the reasons."""
        reasons = list(self._daemon.ready())
        return answer({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the daemon's metrics and those of the sockets."""
        text = await self._daemon.metrics()
        if text and not text.endswith(b"\n"):
            text += b"\n"
        return web.Response(
            body=text + self._counters.text(), headers={"Content-Type": _METRICS_TYPE}
        )

    def add_to(self, app: web.Application) -> None:
        """Add the three routes."""
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)


def build_metrics_app(daemon: Daemon, counters: Counters) -> web.Application:
    """Return the application of the metrics listener: nothing on it changes anything."""
    app = web.Application(middlewares=[errors_as_json])
    Health(daemon, counters).add_to(app)
    return app
