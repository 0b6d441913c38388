# SPDX-License-Identifier: Apache-2.0
"""The status page in a real browser, on a real hub with both engines under traffic."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from scripts.lab import synproxyd
from tests.support.browser import Browser, browser_in
from tests.support.hub_process import CONFIG, HubProcess, until
from tests.support.native import Synproxyd, synproxyd_running
from tests.support.netns import OUTSIDE, SYN, inside, run, tcp_packet

TOKEN = "a-long-token-of-the-night-shift"
TCP, UDP = "192.0.2.10", "192.0.2.20"
RULES = """
rules:
  - name: tcp
    when: {direction: [incoming, unknown], protocol: tcp}
    then: [tcp: {mode: reset}]
    ttl: 10m
    linger: 5m
  - name: rest
    when: {direction: [incoming, unknown]}
    then: [{sorb: {pps: 100, block: 10m}}]
    engine: nftables
    ttl: 10m
    linger: 1s
"""
PIXEL = "http://127.0.0.1:1/pixel.png"
CONTRAST = """
const shade = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
const ground = (one) => {
  for (; one; one = one.parentElement) {
    const found = shade(getComputedStyle(one).backgroundColor);
    if (found.length === 3 || found[3] > 0) return found;
  }
  return [255, 255, 255];
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const poor = new Set();
while (texts.nextNode()) {
  const one = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || one.closest("noscript")) continue;
  const [a, b] = [light(shade(getComputedStyle(one).color)), light(ground(one))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.add(`${texts.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
}
return Array.from(poor);
"""
EVIL = "<img src=x onerror=document.title='owned'>"


@dataclass
class Scene:
    """Everything that runs."""

    hub: HubProcess
    daemon: Synproxyd
    browser: Browser
    url: str

    def open(self) -> None:
        """Load the page as somebody who has given a password before."""
        self.browser.go(self.url)
        self.browser.has("#live", "Live.")

    def counters(self) -> dict[str, int]:
        """Return the exact counters that the page shows."""
        script = """return Object.fromEntries(
          Array.from(document.querySelectorAll("[data-counter]"),
            (one) => [one.dataset.counter, Number(one.textContent.replaceAll(",", ""))]))"""
        found: dict[str, int] = self.browser.run(script)
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run a hub with synproxyd and nftables, two attacks, and a browser beside the hub."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "native").mkdir()
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    page = f"page: {{port: 0, users: [{{name: noc, token_file: {token}}}]}}"
    with ExitStack() as stack:
        daemon = stack.enter_context(synproxyd_running(folder / "native"))
        hub = HubProcess(folder, native=daemon.control, dry=False)
        hub.config_text = CONFIG.replace("metrics_port: 0", f"metrics_port: 0, {page}")
        stack.enter_context(hub)
        hub.write_rules(RULES)
        status, answer = hub.post("/v1/reload")
        assert status == 200, answer
        run("ip", "-n", hub.namespace, "address", "add", f"{UDP}/32", "dev", "lo")
        hub.send("ban", TCP)
        hub.send("ban", UDP, udp=True)
        until("both in force", lambda: len(hub.active()) == 2)
        port = hub.logged("api.listening")[-1]["page"][1]
        browser = stack.enter_context(browser_in(hub.namespace, folder))
        browser.go(f"http://noc:{TOKEN}@localhost:{port}/")
        yield Scene(hub, daemon, browser, f"http://localhost:{port}/")


def flood_native(daemon: Synproxyd, count: int) -> None:
    """Send SYNs to the protected address, as they come in from outside."""
    text = run("ip", "-n", daemon.namespace, "-json", "link", "show", "dev", OUTSIDE)
    ether = bytes.fromhex(json.loads(text)[0]["address"].replace(":", ""))
    ether += bytes.fromhex("020000000002") + b"\x08\x00"

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.bind(("far", 0))
            for port in range(1024, 1024 + count):
                wire.send(ether + tcp_packet("198.51.100.7", TCP, port, 80, SYN))

    inside(daemon.namespace, send)


def flood_nftables(hub: HubProcess, count: int) -> None:
    """Send datagrams to the address whose sources are limited."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                sender.sendto(b"x", (UDP, 9))

    inside(hub.namespace, send)


def nft_counter(hub: HubProcess, name: str) -> int:
    """Return the packets of a counter as nft tells them."""
    argv = ("ip", "netns", "exec", hub.namespace, "nft", "-j", "list", "counters")
    objects: list[dict[str, Any]] = json.loads(run(*argv))["nftables"]
    return sum(
        int(one["counter"]["packets"])
        for one in objects
        if one.get("counter", {}).get("name") == name
    )


def counted(scene: Scene) -> dict[str, int]:
    """Return what the kernel has counted, by the names that the page uses."""
    stats = synproxyd.ask(scene.daemon.control, "stats")["packets"]
    found = {f"native {name}": count for name, count in stats.items() if count}
    return found | {"nftables sorb.dropped": nft_counter(scene.hub, "sorb_dropped")}


def test_page_when_traffic_comes_then_it_shows_the_kernels_own_counts(scene: Scene) -> None:
    """Without a reload the page comes to show what nft and synproxyd have counted."""
    scene.open()
    before = counted(scene)
    flood_native(scene.daemon, 3000)
    flood_nftables(scene.hub, 2000)
    after = counted(scene)
    assert after["native cookie_sent"] - before.get("native cookie_sent", 0) > 1000
    assert after["nftables sorb.dropped"] - before["nftables sorb.dropped"] > 1000
    until("the page shows it", lambda: scene.counters() == counted(scene))
    totals = {name: sum(shown) for name, shown in plotted(scene).items()}
    assert totals["native", "answer"] == after["native cookie_sent"]
    assert totals["nftables", "drop"] == after["nftables sorb.dropped"]
    words = scene.browser.text("#traffic")
    assert f"{totals['native', 'answer']:,} in all" in words
    assert f"{totals['nftables', 'drop']:,} in all" in words
    assert scene.browser.complaints() == []


def plotted(scene: Scene) -> dict[tuple[str, str], list[int]]:
    """Return the samples behind the plots."""
    engines = scene.hub.get("/v1/history")["engines"]
    return {(one["name"], word): one[word] for one in engines for word in ("drop", "answer")}


def test_page_when_something_happens_then_shown_and_what_is_open_stays_open(scene: Scene) -> None:
    """A freeze appears by itself, its hostile reason as text; an opened trace stays open."""
    scene.open()
    for row in scene.hub.active():
        assert row["id"] in scene.browser.text("#mitigations")
    scene.browser.run('document.querySelector("#decisions details").open = true')
    kept = scene.browser.run('return document.querySelector("#decisions details").id')
    assert scene.hub.post("/v1/freeze", reason=EVIL)[0] == 200
    scene.browser.has("#summary", "FROZEN")
    scene.browser.has("#warnings", EVIL)
    scene.browser.has("#decisions", EVIL)
    assert scene.browser.run("return document.getElementById(arguments[0]).open", kept)
    assert scene.browser.run("return document.images.length") == 0
    assert "FROZEN" in scene.browser.run("return document.title")
    assert scene.hub.post("/v1/unfreeze")[0] == 200
    scene.browser.has("#summary", "ENFORCING")
    assert scene.browser.complaints() == []


def test_page_when_the_hub_hangs_then_it_says_so_and_recovers(scene: Scene) -> None:
    """What is old never looks like what is true now."""
    scene.open()
    with scene.hub.stopped():
        scene.browser.has("#live", "NO CONNECTION")
        assert scene.browser.run("return document.documentElement.className") == "stale"
    scene.browser.has("#live", "Live.")
    assert scene.browser.run("return document.documentElement.className") == ""


def test_page_when_narrow_or_dark_then_it_fits_and_can_be_read(
    scene: Scene, tmp_path: Path
) -> None:
    """No sideways scrolling, and a contrast of 4.5 (WCAG 2.2, 1.4.3) for every text."""
    scene.open()
    grounds = {"light": "rgb(244, 246, 248)", "dark": "rgb(16, 21, 28)"}
    for scheme, width in product(grounds, (1280, 800, 360)):
        scene.browser.looks(scheme, width)
        picture = tmp_path / f"page-{scheme}-{width}.png"
        scene.browser.picture(picture)
        assert picture.stat().st_size > 10_000
        wide, view = scene.browser.run(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        assert wide <= view == width
        assert scene.browser.run(CONTRAST) == []
        ground = scene.browser.run("return getComputedStyle(document.body).backgroundColor")
        assert ground == grounds[scheme]
    assert scene.browser.complaints() == []


def test_page_when_loaded_then_nothing_comes_from_elsewhere_and_nothing_else_could(
    scene: Scene,
) -> None:
    """Every file is the hub's; the browser refuses what the policy does not name, and says so."""
    scene.open()
    script = """return performance.getEntriesByType("resource").map((one) => one.name)"""
    loaded = scene.browser.run(script)
    assert {f"{scene.url}page/style.css", f"{scene.url}page/script.js"} <= set(loaded)
    assert [one for one in loaded if not one.startswith(scene.url)] == []
    assert scene.browser.complaints() == []
    scene.browser.run(
        "document.body.append(Object.assign(new Image(), {src: arguments[0]}))", PIXEL
    )
    until("refused", lambda: "Content Security Policy" in "".join(scene.browser.complaints()))
