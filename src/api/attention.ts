import { TuneError } from "../errors.ts";
import { contentHash } from "../io/content-hash.ts";
import { isJsonObject, readJsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import {
  exactAttention,
  featureCount,
  type HeadPlan,
  type PlannedHead,
  reasonForExact,
  taylorDegrees,
} from "../models/index.ts";
import { longestOf, type TokenizedExample, tokensOf } from "../train/data/index.ts";
import { modelFacts } from "../train/fingerprint.ts";
import { planFile } from "../train/run.ts";
import type { LoadedModel } from "./load-model.ts";

/** Heads that attend by a polynomial, and what they were planned for. */
export interface AttentionPlan extends HeadPlan {
  /** Tokens of the texts that it was made on. */
  readonly length: number;
  /** A hash of the model's configuration. */
  readonly model: string;
  /** The adapter that the model was looked at with; absent for the model alone. */
  readonly adapter?: string;
}

/** A hash of what a plan depends on besides weights. */
export function planned(model: LoadedModel): string {
  return contentHash(JSON.stringify(modelFacts(model.pretrained)));
}

/** How many tokens the text around an average token has. */
export function typicalLength(examples: readonly TokenizedExample[]): number {
  const lengths = examples.map(tokensOf);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  return Math.round(lengths.reduce((sum, length) => sum + length * length, 0) / Math.max(1, tokens));
}

/** Features of a token beyond which a polynomial never pays, and its states fill the memory: degree 2 up to a head size of 170. */
const mostFeatures = 15_000;

/** What a plan is used on. */
interface PlanUse {
  readonly examples: readonly TokenizedExample[];
  /** Whether there is an adapter: that training starts from, or that is measured. */
  readonly starts: boolean;
}

/**
 * Check a plan against a model and what it is to be trained on.
 * @throws {TuneError} `bad-attention-plan` with everything that does not fit.
 */
export function checkPlan(model: LoadedModel, plan: AttentionPlan, { examples, starts }: PlanUse): void {
  const { problems: malformed, sound } = malformedIn(plan);
  const problems = [...malformed, ...unfitIn(model, sound, { examples, starts })];
  if (problems.length === 0) return;
  throw new TuneError("bad-attention-plan", ["The plan does not fit:", ...problems], {
    at: "attention",
    fix: "make one for this model and data: scion diagnose --attention, or attention auto",
  });
}

type FieldCheck = readonly [is: (value: unknown) => boolean, what: string, optional?: true];

const isWhole = (value: unknown): value is number => Number.isSafeInteger(value);
const isText = (value: unknown): boolean => typeof value === "string";
const isNumbers = (value: unknown): boolean => Array.isArray(value) && value.every(Number.isFinite);

const planFields: Readonly<Record<keyof AttentionPlan, FieldCheck>> = {
  chunk: [isWhole, "a whole number"],
  alone: [(value) => typeof value === "boolean", "true or false"],
  heads: [Array.isArray, "a list"],
  length: [isWhole, "a whole number"],
  model: [isText, "a hash"],
  adapter: [isText, "a name", true],
};
const headFields: Readonly<Record<keyof PlannedHead, FieldCheck>> = {
  layer: [isWhole, "a whole number"],
  head: [isWhole, "a whole number"],
  degree: [isWhole, "a whole number"],
  range: [Number.isFinite, "a number"],
  centres: [isJsonObject, "an object", true],
};
const centreFields: Readonly<Record<"key" | "query", FieldCheck>> = {
  key: [isNumbers, "a list of numbers", true],
  query: [isNumbers, "a list of numbers", true],
};

/** Fields that a plan lacks, has besides, or has as something else; and what of it is sound. */
function malformedIn(plan: AttentionPlan): {
  readonly problems: readonly string[];
  readonly sound: Partial<AttentionPlan>;
} {
  const inObject = (of: unknown, where: string, fields: Readonly<Record<string, FieldCheck>>): readonly string[] => {
    if (!isJsonObject(of)) return [`${where} is no object`];
    const unknown = Object.keys(of).filter((name) => !Object.hasOwn(fields, name));
    return [
      ...unknown.map((name) => `${where} has a field "${name}", which no plan has`),
      ...Object.entries(fields).flatMap(([name, [is, what, optional]]) =>
        is(of[name]) || (optional && of[name] === undefined) ? [] : [`${name} of ${where} is not ${what}`],
      ),
    ];
  };
  const whole = inObject(plan, "the plan", planFields);
  if (!isJsonObject(plan)) return { problems: whole, sound: {} };
  const heads: readonly PlannedHead[] = Array.isArray(plan.heads) ? plan.heads : [];
  const ofHeads = heads.map((head, i) => [
    ...inObject(head, `heads[${i}]`, headFields),
    ...(isJsonObject(head?.centres) ? inObject(head.centres, `the centres of heads[${i}]`, centreFields) : []),
  ]);
  const kept = Object.entries(plan).filter(([name, value]) => planFields[name as keyof AttentionPlan]?.[0](value));
  return {
    problems: [...whole, ...ofHeads.flat()],
    sound: { ...Object.fromEntries(kept), heads: heads.filter((_, i) => ofHeads[i]?.length === 0) },
  };
}

/** What of a plan is for another model, adapter, or length. */
function unfitIn(model: LoadedModel, plan: Partial<AttentionPlan>, { examples, starts }: PlanUse): readonly string[] {
  const problems: string[] = [];
  const layers = layersOf(model);
  const longest = longestOf(examples);
  if (plan.chunk !== undefined && (plan.chunk < 4 || plan.chunk % 4 !== 0 || plan.chunk > 4096))
    problems.push(`chunk is ${plan.chunk}, but it must be a multiple of 4, up to 4096`);
  if (plan.model !== undefined && plan.model !== planned(model))
    problems.push("it was made for a model of another configuration");
  if (plan.length !== undefined && plan.length < longest)
    problems.push(`it was made for texts of ${plan.length} tokens, and the longest example has ${longest}`);
  if (plan.adapter !== undefined && !starts)
    problems.push(`it was made with the adapter ${plan.adapter}, and there is none here`);
  const seen = new Set<string>();
  for (const { layer, head, degree, range, centres = {} } of plan.heads ?? []) {
    const of = layers[layer];
    const name = `layer ${layer}, key head ${head}`;
    if (of === undefined || head < 0 || head >= of.keyHeads) {
      problems.push(`the model has no ${name}`);
      continue;
    }
    if (of.exactOnly !== undefined) problems.push(`${name} can only attend exactly: ${of.exactOnly}`);
    if (!(taylorDegrees as readonly number[]).includes(degree))
      problems.push(`degree ${degree} of ${name} is not built: ${taylorDegrees.join(" and ")} are`);
    else if (featureCount(of.headDim, degree) > mostFeatures)
      problems.push(
        `degree ${degree} of ${name} takes ${featureCount(of.headDim, degree)} features at head size ${of.headDim}, and ${mostFeatures} are allowed`,
      );
    if (!(range > 0)) problems.push(`range ${range} of ${name} must be above 0`);
    for (const [part, centre] of Object.entries(centres))
      if (centre.length !== of.headDim) problems.push(`the centre of ${part} of ${name} must be ${of.headDim} numbers`);
    if (seen.has(name)) problems.push(`${name} is there twice`);
    seen.add(name);
  }
  return problems;
}

interface LayerFacts {
  readonly keyHeads: number;
  readonly headDim: number;
  readonly exactOnly: string | undefined;
}

/** How the layers of a model attend. @throws {TuneError} `task-mismatch` for models that do not continue texts. */
function layersOf({ pretrained }: LoadedModel): readonly LayerFacts[] {
  const layers: LayerFacts[] = [];
  pretrained.hidden({
    ...exactAttention,
    attend: (positionIds) => {
      const exact = exactAttention.attend(positionIds);
      return (query, cache, options) => {
        const [keyHeads, headDim] = [Number(cache.key.shape[1]), Number(cache.key.shape[3])];
        layers.push({ keyHeads, headDim, exactOnly: reasonForExact(options) });
        return exact(query, cache, options);
      };
    },
  });
  return layers;
}

/**
 * The plan in a file: that of a run, or in the report of a diagnosis. Whether it fits is checked where it is used.
 * @throws {TuneError} `bad-attention-plan` where the file holds none; `file-not-found`, `malformed-json`.
 */
export async function readPlan(storage: Storage, path: string): Promise<AttentionPlan> {
  const read = await readJsonObject(storage, path);
  const plan = isJsonObject(read["plan"]) ? read["plan"] : read;
  const { heads } = plan;
  if (Array.isArray(heads) && heads.every(isJsonObject)) return plan as unknown as AttentionPlan; // checked by `checkPlan`
  throw new TuneError("bad-attention-plan", "This file holds no plan of attention.", {
    at: path,
    fix: "give the attention.json of scion diagnose --attention or of a run",
  });
}

/** The plan that a run's folder keeps; undefined where it has none. @throws {TuneError} `malformed-json`. */
export async function keptPlan(model: LoadedModel, folder: string | undefined): Promise<AttentionPlan | undefined> {
  if (folder === undefined) return undefined;
  const { storage } = model.platform;
  const path = joinPath(folder, planFile);
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  return (await readJsonObject(storage, path)) as unknown as AttentionPlan; // compared with the checkpoint's fingerprint
}

/**
 * The file of the plan by which an adapter was tuned: beside it, in the folder of its run; undefined where all of its heads
 * attended exactly.
 */
export async function planFileOf({ platform: { storage } }: LoadedModel, adapter: string): Promise<string | undefined> {
  const above = adapter.replace(/[\\/]+$/, "").replace(/(^|[\\/])adapter$/, "$1");
  const path = joinPath(above === "" ? "." : above, planFile);
  return (await storage.sizeBytes(path)) === undefined ? undefined : path;
}
