import type { Fields } from "../fields.ts";
import type { DataOf, DType, Tensor, Value } from "../graph/index.ts";
import type { Rng } from "../linalg/index.ts";
import type { LinearSite } from "../ops/index.ts";

/** A paper, and the place in it that a method implements. */
export interface Citation {
  readonly title: string;
  readonly authors: string;
  readonly year: number;
  readonly arxiv: string;
  readonly at: string;
}

/** Where a method attaches. A linear map y = x·Wᵀ, or any weight of the model. */
export interface Site {
  /** The module, such as `model.layers.0.self_attn.q_proj`. */
  readonly module: string;
  readonly weight: Value;
  /** Sizes of the linear map, whichever way the weight is stored; rows and columns of a weight that is not one. */
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** How a linear map's weight is stored. */
  readonly layout: LinearSite["layout"];
}

/** Initial values that are computed from the pretrained tensor, as it is stored. */
export interface FromWeight {
  readonly fromWeight: (weight: Tensor) => DataOf | Promise<DataOf>;
}

/** How a new trainable tensor starts. */
export interface ParameterSpec {
  readonly shape: readonly number[];
  /**
   * Values in row-major order, drawn or computed from the pretrained tensor; `"weight"` starts from that tensor itself.
   */
  readonly initial: "weight" | ((rng: Rng, size: number) => DataOf) | FromWeight;
  /** float32 unless given. */
  readonly dtype?: DType;
  /** One tensor for the whole model, which every site reads. */
  readonly shared?: boolean;
  /** Whether training changes it; what it does not is stored with the adapter all the same. */
  readonly trained?: boolean;
  /** What is wrong with values that come from outside, if anything. */
  readonly check?: (values: Tensor) => string | undefined;
  /**
   * Whether weight decay shrinks it; matrices do and vectors (norms, biases) do not, as in Hugging
   * Face's Trainer, unless it says otherwise.
   */
  readonly decays?: boolean;
  /** Its learning rate as a multiple of the run's; 1 unless given. */
  readonly rate?: number;
}

/** One site of an attached method, as its hooks see it. */
export interface TrainedSite<Config extends object = object> {
  readonly module: string;
  readonly config: Config;
  /** A trained tensor by short name: before the update where a penalty reads it, after it otherwise. */
  readonly parameter: (key: string) => Value;
}

/** What a method's options make of a run of known length. */
export interface MethodSchedule {
  /** The scalars that the hooks read in the update `step`, counted from 1. */
  readonly scalars: (step: number) => Readonly<Record<string, number>>;
  /** The first update after which the adapter is what the method promises; no earlier one counts as the best. */
  readonly settledFrom: number;
}

/** Reads one of the schedule's scalars. */
export type ScalarReader = (name: string) => Value;

/** What a method does in a training step besides its forward pass. All of it is part of the step's own graph. */
export interface TrainingHooks<Config extends object = object> {
  /** @throws {TuneError} `bad-option` when the options do not fit a run of `steps` updates. */
  readonly schedule?: (
    run: { readonly steps: number; readonly sites: readonly Pick<TrainedSite<Config>, "module" | "config">[] },
    config: Config,
  ) => MethodSchedule;
  /** A scalar added to the loss that is differentiated, once an update, and reported beside it. */
  readonly penalty?: (sites: readonly TrainedSite<Config>[], config: Config) => Value;
  /** What is kept of every trained element from update to update. */
  readonly track?: {
    /** Names of the tensors kept; they start at zero. */
    readonly state: readonly string[];
    /** On flat vectors of many parameters, after the update: the next state, and a number for each element. */
    readonly update: (
      inputs: {
        readonly parameter: Value;
        readonly gradient: Value;
        readonly state: (name: string) => Value;
        readonly scalar: ScalarReader;
      },
      config: Config,
    ) => { readonly state: Readonly<Record<string, Value>>; readonly score: Value };
  };
  /** After the update, all sites together. */
  readonly settle?: (
    sites: readonly (TrainedSite<Config> & {
      /** The numbers that `track` gave for the elements of a trained tensor, in its shape. */
      readonly score: (key: string) => Value;
    })[],
    context: {
      readonly scalar: ScalarReader;
      /** A tensor kept from update to update, zero at first. */
      readonly state: (name: string, shape: readonly number[]) => Value;
    },
    config: Config,
  ) => {
    /** By module, trained tensors that are to be others than the optimiser made them. */
    readonly parameters: ReadonlyMap<string, Readonly<Record<string, Value>>>;
    readonly state: Readonly<Record<string, Value>>;
    /** Scalars to report; a run stops when one is not finite. */
    readonly reports: Readonly<Record<string, Value>>;
  };
}

/**
 * What a method does to a frozen weight while it trains, where its parameters do not start as no update: they start as a
 * part of the weight, and that part is taken out of it.
 */
export interface Departure<Config extends object = object> {
  /** What stands in place of the weight, both as stored. */
  readonly base: (weight: Tensor) => Promise<Float32Array>;
  /** The parameters that compute beside the whole weight what the given ones compute beside `base`. */
  readonly besideWhole: (
    weight: Tensor,
    parameters: Readonly<Record<string, Tensor>>,
  ) => Promise<Readonly<Record<string, Tensor>>>;
  /** The options of the method with those parameters. */
  readonly config: (config: Config) => Config;
}

/** What a method may use while it is attached. */
export interface Attachment {
  readonly site: Site;
  /** The input of the linear map, [tokens, in]. */
  readonly x: Value;
  /** Its output without the adapter, [tokens, out]. */
  readonly y: Value;
  /** [out]: what y has in it besides the product, if anything. */
  readonly bias: Value | undefined;
  /** Zero elements with probability `rate` and scale the rest up, while training; x itself otherwise. */
  readonly dropout: (x: Value, rate: number) => Value;
}

/** A low-rank update with the scale in it. */
export interface LoraMatrices {
  readonly A: Tensor;
  readonly B: Tensor;
}

/** What a method may use where it is attached to an embedding. */
export interface EmbeddingAttachment {
  /** The embedding as a linear map of one-hot tokens: [in, out] is [tokens, hidden]. */
  readonly site: Site;
  /** The rows that are looked up, int64 [...]. */
  readonly ids: Value;
  /** What is looked up without the adapter, [..., hidden]. */
  readonly y: Value;
}

/** What a method does beside an embedding; `merge` folds it in as for any weight stored [in, out]. */
export interface EmbeddingForm<Config extends object = object> {
  /** The trainable tensors, under the names that they have beside a linear map. */
  readonly parameters: (site: Site, config: Config) => Readonly<Record<string, ParameterSpec>>;
  /** Look at a site before training. @throws {TuneError} when the config makes no sense there. */
  readonly check?: (site: Site, config: Config) => void;
  /** The rows as they are now, in the shape of y. */
  readonly adapt: (attachment: EmbeddingAttachment, parameters: Parameters, config: Config) => Value;
}

/** How PEFT stores the method. */
export interface PeftForm {
  /** `peft_type`. */
  readonly type: string;
  /** Parameter -> the end of its tensor name after the module. */
  readonly tensors: Readonly<Record<string, string>>;
  /** The same for an embedding, where the method has a form for them. */
  readonly embedding?: Readonly<Record<string, string>>;
  /** The tensors of another program's files of the same type, which are read too. */
  readonly dialect?: Readonly<Record<string, string>>;
  /** The key of its config that is true for this method, where several share a type. */
  readonly flag?: string;
  /** Whether its config has `trainable_token_indices`. */
  readonly tokenRows?: boolean;
}

/** What a method behind sublayers reads instead of a sublayer's output. */
export type ReadsBehind = "residual" | "norm" | "parallel";

/** An adapter method (or full tuning). Adding one is adding such a record and one line in `methods/index.ts`. */
export interface Method<Config extends object = object> {
  readonly name: string;
  readonly summary: string;
  readonly cite?: Citation;
  readonly fields: Fields<Config>;
  /** `linear`: beside linear maps that the targets choose. `weight`: in place of every weight of the model. */
  readonly attaches: "linear" | "weight";
  /**
   * It stands behind sublayers, at the linear maps that end them, whatever the targets say. Its options then say behind
   * which (`positions`), whether it reads what the block adds up (`placement`), and whether norms stay (`frozenNorms`).
   */
  readonly sublayers?: boolean;
  /**
   * What `adapt` gets as y, and gives, instead of a sublayer's output: what the block adds that output to; and as x, what
   * the block's norm makes of it (`norm`), which then norms what `adapt` gives, or what went into the block (`parallel`).
   */
  readonly readsBehind?: (config: Config) => ReadsBehind | undefined;
  /**
   * Four peak learning rates to sweep where methods are compared, lowest first, where they are not those of LoRA. The second
   * is what a run takes unless told otherwise.
   */
  readonly rates?: readonly [number, number, number, number];
  /** Options that give its update the rank and the scale (alpha / rank) of a LoRA; absent where it has no such thing. */
  readonly matched?: (rank: number, scale: number) => Partial<Config>;
  /** The trainable tensors of one site, by short name. */
  readonly parameters: (site: Site, config: Config) => Readonly<Record<string, ParameterSpec>>;
  /** What training makes of the frozen weight of one site; a finished adapter stands beside the weight as it was. */
  readonly departure?: (site: Site, config: Config) => Departure<Config> | undefined;
  /** Look at a site before training. @throws {TuneError} when the config makes no sense there. */
  readonly check?: (site: Site, config: Config) => void;
  /** `linear`: the new output of the map, [tokens, out]. `weight`: the value to use as the weight. */
  readonly adapt: (attachment: Attachment, parameters: Parameters, config: Config) => Value;
  /** The weight [out, in] with the adapter folded in. `site` names the module and the weight as the model has it. */
  readonly merge: (
    weight: Value,
    parameters: Parameters,
    config: Config,
    site: Pick<Site, "module" | "weight">,
  ) => Value;
  /**
   * The update of one site as B·A, exactly, from the adapter's tensors: A [rank, in], B [out, rank]. With it the adapter
   * can be written as plain LoRA. Absent where the method's update is no product of small matrices.
   */
  readonly asLora?: (
    tensors: Readonly<Record<string, Tensor>>,
    config: Config,
    site: Pick<Site, "inFeatures">,
  ) => LoraMatrices;
  /** Of the ranks that one site started with, how many are left; absent where none is ever lost. */
  readonly ranks?: (
    tensors: Readonly<Record<string, Tensor>>,
    config: Config,
  ) => { readonly rank: number; readonly of: number };
  readonly training?: TrainingHooks<Config>;
  readonly live?: LiveForm<Config>;
  /** What it does beside embeddings; it refuses them by name where this is absent. */
  readonly embedding?: EmbeddingForm<Config>;
  /**
   * How adapters of other options are brought to common ones without computing anything else, so that they take turns in
   * one place of a graph; and fresh tensors of those options compute nothing.
   */
  readonly common?: {
    readonly config: (configs: readonly Config[]) => Config;
    readonly tensors: (
      tensors: Readonly<Record<string, Tensor>>,
      from: Config,
      to: Config,
    ) => Readonly<Record<string, Tensor>>;
  };
  readonly peft?: PeftForm;
  /** The form its adapters are kept in, where PEFT has none; merged weights are kept where there is neither. */
  readonly form?: "scales" | "adapterhub";
}

/** How a method trains where the weight itself is kept current: some of its columns are written after every update. */
export interface LiveForm<Config extends object = object> {
  /** The short name of the tensor that says which columns (of [out, in]): int64 [count]. */
  readonly columns: string;
  /** The output of the map: y is computed with the current weight, and needs the gradient of what is trained. */
  readonly adapt: (attachment: Attachment, parameters: Parameters, config: Config) => Value;
  /** The short name of what is trained, [out, count]. */
  readonly trained: string;
  /**
   * These columns now, from what they are in the pretrained weight and what is trained. Element by element: they may be
   * those of several weights, end to end.
   */
  readonly values: (pretrained: Value, trained: Value, config: Config) => Value;
}

/** The trainable values of one site, by short name; reading one that the method does not declare is an error. */
export type Parameters = (name: string) => Value;

/** What LoRA sweeps, and every method that says nothing of its own. */
export const commonRates: readonly [number, number, number, number] = [1e-4, 3e-4, 1e-3, 3e-3];

/** Declare a method; its own config type stays inside it. */
export function defineMethod<Config extends object>(method: Method<Config>): Method<Config> {
  return Object.freeze(method);
}
