// Connects to our OPC UA server with each security policy and each kind of user (node-opcua).
//
//   node policy_peer.js SETTINGS
//
// SETTINGS is JSON: url, folder (for its own certificate store), certificate, key (PEM files of the
// application), userCertificate, userKey (PEM files of a person), password. It prints one object:
// policy and mode -> kind of user -> the value that it read, or the error in words.
"use strict";

process.env.NODEOPCUA_DEBUG = "";
const fs = require("fs");
const {
  AttributeIds,
  MessageSecurityMode,
  OPCUAClient,
  SecurityPolicy,
  UserTokenType,
} = require("node-opcua-client");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");

const settings = JSON.parse(process.argv[2]);
const NODE = "ns=2;s=Stack.Temperature";
const POLICIES = ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"];
const MODES = ["Sign", "SignAndEncrypt"];

function der(pem) {
  return Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64");
}

function users() {
  const password = settings.password;
  return {
    name: { type: UserTokenType.UserName, userName: "otto", password },
    wrong: { type: UserTokenType.UserName, userName: "otto", password: "wrong" },
    long: { type: UserTokenType.UserName, userName: "otto", password: "x".repeat(300) },
    certificate: {
      type: UserTokenType.Certificate,
      certificateData: der(fs.readFileSync(settings.userCertificate, "utf8")),
      privateKey: fs.readFileSync(settings.userKey, "utf8"),
    },
  };
}

async function tried(client, user) {
  try {
    const session = await client.createSession(user);
    const read = await session.read({ nodeId: NODE, attributeId: AttributeIds.Value });
    await session.close();
    return read.value.value;
  } catch (error) {
    return String(error.message);
  }
}

async function main() {
  const store = new OPCUACertificateManager({
    rootFolder: settings.folder,
    automaticallyAcceptUnknownCertificate: true,
  });
  await store.initialize();
  const seen = {};
  for (const policy of POLICIES) {
    for (const mode of MODES) {
      const client = OPCUAClient.create({
        applicationName: "scada",
        clientName: "scada",
        endpointMustExist: true,
        securityMode: MessageSecurityMode[mode],
        securityPolicy: SecurityPolicy[policy],
        certificateFile: settings.certificate,
        privateKeyFile: settings.key,
        clientCertificateManager: store,
        connectionStrategy: { maxRetry: 0 },
      });
      const found = (seen[`${policy} ${mode}`] = {});
      await client.connect(settings.url);
      for (const [name, user] of Object.entries(users())) {
        if (name === "name" || name === "certificate" || mode === "SignAndEncrypt")
          found[name] = await tried(client, user);
      }
      await client.disconnect();
    }
  }
  console.log(JSON.stringify(seen));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
