// A client of WebSocket by `ws`. `websocket_client.js ADDRESS CA CASE...` (CA `-`: without TLS) runs cases one after the other,
// each named below, and prints `ok CASE` behind each that is as it should be; the first that is not ends it.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { once } = require('node:events');
const WebSocket = require('ws');

const SIZES = [0, 1, 125, 126, 65535, 65536, 1 << 20];

// A connection of its own.
async function open(options = {}, protocols = []) {
  const [, , address, ca] = process.argv;
  const url = `${ca === '-' ? 'ws' : 'wss'}://${address}/chat`;
  const socket = new WebSocket(url, protocols, ca === '-' ? options : { ...options, ca: fs.readFileSync(ca) });
  await once(socket, 'open');
  return socket;
}

async function echoed(socket, message) {
  const came = once(socket, 'message');
  socket.send(message);
  const [answer, isBinary] = await came;
  assert.equal(isBinary, typeof message !== 'string');
  assert.ok(answer.equals(Buffer.from(message)), `${answer.length} bytes came back of ${message.length}`);
}

async function closed(socket) {
  const end = once(socket, 'close');
  socket.close();
  await end;
}

const cases = {
  // Text and bytes of sizes around those of frames, compressed and not.
  async messages() {
    for (const perMessageDeflate of [false, true]) {
      const socket = await open({ perMessageDeflate });
      for (const size of SIZES) {
        await echoed(socket, '\u0628'.repeat(size / 2));
        await echoed(socket, Buffer.alloc(size, size % 251));
      }
      await closed(socket);
    }
  },

  // Messages in pieces.
  async fragments() {
    const socket = await open();
    const came = once(socket, 'message');
    socket.send('a', { fin: false });
    socket.send('b'.repeat(70000), { fin: false });
    socket.send('c', { fin: true });
    assert.equal((await came)[0].toString(), `a${'b'.repeat(70000)}c`);
    const pieces = once(socket, 'message');
    socket.send('fragments');
    assert.equal((await pieces)[0].toString(), 'one two three');
    await closed(socket);
  },

  // Pings from both sides.
  async pings() {
    const socket = await open();
    const pong = once(socket, 'pong');
    socket.ping('are you there');
    assert.equal((await pong)[0].toString(), 'are you there');
    const came = once(socket, 'message');
    socket.send('ping');
    assert.equal((await came)[0].toString(), 'ponged');
    await closed(socket);
  },

  // Codes and reasons of both sides.
  async closes() {
    for (const code of [1000, 1001, 1011, 3000, 4999]) {
      const socket = await open();
      const end = once(socket, 'close');
      socket.send(`close ${code}`);
      const [found, reason] = await end;
      assert.deepEqual([found, reason.toString()], [code, 'as asked']);
    }
    const socket = await open();
    const end = once(socket, 'close');
    socket.close(4242, "the client's own");
    await end;
  },

  async subprotocols() {
    const socket = await open({}, ['first', 'third']);
    assert.equal(socket.protocol, 'first');
    await closed(socket);
  },

  // 200 at one time, all open before any is used.
  async many() {
    const sockets = await Promise.all(Array.from({ length: 200 }, () => open()));
    await Promise.all(sockets.map(async (socket, at) => {
      for (let turn = 0; turn < 5; turn += 1) await echoed(socket, `${at} ${turn}`);
      await closed(socket);
    }));
  },
};

(async () => {
  for (const name of process.argv.slice(4)) {
    await cases[name]();
    console.log(`ok ${name}`);
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
