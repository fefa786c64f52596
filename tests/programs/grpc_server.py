"""A service of gRPC on its C core. `grpc_server.py PORT` (0: any) prints a line of JSON for each thing that happens.

Messages are bytes as they are: what they mean is nobody's business here, so nothing has to be generated.
SIGTERM ends it as servers are ended: GOAWAY, and calls that run are finished.
"""

import asyncio
import json
import signal
import sys

import grpc

NAME = "e2e.Calls"


def say(**what):
    print(json.dumps(what), flush=True)


def wanted(context):
    """What the caller's metadata ask for: fields ahead, fields behind, and how the call ends."""
    ahead, behind, status, message = [], [], 0, ""
    for key, value in context.invocation_metadata():
        if key.startswith("x-ahead"):
            ahead.append((key, value))
        elif key.startswith("x-behind") or key == "grpc-status-details-bin":
            behind.append((key, value))
        elif key == "x-details-bin":
            behind.append(("grpc-status-details-bin", value))
        elif key == "x-status":
            status = int(value)
        elif key == "x-message-bin":
            message = value.decode()
    return ahead, behind, status, message


def code(number):
    return next(code for code in grpc.StatusCode if code.value[0] == number)


async def unary(request, context):
    """Answers what it is asked."""
    ahead, behind, status, message = wanted(context)
    await context.send_initial_metadata(ahead)
    if status:
        await context.abort(code(status), message, tuple(behind))
    context.set_trailing_metadata(tuple(behind))
    return request


async def collect(requests, context):
    """How many messages came, and how many bytes."""
    count = size = 0
    async for request in requests:
        count, size = count + 1, size + len(request)
    return json.dumps([count, size]).encode()


async def produce(request, context):
    """As many messages of so many bytes as it is asked for; then it ends as the metadata want it."""
    count, size = json.loads(request)
    _, behind, status, message = wanted(context)
    for at in range(count):
        yield bytes([at % 251]) * size
    context.set_trailing_metadata(tuple(behind))
    if status:
        context.set_code(code(status))
        context.set_details(message)


async def chat(requests, context):
    """Answers each message before it reads the next one."""
    async for request in requests:
        yield b"re: " + request


async def never(name):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        say(event="cancelled", name=name)
        raise


async def wait(request, context):
    """Never answers. Says when it begins, and when it is cancelled."""
    say(event="waiting", name=request.decode())
    await never(request.decode())


async def watch(request, context):
    """One message, and never an end. Says when it is cancelled."""
    yield b"begun"
    await never(request.decode())


async def main():
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    )
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Produce": grpc.unary_stream_rpc_method_handler(produce),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, methods),))
    port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    say(event="listening", port=port)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    say(event="leaving")
    await server.stop(grace=20)


asyncio.run(main())
