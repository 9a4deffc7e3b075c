// Decodes and encodes Sparkplug payloads with Eclipse Tahu's library, which shares no code with ours.
//
//   node sparkplug_peer.js
//
// Takes one JSON object a line and answers each with one:
//   {"decode": base64, "birth": bool}  {"fields": what stands in the message, field by field,
//                                       "metrics": what the library makes of it, with the types
//                                       that the last birth gave each alias}
//   {"encode": payload}                {"payload": base64}
"use strict";

const readline = require("node:readline");
const library = require("sparkplug-payload").get("spBv1.0");
const { Payload } = require("sparkplug-payload/lib/sparkplugPayloadProto").org.eclipse.tahu.protobuf;

let types = new Map();

function decode(data, birth) {
  const payload = Payload.decode(data);
  const fields = Payload.toObject(payload, { longs: String, oneofs: true });
  if (birth) {
    types = new Map(payload.metrics.map((m) => [String(m.alias), m.datatype]));
  }
  for (const metric of payload.metrics) {
    if (!Object.hasOwn(metric, "datatype")) {
      metric.datatype = types.get(String(metric.alias)) ?? 0;
    }
  }
  const metrics = library.decodePayload(Payload.encode(payload).finish()).metrics ?? [];
  return { fields, metrics };
}

// Whole numbers of 64 bits are objects of the library `long`; JSON carries their digits.
function plain(key, value) {
  if (value !== null && typeof value === "object" && "unsigned" in value && "low" in value) {
    return value.toString();
  }
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

function answer(asked) {
  if (asked.decode !== undefined) {
    return decode(Buffer.from(asked.decode, "base64"), asked.birth);
  }
  return { payload: Buffer.from(library.encodePayload(asked.encode)).toString("base64") };
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  console.log(JSON.stringify(answer(JSON.parse(line)), plain));
});
