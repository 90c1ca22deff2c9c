import { writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import process from "node:process";
import { AutoModelForCausalLM, env, Tensor } from "@huggingface/transformers";
import { launchChromium } from "../../tests/helpers/chromium.ts";
import { type Answered, answer } from "./answer.ts";
import { greedy } from "./greedy.ts";
import { answerInPage } from "./page.ts";

/*
 * npx tsx bench/size/continue.ts <page|node|scion> <folder> <how many tokens>
 * Continues a prompt: a q4 export by transformers.js in a page or in Node, or a model folder by Scion. Prints one line of JSON.
 * The peak of the page's memory goes to the file that SCION_PEAK names.
 */
const [, , where = "", folder = "", tokens = ""] = process.argv;
const prompt = [5, 9, 33, 2, 17, 40, 12, 8];
const count = Number(tokens);
const asked = { folder: basename(folder), dtype: "q4", prompt, count } as const;

async function here(): Promise<Answered> {
  env.allowRemoteModels = false;
  env.localModelPath = dirname(folder);
  return answer({ AutoModelForCausalLM, Tensor }, { ...asked, device: "cpu" });
}

async function there(): Promise<Answered> {
  const browser = await launchChromium();
  if (browser === undefined) throw new Error("no Chromium was found");
  try {
    const { peakBytes, ...answered } = await answerInPage(browser, dirname(folder), asked);
    if (process.env["SCION_PEAK"]) await writeFile(process.env["SCION_PEAK"], String(peakBytes));
    return answered;
  } finally {
    await browser.close();
  }
}

const ways = { node: here, page: there, scion: () => greedy(folder, prompt, count) };
if (!Object.hasOwn(ways, where)) throw new Error(`say where: ${Object.keys(ways).join(", ")}`);
console.log(JSON.stringify(await ways[where as keyof typeof ways]())); // just checked
