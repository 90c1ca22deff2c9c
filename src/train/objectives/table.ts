import { nearest, TuneError } from "../../errors.ts";
import { type Fields, resolveFields, takersOf } from "../../fields.ts";
import { meant } from "../../options.ts";
import type { ExampleKind } from "../data/index.ts";
import { causalLm } from "./causal-lm.ts";
import { classification } from "./classification.ts";
import { contrastive } from "./contrastive.ts";
import { cosine } from "./cosine.ts";
import { dpo } from "./dpo.ts";
import { ipo } from "./ipo.ts";
import { multiLabelClassification } from "./multi-label.ts";
import type { Objective } from "./objective.ts";
import { regression } from "./regression.ts";
import { seq2seqLm } from "./seq2seq-lm.ts";
import { tokenClassification } from "./token-classification.ts";

// An objective's config is its own; here objectives are only asked for what each has, with the config they resolved.
type AnyObjective = Objective<ObjectiveConfig>;
const all = [
  causalLm,
  dpo,
  ipo,
  classification,
  multiLabelClassification,
  regression,
  tokenClassification,
  contrastive,
  cosine,
  seq2seqLm,
] as unknown as readonly AnyObjective[]; // see above

/** Every objective by name; the first that learns from a kind of example is that kind's own. */
export const objectives: ReadonlyMap<string, AnyObjective> = new Map(
  all.map((objective) => [objective.name, objective]),
);

/** An objective's options, all of them settled. */
export type ObjectiveConfig = Readonly<Record<string, number | boolean | string>>;

/** An objective with its options settled. */
export interface ObjectiveChoice {
  readonly objective: AnyObjective;
  readonly config: ObjectiveConfig;
}

/**
 * Settle an objective for examples of a kind; without a name, the kind's own, which takes no options then: who means some
 * says of what.
 * @throws {TuneError} `unknown-objective`; `objective-mismatch` when it learns from other examples; `bad-option` listing
 *   every option that does not fit.
 */
export function chooseObjective(
  name: string | undefined,
  options: Readonly<Record<string, number | boolean | string>> = {},
  kind: ExampleKind = "sequence",
): ObjectiveChoice {
  if (name === undefined) refuseUnnamed(options);
  const objective = name === undefined ? all.find(({ learnsFrom }) => learnsFrom === kind) : objectives.get(name);
  if (objective === undefined) {
    const [near] = nearest(name ?? kind, objectives.keys(), 1);
    throw new TuneError("unknown-objective", `There is no objective "${name ?? `for ${kind}s`}".`, {
      at: "objective",
      fix: `use one of ${[...objectives.keys()].join(", ")}${near ? ` (nearest: ${near})` : ""}`,
    });
  }
  if (objective.learnsFrom !== kind) {
    const fitting = all.filter(({ learnsFrom }) => learnsFrom === kind).map((other) => other.name);
    throw new TuneError(
      "objective-mismatch",
      `${objective.name} learns from ${kindWords[objective.learnsFrom]}, and the data holds ${kindWords[kind]}.`,
      { at: "objective", fix: `give other data, or use ${fitting.join(" or ")}` },
    );
  }
  const fields = objective.fields as Fields<ObjectiveConfig>; // its own
  return { objective, config: resolveFields(objective.name, fields, options, objectives.values()) };
}

/** Options say nothing of which objective takes them, and what the data is for is known late. */
function refuseUnnamed(options: Readonly<Record<string, unknown>>): void {
  const problems = Object.keys(options).map((option) => {
    const takers = takersOf(option, all);
    const near = meant(
      option,
      all.flatMap(({ fields }) => Object.keys(fields)),
    );
    const whose = takers.length > 0 ? `, which ${takers.join(" or ")} takes` : near ? ` (nearest: ${near})` : "";
    return `no objective is named, so nothing takes the option "${option}"${whose}`;
  });
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, {
    at: "objectiveOptions",
    fix: "name the objective that they are for, or leave them out",
  });
}

const kindWords: Readonly<Record<ExampleKind, string>> = {
  sequence: "texts with what is to be learnt in them",
  pair: "pairs of a chosen and a rejected answer",
  label: "texts or images with a label",
  labels: "texts or images with any number of labels",
  score: "texts with scores",
  tags: "texts with a tag on every word",
  texts: "pairs of texts that go together",
  "scored-texts": "pairs of texts with how alike they are",
  target: "texts with what they become",
};
