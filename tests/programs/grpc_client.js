// A client of gRPC that is all JavaScript. `grpc_client.js ADDRESS CA CASE...` (CA `-`: without TLS) runs cases one after the
// other, each named below, and prints `ok CASE` behind each that is as it should be; the first that is not ends it.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');

const PATIENCE = 20;
// Five messages of sizes around those of frames and windows.
const SIZES = [0, 1, 16384, 65535, 300000];
const OPTIONS = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1, 'grpc.enable_http_proxy': 0 };

const same = (bytes) => bytes;
const text = (number) => Buffer.from(String(number));

function metadata(pairs) {
  const made = new grpc.Metadata();
  for (const [name, value] of pairs) made.add(name, value);
  return made;
}

// A connection of its own.
class Calls {
  constructor(options = {}) {
    const [, , address, ca] = process.argv;
    const trust = ca === '-' ? grpc.credentials.createInsecure() : grpc.credentials.createSsl(fs.readFileSync(ca));
    this.client = new grpc.Client(address, trust, { ...OPTIONS, 'grpc.use_local_subchannel_pool': 1, ...options });
  }

  // `seconds`: 0 is no deadline.
  static deadline(seconds) {
    return seconds ? { deadline: Date.now() + seconds * 1000 } : {};
  }

  // What came of it: the message or the error, and both metadata.
  one(kind, name, message, pairs, seconds) {
    return new Promise((done) => {
      const found = {};
      const answered = (error, answer) => Object.assign(found, { error, answer });
      const args = kind === 'makeUnaryRequest' ? [message] : [];
      const call = this.client[kind](`/e2e.Calls/${name}`, same, same, ...args, metadata(pairs), Calls.deadline(seconds), answered);
      call.on('metadata', (ahead) => { found.ahead = ahead; });
      call.on('status', (status) => done(Object.assign(found, { status })));
      if (kind === 'makeClientStreamRequest') {
        for (const piece of message) call.write(piece);
        call.end();
      }
    });
  }

  async unary(message, pairs = [], seconds = PATIENCE, name = 'Unary') {
    return this.one('makeUnaryRequest', name, message, pairs, seconds);
  }

  async collect(messages) {
    const found = await this.one('makeClientStreamRequest', 'Collect', messages, [], PATIENCE);
    assert.equal(found.error, null);
    return JSON.parse(found.answer.toString());
  }

  // All messages, and how it ended.
  produce(count, size, pairs = [], seconds = PATIENCE) {
    const ask = Buffer.from(JSON.stringify([count, size]));
    const call = this.client.makeServerStreamRequest('/e2e.Calls/Produce', same, same, ask, metadata(pairs), Calls.deadline(seconds));
    return new Promise((done) => {
      const found = { messages: [], size: 0 };
      call.on('data', (message) => {
        found.size += message.length;
        if (found.messages.length < 10) found.messages.push(message);
      });
      // The status says the same.
      call.on('error', () => {});
      call.on('status', (status) => done(Object.assign(found, { status })));
    });
  }

  chat() {
    const call = this.client.makeBidiStreamRequest('/e2e.Calls/Chat', same, same, metadata([]), Calls.deadline(PATIENCE));
    const [came, waits] = [[], []];
    const status = new Promise((done) => call.on('status', done));
    call.on('data', (message) => (waits.length ? waits.shift()(message) : came.push(message)));
    call.on('error', () => {});
    const next = () => (came.length ? Promise.resolve(came.shift()) : new Promise((on) => waits.push(on)));
    return { call, next, status };
  }

  close() {
    this.client.close();
  }
}

async function on(work, options) {
  const calls = new Calls(options);
  await work(calls);
  calls.close();
}

async function served(calls, message) {
  const found = await calls.unary(message);
  assert.equal(found.error, null);
  assert.ok(found.answer.equals(message));
}

const cases = {
  // Calls of all four kinds, the last with messages that wait for each other.
  kinds: () => on(async (calls) => {
    const messages = SIZES.map((size) => Buffer.alloc(size, 'm'));
    for (const message of messages) await served(calls, message);
    assert.deepEqual(await calls.collect(messages), [5, SIZES.reduce((sum, size) => sum + size)]);
    assert.deepEqual(await calls.collect([]), [0, 0]);
    for (const size of SIZES) {
      const found = await calls.produce(3, size);
      assert.deepEqual(found.messages, [0, 1, 2].map((at) => Buffer.alloc(size, at)));
      assert.equal(found.status.code, 0);
    }
    assert.deepEqual((await calls.produce(0, 0)).messages, []);
    const { call, next, status } = calls.chat();
    for (const message of messages) {
      call.write(message);
      assert.ok((await next()).equals(Buffer.concat([Buffer.from('re: '), message])));
    }
    call.end();
    assert.equal((await status).code, 0);
  }),

  // Metadata there and back, ahead of an answer and behind it: of bytes, and several of one name.
  metadata: () => on(async (calls) => {
    const all = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
    const ahead = [['x-ahead', 'one'], ['x-ahead', 'two'], ['x-ahead-bin', all], ['x-ahead-bin', Buffer.from([0])]];
    const behind = [['x-behind', 'three'], ['x-behind', 'four; five'], ['x-behind-bin', Buffer.from([0, 255])]];
    const found = await calls.unary(text('x'), [...ahead, ...behind]);
    assert.equal(found.error, null);
    for (const [came, sent] of [[found.ahead, ahead], [found.status.metadata, behind]]) {
      for (const name of new Set(sent.map(([name]) => name))) {
        const values = sent.filter(([known]) => known === name).map(([, value]) => value);
        // Several of one name may come as one with commas between them.
        const joined = (list) => (name.endsWith('-bin') ? list : list.join(', '));
        assert.deepEqual(joined(came.get(name)), joined(values));
      }
    }
  }),

  // Every status, with a message of many letters and details of bytes, alone and behind messages.
  statuses: () => on(async (calls) => {
    const message = '\u0628\u0648\u0627\u0628: 100 % of it';
    const details = Buffer.from([8, 5, 0, 255]);
    for (let code = 1; code <= 16; code += 1) {
      const asked = [['x-status', String(code)], ['x-message-bin', Buffer.from(message)], ['x-details-bin', details]];
      const alone = await calls.unary(text('x'), asked);
      const behind = await calls.produce(2, 5, asked);
      assert.equal(behind.messages.length, 2);
      for (const { status } of [alone, behind]) {
        assert.deepEqual([status.code, status.details], [code, message]);
        assert.deepEqual(status.metadata.get('grpc-status-details-bin'), [details]);
      }
    }
  }),

  // A deadline that is shorter than the work.
  deadline: () => on(async (calls) => {
    const found = await calls.unary(text('deadline'), [], 0.3, 'Wait');
    assert.equal(found.status.code, grpc.status.DEADLINE_EXCEEDED);
    await served(calls, text('after'));
  }),

  // A call that was begun for certain is cancelled.
  cancel: () => on(async (calls) => {
    const call = calls.client.makeServerStreamRequest('/e2e.Calls/Watch', same, same, text('cancel'), metadata([]));
    const status = new Promise((done) => call.on('status', done));
    call.on('error', () => {});
    assert.equal((await new Promise((came) => call.once('data', came))).toString(), 'begun');
    call.cancel();
    assert.equal((await status).code, grpc.status.CANCELLED);
    await served(calls, text('after'));
  }),

  // Messages of 8 MiB both ways.
  big: () => on(async (calls) => {
    const message = Buffer.alloc(8 * 1024 * 1024, 'some bytes');
    await served(calls, message);
    const { call, next, status } = calls.chat();
    call.write(message);
    assert.ok((await next()).subarray(4).equals(message));
    call.end();
    assert.equal((await status).code, 0);
  }),

  // 200 calls at one time on four connections, all begun before any ends; then as many short ones.
  many: async () => {
    const connections = [0, 1, 2, 3].map(() => new Calls());
    const chats = Array.from({ length: 200 }, (_, at) => connections[at % 4].chat());
    chats.forEach(({ call }, at) => call.write(text(at)));
    const came = await Promise.all(chats.map(({ next }) => next()));
    came.forEach((message, at) => assert.equal(message.toString(), `re: ${at}`));
    chats.reverse().forEach(({ call }) => call.end());
    for (const { status } of chats) assert.equal((await status).code, 0);
    await Promise.all(chats.map((_, at) => served(connections[at % 4], text(at))));
    connections.forEach((calls) => calls.close());
  },

  // 100 MiB from the service.
  stream: () => on(async (calls) => {
    const found = await calls.produce(400, 256 * 1024, [], 3 * PATIENCE);
    assert.equal(found.size, 100 * 1024 * 1024);
    assert.equal(found.status.code, 0);
  }),

  // Every way in which the gateway itself says no: the caller of this program knows which it will be.
  refused: () => on(async (calls) => {
    const { status } = await calls.unary(text('x'));
    console.log(JSON.stringify([grpc.status[status.code], status.details]));
  }),

  // A call whose service dies.
  killed: () => on(async (calls) => {
    const { status } = await calls.unary(text('killed'), [], 0, 'Wait');
    console.log(JSON.stringify([grpc.status[status.code], status.details]));
  }),
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
