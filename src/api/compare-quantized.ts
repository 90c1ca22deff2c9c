import type { PackedReport, QuantiseEvent } from "../compress/index.ts";
import { TuneError } from "../errors.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { joinPath } from "../io/storage.ts";
import { checkNames, type NamesOf } from "../options.ts";
import { schemes } from "../quant/index.ts";
import { checkDevice } from "./device-names.ts";
import type { LoadedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";
import { claimOutput } from "./outputs.ts";
import {
  checkQuantizing,
  type QuantizeChoice,
  type QuantizeOptions,
  quantize,
  quantizeChoiceNames,
  type ScaleTuningEvent,
} from "./quantize.ts";
import { evaluate, openSession } from "./run-model.ts";
import type { OutputOptions } from "./save.ts";

/** One way to quantise, by a name of its own. */
export interface QuantizeCandidate extends QuantizeChoice {
  readonly name: string;
}

/** How a candidate did. */
export interface QuantizedRow {
  readonly name: string;
  /** Mean negative log-likelihood of the held-back text, in nats, and its exponential. */
  readonly loss: number;
  readonly perplexity: number;
  /** Tokens a second of greedy decoding here, by what `scion generate` decodes with. */
  readonly tokensPerSecond: number;
  /** What it takes; absent for the model as it was. */
  readonly report?: PackedReport;
}

/** What is compared, and where. */
export interface CompareQuantizedOptions
  extends OutputOptions,
    Pick<QuantizeOptions, "deviceOptions" | "signal" | "ignoreMemory"> {
  /** {@link standardCandidates} unless given. */
  readonly candidates?: readonly QuantizeCandidate[];
  /** Folder that gets a packed model for each candidate. */
  readonly output: string;
  readonly onEvent?: (name: string, event: QuantiseEvent | ScaleTuningEvent) => void;
  readonly onRow?: (row: QuantizedRow) => void;
}

const compareNames: NamesOf<CompareQuantizedOptions> = {
  candidates: true,
  output: true,
  replace: true,
  inputs: true,
  deviceOptions: true,
  signal: true,
  ignoreMemory: true,
  onEvent: true,
  onRow: true,
};

/**
 * Every scheme at the same bits, ShiftAdd in both variants; with `tuneScales` again with tuned scales, for GPTQ as well,
 * so that what tuning gains is not put down to the scheme. They choose the scheme and its options themselves.
 * @throws {TuneError} `bad-option` for options that do not fit.
 */
export function standardCandidates(
  choice: Omit<QuantizeChoice, "method" | "methodOptions">,
): readonly QuantizeCandidate[] {
  const { method: _method, methodOptions: _options, ...names } = quantizeChoiceNames;
  checkNames(choice, names, "standardCandidates");
  const { tuneScales, ...shared } = choice;
  const plain: QuantizeCandidate[] = [...schemes.keys()].map((method) => ({ ...shared, name: method, method }));
  const block = { ...shared, name: "shiftadd-lat", method: "shiftadd", methodOptions: { blockWise: true } };
  const tuned = tuneScales
    ? ["shiftadd", "gptq"].map((method) => ({ ...shared, name: `${method}-tuned`, method, tuneScales }))
    : [];
  return [...plain, block, ...tuned];
}

/**
 * Quantise a model in several ways from the same text and measure each on the rows that were held back. The first row is
 * the model as it was.
 * @returns fewer rows when it was aborted.
 * @throws {TuneError} `bad-option` when no rows are held back, and what quantising throws.
 */
export async function compareQuantized(
  model: LoadedModel,
  data: LoadedData,
  options: CompareQuantizedOptions,
): Promise<readonly QuantizedRow[]> {
  checkNames(options, compareNames, "compareQuantized");
  checkDevice(options);
  for (const { name: _name, ...choice } of options.candidates ?? []) checkQuantizing(choice);
  const { candidates = standardCandidates({}), output, deviceOptions, signal, onEvent, onRow, ...others } = options;
  const { ignoreMemory = false, ...writing } = others;
  if (data.validation.length === 0) {
    throw new TuneError("bad-option", "There is no text to compare on.", {
      at: "evaluation",
      fix: "give a file of texts that are not in the calibration text, or hold rows of it back",
    });
  }
  const device = {
    ...(deviceOptions ? { deviceOptions } : {}),
    ...(ignoreMemory ? { ignoreMemory: true } : {}),
  };
  const rows: QuantizedRow[] = [];
  const add = async (name: string, of: LoadedModel, report?: PackedReport): Promise<void> => {
    const { loss } = await evaluate(of, data.validation, device);
    const tokensPerSecond = await decodeSpeed(of, data, device);
    const row = { name, loss, perplexity: Math.exp(loss), tokensPerSecond, ...(report ? { report } : {}) };
    rows.push(row);
    onRow?.(row);
  };
  const { inputs = [], replace } = writing;
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...(data.files ?? []), ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  await claimOutput(storage, output, "quantize-comparison", {
    names: candidates.flatMap(({ name }) => [`${name}/`, `${name}.work/`]),
  });
  await add("as it was", model);
  for (const { name, ...choice } of candidates) {
    const result = await quantize(model, data, {
      ...choice,
      ...device,
      ...writing,
      output: joinPath(output, name),
      resume: true,
      ...(signal ? { signal } : {}),
      ...(onEvent ? { onEvent: (event) => onEvent(name, event) } : {}),
    });
    if (result.ended === "interrupted") break;
    await add(name, result.model, result.report);
  }
  return rows;
}

/** Greedy decoding of a short continuation, the faster of two. */
async function decodeSpeed(
  model: LoadedModel,
  { validation }: LoadedData,
  options: Pick<CompareQuantizedOptions, "deviceOptions">,
): Promise<number> {
  const tokenizer = await model.tokenizer();
  const [first] = validation;
  const ids = first && "inputIds" in first ? [...first.inputIds.slice(0, 8)] : [];
  const prompt = tokenizer.decode(ids, { skipSpecialTokens: true });
  const session = await openSession(model, options);
  try {
    let best = 0;
    for (let round = 0; round < 2; round++) {
      const started = performance.now();
      const stream = session.generate(prompt, { maxNewTokens: 48, temperature: 0 });
      let step = await stream.next();
      while (!step.done) step = await stream.next();
      best = Math.max(best, (1000 * step.value.ids.length) / (performance.now() - started));
    }
    return best;
  } finally {
    await session.close();
  }
}
