# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub status`: the state of the whole on one screen."""

from typing import Any

from hub.cli.measured import show_engine
from hub.cli.text import Cell, Column, Screen, age, amount, clean, moment


def show_status(screen: Screen, status: dict[str, Any]) -> None:
    """Print the answer of `/v1/status`."""
    now = float(status["now"])
    _first_line(screen, status, now)
    for warning in status.get("warnings", []):
        screen.text(f"warning: {clean(warning)}", "yellow")
    screen.line()
    screen.field("running", f"since {moment(status['started_at'], now)}, pid {status['pid']}")
    counts = status["counts"]
    screen.field("attacks", _counts(counts["attacks"]))
    failed = counts["mitigations"].get("failed", 0)
    screen.field("mitigations", _counts(counts["mitigations"]), "alarm" if failed else "")
    screen.field("events", _counts(counts["events"]))
    _rules(screen, status["rules"], now)
    _arming(screen, status, now)
    _caps(screen, status.get("caps", {}))
    _store(screen, status["store"], status["spool"])
    screen.line()
    _engines(screen, status["engines"])
    for engine in status["engines"]:
        show_engine(screen, engine)


def _first_line(screen: Screen, status: dict[str, Any], now: float) -> None:
    states: list[str] = []
    style = "green"
    if status["dry_run"]:
        states.append("DRY-RUN: nothing is applied")
        style = "cyan"
    frozen = status.get("frozen")
    if status.get("draining"):
        states.append("DRAINING: everything is released, nothing new starts")
        style = "alarm"
    elif frozen:
        states.append("FROZEN: nothing new starts")
        style = "alarm"
    text = "; ".join(states) or "ENFORCING: countermeasures are applied"
    screen.text(f"fnm-hub {clean(status['version'])}  {text}", style)
    if frozen:
        reason = f": {clean(frozen['reason'])}" if frozen.get("reason") else ""
        who = clean(frozen.get("actor") or "unknown")
        screen.text(f"by {who} {age(frozen['since'], now)}{reason}", indent=2)


def _counts(counts: dict[str, Any]) -> str:
    shown = [
        f"{amount(count) if name == 'accepted' else count} {clean(name).replace('_', ' ')}"
        for name, count in counts.items()
        if count or name in {"active", "accepted"}
    ]
    return ", ".join(shown) or "none"


def _rules(screen: Screen, rules: dict[str, Any], now: float) -> None:
    files = ", ".join(clean(file) for file in rules["files"])
    screen.field("rules", f"{rules['count']} from {files}")
    version = clean(rules["version"])[:12]
    screen.field("", f"version {version}, loaded {moment(rules['loaded_at'], now)}")


def _arming(screen: Screen, status: dict[str, Any], now: float) -> None:
    """Show who armed or disarmed, and the newest drill; an older daemon tells of neither."""
    arming, drill = status.get("arming") or {}, status.get("drill") or {}
    said = arming.get("operator")
    if said:
        what = "armed" if said["armed"] else "disarmed"
        reason = f": {clean(said['reason'])}" if said.get("reason") else ""
        who = clean(said["actor"])
        screen.field("mode", f"{what} by {who} {age(said['since'], now)}{reason}")
    elif arming.get("armed"):
        screen.field("mode", "armed by dry_run: false in the configuration")
    running, last = drill.get("running"), drill.get("last")
    if running:
        where = f"drill {clean(running['id'])} on {clean(running['target'])}"
        screen.field("drill", f"under way: {where} by {clean(running['actor'])}", "yellow")
    if last:
        verdict = "passed" if last["passed"] else f"FAILED: {clean(last['why'])}"
        text = f"{clean(last['id'])} {age(last['ended_at'], now)}, {clean(last['kind'])} on "
        text += f"{clean(last['target'])}: {verdict}"
        screen.field("" if running else "drill", text, "" if last["passed"] else "alarm")
        for stage in last["stages"] if not last["passed"] else ():
            if stage["ok"] is False and stage["todo"]:
                screen.field("", f"{clean(stage['name'])}: {clean(stage['todo'])}")
    if arming.get("drill_lacking") and (last or arming.get("armed")):
        screen.field("", clean(arming["drill_lacking"]), "yellow")


def _caps(screen: Screen, caps: dict[str, Any]) -> None:
    shown = []
    style = ""
    for name, cap in caps.items():
        if cap.get("limit") is None:
            continue
        shown.append(f"{clean(name)} {cap['used']} of {cap['limit']}")
        if cap["used"] >= 0.8 * cap["limit"]:
            style = "yellow"
    if shown:
        screen.field("caps", ", ".join(shown), style)


def _store(screen: Screen, store: dict[str, Any], spool: dict[str, Any]) -> None:
    screen.field("journal", clean(store["path"]))
    if store.get("recovered_from"):
        screen.field(
            "", f"was broken and has been moved to {clean(store['recovered_from'])}", "alarm"
        )
    waiting, bad = spool.get("waiting", 0), spool.get("bad", 0)
    style = "yellow" if waiting or bad else ""
    screen.field("spool", f"{clean(spool['path'])}: {waiting} waiting, {bad} bad", style)


def _engines(screen: Screen, engines: list[dict[str, Any]]) -> None:
    rows = []
    for engine in engines:
        state = Cell("ok", "green") if engine["ok"] else Cell("DOWN", "alarm")
        kinds = " ".join(clean(kind) for kind in engine.get("kinds", []))
        rows.append((Cell(clean(engine["name"])), state, Cell(kinds), Cell(_detail(engine))))
    columns = (
        Column("ENGINE", least=12),
        Column("STATE"),
        Column("KINDS", least=12, cut=True),
        Column("DETAIL", least=20, cut=True),
    )
    screen.table(columns, rows)
    for engine in engines:
        if not engine["ok"] and engine.get("detail"):
            screen.text(f"{clean(engine['name'])}: {clean(engine['detail'])}", "alarm", indent=2)


def _detail(engine: dict[str, Any]) -> str:
    if not engine["ok"]:
        return "see below" if engine.get("detail") else ""
    if engine.get("detail"):
        return clean(engine["detail"])
    telemetry = engine.get("telemetry", {})
    return ", ".join(f"{clean(name)} {amount(count)}" for name, count in telemetry.items())
