// A service of WebSocket by `ws`. `websocket_server.js PORT` (0: any) prints a line of JSON for each thing that happens. It sends
// back what it is sent, but for a few words that ask for something else.
'use strict';

const { WebSocketServer } = require('ws');

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');

const server = new WebSocketServer({
  host: '127.0.0.1', port: Number(process.argv[2]), perMessageDeflate: true,
  handleProtocols: (offered) => ['second', 'first'].find((name) => offered.has(name)) ?? false,
});
server.on('listening', () => say({ event: 'listening', port: server.address().port }));
server.on('connection', (socket) => {
  socket.on('message', (message, isBinary) => {
    const text = isBinary ? '' : message.toString();
    if (text === 'fragments') {
      socket.send('one ', { fin: false });
      socket.send('two ', { fin: false });
      socket.send('three', { fin: true });
    } else if (text === 'ping') {
      socket.once('pong', (payload) => socket.send(payload.toString() === 'asked' ? 'ponged' : 'another'));
      socket.ping('asked');
    } else if (text.startsWith('close ')) {
      socket.close(Number(text.split(' ')[1]), 'as asked');
    } else {
      socket.send(message, { binary: isBinary });
    }
  });
  socket.on('close', (code, reason) => say({ event: 'closed', code, reason: reason.toString() }));
});
