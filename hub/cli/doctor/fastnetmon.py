# SPDX-License-Identifier: Apache-2.0
"""The FastNetMon side: configuration, script, daemon, ban list, and what it can see."""

from pathlib import Path
from typing import Final

from hub.cli.doctor import (
    banlist,
    fastnetmon_daemon,
    fastnetmon_lists,
    fastnetmon_settings,
    hook,
)
from hub.cli.doctor.fastnetmon_conf import Conf, parse
from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation
from hub.config import Config
from hub.errors import ConfigError
from hub.rules.load import read_rules
from hub.rules.words import known_of

_ADVANCED: Final = Path("/usr/bin/fcli")


def look(situation: Situation, report: Report) -> None:
    """Look at FastNetMon on this host."""
    path = situation.fastnetmon_conf
    conf = _read(path, report)
    if conf is None:
        return
    process = fastnetmon_daemon.find(path)
    report.look("fastnetmon --version")
    release = fastnetmon_daemon.version()
    fastnetmon_daemon.look(process, path, release, report)
    fastnetmon_settings.judge(conf, release, report)
    config = situation.config
    if config is not None:
        fastnetmon_lists.look(conf, config, report)
        _with_engines(situation, conf, config, report)
        _with_rules(conf, config, report)
    # What may hang stands last: what is known by then is said in any case.
    banlist.look(situation, conf, process, report)
    hook.look(situation, conf, process, report)


def _read(path: Path, report: Report) -> Conf | None:
    try:
        conf = parse(path.read_text("utf-8", "replace"))
    except FileNotFoundError:
        if _ADVANCED.exists():
            text = "FastNetMon Advanced keeps its settings in its own database, not looked at"
            report.skip("conf", text, "see FastNetMon Advanced, docs/fastnetmon.md")
        else:
            text = f"{path} is not there: no FastNetMon Community on this host"
            report.skip("conf", text, "name its file by --fastnetmon-conf, if it is elsewhere")
        return None
    except OSError as error:
        report.skip("conf", f"{path}: {error.strerror}", "run as root")
        return None
    if conf.ignored:
        lines = ", ".join(str(number) for number in conf.ignored[:8])
        text = f"{path}: FastNetMon does not understand and leaves out line {lines}"
        report.warn("conf", text, "a line is KEY = VALUE, with no other = in it")
    else:
        report.ok("conf", f"{path} was read")
    return conf


def _with_engines(situation: Situation, conf: Conf, config: Config, report: Report) -> None:
    if not config.engines.native.enabled:
        return
    engine = situation.hub.engine("native")
    if not engine:
        report.skip("blind", "only a running hub knows where synproxyd is attached")
        return
    interfaces = [str(one["name"]) for one in engine["interfaces"]]
    fastnetmon_settings.judge_blindness(conf, config, interfaces, report)


def _with_rules(conf: Conf, config: Config, report: Report) -> None:
    try:
        rules = read_rules(config.rules, known_of(config)).rules
    except ConfigError:
        report.skip("ttl", "the rules have mistakes, which the configuration's check says")
        return
    fastnetmon_settings.judge_lifetimes(conf, rules, report)
