// A service of gRPC that is all JavaScript. `grpc_server.js PORT` (0: any) prints a line of JSON for each thing that happens.
// Messages are bytes as they are. SIGTERM ends it as servers are ended: GOAWAY, and calls that run are finished.
'use strict';

const grpc = require('@grpc/grpc-js');

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const same = (bytes) => bytes;

// What the caller's metadata ask for: fields ahead, fields behind, and how the call ends.
function wanted(call) {
  const [ahead, behind] = [new grpc.Metadata(), new grpc.Metadata()];
  const ends = { code: 0, details: '', metadata: behind };
  for (const key of Object.keys(call.metadata.getMap())) {
    for (const value of call.metadata.get(key)) {
      if (key.startsWith('x-ahead')) ahead.add(key, value);
      else if (key.startsWith('x-behind')) behind.add(key, value);
      else if (key === 'x-details-bin') behind.add('grpc-status-details-bin', value);
      else if (key === 'x-status') ends.code = Number(value);
      else if (key === 'x-message-bin') ends.details = value.toString();
    }
  }
  return { ahead, behind, ends };
}

const handlers = {
  // Answers what it is asked.
  Unary(call, answer) {
    const { ahead, behind, ends } = wanted(call);
    call.sendMetadata(ahead);
    if (ends.code) answer(ends);
    else answer(null, call.request, behind);
  },
  // How many messages came, and how many bytes.
  Collect(call, answer) {
    let [count, size] = [0, 0];
    call.on('data', (message) => { count += 1; size += message.length; });
    call.on('end', () => answer(null, Buffer.from(JSON.stringify([count, size]))));
  },
  // As many messages of so many bytes as it is asked for; then it ends as the metadata want it.
  async Produce(call) {
    const [count, size] = JSON.parse(call.request.toString());
    const { behind, ends } = wanted(call);
    for (let at = 0; at < count && !call.cancelled; at += 1) {
      if (!call.write(Buffer.alloc(size, at % 251))) await new Promise((on) => call.once('drain', on));
    }
    if (ends.code) call.emit('error', ends);
    else call.end(behind);
  },
  // Answers each message as it comes.
  Chat(call) {
    call.on('data', (message) => call.write(Buffer.concat([Buffer.from('re: '), message])));
    call.on('end', () => call.end());
  },
  // Never answers. Says when it begins, and when it is cancelled.
  Wait(call) {
    const name = call.request.toString();
    say({ event: 'waiting', name });
    call.on('cancelled', () => say({ event: 'cancelled', name }));
  },
  // One message, and never an end. Says when it is cancelled.
  Watch(call) {
    call.on('cancelled', () => say({ event: 'cancelled', name: call.request.toString() }));
    call.write(Buffer.from('begun'));
  },
};

const method = (name, requestStream, responseStream) => ({
  path: `/e2e.Calls/${name}`, requestStream, responseStream,
  requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
});

const server = new grpc.Server({ 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 });
server.addService({
  Unary: method('Unary', false, false),
  Collect: method('Collect', true, false),
  Produce: method('Produce', false, true),
  Chat: method('Chat', true, true),
  Wait: method('Wait', false, false),
  Watch: method('Watch', false, true),
}, handlers);
server.bindAsync(`127.0.0.1:${process.argv[2]}`, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  say({ event: 'listening', port });
});
process.on('SIGTERM', () => {
  say({ event: 'leaving' });
  server.tryShutdown(() => process.exit(0));
});
