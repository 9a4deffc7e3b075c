// An OPC UA server made with node-opcua, which shares no code with ours: the other side of
// tests/drivers/test_opcua_peer.py.
//
//   node opcua_server.js
//
// Prints {"port": N} once it listens. Every line on standard input is a command in JSON:
// {"set": number} changes Flow, {"status": name} its status. Prints {"written": number} when a
// client writes Setpoint. Ends with standard input.
"use strict";

process.env.NODEOPCUA_DEBUG = "";
const os = require("os");
const path = require("path");
const readline = require("readline");
const { OPCUAServer } = require("node-opcua-server");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { DataType, Variant } = require("node-opcua-variant");
const { StatusCodes } = require("node-opcua-status-code");

async function main() {
  const folder = path.join(process.argv[2] || os.tmpdir(), "pki");
  const server = new OPCUAServer({
    port: 0,
    hostname: "127.0.0.1",
    nodeset_filename: [require("node-opcua-nodesets").nodesets.standard],
    serverCertificateManager: new OPCUACertificateManager({
      rootFolder: folder,
      automaticallyAcceptUnknownCertificate: true,
    }),
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  const own = space.getOwnNamespace();
  const device = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Pump" });
  const flow = own.addAnalogDataItem({
    componentOf: device,
    nodeId: "s=Pump.Flow",
    browseName: "Flow",
    dataType: "Double",
    engineeringUnitsRange: { low: 0, high: 10 },
    value: { dataType: DataType.Double, value: 1.5 },
  });
  let setpoint = 0;
  own.addVariable({
    componentOf: device,
    nodeId: "s=Pump.Setpoint",
    browseName: "Setpoint",
    dataType: "Int16",
    minimumSamplingInterval: 50,
    value: {
      get: () => new Variant({ dataType: DataType.Int16, value: setpoint }),
      set: (variant) => {
        setpoint = variant.value;
        console.log(JSON.stringify({ written: setpoint }));
        return StatusCodes.Good;
      },
    },
  });
  own.addVariable({
    componentOf: device,
    nodeId: "s=Pump.Fixed",
    browseName: "Fixed",
    dataType: "Int32",
    accessLevel: "CurrentRead",
    userAccessLevel: "CurrentRead",
    value: { dataType: DataType.Int32, value: 7 },
  });
  await server.start();
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const command = JSON.parse(line);
    const status = StatusCodes[command.status || "Good"];
    const value = command.set === undefined ? 0 : command.set;
    flow.setValueFromSource({ dataType: DataType.Double, value }, status);
  }).on("close", async () => {
    await server.shutdown(0);
    process.exit(0);
  });
  console.log(JSON.stringify({ port: server.endpoints[0].port, uri: own.namespaceUri }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
