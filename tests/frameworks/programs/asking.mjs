// What the programs for Node share: what they ask, and how they tell what they were answered. As asking.py does.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const CALLS = 50;
export const MODEL = "gemini-3.5-flash";
export const EMBED_MODEL = "gemini-embedding-001";
export const REFUSED_MODEL = "gemini-2.5-flash";
export const REFUSED = "Please fail: [[error:400:the matrix refuses this prompt]]";

export const IMPATIENCE_S = 2;
export const PATIENT = { "x-carpool-deadline": "24h" };

export const questions = (what = "a question") =>
  Array.from({ length: CALLS }, (_, index) => `${index + 1} of ${CALLS}: ${what} about the number ${(index + 1) ** 2}`);

export const told = { versions: { node: process.versions.node }, stack: "", answers: [], vectors: [], refusals: [] };

export function answer(asked, got, { what = "answer", alone = false } = {}) {
  told.answers.push({ asked, got, what, alone });
}

export function vector(asked, got) {
  told.vectors.push({ asked, got });
}

export async function refused(ask) {
  let got;
  try {
    got = await ask();
  } catch (error) {
    told.refusals.push({ kind: error.constructor.name, words: String(error.message) });
    return;
  }
  throw new Error(`was not refused: ${JSON.stringify(got)}`);
}

// The version of a package that lies where the packages of the program do.
export function version(name) {
  const modules = join(dirname(process.argv[1]), "node_modules");
  told.versions[name] = JSON.parse(readFileSync(join(modules, name, "package.json"))).version;
}

export async function run(parts) {
  await parts[process.argv[2]]();
  process.stdout.write(JSON.stringify(told) + "\n");
}
