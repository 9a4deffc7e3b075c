// Walks through all nodes below Objects with node-opcua, which shares no code with our server.
//
//   node opcua_browse.js URL
//
// Prints one object: how many nodes there are, what was wrong, and what some of them are.
"use strict";

process.env.NODEOPCUA_DEBUG = "";
const {
  AttributeIds,
  BrowseDirection,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  UserTokenType,
  makeBrowsePath,
  resolveNodeId,
} = require("node-opcua-client");

const HIERARCHICAL = "i=33";
const AT_ONCE = 50;

async function children(session, nodes) {
  const wanted = nodes.map((nodeId) => ({
    nodeId,
    referenceTypeId: HIERARCHICAL,
    includeSubtypes: true,
    browseDirection: BrowseDirection.Forward,
    nodeClassMask: 0,
    resultMask: 63,
  }));
  const results = await session.browse(wanted);
  const found = [];
  for (let result of results) {
    let references = [...(result.references || [])];
    while (result.continuationPoint && result.continuationPoint.length) {
      result = await session.browseNext(result.continuationPoint, false);
      references = references.concat(result.references || []);
    }
    found.push(...references);
  }
  return found;
}

async function walk(session, problems) {
  const seen = new Map();
  let waiting = ["i=85"];
  while (waiting.length) {
    const next = [];
    for (let start = 0; start < waiting.length; start += AT_ONCE) {
      for (const one of await children(session, waiting.slice(start, start + AT_ONCE))) {
        const name = one.nodeId.toString();
        if (!seen.has(name)) {
          seen.set(name, one);
          next.push(name);
        }
      }
    }
    waiting = next;
  }
  const names = [...seen.keys()];
  for (let start = 0; start < names.length; start += 500) {
    const wanted = names.slice(start, start + 500).map((nodeId) => ({
      nodeId,
      attributeId: AttributeIds.DisplayName,
    }));
    for (const [at, value] of (await session.read(wanted)).entries()) {
      if (value.statusCode.value !== 0) problems.push(`${wanted[at].nodeId}: ${value.statusCode}`);
    }
  }
  return seen;
}

async function main() {
  const client = OPCUAClient.create({
    endpointMustExist: false,
    securityMode: MessageSecurityMode.None,
    securityPolicy: SecurityPolicy.None,
    connectionStrategy: { maxRetry: 1 },
  });
  await client.connect(process.argv[2]);
  const session = await client.createSession({ type: UserTokenType.Anonymous });
  const problems = [];
  const seen = await walk(session, problems);
  const path = makeBrowsePath("i=85", "/3:DeviceSet/2:Stack/3:DeviceHealth");
  const device = await session.translateBrowsePath(path);
  const health = await session.read({
    nodeId: "ns=2;s=/Stack/DeviceHealth",
    attributeId: AttributeIds.Value,
  });
  const state = await session.read({
    nodeId: "ns=2;s=States.Plant/StateMachine/CurrentState",
    attributeId: AttributeIds.Value,
  });
  const unit = await session.read({
    nodeId: "ns=2;s=Stack.Temperature/EngineeringUnits",
    attributeId: AttributeIds.Value,
  });
  const kinds = {};
  for (const [name, one] of seen) {
    if (one.typeDefinition) kinds[name] = resolveNodeId(one.typeDefinition).toString();
  }
  console.log(
    JSON.stringify({
      nodes: seen.size,
      problems,
      device: device.targets.map((target) => target.targetId.toString()),
      health: health.value.value,
      state: state.value.value.text,
      unit: unit.value.value.displayName.text,
      stack: kinds["ns=2;s=/Stack"],
      temperature: kinds["ns=2;s=Stack.Temperature"],
      machine: kinds["ns=2;s=States.Plant/StateMachine"],
      big: [...seen.keys()].filter((name) => name.startsWith("ns=2;s=Big.")).length,
    }),
  );
  await session.close();
  await client.disconnect();
}

main().catch((problem) => {
  console.error(problem);
  process.exit(1);
});
