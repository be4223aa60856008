// Node's own fetch: Google's REST interface without any SDK. Nothing in it knows of carpool.
import { Agent, setGlobalDispatcher } from "undici";
import {
  EMBED_MODEL, IMPATIENCE_S, MODEL, PATIENT, REFUSED, REFUSED_MODEL, answer, questions, refused, run, told, vector,
} from "./asking.mjs";

const url = `${process.env.GOOGLE_GEMINI_BASE_URL}/v1beta/models`;
const headers = { ...PATIENT, "x-goog-api-key": process.env.GEMINI_API_KEY, "content-type": "application/json" };
told.stack = `undici ${process.versions.undici}`;

async function post(model, verb, body) {
  const reply = await fetch(`${url}/${model}:${verb}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!reply.ok) throw new Error(`${reply.status} ${await reply.text()}`);
  return reply.json();
}

const contents = (text) => ({ contents: [{ parts: [{ text }] }] });
const textOf = (reply) => reply.candidates[0].content.parts[0].text;

async function gather() {
  const asked = questions();
  const answers = await Promise.all(asked.map((prompt) => post(MODEL, "generateContent", contents(prompt))));
  answers.forEach((reply, index) => answer(asked[index], textOf(reply), { alone: true }));
  const texts = questions("a text");
  const embedded = await Promise.all(
    texts.map((text) => post(EMBED_MODEL, "embedContent", { content: { parts: [{ text }] } })),
  );
  embedded.forEach((reply, index) => vector(texts[index], reply.embedding.values));
}

async function features() {
  const generationConfig = { responseMimeType: "application/json", responseSchema: { type: "STRING" } };
  const shaped = await post(MODEL, "generateContent", { ...contents("Show JSON"), generationConfig });
  answer("Show JSON", JSON.parse(textOf(shaped)), { what: "JSON" });
  const streamed = await post(MODEL, "streamGenerateContent", contents("Show a stream"));
  answer("Show a stream", streamed.map(textOf).join(""), { what: "stream", alone: true });
  await refused(() => post(REFUSED_MODEL, "generateContent", contents(REFUSED)));
}

// By default, fetch gives up on a server that was silent for 300 seconds.
async function waits() {
  setGlobalDispatcher(new Agent({ headersTimeout: IMPATIENCE_S * 1000 }));
  const reply = await post(MODEL, "generateContent", contents("Take your time"));
  answer("Take your time", textOf(reply), { alone: true });
}

await run({ gather, features, waits });
