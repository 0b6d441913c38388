# SPDX-License-Identifier: Apache-2.0
"""The native engine: the hub's side of synproxyd, which answers, filters and limits in XDP.

What is in force ends there at its deadline, with the hub dead, and with synproxyd dead too. XDP
stands in front of the detector's capture, so that the detector goes blind for what is met: the end
of an attack is seen by the rates measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from hub.clock import Clock
from hub.config import NativeEngine as NativeConfig
from hub.config import Service
from hub.engines.native.answers import in_force, listed, measured, revisions
from hub.engines.native.client import Client, Hello, Json, UnsupportedError
from hub.engines.native.keys import Flow, IsnKeys, Standing
from hub.engines.native.modes import INSTEAD, Choice, Obstacle, choose
from hub.engines.native.pace import Pace
from hub.engines.native.splicing import MODE, Splicing
from hub.engines.native.translate import Request, request, watch
from hub.errors import EngineError, EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Capabilities, Carried, Health, Installed, Plan
from hub.mitigations.model import Mitigation
from hub.rates import Rates
from hub.rules.able import FEATURES, KINDS, NATIVE
from hub.rules.actions import Action, Tcp

log = structlog.get_logger(__name__)

WATCH_LEASE_MS: Final = 120_000
WATCH_RENEWAL: Final = 40.0
_MOST_PARTS: Final = 64
_FLOWS_A_LINE: Final = 8000
_NOTHING: Final = Standing()


class NativeEngine:
    """Implements `hub.mitigations.engine.Engine` on synproxyd.

    Args:
        config: the engine's section of the configuration.
        services: watched in peace, where the configuration says so.
        clock: the time that deadlines are in.
        keys: where the keys of protected servers are looked up.
    """

    def __init__(
        self, config: NativeConfig, services: Sequence[Service], clock: Clock, keys: IsnKeys
    ) -> None:
        self._config, self._clock, self._keys = config, clock, keys
        self._services = services if config.learn else ()
        self._client = Client(config.socket, config.command_timeout, clock)
        self._splicing, self._pace = Splicing(clock), Pace(clock)
        self._given: dict[str, Choice] = {}
        self._started: tuple[int, int] | None = None
        self._watched_until = 0.0
        self._unwatched = ""

    @property
    def name(self) -> str:
        """Name in the configuration and the ledger."""
        return NATIVE

    def capabilities(self) -> Capabilities:
        """Say what this engine can do."""
        return Capabilities(kinds=KINDS, leases=True, hides_traffic=True, features=FEATURES[NATIVE])

    async def start(self) -> None:
        """Connect; what an earlier run of the hub left stays in force."""
        await self._greeted()
        await self._watch_services()

    async def close(self) -> None:
        """Close the connection; everything stays in force."""
        await self._client.close()

    async def plan(self, mitigation: Mitigation) -> Plan:
        """Let synproxyd check the very request that `apply` would make."""
        standing = self._standing(mitigation)
        if standing.unknown:
            # In peace no server is made ready, so that nothing can be proven.
            standing = Standing(why="the server is to be made ready and proven first")
            mitigation = replace(mitigation, action=_without_pass(mitigation.action))
        hello = await self._greeted()
        asked, answer = await self._ask(mitigation, standing, check=True)
        places = ", ".join(f"{one.name} ({one.mode})" for one in hello.interfaces)
        outcome = str(answer.get("outcome", "would_create")).replace("_", " ")
        return Plan((f"{outcome} {mitigation.id} in XDP on {places}", *asked.steps))

    async def apply(self, mitigation: Mitigation) -> Carried | None:
        """Put `mitigation` in force until its deadline; again with a new deadline renews it."""
        standing = _NOTHING
        if _wants_keys(mitigation):
            left = mitigation.deadline - self._clock.time()
            prepared = await self._keys.prepare(mitigation, left)
            standing = prepared.standing
            await self._load(prepared.flows)
        before = self._given.get(mitigation.id)
        choice = await self._put(mitigation, standing)
        if choice is not None and choice.down and (before is None or before.mode != choice.mode):
            _say_less(mitigation, choice)
        return None if choice is None else Carried(choice.mode, choice.down)

    async def refresh(self, mitigation: Mitigation) -> Choice | None:
        """Give what is in force the keys, clocks and mode that are right now.

        For a `tcp` that wants its server's keys. Where these are not to be trusted any more, it
        falls back as its rule says.

        Returns:
            How it is carried out, where the mode is another one than before.
        """
        standing, given = self._standing(mitigation), self._given.get(mitigation.id)
        if standing.unknown or (given is not None and self._is_given(mitigation, given, standing)):
            return None
        try:
            after = await self._put(mitigation, standing)
        except EngineTemporaryError:
            if standing.keys is None and (given is None or given.keys is not None):
                # The next comparison with the ledger finds it missing, and applies it when it can.
                await self._delete(mitigation)
            raise
        if after is None or (given is not None and given.mode == after.mode):
            return None
        if after.obstacle is not None:
            _say_less(mitigation, after)
        return after

    async def release(self, mitigation: Mitigation) -> None:
        """Take `mitigation` back; nothing there is success."""
        await self._delete(mitigation)
        if _wants_keys(mitigation):
            self._keys.release(mitigation.id)

    async def withdraw(self, installed: Installed) -> None:
        """Take back something of ours that the ledger does not know."""
        if not installed.mitigation_id:
            raise EnginePermanentError(
                "is not ours", where=installed.what, todo="remove it by hand if nobody needs it"
            )
        there = revisions(await self._listed())
        revision = there.get(installed.mitigation_id)
        if revision is not None:
            await self._client.ask("delete", id=installed.mitigation_id, revision=revision)

    async def inventory(self) -> Sequence[Installed]:
        """Read back what is really there, ours by tag and foreign."""
        return in_force(await self._listed())

    async def health(self) -> Health:
        """Say whether synproxyd answers and its program is attached."""
        try:
            hello = await self._greeted()
            answer = await self._client.ask("stats")
        except EngineError as error:
            return Health(ok=False, detail=str(error))
        attached = {str(one.get("interface")) for one in answer.get("programs", ())}
        gone = [one.name for one in hello.interfaces if one.name not in attached]
        if gone or not hello.interfaces:
            where = ", ".join(gone) or "any interface"
            return Health(
                ok=False,
                detail=f"synproxyd's program is not attached to {where}; restart synproxyd",
                interfaces=hello.interfaces,
            )
        detail = f"synproxyd {hello.daemon} answers"
        if self._splicing.everywhere is not None:
            detail += f", without mode {MODE}"
        return Health(ok=True, detail=detail, interfaces=hello.interfaces)

    async def telemetry(self) -> Mapping[str, int]:
        """Return packets by verdict reason, and what the engine holds; keep the watches alive."""
        await self._watch_services()
        answer = await self._client.ask("stats")
        counters = {str(reason): int(count) for reason, count in answer["packets"].items()}
        counters |= {f"work.{name}": int(count) for name, count in answer["work"].items()}
        held = ("flows", "flows6", "sources", "mitigations", "memory_bytes")
        counters |= {f"held.{name}": int(answer[name]) for name in held if name in answer}
        for word, part in (("limit", "limits"), ("logged", "logged")):
            said = answer.get(part, {})
            counters |= {f"{word}.{name}": int(count) for name, count in said.items()}
        spliced = self._splicing.measured(answer)
        return counters | {f"held.splices_{name}": count for name, count in spliced.items()}

    async def rates(self) -> Mapping[str, Rates]:
        """Return what is measured now, by mitigation id."""
        answer = await self._listed()
        return measured(answer, self._pace.look(answer))

    async def _ask(
        self, mitigation: Mitigation, standing: Standing, *, check: bool = False
    ) -> tuple[Request, Json]:
        """Ask for `mitigation`; for the next mode where synproxyd cannot splice its target."""
        hello = await self._greeted()
        asked = self._request(mitigation, standing, self._obstacle(mitigation))
        flag: Json = {"check": True} if check else {}
        if mitigation.delivery and hello.keeps_delivery:
            flag["delivery"] = mitigation.delivery
        try:
            return asked, await self._client.ask("put", **flag, **asked.fields)
        except EnginePermanentError as error:
            if asked.choice is None or asked.choice.mode != MODE:
                raise
            # Another run of it may have answered, which greets otherwise.
            await self._greeted()
            obstacle = self._splicing.everywhere
            if obstacle is None and isinstance(error, UnsupportedError):
                obstacle = self._splicing.refused(mitigation.target, error)
            if obstacle is None:
                raise
        asked = self._request(mitigation, standing, obstacle)
        return asked, await self._client.ask("put", **flag, **asked.fields)

    def _request(
        self, mitigation: Mitigation, standing: Standing, obstacle: Obstacle | None
    ) -> Request:
        return request(mitigation, self._config, standing, self._clock.time(), obstacle)

    def _obstacle(self, mitigation: Mitigation) -> Obstacle | None:
        if _wants_keys(mitigation):
            return self._splicing.obstacle(mitigation.target)
        # A rule that names the mode asks synproxyd itself, each time.
        return self._splicing.everywhere

    def _standing(self, mitigation: Mitigation) -> Standing:
        return self._keys.standing(mitigation) if _wants_keys(mitigation) else _NOTHING

    def _is_given(self, mitigation: Mitigation, given: Choice, standing: Standing) -> bool:
        action = mitigation.action
        if not isinstance(action, Tcp):
            return True
        if action.fallback == "pass" and standing.keys is None:
            return False
        return given.stands_for(choose(action, standing, self._obstacle(mitigation), ""))

    async def _put(self, mitigation: Mitigation, standing: Standing) -> Choice | None:
        asked, _ = await self._ask(mitigation, standing)
        if asked.choice is not None and _wants_keys(mitigation):
            self._given[mitigation.id] = asked.choice
        return asked.choice

    async def _delete(self, mitigation: Mitigation) -> None:
        self._given.pop(mitigation.id, None)
        await self._client.ask("delete", id=mitigation.id, revision=mitigation.revision)

    async def _load(self, flows: Sequence[Flow]) -> None:
        evicted = 0
        for start in range(0, len(flows), _FLOWS_A_LINE):
            part = flows[start : start + _FLOWS_A_LINE]
            wire = [[str(one), sport, str(other), dport] for one, sport, other, dport in part]
            evicted += int((await self._client.ask("load", flows=wire)).get("evicted", 0))
        if evicted:
            log.warning("native.flows_evicted", flows=evicted, todo="give synproxyd more --flows")

    async def _listed(self) -> Json:
        """Return all that is in force; synproxyd says it in parts where a line would be too long.

        A part may begin anew from the start when what the former one ended with is over.
        """
        answer = await self._client.ask("list")
        found = {one["id"]: one for one in listed(answer)}
        for _ in range(_MOST_PARTS):
            if not (after := answer.get("more_after")):
                return {"mitigations": list(found.values())}
            answer = await self._client.ask("list", after=after)
            found |= {one["id"]: one for one in listed(answer)}
        raise EngineTemporaryError("synproxyd's list does not end", todo="see synproxyd's log")

    async def _greeted(self) -> Hello:
        hello = await self._client.hello()
        if hello.started != self._started:
            self._started, self._watched_until = hello.started, 0.0
            self._splicing.greeted(hello)
            log.info(
                "native.connected",
                daemon=hello.daemon,
                pid=hello.started[0],
                interfaces=[f"{one.name} {one.mode}" for one in hello.interfaces],
            )
        return hello

    async def _watch_services(self) -> None:
        """Learn flows that are open, so that they survive a `tcp` that comes later."""
        await self._greeted()
        now = self._clock.monotonic()
        if now < self._watched_until:
            return
        trouble = ""
        for service in self._services:
            for number, prefix in enumerate(service.prefixes):
                asked = watch(service.name, number, prefix, service.tcp_ports, WATCH_LEASE_MS)
                trouble = await self._try_watch(asked.fields) or trouble
        self._watched_until = now + WATCH_RENEWAL
        if trouble and trouble != self._unwatched:
            log.warning(
                "native.watch_failed",
                why=trouble,
                todo="connections that are open when an attack begins may break",
            )
        self._unwatched = trouble

    async def _try_watch(self, fields: dict[str, Any]) -> str:
        try:
            await self._client.ask("put", **fields)
        except EngineError as error:
            return f"{fields['id']}: {error.what}"
        return ""


def _wants_keys(mitigation: Mitigation) -> bool:
    return isinstance(mitigation.action, Tcp) and mitigation.action.wants_keys


def _say_less(mitigation: Mitigation, choice: Choice) -> None:
    """Log that something less than the best was taken, and why."""
    about = {"mitigation": mitigation.id, "target": str(mitigation.target), "mode": choice.mode}
    if choice.obstacle is None:
        log.info("tcp.stepped_down", engine=NATIVE, **about, why=choice.why)
        return
    todo = choice.obstacle.todo or INSTEAD
    log.warning("native.not_spliced", **about, why=choice.why, todo=todo)


def _without_pass(action: Action) -> Action:
    """Return what shows that a `tcp` is possible at all, while its server is not ready."""
    if isinstance(action, Tcp) and action.fallback == "pass":
        return Tcp(mode=action.mode, fallback="reset")
    return action
