# SPDX-License-Identifier: Apache-2.0
"""The command `fnm-hub`: reads its arguments and calls one command.

Exit codes: 0 done; 1 a problem was found, or the hub refused; 2 wrong usage; 3 an event was not
understood (`events parse`); 4 the daemon cannot be reached, or not by this user; 130 interrupted.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from hub import __version__
from hub.cli.arguments import DEFAULT_CONFIG, build_parser
from hub.cli.client import PATIENCE, ApiError, Client, UnreachableError
from hub.cli.streams import (
    OutputError,
    accept_any_text,
    drop_output,
    guarded_output,
    open_missing,
    say_output_failed,
)
from hub.cli.text import Screen, clean, fold, screen_for
from hub.errors import HubError

OK: Final = 0
PROBLEM: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 4
INTERRUPTED: Final = 130
_STATUS_SECONDS: Final = 5.0
DEFAULT_SOCKET: Final = Path("/run/fnm-hub/api.sock")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    open_missing()
    accept_any_text()
    try:
        with guarded_output():
            return _command(words)
    except BrokenPipeError:
        drop_output()  # the reader has gone, as with `| head`
        return OK
    except OutputError as error:
        drop_output()
        say_output_failed(error)
        return PROBLEM
    except KeyboardInterrupt:
        return INTERRUPTED


def _command(words: list[str]) -> int:
    # What follows `--` belongs to FastNetMon: it may look like options of ours.
    own, rest = words, None
    if "--" in words:
        place = words.index("--")
        own, rest = words[:place], words[place + 1 :]
    parser = build_parser()
    args = parser.parse_args(own)
    if args.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    if rest is not None:
        if args.run != "events_parse":
            parser.error("only `events parse` takes arguments after --")
        args.arguments = [*args.arguments, *rest]
    command = _Commands(args)
    try:
        return command.run()
    except UnreachableError as error:
        command.complain(error)
        return UNREACHABLE
    except HubError as error:
        command.complain(error)
        return PROBLEM


class _Commands:
    """Every command, with the options that they share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._json: bool = getattr(args, "json", False)
        self._config = Path(getattr(args, "config", DEFAULT_CONFIG))
        self._screen = screen_for(sys.stdout, getattr(args, "color", "auto"))

    def run(self) -> int:
        """Run the command that was typed."""
        code: int = getattr(self, f"_{self._args.run}")()
        return code

    def complain(self, error: HubError) -> None:
        """Say on standard error what is wrong and what to do."""
        problems = list(error.fields.get("problems", [])) if isinstance(error, ApiError) else []
        if self._json:
            fields = {"error": error.what, "where": error.where, "todo": error.todo}
            print(json.dumps({**fields, "problems": problems}), file=sys.stderr)
            return
        where = f"{error.where}: " if error.where else ""
        for line in f"fnm-hub: {where}{error.what}".splitlines():
            print(clean(line), file=sys.stderr)
        for problem in problems:
            print(fold(clean(problem), indent=2), file=sys.stderr)
        if error.todo:
            print(f"  {clean(error.todo)}", file=sys.stderr)

    def _daemon(self) -> int:
        # From the first moment on, until the hub heeds it: a reload that is asked for while it
        # starts is no reason to die, as the files are being read anyway.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from hub.app import run  # noqa: PLC0415 - the daemon's imports are no client's

        code: int = run(self._config)
        return code

    def _version(self) -> int:
        if self._json:
            print(json.dumps({"version": __version__}))
        else:
            print(f"fnm-hub {__version__}")
        return OK

    def _status(self) -> int:
        from hub.cli.overview import show_status  # noqa: PLC0415 - each command loads its own

        # Whoever asks for it wants to know whether the daemon hangs.
        return self._show(self._client(_STATUS_SECONDS).get("/v1/status"), show_status)

    def _attacks(self) -> int:
        from hub.cli.lists import show_attacks  # noqa: PLC0415

        return self._show(self._list("attacks"), show_attacks)

    def _mitigations(self) -> int:
        from hub.cli.lists import show_mitigations  # noqa: PLC0415

        return self._show(self._list("mitigations"), show_mitigations)

    def _events(self) -> int:
        from hub.cli.lists import show_events  # noqa: PLC0415

        return self._show(self._client().get(f"/v1/events?limit={self._args.limit}"), show_events)

    def _attack(self) -> int:
        from urllib.parse import quote  # noqa: PLC0415

        from hub.cli.control import with_near_ids  # noqa: PLC0415
        from hub.cli.details import show_attack  # noqa: PLC0415

        client, wanted = self._client(), self._args.id
        try:
            found = client.get(f"/v1/attacks/{quote(wanted, safe='')}")
        except ApiError as error:
            raise with_near_ids(client, error, "attacks", wanted) from error
        return self._show(found, show_attack)

    def _event(self) -> int:
        from hub.cli.details import show_event  # noqa: PLC0415

        return self._show(self._client().get(f"/v1/events/{self._args.number}"), show_event)

    def _explain(self) -> int:
        from urllib.parse import quote  # noqa: PLC0415

        from hub.cli.explain import show_explanation  # noqa: PLC0415

        found = self._client().get(f"/v1/explain/{quote(self._args.thing, safe='')}")
        return self._show(found, show_explanation)

    def _logs(self) -> int:
        from hub.cli.logs import run  # noqa: PLC0415

        try:
            run(self._args, self._screen, as_json=self._json)
        except KeyboardInterrupt:
            return OK if self._args.follow else INTERRUPTED
        return OK

    def _tail(self) -> int:
        from hub.cli.tail import follow, show_item  # noqa: PLC0415

        try:
            for item in follow(self._client()):
                show_item(self._screen, item, as_json=self._json)
        except KeyboardInterrupt:
            return OK  # the way in which a tail ends
        return OK

    def _top(self) -> int:
        if self._json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise HubError(
                "top is for a terminal",
                todo="for a program or a file: fnm-hub status --json, fnm-hub tail --json",
            )
        sys.modules.pop("rich", None)  # kept away from everything else, see `hub`
        from hub.cli.top.app import TopApp  # noqa: PLC0415

        TopApp(self._client()).run()
        return OK

    def _agents(self) -> int:
        from hub.cli.agents import find, show_agents  # noqa: PLC0415

        answer = self._client().get("/v1/agents")
        name = getattr(self._args, "name", None)
        if name is None:
            return self._show(answer, show_agents)
        return self._show_agent(find(answer, name), float(answer["now"]))

    def _agents_trust(self) -> int:
        from hub.cli.agents import UnconfirmedError, trust  # noqa: PLC0415

        args = self._args
        try:
            done = trust(
                self._client(), args.name, args.fingerprint, yes=args.yes, reason=args.reason
            )
        except UnconfirmedError as error:
            self.complain(error)
            return USAGE
        return self._show_agent(done, float(done["now"]))

    def _agents_forget(self) -> int:
        from hub.cli.agents import forget  # noqa: PLC0415

        done = forget(self._client(), self._args.name, self._args.reason)
        return self._show_agent(done, float(done["now"]))

    def _show_agent(self, agent: dict[str, Any], now: float) -> int:
        from hub.cli.agents import show_agent  # noqa: PLC0415

        return self._show(agent, lambda screen, fields: show_agent(screen, fields, now))

    def _key_show(self) -> int:
        from hub.cli.agents import show_key  # noqa: PLC0415

        return self._show(self._client().get("/v1/key"), show_key)

    def _key_rotate(self) -> int:
        from hub.cli.agents import show_key  # noqa: PLC0415
        from hub.cli.control import confirmed  # noqa: PLC0415

        warning = "Every agent will need the new line in its file of keys."
        if not self._args.yes and not confirmed(warning):
            print(f"fnm-hub: {warning}\n  If you mean it: key rotate --yes", file=sys.stderr)
            return USAGE
        done = self._client().post("/v1/key/rotate", {"reason": self._args.reason})
        return self._show(done, show_key)

    def _release(self) -> int:
        from hub.cli.control import release, show_change  # noqa: PLC0415

        done = release(self._client(), self._args.id, self._args.reason)
        return self._show(done, lambda screen, fields: show_change(screen, "release", fields))

    def _change(self) -> int:
        from hub.cli.control import change, confirmed, show_change, show_switch  # noqa: PLC0415

        what = self._args.command
        if what == "drain" and not self._args.yes:
            warning = "drain takes every countermeasure out of force and starts nothing new."
            if not confirmed(warning):
                print(f"fnm-hub: {warning}\n  If you mean it: drain --yes", file=sys.stderr)
                return USAGE
        client = self._client()
        if what == "reload" or self._json:
            done = change(client, what, getattr(self._args, "reason", ""))
            return self._show(done, lambda screen, fields: show_change(screen, what, fields))
        before = client.get("/v1/status")
        change(client, what, self._args.reason)
        return self._show(
            client.get("/v1/status"),
            lambda screen, after: show_switch(screen, what, before, after),
        )

    def _drill(self) -> int:
        from hub.cli.drill import drill, may_enforce, show_drill, wanted_of  # noqa: PLC0415
        from hub.cli.hook import identity  # noqa: PLC0415

        wanted = wanted_of(self._args)
        if not self._args.yes and not may_enforce(wanted):
            return USAGE
        result = drill(self._client(), wanted, identity(self._args.user))
        self._show(result, show_drill)
        return OK if result["passed"] else PROBLEM

    def _arm(self) -> int:
        from hub.cli.control import show_armed  # noqa: PLC0415

        return self._show(self._client().post("/v1/arm", {"reason": self._args.reason}), show_armed)

    def _disarm(self) -> int:
        from hub.cli.control import show_disarmed  # noqa: PLC0415

        asked = {"reason": self._args.reason, "release": self._args.release}
        done = self._client().post("/v1/disarm", asked)
        return self._show(
            done, lambda screen, fields: show_disarmed(screen, fields, self._args.release)
        )

    def _events_parse(self) -> int:
        from hub.cli.parse import run  # noqa: PLC0415

        return run(self._args.arguments, sys.stdin.buffer, sys.stdout, sys.stderr)

    def _config_check(self) -> int:
        from hub.cli.check import config_check  # noqa: PLC0415

        return config_check(self._args.files or self._config, as_json=self._json)

    def _rules_check(self) -> int:
        from hub.cli.check import rules_check  # noqa: PLC0415
        from hub.simulator import CoreSimulator  # noqa: PLC0415

        return rules_check(self._args.files, self._config, CoreSimulator, as_json=self._json)

    def _backup(self) -> int:
        from hub.cli.backup import make_backup, show_backup  # noqa: PLC0415

        args = self._args
        done = make_backup(self._config, args.file, with_secrets=args.with_secrets)
        return self._show(done, show_backup)

    def _restore(self) -> int:
        from hub.cli.backup import put_back, show_restored  # noqa: PLC0415

        done = put_back(self._config, self._args.file, self._args.files)
        return self._show(done, show_restored)

    def _doctor(self) -> int:
        from hub.cli.doctor import run  # noqa: PLC0415

        args = self._args
        found = run.doctor(self._config, self._socket_or_default, args.fastnetmon_conf.absolute())
        if self._json:
            run.print_json(found, sys.stdout)
        else:
            run.show(self._screen, found)
        return run.exit_code(found, strict=args.strict)

    def _list(self, what: str) -> dict[str, Any]:
        ended = "1" if self._args.all else "0"
        return self._client().get(f"/v1/{what}?all={ended}&limit={self._args.limit}")

    def _show(self, fields: dict[str, Any], show: Callable[[Screen, dict[str, Any]], None]) -> int:
        if self._json:
            # JSON leaves DEL as it is, and some terminals take it for a command.
            print(json.dumps(fields, indent=2).replace("\x7f", "\\u007f"))
        else:
            try:
                show(self._screen, fields)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise HubError(
                    f"the answer is not as expected: {type(error).__name__} {error}",
                    todo="use the fnm-hub of the daemon's own release, or add --json",
                ) from error
        return OK

    def _client(self, timeout: float = PATIENCE) -> Client:
        path = getattr(self._args, "socket", None) or self._socket_of_config()
        start = f"fnm-hub run --config {self._config}"
        return Client(Path(path), start=start, timeout=timeout)

    def _socket_or_default(self) -> Path:
        try:
            return Path(getattr(self._args, "socket", None) or self._socket_of_config())
        except HubError:
            return DEFAULT_SOCKET

    def _socket_of_config(self) -> Path:
        import yaml  # noqa: PLC0415 - only where no --socket was given

        # A client needs one key, also while the rest of the file is being worked on.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            with self._config.open("rb") as file:
                fields = yaml.load(file, loader)  # noqa: S506 - a safe loader both ways
        except (OSError, yaml.YAMLError) as error:
            if hasattr(self._args, "config"):
                raise HubError(
                    f"cannot read it: {getattr(error, 'strerror', None) or 'not YAML'}",
                    where=str(self._config),
                    todo="name the socket itself: --socket /run/fnm-hub/api.sock",
                ) from error
            return DEFAULT_SOCKET
        try:
            return Path(fields["api"]["path"])
        except (KeyError, TypeError):
            return DEFAULT_SOCKET
