// Extended CONNECT (RFC 8441) by Node's own HTTP/2, for the tests of the mesh.
//
// tunnel.mjs serve PORT          echoes what comes through a tunnel; refuses one to /refused with 403
// tunnel.mjs plain PORT          speaks HTTP/2 without extended CONNECT
// tunnel.mjs talk HOST PATH MS   a conversation through a tunnel with a silence of MS milliseconds; prints what came of it

import http2 from "node:http2";

const [, , role, ...words] = process.argv;

function serve(port, enableConnectProtocol) {
  const server = http2.createServer({ settings: { enableConnectProtocol } });
  server.on("stream", (stream, headers) => {
    console.log("STREAM", headers[":method"], headers[":protocol"], headers[":path"]);
    stream.on("error", (error) => console.log("ERROR", error.code));
    if (headers[":path"].startsWith("/refused")) {
      stream.respond({ ":status": 403 }, { endStream: true });
      return;
    }
    stream.respond({ ":status": 200, "x-tunnel": headers[":protocol"] });
    stream.write("the server speaks first;");
    stream.pipe(stream);
  });
  server.listen(port, "::", () => console.log("listening"));
}

function talk(host, path, silence) {
  const found = { status: 0, text: "", length: 0, end: "" };
  const client = http2.connect(`http://${host}`);
  const done = (end) => {
    found.end = end;
    console.log(JSON.stringify(found));
    process.exit(0);
  };
  client.on("error", (error) => done(error.code));
  client.once("remoteSettings", (settings) => {
    found.offered = settings.enableConnectProtocol;
    const stream = client.request({
      ":method": "CONNECT", ":protocol": "websocket", ":path": path, ":scheme": "http", ":authority": host,
    }, { endStream: false });
    stream.on("response", (headers) => {
      found.status = headers[":status"];
      found.reason = headers["gammarus-reason"];
    });
    stream.on("data", (piece) => {
      found.length += piece.length;
      if (found.text.length < 100) found.text += piece.toString();
    });
    stream.on("end", () => done("whole"));
    stream.on("error", (error) => done(error.code));
    stream.write("early;");
    setTimeout(() => {
      stream.write("late;");
      stream.end(Buffer.alloc(1_000_000, "x"));
    }, silence);
  });
}

if (role === "talk") talk(words[0], words[1], Number(words[2]));
else serve(Number(words[0]), role === "serve");
