import type { Tensor } from "../graph/index.ts";
import { configAt, type MethodChoice } from "./table.ts";
import type { TargetModules } from "./targets.ts";

/** A paper, as every record cites its own. */
export interface Cited {
  readonly title: string;
  readonly authors: string;
  readonly year: number;
  readonly arxiv: string;
}

/** The guarantee of a private run: (epsilon, delta) for one example, by two accountants, and what it was made of. */
export interface PrivacyRecord {
  readonly unit: string;
  readonly delta: number;
  readonly spent: { readonly rdp: number; readonly prv: number };
  readonly noiseMultiplier: number;
  readonly clip: number;
  readonly samplingRate: number;
  /** Updates that were made. */
  readonly made: number;
}

/** The run that left an adapter, as it is kept beside it. */
export interface RunRecord {
  /** Updates made, of how many. */
  readonly step: number;
  readonly steps: number;
  readonly ended: string;
  readonly best?: { readonly step: number; readonly loss: number };
  /** What a private run has spent of its examples' privacy, in numbers that may be published. */
  readonly privacy?: PrivacyRecord;
  /** What decided its losses: settings, options, sizes, and hashes of the data. */
  readonly facts: Readonly<Record<string, unknown>>;
  /** What it was made by. */
  readonly cites: readonly Cited[];
}

/** What tuning leaves: the method, where it attaches, and its trained tensors. */
export interface Adapter {
  readonly choice: MethodChoice;
  readonly targets: TargetModules;
  /** By parameter name: `module.method_key` beside linear maps, the weight's own name in place of weights. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** The folder that it was read from. */
  readonly folder?: string;
  /** Updates of the run it comes from, where its method goes by a schedule. */
  readonly steps?: number;
  /** How it was trained, where that is known. */
  readonly run?: RunRecord;
  /** What the files that it was read from say besides, to be written again in files of that form. */
  readonly origin?: { readonly form: string; readonly said: unknown };
}

/** What is left of a module's rank. */
export interface ModuleRank {
  readonly module: string;
  readonly rank: number;
  readonly of: number;
}

/** What a method that gives up ranks has left of each module's; nothing for other methods. */
export function ranksLeft({ choice, parameters }: Pick<Adapter, "choice" | "parameters">): readonly ModuleRank[] {
  const { name, ranks } = choice.method;
  if (!ranks) return [];
  const modules = new Map<string, Record<string, Tensor>>();
  for (const [parameter, values] of parameters) {
    const at = parameter.lastIndexOf(`.${name}_`);
    if (at < 0) continue;
    const module = parameter.slice(0, at);
    modules.set(module, { ...modules.get(module), [parameter.slice(at + name.length + 2)]: values });
  }
  return [...modules].map(([module, own]) => ({ module, ...ranks(own, configAt(choice, module)) }));
}
