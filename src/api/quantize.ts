import {
  type BitsChoice,
  openWorkFolder,
  type PackedReport,
  packedBytes,
  type QuantisedModel,
  type QuantiseEvent,
  quantiseModel,
  quantiseTensors,
  quantisingBytes,
  reportPacked,
  scaleTuningDefaults,
  tuneScales,
} from "../compress/index.ts";
import { TuneError } from "../errors.ts";
import { folderKind, writePackedModel } from "../export/index.ts";
import { checkDisk, checkFolder, guardOutputs } from "../io/outputs/index.ts";
import type { PackedFile } from "../io/packed/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { openModel } from "../models/index.ts";
import { checkNames, checkWhole, checkWord, type NamesOf } from "../options.ts";
import { measureMachine } from "../plan/machine.ts";
import { checkBits, chooseScheme, type SchemeChoice, schemes } from "../quant/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import { type Sequence, sequencesOf } from "../train/data/index.ts";
import { hashExamples } from "../train/fingerprint.ts";
import type { PrivacySettings } from "../train/privacy.ts";
import type { RunEvent } from "../train/run.ts";
import type { TrainSettings } from "../train/settings.ts";
import { trainDefaults } from "../train/settings.ts";
import { checkDevice } from "./device-names.ts";
import type { LoadedData } from "./load-data.ts";
import { type LoadedModel, loadModel } from "./load-model.ts";
import { refuseTooLarge } from "./memory.ts";
import { factsOfModel } from "./model-facts.ts";
import type { OutputOptions } from "./save.ts";

/** How weights are quantised. */
export interface QuantizeChoice {
  /** `shiftadd`, `gptq`, `bcq` or `rtn`: a name in `schemes`; `shiftadd` unless given. */
  readonly method?: string;
  /** The scheme's options, such as `{ terms: 3, blockWise: true }`. */
  readonly methodOptions?: Readonly<Record<string, number | boolean | string>>;
  /** Planes of every matrix, 1 to 8, or an average to be spent where it helps most; 3 unless given. */
  readonly bits?: BitsChoice;
  /** Calibration sequences that are used, from the first; 128 unless given. */
  readonly calibrationRows?: number;
  /** What embeddings and the output layer are kept in; float16 unless given. */
  readonly keepAs?: "float16" | "float32";
  /**
   * Afterwards, train the scales towards the outputs of the model as it was, on all of the data, the codes unchanged:
   * Scion's extension. Settings of that training, where they differ from `scaleTuningDefaults`; `true` for none.
   */
  readonly tuneScales?: boolean | Partial<Omit<TrainSettings, keyof PrivacySettings>>;
}

/** How to quantise, and where to. */
export interface QuantizeOptions extends QuantizeChoice, OutputOptions {
  /** Folder of the packed model; an earlier one in it is replaced whole when the new one is done. */
  readonly output: string;
  /** Go on from the blocks that a stopped run left in `<output>.work`. */
  readonly resume?: boolean;
  /** Go on although a block is more than what is free. */
  readonly ignoreMemory?: boolean;
  /** A device to run on; one is opened, and closed again, when it is not given. Nothing runs where there is no text. */
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Stops after the current matrix when aborted; finished blocks are kept. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: QuantiseEvent | ScaleTuningEvent) => void;
}

/** Every name of a choice. */
export const quantizeChoiceNames: NamesOf<QuantizeChoice> = {
  method: true,
  methodOptions: true,
  bits: true,
  calibrationRows: true,
  keepAs: true,
  tuneScales: true,
};
const quantizeNames: NamesOf<QuantizeOptions> = {
  ...quantizeChoiceNames,
  output: true,
  replace: true,
  inputs: true,
  resume: true,
  ignoreMemory: true,
  device: true,
  deviceOptions: true,
  signal: true,
  onEvent: true,
};
const mixedNames: NamesOf<Exclude<BitsChoice, number>> = { average: true, choices: true, by: true };

/**
 * Look at everything of a choice that needs no model.
 * @throws {TuneError} `bad-option`, `unknown-scheme`.
 */
export function checkQuantizing(choice: QuantizeChoice): void {
  const methodOptions = [...schemes.values()].flatMap(({ fields }) => Object.keys(fields));
  checkNames(choice, quantizeChoiceNames, "quantize", { methodOptions });
  chooseScheme(choice.method ?? "shiftadd", choice.methodOptions);
  checkChoice(choice.bits ?? 3);
  checkWhole("calibrationRows", choice.calibrationRows, 1, "quantize");
  checkWord("keepAs", choice.keepAs, ["float16", "float32"], "quantize");
  if (typeof choice.tuneScales !== "object") return;
  // Nothing is held back from it, so nothing is evaluated.
  const { evaluateEvery, patience, baseWeights, ...trained } = trainDefaults;
  // It learns from a model, not from examples.
  const { dpEpsilon, dpDelta, dpClip, dpNoise, dpAccountant, ...settings } = trained;
  checkNames(choice.tuneScales, settings, "tuneScales");
}

/**
 * Why a choice needs calibration text, or undefined where it does not: the scheme's record says whether it does.
 * @throws {TuneError} `unknown-scheme`, `bad-option`.
 */
export function calibrationNeed({ method, methodOptions, bits, tuneScales }: QuantizeChoice): string | undefined {
  const { scheme, config } = chooseScheme(method ?? "shiftadd", methodOptions);
  if (scheme.needsCalibration(config)) return `${scheme.name} fits weights to the inputs that their layers have on it`;
  if (typeof bits === "object") return "mixed bits are spent by the errors that are measured on it";
  if (tuneScales !== undefined && tuneScales !== false) return "scales are tuned on it";
  return undefined;
}

/** What happens while scales are tuned. */
export interface ScaleTuningEvent {
  readonly kind: "tuning";
  readonly event: RunEvent;
}

/** How quantising ended. */
export type QuantizeResult =
  | { readonly ended: "interrupted" }
  | {
      readonly ended: "finished";
      /** The packed model, loaded. */
      readonly model: LoadedModel;
      readonly report: PackedReport;
      readonly quantised: Pick<QuantisedModel, "reports" | "plan" | "tokens">;
    };

/**
 * Quantise a model after its training, with text that its inputs are measured on, and write it as a packed model. Where
 * {@link calibrationNeed} names no need, the text may be left out: every matrix is then quantised by itself, and no error
 * of outputs is reported.
 * @throws {TuneError} `output-exists`, `output-is-input`, `output-is-file`, `already-packed`, `bad-calibration` naming the tokens needed, `unknown-scheme`, `bad-option`,
 * `run-exists`, `resume-mismatch`, `not-finite-weight`, `write-failed`.
 */
export async function quantize(
  model: LoadedModel,
  data: LoadedData | undefined,
  options: QuantizeOptions,
): Promise<QuantizeResult> {
  const methodOptions = [...schemes.values()].flatMap(({ fields }) => Object.keys(fields));
  checkNames(options, quantizeNames, "quantize", { methodOptions });
  const {
    output: _output,
    resume: _resume,
    device: _device,
    deviceOptions: _on,
    signal: _signal,
    replace: _replace,
    ...asked
  } = options;
  const { onEvent: _onEvent, inputs: _inputs, ignoreMemory = false, ...itself } = asked;
  checkQuantizing(itself);
  checkDevice(options);
  const { pretrained } = model;
  const { output, keepAs = "float16", device, signal, onEvent } = options;
  if (pretrained.packed) {
    throw new TuneError("already-packed", "The model is packed already; quantising it again would add to its errors.", {
      at: model.folder,
      fix: "quantise the model that it was made from",
    });
  }
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...(data?.files ?? []), ...(options.inputs ?? [])],
    ...(options.replace === undefined ? {} : { replace: options.replace }),
  });
  const platform = { ...model.platform, storage };
  const choice = chooseScheme(options.method ?? "shiftadd", options.methodOptions);
  const bits = checkChoice(options.bits ?? 3);
  const calibration = data ? await calibrationOf(model, data, options.calibrationRows ?? 128) : undefined;
  if (!calibration) checkUncalibrated(options);
  if (!ignoreMemory) {
    const read = calibration?.sequences.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
    const fewer = calibration ? "fewer calibration texts (calibrationRows, --calibration-rows), or " : "";
    refuseTooLarge(model, {
      doing: "Quantising",
      bytes: quantisingBytes(pretrained, read),
      fix: `give it ${fewer}a machine with more memory`,
    });
  }
  const target = output.replace(/\/+$/, "");
  await checkDisk(storage, target, packedBytes(pretrained, typeof bits === "number" ? bits : 1, keepAs));
  const described = describeChoice(choice, bits, keepAs);
  const fingerprint = { ...described, ...(await factsOfModel(model)), ...calibration?.facts };
  const resume = options.resume === true;
  await checkFolder(storage, target, folderKind("packed"));
  const workPath = await workFolderOf(storage, target);
  const lock = await storage.lock(joinPath(workPath, "work"));
  try {
    const work = await openWorkFolder(storage, workPath, fingerprint, { resume });
    const opened = calibration ? (device ?? (await platform.openDevice(options.deviceOptions))) : undefined;
    let products: Device | undefined;
    const stopping = signal ? { signal } : {};
    const write = (folder: string, matrices: QuantisedModel["matrices"], info: Readonly<Record<string, unknown>>) =>
      writePackedModel(platform.storage, folder, pretrained, { baseModel: model.source, matrices, keepAs, info });
    let quantised: QuantisedModel | undefined;
    let packed: PackedFile;
    try {
      products = calibration ? await openProducts(model, options.deviceOptions) : undefined;
      const shared = { model: pretrained, choice, work, ...stopping, ...(onEvent ? { onEvent } : {}) };
      quantised =
        calibration && opened
          ? await quantiseModel({
              measureSpeed: async () => (await measureMachine(opened)).flopsPerSecond,
              ...shared,
              device: opened,
              ...(products ? { products } : {}),
              bits,
              ...calibration,
            })
          : await quantiseTensors({ ...shared, bits: Number(bits) }); // mixed bits need calibration
      if (quantised === undefined) return { ended: "interrupted" };
      const { reports, plan, tokens } = quantised;
      const info = {
        ...described,
        baseModel: model.source,
        ...(calibration ? { calibration: { tokens, sequences: calibration.sequences.length } } : {}),
        reports,
        ...(plan ? { plan } : {}),
      };
      if (options.tuneScales === undefined || options.tuneScales === false || !data || !calibration || !opened) {
        packed = await write(target, quantised.matrices, info);
      } else {
        const untuned = joinPath(workPath, "untuned");
        await write(untuned, quantised.matrices, info);
        const settings = options.tuneScales === true ? {} : options.tuneScales;
        const tuned = await tuneScales({
          device: opened,
          student: await openModel(platform.storage, untuned),
          teacher: pretrained,
          examples: data.train,
          padId: calibration.padId,
          settings,
          folder: { storage: platform.storage, path: joinPath(workPath, "tuning") },
          ...stopping,
          ...(onEvent ? { onEvent: (event) => onEvent({ kind: "tuning", event }) } : {}),
        });
        if (tuned === undefined) return { ended: "interrupted" };
        packed = await write(target, tuned, { ...info, scalesTuned: { ...scaleTuningDefaults, ...settings } });
      }
    } finally {
      await products?.close();
      if (!device) await opened?.close();
    }
    const { reports, plan, tokens } = quantised;
    await work.remove();
    const { hiddenSize, vocabSize } = pretrained.sizes;
    return {
      ended: "finished",
      model: await loadModel(target, { platform }),
      report: await reportPacked(packed, { rows: vocabSize, columns: hiddenSize }),
      quantised: { reports, plan, tokens },
    };
  } finally {
    await lock.release();
    await storage.prune(workPath); // the lock was in it
  }
}

/** A CPU in this thread, where the platform has one: large products of float64 read their operands where they are. */
async function openProducts({ platform }: LoadedModel, { threads }: DeviceOptions = {}): Promise<Device | undefined> {
  if (!(await platform.providers()).includes("cpu")) return undefined;
  return platform.openDevice({ provider: "cpu", worker: false, ...(threads === undefined ? {} : { threads }) });
}

/** Where the work waits: beside the folder, or in it where that must stay where it is (`.`, a mount point). */
async function workFolderOf(storage: Storage, target: string): Promise<string> {
  const whole = await storage.resolve(target);
  return (await storage.fixed(whole)) ? joinPath(whole, ".scion-work") : `${whole}.work`;
}

/** What a packed model's file says of how it was made. */
function describeChoice(
  { scheme, config }: SchemeChoice,
  bits: BitsChoice,
  keepAs: string,
): Readonly<Record<string, unknown>> {
  return { method: scheme.name, methodOptions: config, bits, keepAs };
}

function checkChoice(bits: BitsChoice): BitsChoice {
  if (typeof bits === "number") return checkBits(bits);
  checkNames(bits, mixedNames, "bits");
  checkWord("by", bits.by, ["programme", "rule"], "bits");
  const choices = (bits.choices ?? [2, 3, 4]).map(checkBits);
  const [least, most] = [Math.min(...choices), Math.max(...choices)];
  if (bits.average >= least && bits.average <= most) return bits;
  throw new TuneError("bad-option", `The average number of bits is ${bits.average}, not from ${least} to ${most}.`, {
    at: "bits",
    fix: "ask for an average such as 2.2",
  });
}

/** @throws {TuneError} `bad-option` for what needs text, and for what would have been about it. */
function checkUncalibrated(options: QuantizeOptions): void {
  const need = calibrationNeed(options);
  if (need !== undefined) {
    throw new TuneError("bad-calibration", `Calibration text is needed: ${need}.`, {
      at: "calibration",
      fix: "give a file of texts like those that the model will be used on, or a method that needs none, such as rtn",
    });
  }
  if (options.calibrationRows === undefined) return;
  throw new TuneError("bad-option", "calibrationRows would do nothing: there is no calibration text.", {
    at: "quantize",
    fix: "leave it out, or give the text",
  });
}

/** The sequences that inputs are measured on, and what a resumed run must find the same. */
async function calibrationOf(
  model: LoadedModel,
  { train }: LoadedData,
  rows: number,
): Promise<{
  readonly sequences: readonly Sequence[];
  readonly padId: number;
  readonly facts: Readonly<Record<string, unknown>>;
}> {
  const examples = train.slice(0, rows);
  const sequences = examples.flatMap(sequencesOf);
  if (sequences.length === 0) {
    throw new TuneError("bad-calibration", "There is no calibration text.", {
      at: "calibration",
      fix: "give a file of texts like those that the model will be used on, 128 of them or more",
    });
  }
  const tokenizer = await model.tokenizer();
  const padId = tokenizer.padId ?? tokenizer.eosId ?? 0;
  return { sequences, padId, facts: { padId, trainData: await hashExamples(examples) } };
}
