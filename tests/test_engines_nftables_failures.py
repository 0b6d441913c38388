# SPDX-License-Identifier: Apache-2.0
"""What becomes of calls when nft is missing, slow, killed or given up."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.config import NftablesEngine as Config
from hub.errors import EnginePermanentError, EngineTemporaryError
from tests.support.netns import GATEWAY, SERVER4, SERVER6, Lab
from tests.support.nftables import (
    CLOCK,
    DROP_ICMP,
    elements,
    engine_on,
    ids,
    mitigation,
    script,
    tcp,
)

NFT = "/usr/sbin/nft"


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a lab of its own for each test."""
    with Lab() as made:
        yield made


async def test_nft_when_it_is_missing_or_broken_says_what_to_do(lab: Lab, tmp_path: Path) -> None:
    """What is of the machine may be mended; what nft or the kernel cannot do never works."""
    broken = [
        ("", "install nftables", EngineTemporaryError),
        ("echo hello", "built with JSON", EnginePermanentError),
        ("echo 'Operation not permitted' >&2; exit 1", "CAP_NET_ADMIN", EngineTemporaryError),
        ("echo 'Operation not supported' >&2; exit 1", "kernel of 5.7", EnginePermanentError),
    ]
    for line, words, kind in broken:
        config = await script(tmp_path, line) if line else Config(nft=tmp_path / "none")
        engine = engine_on(lab, config=config, prefix=())
        with pytest.raises(kind, match=words):
            await engine.start()
        health = await engine.health()
        assert (health.ok, words in health.detail) == (False, True)


async def test_nft_when_run_without_the_capability_says_which(lab: Lab) -> None:
    """A user without CAP_NET_ADMIN is told to get it."""
    drop = ("setpriv", "--reuid", "nobody", "--clear-groups", "--inh-caps=-all")
    engine = engine_on(lab, prefix=(*lab.prefix(GATEWAY), *drop))
    with pytest.raises(EngineTemporaryError, match="CAP_NET_ADMIN"):
        await engine.start()


async def test_nft_when_slow_or_killed_fails_for_now(lab: Lab, tmp_path: Path) -> None:
    """A retry may help: it is told so, and the next call does help."""
    engine = engine_on(lab)
    await engine.start()
    hanging = "sleep 60"  # a child of the script, which holds its pipes open
    for line, words in (
        ("exec sleep 60", "within 0.3 s"),
        (hanging, "within 0.3 s"),
        ("kill -9 $$", "killed by signal 9"),
    ):
        config = await script(tmp_path, line)
        config = config.model_copy(update={"command_timeout": 0.3})
        failing = engine_on(lab, config=config)
        with pytest.raises(EngineTemporaryError, match=words):
            await failing.apply(mitigation(DROP_ICMP, SERVER4))
    await engine.apply(mitigation(DROP_ICMP, SERVER4))
    assert len(await engine.inventory()) == 1


async def test_nft_when_killed_after_its_transaction_leaves_one_of_each(
    lab: Lab, tmp_path: Path
) -> None:
    """The caller sees a failure and tries again; the kernel ends up with exactly one."""
    flag = tmp_path / "kill"
    config = await script(
        tmp_path,
        f'if [ -e {flag} ] && [ "$*" = "-j -f -" ]; then {NFT} "$@"; rm {flag}; kill -9 $$; fi',
        f'exec {NFT} "$@"',
    )
    engine = engine_on(lab, config=config)
    await engine.start()
    row = mitigation(tcp(), SERVER4)
    await asyncio.to_thread(flag.touch)
    with pytest.raises(EngineTemporaryError, match="signal 9"):
        await engine.apply(row)
    await engine.apply(row)
    assert len(await elements(lab)) == 3
    assert len(await engine.inventory()) == 1


async def test_apply_when_cancelled_leaves_the_engine_usable(lab: Lab, tmp_path: Path) -> None:
    """A caller that gives up takes nobody with it: the others are told or served."""
    flag = tmp_path / "wait"
    started = tmp_path / "started"
    config = await script(
        tmp_path,
        f"if [ -e {flag} ]; then touch {started}; exec sleep 60; fi",
        f'exec {NFT} "$@"',
    )
    engine = engine_on(lab, config=config)
    await engine.start()
    await asyncio.to_thread(flag.touch)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(engine.apply(mitigation(DROP_ICMP, SERVER4, 1)))
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(started.exists):
                await CLOCK.sleep(0.02)
        second = tasks.create_task(engine.apply(mitigation(DROP_ICMP, SERVER6, 2)))
        await CLOCK.sleep(0)
        await asyncio.to_thread(os.unlink, flag)
        first.cancel()
    assert first.cancelled()
    assert second.exception() is None
    assert ids(await engine.inventory()) == ["m-0000000002"]
    await engine.close()
