// A control room that shares no code with us (node-opcua) works with a gateway.
//
//   node scada_peer.js SETTINGS
//
// SETTINGS is JSON: url, folder (for its own certificate store), certificate, key (PEM files),
// password. It prints {"waits": "..."} where the plant is to change, goes on with the next line on
// standard input, and prints one object with what it saw in each step. A step that fails is told
// under its name as {"error": ...}; the others go on.
"use strict";

process.env.NODEOPCUA_DEBUG = "";
const readline = require("readline");
const {
  AggregateFunction,
  AttributeIds,
  ClientMonitoredItem,
  ClientSubscription,
  DataType,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  SimpleAttributeOperand,
  StatusCodes,
  TimestampsToReturn,
  UserTokenType,
  WriteRequest,
  constructEventFilter,
  makeBrowsePath,
  resolveNodeId,
} = require("node-opcua-client");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");

const settings = JSON.parse(process.argv[2]);
const SETPOINT = "ns=2;s=Rig.Setpoint";
const TEMPERATURE = "ns=2;s=Rig.Temperature";
const ALARM = "ns=2;s=Alarms.Hot/Condition";
const SERVER = "i=2253";
const CONDITION_TYPE = "i=2782";
const REFRESH = "i=3875";
const TIMED_SHELVE = "i=2949";
const UNSHELVE = "i=2947";
const REFRESH_ENDS = "i=2788";
const FIELDS = [
  "EventType",
  "EventId",
  "SourceName",
  "Message",
  "Severity",
  "ConditionName",
  "ActiveState.Id",
  "AckedState.Id",
  "Retain",
  "Comment",
  "ShelvingState.CurrentState.Id",
];
const UNSHELVED = "ns=0;i=2930";
const DEADLINE_MS = 15000;

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const seen = {};

async function plant(what) {
  console.log(JSON.stringify({ waits: what }));
  await lines.next();
}

async function until(condition) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`never came: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function step(name, work) {
  try {
    seen[name] = await work();
  } catch (error) {
    seen[name] = { error: String(error.message || error) };
  }
}

async function connected(userName) {
  const store = new OPCUACertificateManager({
    rootFolder: settings.folder,
    automaticallyAcceptUnknownCertificate: true,
  });
  await store.initialize();
  const client = OPCUAClient.create({
    applicationName: "scada",
    clientName: "scada",
    endpointMustExist: false,
    securityMode: MessageSecurityMode.SignAndEncrypt,
    securityPolicy: SecurityPolicy.Basic256Sha256,
    certificateFile: settings.certificate,
    privateKeyFile: settings.key,
    clientCertificateManager: store,
    connectionStrategy: { maxRetry: 2, initialDelay: 100 },
  });
  await client.connect(settings.url);
  const password = settings.password;
  const session = await client.createSession({ type: UserTokenType.UserName, userName, password });
  return { client, session };
}

const write = (session, nodeId, value, dataType = DataType.Double) =>
  session.write({ nodeId, attributeId: AttributeIds.Value, value: { value: { dataType, value } } });

async function call(session, objectId, methodId, inputArguments = []) {
  const result = await session.call({ objectId, methodId, inputArguments });
  const outputs = (result.outputArguments || []).map((one) => one.value);
  return { status: result.statusCode.name, outputs };
}

async function names(session, node) {
  const result = await session.browse(node);
  return result.references.map((reference) => reference.browseName.name);
}

async function value(session, nodeId) {
  return session.read({ nodeId, attributeId: AttributeIds.Value });
}

function item(subscription, nodeId, attributeId, parameters) {
  const made = ClientMonitoredItem.create(
    subscription,
    { nodeId, attributeId },
    { queueSize: 100, discardOldest: true, samplingInterval: 0, ...parameters },
    TimestampsToReturn.Both,
  );
  return new Promise((resolve, reject) => {
    made.on("initialized", () => resolve(made));
    made.on("err", (message) => reject(new Error(message)));
  });
}

function eventFilter() {
  const filter = constructEventFilter(FIELDS);
  const condition = new SimpleAttributeOperand({
    attributeId: AttributeIds.NodeId,
    browsePath: [],
    typeDefinitionId: resolveNodeId(CONDITION_TYPE),
  });
  filter.selectClauses.push(condition);
  return filter;
}

function shown(fields) {
  const event = {};
  [...FIELDS, "ConditionId"].forEach((name, at) => {
    const content = fields[at] && fields[at].dataType !== DataType.Null ? fields[at].value : null;
    event[name] = content;
  });
  return event;
}

const told = (event) => ({
  type: String(event.EventType),
  source: event.SourceName,
  message: event.Message && event.Message.text,
  severity: event.Severity,
  name: event.ConditionName,
  active: event["ActiveState.Id"],
  acked: event["AckedState.Id"],
  retain: event.Retain,
  comment: event.Comment && event.Comment.text,
  shelving: event["ShelvingState.CurrentState.Id"] && String(event["ShelvingState.CurrentState.Id"]),
});

async function lookAround(session) {
  await step("browses", async () => ({
    site: await names(session, "ns=2;s=/"),
    equipment: await names(session, "ns=2;s=/Rig"),
  }));
  await step("reads", async () => {
    const read = await value(session, SETPOINT);
    const units = (await value(session, `${SETPOINT}/EngineeringUnits`)).value.value;
    const range = (await value(session, `${SETPOINT}/EURange`)).value.value;
    return {
      status: read.statusCode.name,
      type: DataType[read.value.dataType],
      dated: read.sourceTimestamp instanceof Date,
      unit: units.displayName.text,
      unitId: units.unitId,
      range: [range.low, range.high],
    };
  });
}

async function monitor(session, subscription) {
  const changes = [];
  await step("subscribes", async () => {
    const made = await item(subscription, TEMPERATURE, AttributeIds.Value, {});
    made.on("changed", (change) => changes.push(change.value.value));
    await until(() => changes.length > 0);
    await plant("25 degC");
    await until(() => changes.includes(25));
    return changes.slice();
  });
}

async function command(session) {
  await step("writes", async () => ({
    status: (await write(session, SETPOINT, 33)).name,
    shown: await (async () => {
      const end = Date.now() + DEADLINE_MS;
      let read = null;
      while (read !== 33 && Date.now() < end) read = (await value(session, SETPOINT)).value.value;
      return read;
    })(),
    outside: (await write(session, SETPOINT, 101)).name,
    mistyped: (await write(session, SETPOINT, "33", DataType.String)).name,
    readOnly: (await write(session, TEMPERATURE, 1)).name,
  }));
  await step("asks why", async () => {
    const nodesToWrite = [
      { nodeId: SETPOINT, attributeId: 13, value: { value: { dataType: DataType.Double, value: 101 } } },
      { nodeId: TEMPERATURE, attributeId: 13, value: { value: { dataType: DataType.Double, value: 1 } } },
    ];
    const request = new WriteRequest({ requestHeader: { returnDiagnostics: 0xe0 }, nodesToWrite });
    const response = await session.performMessageTransaction(request);
    const table = response.responseHeader.stringTable;
    return response.diagnosticInfos.map((info) => ({
      symbol: table[info.symbolicId],
      text: table[info.localizedText],
      more: info.additionalInfo,
    }));
  });
  await step("is refused as observer", async () => {
    const other = await connected("olga");
    try {
      return {
        read: (await value(other.session, SETPOINT)).statusCode.name,
        write: (await write(other.session, SETPOINT, 1)).name,
        call: (await call(other.session, "ns=2;s=/Gateway", "ns=2;s=/Gateway/EmergencyStop")).status,
      };
    } finally {
      await other.session.close();
      await other.client.disconnect();
    }
  });
  await step("calls methods", async () => {
    const text = (content) => ({ dataType: DataType.String, value: content });
    const number = (content) => ({ dataType: DataType.Double, value: content });
    const lease = [text("Setpoint"), number(20), number(60000)];
    const machine = "ns=2;s=States.Plant/StateMachine";
    return {
      leased: await call(session, "ns=2;s=/Rig", "ns=2;s=/Rig/WriteWithLease", lease),
      released: await call(session, "ns=2;s=/Rig", "ns=2;s=/Rig/Release", [text("Setpoint")]),
      state: await call(session, machine, `${machine}/RequestState`, [text("Warm")]),
      wrongState: await call(session, machine, `${machine}/RequestState`, [text("Nonsense")]),
      reset: await call(session, "ns=2;s=/Gateway", "ns=2;s=/Gateway/ResetTrips"),
    };
  });
}

async function history(session, since) {
  const now = () => new Date(Date.now() + 1000);
  await step("reads history raw", async () => {
    const result = await session.readHistoryValue(TEMPERATURE, since, now());
    const values = result.historyData ? result.historyData.dataValues : [];
    return {
      status: result.statusCode.name,
      values: values.map((one) => one.value && one.value.value),
      ordered: values.every((one, at) => !at || one.sourceTimestamp >= values[at - 1].sourceTimestamp),
    };
  });
  await step("reads history processed", async () => {
    const found = {};
    for (const name of ["Average", "Minimum", "Maximum", "Count", "PercentGood"]) {
      const result = await session.readAggregateValue(
        { nodeId: TEMPERATURE },
        since,
        now(),
        AggregateFunction[name],
        3600000,
      );
      const values = result.historyData ? result.historyData.dataValues : [];
      found[name] = { status: result.statusCode.name, values: values.map((one) => one.value.value) };
    }
    return found;
  });
}

async function alarms(session, subscription) {
  const events = [];
  const ofAlarm = () => events.filter((event) => String(event.ConditionId) === ALARM);
  const last = () => ofAlarm().at(-1) || {};
  await step("receives an alarm", async () => {
    const made = await item(subscription, SERVER, AttributeIds.EventNotifier, {
      filter: eventFilter(),
    });
    made.on("changed", (fields) => events.push(shown(fields)));
    await plant("850 degC");
    await until(() => last()["ActiveState.Id"] === true);
    return told(last());
  });
  await step("acknowledges it", async () => {
    const status = await session.acknowledgeCondition(
      resolveNodeId(ALARM),
      last().EventId,
      "seen by node-opcua",
    );
    await until(() => last()["AckedState.Id"] === true);
    return { status: status.name, ...told(last()) };
  });
  await step("shelves it", async () => {
    const path = makeBrowsePath(ALARM, ".ShelvingState");
    const found = await session.translateBrowsePath(path);
    const object = found.targets[0].targetId;
    const time = { dataType: DataType.Double, value: 60000 };
    const shelved = await call(session, object, TIMED_SHELVE, [time]);
    await until(() => last()["ShelvingState.CurrentState.Id"] && !isUnshelved(last()));
    const state = told(last());
    const unshelved = await call(session, object, UNSHELVE);
    await until(() => isUnshelved(last()));
    return { shelved: shelved.status, state, unshelved: unshelved.status };
  });
  await step("refreshes conditions", async () => {
    const before = events.length;
    const id = { dataType: DataType.UInt32, value: subscription.subscriptionId };
    const result = await call(session, CONDITION_TYPE, REFRESH, [id]);
    const fresh = () => events.slice(before);
    await until(() => fresh().some((event) => String(event.EventType) === `ns=0;${REFRESH_ENDS}`));
    const again = fresh().filter((event) => String(event.ConditionId) === ALARM);
    return { status: result.status, events: fresh().length, again: again.length };
  });
}

const isUnshelved = (event) => String(event["ShelvingState.CurrentState.Id"]) === UNSHELVED;

async function main() {
  const since = new Date(Date.now() - 600000);
  const { client, session } = await connected("otto");
  seen.connects = { mode: MessageSecurityMode[client.securityMode], policy: client.securityPolicy };
  const subscription = ClientSubscription.create(session, {
    requestedPublishingInterval: 50,
    requestedLifetimeCount: 600,
    requestedMaxKeepAliveCount: 20,
    maxNotificationsPerPublish: 0,
    publishingEnabled: true,
    priority: 1,
  });
  await new Promise((resolve) => subscription.once("started", resolve));
  await lookAround(session);
  await monitor(session, subscription);
  await command(session);
  await alarms(session, subscription);
  await history(session, since);
  await subscription.terminate();
  await session.close();
  await client.disconnect();
  console.log(JSON.stringify(seen));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
