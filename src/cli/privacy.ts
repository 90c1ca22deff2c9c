import type { Command } from "commander";
import {
  type Accountant,
  isPrivate,
  type LedgerEntry,
  noiseFor,
  privacySpent,
  readLedger,
  type Spend,
  TuneError,
} from "../index.ts";
import { realNumber, wholeNumber } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { platformOf } from "./outputs.ts";

interface PrivacyFlags {
  readonly samplingRate?: number;
  readonly noise?: number;
  readonly steps?: number;
  readonly delta: number;
  readonly epsilon?: number;
  readonly ledger?: string;
}

const examples = `
Examples:
  $ scion privacy --sampling-rate 0.01 --noise 1.1 --steps 1000
  $ scion privacy --sampling-rate 0.01 --steps 1000 --epsilon 3 --json
  $ scion privacy --ledger runs/tune/ledger.json

The sampling rate is the batch size over the number of examples; the noise, its standard deviation over the clipping norm. Two
accountants answer: RDP, and PRV, which is tighter. With --ledger, what it holds counts as well.`;

/** `scion privacy` */
export function define(command: Command): void {
  command
    .description("Say what differentially private training costs, or which noise a budget takes")
    .option("--sampling-rate <rate>", "the probability with which an example is in a batch", realNumber)
    .option("--noise <multiplier>", "standard deviation of the noise over the clipping norm", realNumber)
    .option("--steps <n>", "updates of the weights", wholeNumber)
    .option("--delta <probability>", "the probability with which the guarantee may fail", realNumber, 1e-5)
    .option("--epsilon <budget>", "answer which noise keeps to this epsilon", realNumber)
    .option("--ledger <file>", "what a run or a client has spent, from its ledger")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: PrivacyFlags, output: Output): Promise<number> {
  const step = stepsOf(flags);
  const { delta, epsilon } = flags;
  const before = await spentBefore(flags, output);
  const marks = isPrivate(before) ? {} : { notPrivate: true };
  if (epsilon !== undefined && step !== undefined) {
    const { noiseMultiplier: _noise, ...rest } = step;
    const noiseBy = (accountant: Accountant): number => noiseFor({ ...rest, epsilon, delta, before, accountant });
    const found = { prv: noiseBy("prv"), rdp: orNone(() => noiseBy("rdp")) };
    const byRdp = found.rdp === null ? "no noise is enough for RDP" : `${found.rdp.toFixed(4)} (RDP)`;
    output.say(
      `${described(rest)} keep to epsilon ${epsilon} at delta ${delta} with noise ${strong(found.prv.toFixed(4))} (PRV); ${byRdp}.`,
    );
    output.record({ noise: found, epsilon, delta, ...rest, ...marks });
    return 0;
  }
  const spends = [...before, ...(step === undefined ? [] : [step])];
  const result = privacySpent({ spends, delta });
  const what =
    step === undefined ? "All of it" : `${described(step)}${before.length > 0 ? ", with what was spent before," : ""}`;
  output.say(
    `${what} cost epsilon ${strong(result.prv.toFixed(3))} (PRV), ${result.rdp.toFixed(3)} (RDP, order ${result.order.toFixed(1)}) at delta ${delta}.`,
  );
  output.record({ ...result, ...marks });
  return 0;
}

/** The steps that are asked about; undefined where only a ledger is read. @throws {TuneError} `bad-option` for what is missing. */
function stepsOf({ samplingRate, noise, steps, epsilon, ledger }: PrivacyFlags): Spend | undefined {
  const problems: string[] = [];
  const needed = {
    "--sampling-rate": samplingRate,
    "--steps": steps,
    ...(epsilon === undefined ? { "--noise": noise } : {}),
  };
  const given = Object.entries(needed).filter(([, value]) => value !== undefined);
  const alone = given.length === 0 && ledger !== undefined && epsilon === undefined;
  const missing = Object.keys(needed).filter((flag) => !given.some(([name]) => name === flag));
  if (missing.length > 0 && !alone) {
    const asking = [...given.map(([flag]) => flag), ...(epsilon === undefined ? [] : ["--epsilon"])].join(", ");
    problems.push(`${asking === "" ? "Steps" : asking} need ${missing.join(", ")} too.`);
  }
  if (epsilon !== undefined && noise !== undefined) {
    problems.push("--noise would do nothing: --epsilon asks which noise it takes.");
  }
  if (noise === 0) problems.push("With --noise 0 nothing is private: epsilon is infinite.");
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems, { at: "scion privacy", fix: "see scion privacy --help" });
  }
  if (samplingRate === undefined || steps === undefined) return undefined;
  return { samplingRate, noiseMultiplier: noise ?? 1, steps };
}

/** What the ledger holds, if one is named; each entry is told. */
async function spentBefore(flags: PrivacyFlags, output: Output): Promise<readonly LedgerEntry[]> {
  if (flags.ledger === undefined) return [];
  const entries = await readLedger(platformOf(flags).storage, flags.ledger);
  if (entries === undefined) {
    throw new TuneError("file-not-found", `There is no ledger ${flags.ledger}.`, {
      at: "--ledger",
      fix: "name the file that a private run or a client of a federation wrote",
    });
  }
  for (const entry of entries) output.say(`${entry.id}: ${described(entry)}, noise ${entry.noiseMultiplier}`);
  if (!isPrivate(entries)) {
    output.say("Some noise came from a key that is no secret: what was trained with it is not private.");
  }
  return entries;
}

function described({ steps, samplingRate }: Pick<Spend, "steps" | "samplingRate">): string {
  return `${steps} steps at sampling rate ${samplingRate}`;
}

/** Null where no noise keeps to the budget. */
function orNone(noise: () => number): number | null {
  try {
    return noise();
  } catch (error) {
    if (error instanceof TuneError && error.code === "budget-too-small") return null;
    throw error;
  }
}
