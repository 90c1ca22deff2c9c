import { type Entry, findArchitecture, type Ledger, supportedModelTypes } from "../../src/models/index.ts";
import { ropeLedgers } from "../../src/models/rope.ts";
import { sharedLedger } from "../../src/models/shared-ledger.ts";
import { code, page, table } from "./markdown.ts";

/** What a key does, in a cell. */
function words(entry: Entry): string {
  if (entry.kind === "alias") return `the same as ${code(entry.of)}`;
  if (entry.kind === "inert") return `no effect: ${entry.why}`;
  if (entry.kind === "elsewhere") return entry.how;
  if (entry.kind === "only") {
    const supported = entry.values.map((value) => code(JSON.stringify(value))).join(", ");
    return `${supported ? `${supported} alone` : "not supported"}: ${entry.why}`;
  }
  return entry.how;
}

function absent(entry: Entry): string {
  return (entry.kind === "used" || entry.kind === "only") && entry.otherwise !== undefined && entry.otherwise !== null
    ? code(JSON.stringify(entry.otherwise))
    : "";
}

function rows(ledger: Ledger): readonly (readonly string[])[] {
  return Object.entries(ledger)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, entry]) => [code(key), words(entry), absent(entry)]);
}

/** The page of the keys of `config.json`. */
export async function configPage(): Promise<string> {
  const header = ["key", "what it does", "unless given"];
  const parts: string[] = [];
  for (const modelType of supportedModelTypes) {
    const { ledger } = await findArchitecture({ model_type: modelType }, "");
    const own = Object.fromEntries(Object.entries(ledger).filter(([key, entry]) => sharedLedger[key] !== entry));
    parts.push(`## ${code(modelType)}`, table(header, rows(own)));
  }
  return page(
    "Keys of config.json",
    "Every key that transformers 5.18 knows for a family, and what Scion makes of it. Defaults are transformers'. A key that is not here is named in a warning and has no effect; a value that is not supported is an error (`bad-config`) that names the key, the value and what is supported. Checked in `tests/config-ledger.test.ts`.",
    "## All families",
    "Where a family does otherwise, its own table says so.",
    table(header, rows(sharedLedger)),
    "## Inside rope_parameters",
    "By `rope_type`. Where frequencies depend on the length of a text (`dynamic`, `longrope`), decoding with a cache gives what one pass over the whole text gives, also beyond the length first trained for: keys are kept before rotation.",
    ...Object.entries(ropeLedgers).flatMap(([type, ledger]) => [`### ${code(type)}`, table(header, rows(ledger))]),
    ...parts,
  );
}
