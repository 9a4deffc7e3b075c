// Reads a JSON list of Mermaid state diagrams on standard input; prints what Mermaid made of them:
// a list of {"states": {id: text}, "ways": [[from, to, text], ...]} or {"error": message}.
import DOMPurify from 'dompurify';

// Mermaid cleans labels with a browser's help, which there is none of here.
DOMPurify.addHook = () => {};
DOMPurify.sanitize = (text) => text;
const { default: mermaid } = await import('mermaid');

// Mermaid keeps the entities of labels encoded until it draws them.
const plain = (text) =>
  text.replace(/ﬂ°°(\d+)¶ß/g, (_, code) => String.fromCodePoint(Number(code)));

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const found = [];
for (const source of JSON.parse(Buffer.concat(chunks).toString('utf8'))) {
  try {
    const kind = await mermaid.parse(source);
    if (kind.diagramType !== 'stateDiagram') throw new Error(`a ${kind.diagramType}`);
    const { db } = await mermaid.mermaidAPI.getDiagramFromText(source);
    const states = {};
    for (const [id, state] of db.getStates()) states[id] = state.descriptions.map(plain).join('\n');
    const ways = db.getRelations().map((way) => [way.id1, way.id2, plain(way.relationTitle ?? '')]);
    found.push({ states, ways });
  } catch (error) {
    found.push({ error: String(error.message ?? error) });
  }
}
process.stdout.write(JSON.stringify(found));
