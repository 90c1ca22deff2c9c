import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { configSchema } from "../src/cli/config.ts";
import { define } from "../src/cli/tune.ts";

/** Write docs/tune.schema.json, which editors check `--config` files with: npm run schema */
const command = new Command("tune");
await define(command);
const file = fileURLToPath(new URL("../docs/tune.schema.json", import.meta.url));
await writeFile(file, `${JSON.stringify(configSchema(command), null, 2)}\n`);
