# SPDX-License-Identifier: Apache-2.0
"""Asks engines that hide traffic every second what they measure, and tells the core."""

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from hub.errors import HubError
from hub.mitigations.engine import Engine
from hub.mitigations.model import MitigationState
from hub.pipeline.holding import measure
from hub.rates import Rates, total
from hub.runner import Runner

log = structlog.get_logger(__name__)

_INTERVAL: Final = 1.0
_SHOWN: Final = ("hostile_pps", "dropped_pps", "passed_pps", "syn_pps", "cookie_good_pps", "pps")


class Meter:
    """Measures while the hub runs.

    Args:
        engines: by name; those that hide no traffic are left alone.
        runner: carries out what follows.
        mismatch: is called with the name of an engine that has come back, or lacks what should be
            in force.
    """

    def __init__(
        self, engines: Mapping[str, Engine], runner: Runner, mismatch: Callable[[str], None]
    ) -> None:
        self._engines = {
            name: engine for name, engine in engines.items() if engine.capabilities().hides_traffic
        }
        self._runner, self._mismatch = runner, mismatch
        self._silent: set[str] = set()
        self._shown: set[tuple[str, str]] = set()

    async def measure_for_ever(self) -> None:
        """Measure once a second, for ever."""
        while True:
            for name in self._engines:
                await self.measure(name)
            await self._runner.clock.sleep(_INTERVAL)

    async def measure(self, name: str) -> None:
        """Measure one engine, and carry out what follows from it."""
        rates = await self._rates(name)
        self._runner.metrics.engines.measured.labels(name).set(int(rates is not None))
        state, now = self._runner.state, self._runner.clock.time()
        await self._runner.carry_out(measure(state, name, rates, now))
        if rates is not None and self._lacks(name, rates):
            self._mismatch(name)
        self._show(name, rates or {})

    async def _rates(self, name: str) -> Mapping[str, Rates] | None:
        try:
            rates = await self._engines[name].rates()
        except HubError as error:
            self._note_silence(name, str(error))
            return None
        except Exception as error:
            if name not in self._silent:
                log.exception(
                    "engine.defect",
                    engine=name,
                    verb="rates",
                    todo="report it with this line; it is tried again",
                )
            self._note_silence(name, f"defect: {type(error).__name__}")
            return None
        if name in self._silent:
            self._silent.discard(name)
            log.info("engine.measured_again", engine=name)
            self._runner.wake()
            self._mismatch(name)
        return rates

    def _note_silence(self, name: str, why: str) -> None:
        if name in self._silent:
            return
        self._silent.add(name)
        log.warning(
            "engine.not_measured",
            engine=name,
            why=why,
            todo="attacks that it hides are held for a while; what is in force stays",
        )

    def _lacks(self, name: str, rates: Mapping[str, Rates]) -> bool:
        return any(
            row.engine == name and row.state is MitigationState.ACTIVE and row.id not in rates
            for row in self._runner.state.ledger
        )

    def _show(self, name: str, rates: Mapping[str, Rates]) -> None:
        """Set the metrics, by service: a label for each mitigation would be without bound."""
        by_service: dict[str, list[Rates]] = {}
        for mitigation_id, one in rates.items():
            row = self._runner.state.ledger.get(mitigation_id)
            if row is not None and not row.drill:
                service = row.service.name if row.service else "none"
                by_service.setdefault(service, []).append(one)
        metric = self._runner.metrics.engine_rate
        for service in {service for engine, service in self._shown if engine == name}:
            by_service.setdefault(service, [])
        for service, found in by_service.items():
            self._shown.add((name, service))
            summed = total(found)
            for rate in _SHOWN:
                metric.labels(name, service, rate.removesuffix("_pps")).set(getattr(summed, rate))
