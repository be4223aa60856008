// Google's own SDK for Node: calls, chats, tools, JSON, streams, embeddings. Nothing in it knows of carpool.
import { strict as assert } from "node:assert";
import { GoogleGenAI, Type } from "@google/genai";
import {
  EMBED_MODEL, MODEL, REFUSED, REFUSED_MODEL, answer, questions, refused, run, told, vector, version,
} from "./asking.mjs";

version("@google/genai");
told.stack = `undici ${process.versions.undici}`;
const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY });

async function gather() {
  const asked = questions();
  const answers = await Promise.all(
    asked.map((contents) => ai.models.generateContent({ model: MODEL, contents })),
  );
  answers.forEach((reply, index) => answer(asked[index], reply.text, { alone: true }));
  const texts = questions("a text");
  const embedded = await Promise.all(
    texts.map((contents) => ai.models.embedContent({ model: EMBED_MODEL, contents })),
  );
  embedded.forEach((reply, index) => vector(texts[index], reply.embeddings[0].values));
}

const review = {
  type: Type.OBJECT,
  properties: { summary: { type: Type.STRING }, stars: { type: Type.INTEGER } },
  required: ["summary", "stars"],
};
const weather = {
  name: "get_weather",
  description: "Tell the weather of a city.",
  parameters: { type: Type.OBJECT, properties: { city: { type: Type.STRING } }, required: ["city"] },
};

async function features() {
  const shaped = await ai.models.generateContent({
    model: MODEL,
    contents: "Review a book",
    config: { systemInstruction: "Answer in rhymes.", responseMimeType: "application/json", responseSchema: review },
  });
  answer("Review a book", JSON.parse(shaped.text).summary, { what: "JSON" });
  const chat = ai.chats.create({ model: MODEL });
  for (const message of ["The first turn", "The second turn"]) {
    answer(message, (await chat.sendMessage({ message })).text, { what: "chat" });
  }
  const contents = "Use get_weather to tell whether it rains";
  const config = { tools: [{ functionDeclarations: [weather] }] };
  const called = await ai.models.generateContent({ model: MODEL, contents, config });
  assert.deepEqual(called.functionCalls.map((call) => call.name), ["get_weather"]);
  answer(contents, called.functionCalls[0].args.city, { what: "call of a tool" });
  let streamed = "";
  for await (const piece of await ai.models.generateContentStream({ model: MODEL, contents: "Show a stream" })) {
    streamed += piece.text ?? "";
  }
  answer("Show a stream", streamed, { what: "stream", alone: true });
  const several = await ai.models.embedContent({ model: EMBED_MODEL, contents: ["one", "two", "three"] });
  several.embeddings.forEach((one, index) => vector(["one", "two", "three"][index], one.values));
  assert.ok((await ai.models.countTokens({ model: MODEL, contents: "Count me" })).totalTokens);
  await refused(() => ai.models.generateContent({ model: REFUSED_MODEL, contents: REFUSED }));
}

await run({ gather, features });
