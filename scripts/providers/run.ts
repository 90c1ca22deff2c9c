import { TuneError } from "../../src/errors.ts";
import { tinyConfig } from "../../tests/helpers/tiny-configs.ts";
import { columns } from "./columns.ts";

/** Train one family in one place, in a process of its own, and print what came of it: run.ts FAMILY PLACE STEPS */
const [modelType = "", place = "", steps = "2"] = process.argv.slice(2);
const train = columns[place];
if (train === undefined) throw new Error(`there is no "${place}"; choose among ${Object.keys(columns).join(", ")}`);
const run = await train(await tinyConfig(modelType), Number(steps)).catch((error: unknown) => {
  // An error that comes out of a page is text alone, with the code at its end.
  const text = error instanceof TuneError ? error.code : String(error);
  return { error: /\(([a-z]+(?:-[a-z]+)+)\)/.exec(text)?.[1] ?? text.split("\n")[0] };
});
console.log(JSON.stringify(run));
process.exit(); // WebGPU in software may keep threads
