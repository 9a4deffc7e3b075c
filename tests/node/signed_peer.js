// Signed messages by another implementation: node's own crypto, and msgpack written from its
// specification. It knows nothing of Gatepost but docs/wire.md.
//
//   node signed_peer.js verify < [{"message": hex, "public": base64}, ...]
//       one JSON line each: {"verified": bool, "key": text, "envelope": {...} or null}
//   node signed_peer.js make < {"pem": text, "key": text, "envelope": {...}}
//       the message in hex; whole numbers beyond 2^53 come as text with "n" behind them
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");

const DOMAIN = Buffer.from("gatepost signed message 1\0", "latin1");
const SPKI = Buffer.from("302a300506032b6570032100", "hex"); // RFC 8410, in front of 32 bytes

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }
  take(count) {
    if (this.at + count > this.bytes.length) throw new Error("cut off");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }
  uint(count) {
    let value = 0n;
    for (const byte of this.take(count)) value = value * 256n + BigInt(byte);
    return value;
  }
  whole(value) {
    return value > 9007199254740991n || value < -9007199254740991n ? `${value}n` : Number(value);
  }
  text(count) {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.take(count));
  }
  array(count) {
    return Array.from({ length: count }, () => this.value());
  }
  map(count) {
    const made = {};
    for (let i = 0; i < count; i++) {
      const name = this.value();
      if (typeof name !== "string" || name in made) throw new Error("keys are texts, once each");
      made[name] = this.value();
    }
    return made;
  }
  value() {
    const head = this.take(1)[0];
    if (head < 0x80) return head;
    if (head < 0x90) return this.map(head & 15);
    if (head < 0xa0) return this.array(head & 15);
    if (head < 0xc0) return this.text(head & 31);
    if (head >= 0xe0) return head - 256;
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6:
        return Buffer.from(this.take(Number(this.uint(1 << (head - 0xc4)))));
      case 0xca: return this.take(4).readFloatBE();
      case 0xcb: return this.take(8).readDoubleBE();
      case 0xcc: case 0xcd: case 0xce: case 0xcf:
        return this.whole(this.uint(1 << (head - 0xcc)));
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: {
        const size = 1 << (head - 0xd0);
        return this.whole(BigInt.asIntN(8 * size, this.uint(size)));
      }
      case 0xd9: case 0xda: case 0xdb: return this.text(Number(this.uint(1 << (head - 0xd9))));
      case 0xdc: case 0xdd: return this.array(Number(this.uint(2 << (head - 0xdc))));
      case 0xde: case 0xdf: return this.map(Number(this.uint(2 << (head - 0xde))));
      default: throw new Error(`no plain type: ${head}`);
    }
  }
}

function unpack(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value();
  if (reader.at !== bytes.length) throw new Error("left over");
  return value;
}

function pack(value) {
  const int64 = (number) => {
    const made = Buffer.alloc(9, 0xd3);
    made.writeBigInt64BE(number, 1);
    return made;
  };
  const headed = (byte, count, rest) => {
    const made = Buffer.alloc(5, byte);
    made.writeUInt32BE(count, 1);
    return Buffer.concat([made, ...rest]);
  };
  if (value === null) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (Buffer.isBuffer(value)) return headed(0xc6, value.length, [value]);
  if (typeof value === "string" && /^-?\d+n$/.test(value)) return int64(BigInt(value.slice(0, -1)));
  if (typeof value === "string") return headed(0xdb, Buffer.byteLength(value), [Buffer.from(value)]);
  if (Number.isInteger(value)) return int64(BigInt(value));
  if (typeof value === "number") {
    const made = Buffer.alloc(9, 0xcb);
    made.writeDoubleBE(value, 1);
    return made;
  }
  if (Array.isArray(value)) return headed(0xdd, value.length, value.map(pack));
  const names = Object.keys(value);
  return headed(0xdf, names.length, names.flatMap((name) => [pack(name), pack(value[name])]));
}

function verify({ message, public: text }) {
  const outer = unpack(Buffer.from(message, "hex"));
  const spki = Buffer.concat([SPKI, Buffer.from(text, "base64")]);
  const key = crypto.createPublicKey({ key: spki, format: "der", type: "spki" });
  const signed = Buffer.concat([DOMAIN, outer.body]);
  const verified = outer.v === 1 && crypto.verify(null, signed, key, outer.signature);
  let envelope = null;
  try {
    envelope = verified ? unpack(outer.body) : null;
  } catch (error) {
    if (error.message !== "keys are texts, once each") throw error;
  }
  return { verified, key: outer.key, envelope };
}

function make({ pem, key, envelope }) {
  const body = pack(envelope);
  const signature = crypto.sign(null, Buffer.concat([DOMAIN, body]), crypto.createPrivateKey(pem));
  return pack({ v: 1, key, signature, body }).toString("hex");
}

const given = JSON.parse(fs.readFileSync(0, "utf8"));
if (process.argv[2] === "make") console.log(make(given));
else for (const one of given) console.log(JSON.stringify(verify(one)));
