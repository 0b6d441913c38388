# SPDX-License-Identifier: Apache-2.0
"""fnm-agent: gives a hub the keys of this server's TCP stack, over SSH.

What a subcommand needs is imported by it alone: the keeper stays small, and `exec` quick.
"""
# ruff: noqa: PLC0415 - see above

import argparse
import contextlib
import os
import pwd
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hub import __version__
from hub.errors import HubError

if TYPE_CHECKING:
    from hub.agent.answers import Line

CONFIG: Final = Path("/etc/fnm-agent")
RUNTIME: Final = Path("/run/fnm-agent")
PORT: Final = 7100
USER: Final = "fnm-agent"
COULD_NOT: Final = 1
WILL_NEVER: Final = os.EX_CONFIG
"""Of `run`: the same start would fail again, so systemd does not try."""
INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return its exit status."""
    given = _parser().parse_args(argv)
    work: Callable[[argparse.Namespace], int] = given.work
    try:
        return work(given)
    except HubError as error:
        _complain(error)
        return COULD_NOT
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: HubError) -> None:
    sys.stderr.write(f"Error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fnm-agent", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, work: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(work=work)
        return made

    run = command("run", _run, "run the agent in the foreground, as root or by its unit")
    run.add_argument("--listen", default="", metavar="ADDRESS", help="default: all addresses")
    run.add_argument("--port", type=_port, default=PORT, help="default: %(default)s")
    run.add_argument("--no-listen", action="store_true", help="OpenSSH does the transport")
    _paths(run, "keys", "host-key", "proc", "runtime")
    run.add_argument("--user", default=USER, help="whom root's becomes; default: %(default)s")
    _keeper_user(run)

    opener = command("open", _open, "for the units: open what only root can, and say what is there")
    opener.add_argument("--keeper", action="store_true", help="for the keeper, not for the agent")
    _paths(opener, "proc", "runtime")

    check = command("check", _check, "say whether this server's keys can be read, and how")
    _paths(check, "proc")

    execute = command(
        "exec", _exec, "carry out SSH_ORIGINAL_COMMAND: the forced command under OpenSSH"
    )
    execute.add_argument("--as", dest="tag", metavar="TAG", help="who asks; default: the user")
    _paths(execute, "proc", "runtime")
    _keeper_user(execute)

    key = command("host-key", _host_key, "print the host key's fingerprint; make it if need be")
    _paths(key, "host-key")
    key.add_argument("--port", type=_port, default=PORT, help="for the line of known_hosts")
    key.add_argument("name", nargs="?", default=socket.gethostname(), help="for the same")

    restore = command("restore", _restore, "put net.ipv4.tcp_syncookies back and end all leases")
    _paths(restore, "proc", "runtime")
    _keeper_user(restore)

    keeper = command("keeper", _keeper, "keeps the sysctl for the leases: its unit's, or another's")
    keeper.add_argument("--fd", type=int, help="to the process that starts it as root")
    keeper.add_argument("--user", default="", help="whom it becomes then")
    keeper.add_argument("--agent-user", default=USER, help="who may ask it in its unit")
    _paths(keeper, "proc", "runtime")

    command("version", _version, "print the version")
    return parser


def _paths(parser: argparse.ArgumentParser, *names: str) -> None:
    known = {
        "keys": (CONFIG / "keys", "one ssh-ed25519 line for each hub"),
        "host-key": (CONFIG / "host_ed25519", "this server's private key"),
        "proc": (Path("/proc"), "where this server's /proc is"),
        "runtime": (RUNTIME, "folder of the control socket and the keeper"),
    }
    for name in names:
        default, text = known[name]
        parser.add_argument(
            f"--{name}", type=Path, default=default, help=f"{text}; default: {default}"
        )


def _keeper_user(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keeper-user", default="fnm-keeper", help="whom the keeper becomes; default: %(default)s"
    )


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:  # noqa: PLR2004 - TCP's ports
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return number


def _run(given: argparse.Namespace) -> int:
    import structlog

    from hub import log
    from hub.agent.host_key import HostKeyError, handed_over
    from hub.agent.kernel.sources import NoSourceError
    from hub.agent.privileges import PrivilegeError
    from hub.agent.running import Settings, run

    log.configure("info", "auto", journal=None)
    settings = Settings(
        listen=given.listen,
        port=None if given.no_listen else given.port,
        keys=given.keys,
        host_key=handed_over(os.environ, given.host_key),
        user=given.user,
        keeper_user=given.keeper_user,
        proc=given.proc,
        runtime=given.runtime,
    )
    try:
        run(settings)
    except HubError as error:
        structlog.get_logger(__name__).error(
            "agent.failed", why=error.what, where=error.where, todo=error.todo
        )
        lasting = (NoSourceError, HostKeyError, PrivilegeError)
        return WILL_NEVER if isinstance(error, lasting) else COULD_NOT
    return 0


def _check(given: argparse.Namespace) -> int:
    from hub.agent import answers

    found = answers.look(given.proc)
    good = _tell(answers.diagnose(given.proc, found))
    if not isinstance(found, HubError):
        found.close()
    return 0 if good else COULD_NOT


def _tell(lines: "Sequence[Line]") -> bool:
    """Print what was found; return whether all of it is well."""
    for line in lines:
        sys.stdout.write(f"{line.name}: {'ok' if line.ok else 'failed'}, {line.text}\n")
    return all(line.ok for line in lines)


def _open(given: argparse.Namespace) -> int:
    from hub.agent import answers, opening

    if given.keeper:
        opening.for_keeper(given.proc, os.environ)
        return 0
    found = opening.for_agent(given.proc, given.runtime, os.environ)
    _tell(answers.diagnose(given.proc, found))
    return 0


def _exec(given: argparse.Namespace) -> int:
    from hub.agent import control

    line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    tag = given.tag or _user()
    outcome = control.ask(control.place(given.runtime), tag, line)
    if outcome is None:
        from hub.agent import direct

        outcome = direct.run(line, tag, given.proc, given.runtime, given.keeper_user)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(outcome.text)
        sys.stdout.flush()
    sys.stderr.write(outcome.error)
    return outcome.status


def _host_key(given: argparse.Namespace) -> int:
    from hub.agent import host_key

    key = host_key.read_or_make(given.host_key)
    sys.stdout.write(f"{key.get_fingerprint()}\n")
    sys.stdout.write(f"{host_key.known_hosts_line(key, given.name, given.port)}\n")
    return 0


def _restore(given: argparse.Namespace) -> int:
    from hub.agent import control, direct, privileges

    privileges.need_root("fnm-agent restore")
    outcome = control.ask(control.place(given.runtime), "root", "", restore=True)
    if outcome is None:
        outcome = direct.restore(given.proc, given.runtime, given.keeper_user)
    sys.stdout.write(outcome.text)
    sys.stderr.write(outcome.error)
    return outcome.status


def _keeper(given: argparse.Namespace) -> int:
    import structlog

    from hub import log
    from hub.agent import keeping

    log.configure("info", "auto", journal=None)
    try:
        if given.fd is not None:
            keeping.for_starter(given.fd, given.user, given.runtime, given.proc)
        else:
            keeping.for_unit(given.agent_user, given.runtime, given.proc, os.environ)
    except (HubError, OSError) as error:
        structlog.get_logger(__name__).error("keeper.failed", why=str(error))
        return COULD_NOT
    return 0


def _version(_: argparse.Namespace) -> int:
    sys.stdout.write(f"fnm-agent {__version__}\n")
    return 0


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid{os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
