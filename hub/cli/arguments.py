# SPDX-License-Identifier: Apache-2.0
"""The grammar of `fnm-hub`: commands and options, with their help."""

import argparse
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from hub import __version__
from hub.cli.text import clean

DEFAULT_CONFIG: Final = Path("/etc/fnm-hub/config.yaml")
DEFAULT_FASTNETMON: Final = Path("/etc/fastnetmon.conf")
# As the daemon has them: it would cut a longer list without a word and refuse a longer reason.
_MOST_ITEMS: Final = 10_000
_MOST_LETTERS: Final = 500
_MOST_PPS: Final = 1_000_000_000
KINDS: Final = ("syn", "tcp", "udp", "icmp", "fragments")
"""As `hub.drills.model` has them: the grammar loads nothing of the core."""

_EPILOG: Final = """\
exit codes: 0 done; 1 a problem was found or the hub refused; 2 wrong usage;
3 an event was not understood; 4 the daemon cannot be reached
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are short and name what was nearly typed."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the mistake, and end with 2."""
        from difflib import get_close_matches  # noqa: PLC0415 - for mistakes only
        from textwrap import fill  # noqa: PLC0415

        message, _, choices = message.partition(" (choose from ")
        if choices:
            typed = message.rpartition("invalid choice: ")[2].strip("'")
            known = [choice.strip("' )") for choice in choices.split(",")]
            near = get_close_matches(typed, known, n=1)
            message += f"; did you mean {near[0]}?" if near else f"; one of {', '.join(known)}"
        self.print_usage(sys.stderr)
        shown = clean(f"fnm-hub: {message}; see {self.prog} --help")
        self.exit(2, fill(shown, 80, subsequent_indent="  ") + "\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its result holds `command` and `run`, the name of what carries it out."""
    shared = _shared()
    parser = _Parser(
        prog="fnm-hub",
        description="Turns FastNetMon's alarms into countermeasures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fnm-hub {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, run: str, text: str, within: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = within.add_parser(
            name, help=text, description=text, parents=[shared], allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    add("run", "daemon", "run the daemon in the foreground")
    add("status", "status", "show the state of the whole")
    _listing(add("attacks", "attacks", "list attacks"), "ended ones")
    add("attack", "attack", "show one attack and why it is treated so").add_argument(
        "id", metavar="ID"
    )
    _listing(add("mitigations", "mitigations", "list countermeasures"), "released ones")
    _events(add)
    add("event", "event", "show one event as it came").add_argument(
        "number", metavar="N", type=_number
    )
    add("explain", "explain", "say why something was done, or nothing was").add_argument(
        "thing", metavar="THING", help="event number, attack, mitigation, address or prefix"
    )
    _logs(add("logs", "logs", "show the log lines that belong together"))
    add("tail", "tail", "follow what happens")
    add("top", "top", "watch and act in a live view of the terminal")
    _agents(add)
    release = add("release", "release", "end one countermeasure now")
    release.add_argument("id", metavar="ID")
    _reason(release)
    _reason(add("freeze", "change", "start nothing new; keep what is in force"))
    _reason(add("unfreeze", "change", "end a freeze or a drain"))
    drain = add("drain", "change", "release everything and start nothing new")
    drain.add_argument("--yes", action="store_true", help="do not ask")
    _reason(drain)
    _drills(add)
    add("reload", "change", "read the rules again; a mistake changes nothing")
    _checks(add)
    _backups(add)
    _doctor(add)
    add("version", "version", "show the version")
    return parser


def _shared() -> argparse.ArgumentParser:
    # SUPPRESS: a subcommand's parser would otherwise undo what stands before the subcommand.
    shared = argparse.ArgumentParser(
        add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    group = shared.add_argument_group("everywhere")
    group.add_argument(
        "--config", metavar="FILE", type=Path, help=f"configuration (default {DEFAULT_CONFIG})"
    )
    group.add_argument(
        "--socket", metavar="PATH", type=Path, help="the daemon's socket (default: as configured)"
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument("--color", choices=("auto", "always", "never"), help="default: auto")
    return shared


def _listing(parser: argparse.ArgumentParser, more: str) -> None:
    parser.add_argument("--all", action="store_true", help=f"{more} too")
    _limit(parser, 500)


def _limit(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "-n",
        dest="limit",
        metavar="N",
        type=_count,
        default=default,
        help=f"at most N ({default})",
    )


def _reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", type=_text, default="", help="for the record")


def _events(add: Any) -> None:
    events = add("events", "events", "list events, or parse one without a daemon")
    _limit(events, 50)
    within = events.add_subparsers(metavar="parse", title="more")
    parse = add("parse", "events_parse", "parse one event from standard input", within)
    parse.usage = "fnm-hub events parse -- ARG... < stdin"
    parse.add_argument("arguments", nargs="*", metavar="ARG", help="as FastNetMon gave them")


def _logs(parser: argparse.ArgumentParser) -> None:
    about = parser.add_mutually_exclusive_group()
    about.add_argument("--attack", metavar="ID", help="of an attack, from its first report on")
    about.add_argument("--mitigation", metavar="ID", help="of one countermeasure")
    about.add_argument("--event", metavar="N", type=_number, help="of an event, and what it began")
    about.add_argument("--delivery", metavar="ID", help="of a call of fnm-notify")
    parser.add_argument("--since", metavar="WHEN", help="2h, 30m, or 2026-11-26T15:00")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--file", metavar="FILE", action="append", help="in place of the journal; - is stdin"
    )
    source.add_argument("--follow", action="store_true", help="go on as lines are written")


def _agents(add: Any) -> None:
    agents = add("agents", "agents", "list the agents on protected servers, or trust one")
    within = agents.add_subparsers(metavar="trust | forget", title="more")
    trust = add("trust", "agents_trust", "pin the host key that an agent shows", within)
    trust.add_argument("name", metavar="NAME")
    trust.add_argument("--fingerprint", metavar="SHA256:...", default="", help="the one you expect")
    trust.add_argument("--yes", action="store_true", help="do not ask")
    _reason(trust)
    forget = add("forget", "agents_forget", "forget the host key of an agent", within)
    forget.add_argument("name", metavar="NAME")
    _reason(forget)
    one = add("agent", "agents", "show one agent and the last probe of each port")
    one.add_argument("name", metavar="NAME")
    key = add("key", "key_show", "the hub's own key for agents")
    within = key.add_subparsers(metavar="show | rotate", required=True)
    add("show", "key_show", "print the line for an agent's file of keys", within)
    rotate = add(
        "rotate", "key_rotate", "make a new key; the old one opens doors meanwhile", within
    )
    rotate.add_argument("--yes", action="store_true", help="do not ask")
    _reason(rotate)


def _drills(add: Any) -> None:
    drill = add("drill", "drill", "send a synthetic attack through the whole chain")
    drill.add_argument("--kind", choices=KINDS, default="syn", help="what it looks like (syn)")
    drill.add_argument("--target", metavar="ADDRESS", help="default: one of yours is chosen")
    drill.add_argument(
        "--enforce", metavar="PREFIX", help="really apply countermeasures, to a target within"
    )
    drill.add_argument("--pps", type=_rate, default=100_000, help="packets a second (100000)")
    drill.add_argument(
        "--notify", metavar="PATH", type=Path, help="the hook (default: FastNetMon's own)"
    )
    drill.add_argument("--user", help="run the hook as USER (default: as FastNetMon does)")
    drill.add_argument("--notify-too", action="store_true", help="send messages, run programs")
    drill.add_argument(
        "--seconds", type=_number, default=60, metavar="N", help="let go after N at the latest (60)"
    )
    drill.add_argument("--yes", action="store_true", help="do not ask")
    _reason(drill)
    _reason(add("arm", "arm", "leave dry-run, when everything for it is there"))
    disarm = add("disarm", "disarm", "go back to dry-run at once")
    disarm.add_argument("--release", action="store_true", help="also end what is in force")
    _reason(disarm)


def _checks(add: Any) -> None:
    for noun, verb, metavar, text in (
        ("config", "config_check", "FILE", "check a configuration and its rules"),
        ("rules", "rules_check", "FILE", "check rule files and run their tests"),
    ):
        within = add(noun, verb, text).add_subparsers(metavar="check", required=True)
        check = add("check", verb, text, within)
        nargs = "?" if noun == "config" else "*"
        check.add_argument("files", nargs=nargs, metavar=metavar, type=Path)


def _backups(add: Any) -> None:
    backup = add("backup", "backup", "write journal, configuration and rules to one file")
    backup.add_argument("file", metavar="FILE", type=Path, help="a new file, as NAME.tar.gz")
    backup.add_argument(
        "--with-secrets", action="store_true", help="keys, tokens and webhook URLs as well"
    )
    restore = add("restore", "restore", "put the journal of a backup back; the daemon is stopped")
    restore.add_argument("file", metavar="FILE", type=Path)
    restore.add_argument(
        "--files",
        metavar="DIR",
        type=Path,
        help="leave the journal alone; unpack configuration and rules into this folder",
    )


def _doctor(add: Any) -> None:
    doctor = add("doctor", "doctor", "look at all that a working hub rests on; change nothing")
    doctor.add_argument(
        "--fastnetmon-conf",
        metavar="FILE",
        type=Path,
        default=DEFAULT_FASTNETMON,
        help=f"FastNetMon's configuration (default {DEFAULT_FASTNETMON})",
    )
    doctor.add_argument("--strict", action="store_true", help="end with 1 for a warning too")


def _count(text: str) -> int:
    if not 1 <= (number := _number(text)) <= _MOST_ITEMS:
        msg = f"{number} is not between 1 and {_MOST_ITEMS}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _rate(text: str) -> int:
    if not 1 <= (number := _number(text)) <= _MOST_PPS:
        msg = f"{number} is not between 1 and {_MOST_PPS}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _text(text: str) -> str:
    if len(text) > _MOST_LETTERS:
        msg = f"at most {_MOST_LETTERS} characters are recorded, these are {len(text)}"
        raise argparse.ArgumentTypeError(msg)
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:  # noqa: PLR2004
        msg = f"{text!r} is not a positive whole number"
        raise argparse.ArgumentTypeError(msg)
    return int(text)
