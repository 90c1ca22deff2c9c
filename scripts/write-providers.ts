import { spawn } from "node:child_process";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { supportedModelTypes } from "../src/models/index.ts";
import { softwareVulkan } from "../tests/helpers/chromium.ts";
import { columns } from "./providers/columns.ts";
import { type Outcome, providersTable, withTable } from "./providers/table.ts";

/**
 * Train every family in every place and write the table of docs/providers.md: npm run providers. It takes ten minutes
 * or so. What is done is kept until all is, so one that was stopped goes on where it was.
 */
const root = fileURLToPath(new URL("..", import.meta.url));
const page = `${root}docs/providers.md`;
const cache = `${root}node_modules/.cache/scionwood`;
const kept = `${cache}/providers.json`;
const steps = "2";
const limitMs = 300_000;

const places = Object.keys(columns);
const driver = await softwareVulkan();
const done = JSON.parse(await readFile(kept, "utf8").catch(() => "{}")) as Record<string, Record<string, Outcome>>; // written below
const outcomes = new Map(supportedModelTypes.map((modelType) => [modelType, done[modelType] ?? {}]));
await mkdir(cache, { recursive: true });
for (const [modelType, own] of outcomes) {
  for (const place of places) {
    if (own[place] !== undefined) continue;
    own[place] = await outcomeOf(modelType, place);
    console.log(`${modelType}, ${place}: ${JSON.stringify(own[place])}`);
    await writeFile(kept, JSON.stringify(Object.fromEntries(outcomes)));
  }
}
await writeFile(page, withTable(await readFile(page, "utf8"), providersTable(places, outcomes)));
await rm(kept);

/** In a process of its own, for a driver may end the process, and a browser may hang. */
function outcomeOf(modelType: string, place: string): Promise<Outcome> {
  const run = ["--import", "tsx", "scripts/providers/run.ts", modelType, place, steps];
  const child = spawn(process.execPath, run, {
    cwd: root,
    env: { ...process.env, ...driver },
    stdio: ["ignore", "pipe", "inherit"],
    timeout: limitMs,
  });
  let said = "";
  child.stdout.on("data", (chunk) => {
    said += String(chunk);
  });
  return new Promise((resolve) => {
    child.on("close", (status, signal) => {
      const ended =
        signal === "SIGTERM" ? `not done after ${limitMs / 60_000} minutes` : `ended with ${status ?? signal}`;
      resolve(status === 0 ? (JSON.parse(said.trim().split("\n").at(-1) ?? "") as Outcome) : { error: ended }); // as run.ts prints it
    });
  });
}
