"""A service of WebSocket by `websockets`. `websocket_server.py PORT` (0: any) prints a line of JSON for each thing that happens.

It sends back what it is sent, but for a few words that ask for something else.
"""

import asyncio
import json
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


def say(**what):
    print(json.dumps(what), flush=True)


async def answer(socket):
    try:
        async for message in socket:
            if message == "fragments":
                await socket.send(["one ", "two ", "three"])
            elif message == "ping":
                await (await socket.ping(b"asked"))
                await socket.send("ponged")
            elif isinstance(message, str) and message.startswith("close "):
                await socket.close(int(message.split()[1]), "as asked")
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass
    say(event="closed", code=socket.close_code, reason=socket.close_reason)


def choose(_, offered):
    """By itself the library turns away who names none."""
    return next((name for name in ("second", "first") if name in offered), None)


async def main():
    server = await serve(answer, "127.0.0.1", int(sys.argv[1]), max_size=None, select_subprotocol=choose)
    say(event="listening", port=server.sockets[0].getsockname()[1])
    await server.serve_forever()


asyncio.run(main())
