"""A client of gRPC on its C core. `grpc_client.py ADDRESS CA CASE...` (CA `-`: without TLS) runs cases one after the other,
each named below, and prints `ok CASE` behind each that is as it should be; the first that is not ends it.
"""

import asyncio
import json
import os
import sys
import traceback

import grpc

NAME = "/e2e.Calls/"
PATIENCE = 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
#: Five messages of sizes around those of frames and windows.
SIZES = [0, 1, 16_384, 65_535, 300_000]


class Calls:
    """A connection of its own."""

    def __init__(self, *options):
        options = OPTIONS + [("grpc.use_local_subchannel_pool", 1), *options]
        if sys.argv[2] == "-":
            self.channel = grpc.aio.insecure_channel(sys.argv[1], options)
        else:
            with open(sys.argv[2], "rb") as file:
                trust = grpc.ssl_channel_credentials(file.read())
            self.channel = grpc.aio.secure_channel(sys.argv[1], trust, options)
        self.unary = self.channel.unary_unary(NAME + "Unary")
        self.collect = self.channel.stream_unary(NAME + "Collect")
        self.produce = self.channel.unary_stream(NAME + "Produce")
        self.chat = self.channel.stream_stream(NAME + "Chat")
        self.watch = self.channel.unary_stream(NAME + "Watch")
        self.wait = self.channel.unary_unary(NAME + "Wait")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.channel.close()


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


async def failure(call):
    """How a call that must fail does."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"answered {answer!r}")


async def kinds():
    """Calls of all four kinds, the last with messages that wait for each other."""
    async with Calls() as calls:
        for size in SIZES:
            message = b"m" * size
            same(await calls.unary(message, timeout=PATIENCE), message)
        messages = [b"m" * size for size in SIZES]
        same(json.loads(await calls.collect(iter(messages), timeout=PATIENCE)), [len(SIZES), sum(SIZES)])
        same(json.loads(await calls.collect(iter([]), timeout=PATIENCE)), [0, 0])
        for size in SIZES:
            got = [message async for message in calls.produce(json.dumps([3, size]).encode(), timeout=PATIENCE)]
            same(got, [bytes([at]) * size for at in range(3)])
        same([message async for message in calls.produce(b"[0, 0]", timeout=PATIENCE)], [])
        chat = calls.chat(timeout=PATIENCE)
        for message in messages:
            await chat.write(message)
            same(await chat.read(), b"re: " + message)
        await chat.done_writing()
        same(await chat.read(), grpc.aio.EOF)
        same(await chat.code(), grpc.StatusCode.OK)


async def metadata():
    """Metadata there and back, ahead of an answer and behind it: of bytes, and several of one name."""
    ahead = [("x-ahead", "one"), ("x-ahead", "two"), ("x-ahead-bin", bytes(range(256))), ("x-ahead-bin", b"")]
    behind = [("x-behind", "three"), ("x-behind", "four, five"), ("x-behind-bin", b"\0\xff"), ("x-behind-bin", b"more")]
    async with Calls() as calls:
        call = calls.unary(b"x", metadata=ahead + behind, timeout=PATIENCE)
        same(await call, b"x")
        for names, found, sent in [
            (("x-ahead", "x-ahead-bin"), await call.initial_metadata(), ahead),
            (("x-behind", "x-behind-bin"), await call.trailing_metadata(), behind),
        ]:
            for name in names:
                values, expected = ([value for key, value in all if key == name] for all in (found, sent))
                # Text of one name may come in one piece, with commas between.
                same(*((values, expected) if name.endswith("-bin") else (", ".join(values), ", ".join(expected))))


async def statuses():
    """Every status, with a message of many letters and details of bytes, alone and behind messages."""
    message = "\u0628\u0648\u0627\u0628: 100 % of it\nno"
    async with Calls() as calls:
        for code in grpc.StatusCode:
            number = code.value[0]
            if number == 0:
                continue
            asked = [("x-status", str(number)), ("x-message-bin", message.encode()), ("x-details-bin", b"\x08\x05\0\xff")]
            error = await failure(calls.unary(b"x", metadata=asked, timeout=PATIENCE))
            same((error.code(), error.details()), (code, message))
            same(dict(error.trailing_metadata())["grpc-status-details-bin"], b"\x08\x05\0\xff")
            call = calls.produce(b"[2, 5]", metadata=asked, timeout=PATIENCE)
            same([await call.read(), await call.read()], [b"\0" * 5, b"\1" * 5])
            same((await failure(call.read())).code(), code)
            same((await call.code(), await call.details()), (code, message))
            same(dict(await call.trailing_metadata())["grpc-status-details-bin"], b"\x08\x05\0\xff")


async def deadline():
    """A deadline that is shorter than the work."""
    async with Calls() as calls:
        error = await failure(calls.wait(b"deadline", timeout=0.3))
        same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        same(await calls.unary(b"after", timeout=PATIENCE), b"after")


async def no_answer():
    """A service that does not answer, though the caller would wait."""
    async with Calls() as calls:
        error = await failure(calls.wait(b"no_answer"))
        same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        print(error.details(), flush=True)


async def cancel():
    """A call that was begun for certain is cancelled."""
    async with Calls() as calls:
        watch = calls.watch(b"cancel")
        same(await watch.read(), b"begun")
        watch.cancel()
        same(await calls.unary(b"after", timeout=PATIENCE), b"after")


async def big():
    """Messages of 8 MiB both ways."""
    message = bytes(range(256)) * (8 * 1024 * 4)
    async with Calls() as calls:
        same(await calls.unary(message, timeout=PATIENCE) == message, True)
        chat = calls.chat(timeout=PATIENCE)
        await chat.write(message)
        same(await chat.read() == b"re: " + message, True)
        await chat.done_writing()
        same(await chat.code(), grpc.StatusCode.OK)


async def many():
    """200 calls at one time on four connections, all begun before any ends; then as many short ones."""
    connections = [Calls() for _ in range(4)]
    chats = [connections[at % 4].chat(timeout=PATIENCE) for at in range(200)]
    for at, chat in enumerate(chats):
        await chat.write(b"%d" % at)
    same([await chat.read() for chat in chats], [b"re: %d" % at for at in range(200)])
    for chat in reversed(chats):
        await chat.done_writing()
    same({await chat.code() for chat in chats}, {grpc.StatusCode.OK})
    short = [connections[at % 4].unary(b"%d" % at, timeout=PATIENCE) for at in range(200)]
    same([await call for call in short], [b"%d" % at for at in range(200)])
    for calls in connections:
        await calls.channel.close()


async def pings():
    """A client that asks for signs of life every 20 ms, with a call that says nothing and without any."""
    options = [
        ("grpc.keepalive_time_ms", 20),
        ("grpc.keepalive_timeout_ms", 1000 * PATIENCE),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_time_between_pings_ms", 10),
    ]
    async with Calls(*options) as calls:
        chat = calls.chat()
        await chat.write(b"begin")
        same(await chat.read(), b"re: begin")
        # That pings are sent is what time does here; how many there were is not what is asked.
        await asyncio.sleep(3)
        await chat.write(b"still there")
        same(await chat.read(), b"re: still there")
        await chat.done_writing()
        same(await chat.read(), grpc.aio.EOF)
        await asyncio.sleep(1)
        same(await calls.unary(b"after", timeout=PATIENCE), b"after")


async def pauses():
    """A call whose caller pauses for longer than whoever uploads something may, and says little."""
    async with Calls() as calls:
        chat = calls.chat()
        for at in range(3):
            await chat.write(b"%d" % at)
            same(await chat.read(), b"re: %d" % at)
            # The pause is what is tried.
            await asyncio.sleep(2.5)
        await chat.done_writing()
        same(await chat.read(), grpc.aio.EOF)
        same(await chat.code(), grpc.StatusCode.OK)


async def stream():
    """100 MiB from the service."""
    async with Calls() as calls:
        size = 0
        async for message in calls.produce(json.dumps([400, 256 * 1024]).encode(), timeout=3 * PATIENCE):
            size += len(message)
        same(size, 100 * 1024 * 1024)


async def refused():
    """Every way in which the gateway itself says no: the caller of this program knows which it will be."""
    async with Calls() as calls:
        error = await failure(calls.unary(b"x", timeout=PATIENCE))
        print(json.dumps([error.code().name, error.details()]), flush=True)


async def killed():
    """A call whose service dies."""
    async with Calls() as calls:
        error = await failure(calls.wait(b"killed"))
        print(json.dumps([error.code().name, error.details()]), flush=True)


async def steady():
    """Calls without an end to them until somebody writes a line to this program. None may fail."""
    line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    done = 0

    async def one(calls):
        nonlocal done
        while not line.done():
            same(await calls.unary(b"x", timeout=PATIENCE), b"x")
            chat = calls.chat(timeout=PATIENCE)
            await chat.write(b"x")
            same(await chat.read(), b"re: x")
            await chat.done_writing()
            same(await chat.code(), grpc.StatusCode.OK)
            done += 2
            # Whoever looks on goes by these.
            if done % 100 < 2:
                print(f"{done} calls", flush=True)

    async with Calls() as calls:
        await asyncio.gather(*(one(calls) for _ in range(8)))


async def main():
    try:
        for name in sys.argv[3:]:
            await asyncio.wait_for(globals()[name](), 6 * PATIENCE)
            print(f"ok {name}", flush=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # Without waiting for a line that nobody may write.
        os._exit(1)


asyncio.run(main())
