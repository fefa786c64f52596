"""A client of WebSocket by `websockets`. `websocket_client.py ADDRESS CA CASE...` (CA `-`: without TLS) runs cases one after
the other, each named below, and prints `ok CASE` behind each that is as it should be; the first that is not ends it.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PATIENCE = 20
SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20]


def socket(**more):
    """A connection of its own."""
    tls = None if sys.argv[2] == "-" else ssl.create_default_context(cafile=sys.argv[2])
    scheme = "ws" if tls is None else "wss"
    return connect(f"{scheme}://{sys.argv[1]}/chat", ssl=tls, max_size=None, proxy=None, open_timeout=PATIENCE, **more)


def same(found, expected):
    assert found == expected, f"found {str(found)[:200]!r}, expected {str(expected)[:200]!r}"


async def echoed(ws, message):
    await ws.send(message)
    same(await ws.recv(), message)


async def messages():
    """Text and bytes of sizes around those of frames, compressed and not."""
    for compression in (None, "deflate"):
        async with socket(compression=compression) as ws:
            for size in SIZES:
                await echoed(ws, "\u0628" * (size // 2))
                await echoed(ws, bytes([size % 251]) * size)


async def fragments():
    """Messages in pieces, which stay the pieces they are."""
    async with socket(compression=None) as ws:
        await ws.send(["a", "b" * 70_000, "c"])
        same(await ws.recv(), "a" + "b" * 70_000 + "c")
        await ws.send("fragments")
        # One of the servers ends with a piece that is empty.
        same([piece async for piece in ws.recv_streaming()][:3], ["one ", "two ", "three"])


async def pings():
    """Pings from both sides."""
    async with socket() as ws:
        await (await ws.ping(b"are you there"))
        await ws.send("ping")
        same(await ws.recv(), "ponged")


async def closes():
    """Codes and reasons of both sides."""
    for code in (1000, 1001, 1011, 3000, 4999):
        async with socket() as ws:
            await ws.send(f"close {code}")
            try:
                raise AssertionError(await ws.recv())
            except ConnectionClosed as closed:
                same((closed.rcvd.code, closed.rcvd.reason), (code, "as asked"))
    async with socket() as ws:
        await ws.close(4242, "the client's own")


async def subprotocols():
    async with socket(subprotocols=["first", "third"]) as ws:
        same(ws.subprotocol, "first")


async def many():
    """200 at one time, all open before any is used."""
    async def one(ws, at):
        for turn in range(5):
            await echoed(ws, f"{at} {turn}")
        await ws.close()

    sockets = await asyncio.gather(*(socket() for _ in range(200)))
    await asyncio.gather(*(one(ws, at) for at, ws in enumerate(sockets)))


async def main():
    for name in sys.argv[3:]:
        await asyncio.wait_for(globals()[name](), 6 * PATIENCE)
        print(f"ok {name}", flush=True)


asyncio.run(main())
