// Monitors a point with node-opcua while its connection is cut again and again.
//
//   node opcua_reconnect.js URL
//
// Prints each message with its number and its values as one line of JSON, and ends with its standard
// input. A message may come twice, with one number: by Publish, and by Republish that overtook it.
"use strict";

process.env.NODEOPCUA_DEBUG = "";
const {
  AttributeIds,
  ClientMonitoredItem,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  TimestampsToReturn,
} = require("node-opcua-client");

async function main() {
  const opcua = OPCUAClient.create({
    endpointMustExist: false,
    securityMode: MessageSecurityMode.None,
    securityPolicy: SecurityPolicy.None,
    keepSessionAlive: true,
    connectionStrategy: { maxRetry: -1, initialDelay: 50, maxDelay: 200 },
  });
  await opcua.connect(process.argv[2]);
  const session = await opcua.createSession();
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 50,
    requestedLifetimeCount: 600,
    requestedMaxKeepAliveCount: 10,
    maxNotificationsPerPublish: 0,
    publishingEnabled: true,
    priority: 1,
  });
  subscription.on("raw_notification", (message) => {
    const values = message.notificationData.flatMap((one) =>
      (one.monitoredItems || []).map((item) => item.value.value.value),
    );
    const { subscriptionId: id } = subscription;
    console.log(JSON.stringify({ id, number: message.sequenceNumber, values }));
  });
  ClientMonitoredItem.create(
    subscription,
    { nodeId: "ns=2;s=Stack.Voltage", attributeId: AttributeIds.Value },
    { samplingInterval: 0, queueSize: 100, discardOldest: true },
    TimestampsToReturn.Both,
  );
}

process.stdin.on("end", () => process.exit(0)).resume();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
