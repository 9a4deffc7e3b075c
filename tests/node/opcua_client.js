// Reads our OPC UA server with node-opcua, which shares no code with it.
//
//   node opcua_client.js URL
//
// Prints {"ready": true} when it monitors two points, collects their changes until one of them
// is bad, tries what must be refused, and prints one object with everything that it saw.
"use strict";

process.env.NODEOPCUA_DEBUG = "";
const {
  AttributeIds,
  ClientMonitoredItem,
  ClientSubscription,
  DataChangeFilter,
  DataChangeTrigger,
  DataType,
  DeadbandType,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  TimestampsToReturn,
  UserTokenType,
} = require("node-opcua-client");

const url = process.argv[2];
const ANALOG = "ns=2;s=Stack.Temperature";
const SWITCH = "ns=2;s=Fan.Running";
const OBJECTS = "i=85";

function shown(value) {
  return {
    status: value.statusCode.value >>> 0,
    type: DataType[value.value ? value.value.dataType : 0],
    value: value.value ? value.value.value : null,
    source: value.sourceTimestamp ? value.sourceTimestamp.toISOString() : null,
    server: value.serverTimestamp ? value.serverTimestamp.toISOString() : null,
  };
}

function text(localized) {
  return localized ? localized.text : null;
}

async function browseNames(session, node) {
  const result = await session.browse(node);
  return result.references.map((reference) => reference.browseName.name);
}

async function property(session, node, name) {
  const value = await session.read({ nodeId: `${node}/${name}`, attributeId: AttributeIds.Value });
  return value.value.value;
}

function monitor(subscription, nodeId, changes, parameters) {
  const item = ClientMonitoredItem.create(
    subscription,
    { nodeId, attributeId: AttributeIds.Value },
    { samplingInterval: 0, queueSize: 50, discardOldest: true, ...parameters },
    TimestampsToReturn.Both,
  );
  item.on("changed", (value) => changes.push({ nodeId, ...shown(value) }));
  return new Promise((resolve, reject) => {
    item.on("initialized", resolve);
    item.on("err", (message) => reject(new Error(message)));
  });
}

async function refusals(session) {
  const value = { dataType: DataType.Double, value: 1.0 };
  const write = (attributeId, variant) =>
    session.write({ nodeId: ANALOG, attributeId, value: { value: variant } });
  const results = [
    await write(AttributeIds.Value, value),
    await write(AttributeIds.AccessLevel, { dataType: DataType.Byte, value: 3 }),
  ];
  return results.map((status) => status.name);
}

function client() {
  return OPCUAClient.create({
    endpointMustExist: false,
    securityMode: MessageSecurityMode.None,
    securityPolicy: SecurityPolicy.None,
    connectionStrategy: { maxRetry: 2, initialDelay: 100 },
  });
}

// The library that serves us makes an administrator of everybody who says so; we must not.
async function asAdministrator() {
  const other = client();
  try {
    await other.connect(url);
    const user = { type: UserTokenType.UserName, userName: "admin", password: "admin" };
    const session = await other.createSession(user);
    await session.close();
    return "session";
  } catch (error) {
    return "refused";
  } finally {
    await other.disconnect();
  }
}

async function main() {
  const opcua = client();
  await opcua.connect(url);
  const session = await opcua.createSession();
  const seen = { endpoints: (await opcua.getEndpoints()).map((e) => e.endpointUrl) };
  seen.objects = await browseNames(session, OBJECTS);
  seen.equipment = await browseNames(session, "ns=2;s=/");
  seen.channels = await browseNames(session, "ns=2;s=/Stack");
  seen.namespaces = await session.readNamespaceArray();
  seen.analog = shown(await session.read({ nodeId: ANALOG, attributeId: AttributeIds.Value }));
  seen.switch = shown(await session.read({ nodeId: SWITCH, attributeId: AttributeIds.Value }));
  const units = await property(session, ANALOG, "EngineeringUnits");
  seen.units = { id: units.unitId, uri: units.namespaceUri, name: text(units.displayName) };
  const range = await property(session, ANALOG, "EURange");
  seen.range = [range.low, range.high];
  seen.states = [
    text(await property(session, SWITCH, "FalseState")),
    text(await property(session, SWITCH, "TrueState")),
  ];
  const about = await session.read({ nodeId: ANALOG, attributeId: AttributeIds.Description });
  seen.description = text(about.value.value);

  seen.changes = [];
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 50,
    requestedLifetimeCount: 600,
    requestedMaxKeepAliveCount: 20,
    maxNotificationsPerPublish: 0,
    publishingEnabled: true,
    priority: 1,
  });
  const filter = new DataChangeFilter({
    trigger: DataChangeTrigger.StatusValue,
    deadbandType: DeadbandType.Absolute,
    deadbandValue: 1.0,
  });
  await monitor(subscription, ANALOG, seen.changes, { filter });
  await monitor(subscription, SWITCH, seen.changes, {});
  while (seen.changes.length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
  console.log(JSON.stringify({ ready: true }));

  const bad = (nodeId) => seen.changes.some((c) => c.nodeId === nodeId && c.status >= 0x80000000);
  while (!bad(ANALOG) || !bad(SWITCH)) await new Promise((resolve) => setTimeout(resolve, 20));
  seen.refusals = await refusals(session);
  seen.administrator = await asAdministrator();
  await subscription.terminate();
  await session.close();
  await opcua.disconnect();
  console.log(JSON.stringify(seen));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
