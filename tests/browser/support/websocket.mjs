// The server's side of a WebSocket (RFC 6455), as much as a test needs: text, binary, ping and close, no extensions.

import { createHash } from 'node:crypto';

const MAGIC = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

/** Answers an upgrade and gives `{ sendText, close, drop, onText, onBinary, onClose }`; the last three are to be set. */
export function acceptWebSocket(request, socket, subprotocol) {
  const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + MAGIC).digest('base64');
  const lines = ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Accept: ${accept}`];
  if (subprotocol) lines.push(`Sec-WebSocket-Protocol: ${subprotocol}`);
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  socket.setNoDelay(true);

  const peer = {
    onText() {},
    onBinary() {},
    onClose() {},
    sendText: (text) => { if (!socket.destroyed) socket.write(message(1, Buffer.from(text))); },
    close(code) {
      const body = Buffer.alloc(2);
      body.writeUInt16BE(code);
      if (!socket.destroyed) socket.end(message(8, body));
    },
    /** As if a cable were pulled. */
    drop: () => socket.destroy(),
  };
  let buffer = Buffer.alloc(0);
  socket.on('data', (data) => {
    buffer = Buffer.concat([buffer, data]);
    for (let next = parse(buffer); next; next = parse(buffer)) {
      buffer = buffer.subarray(next.length);
      if (next.opcode === 1) peer.onText(next.body.toString());
      else if (next.opcode === 2) peer.onBinary(next.body);
      else if (next.opcode === 8) socket.end(message(8, next.body));
      else if (next.opcode === 9) socket.write(message(10, next.body));
    }
  });
  socket.on('error', () => {});
  socket.on('close', () => peer.onClose());
  return peer;
}

function message(opcode, body) {
  let head;
  if (body.length < 126) head = Buffer.from([0x80 | opcode, body.length]);
  else if (body.length < 65536) {
    head = Buffer.from([0x80 | opcode, 126, 0, 0]);
    head.writeUInt16BE(body.length, 2);
  } else {
    head = Buffer.from([0x80 | opcode, 127, 0, 0, 0, 0, 0, 0, 0, 0]);
    head.writeBigUInt64BE(BigInt(body.length), 2);
  }
  return Buffer.concat([head, body]);
}

/** The first whole message of the buffer, unmasked; browsers do not fragment messages of this size. */
function parse(buffer) {
  if (buffer.length < 2) return null;
  let size = buffer[1] & 0x7f;
  let at = 2;
  if (size === 126) {
    if (buffer.length < 4) return null;
    size = buffer.readUInt16BE(2);
    at = 4;
  } else if (size === 127) {
    if (buffer.length < 10) return null;
    size = Number(buffer.readBigUInt64BE(2));
    at = 10;
  }
  if (buffer.length < at + 4 + size) return null;
  const mask = buffer.subarray(at, at + 4);
  const body = Buffer.from(buffer.subarray(at + 4, at + 4 + size));
  for (let i = 0; i < body.length; i += 1) body[i] ^= mask[i % 4];
  return { opcode: buffer[0] & 0x0f, body, length: at + 4 + size };
}
