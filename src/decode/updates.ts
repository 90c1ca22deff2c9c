import type { Tensor } from "../graph/index.ts";
import { type Adapter, attach, checkParameters, configAt, embeddingModules, linearModules } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";

/** y += B·(A·x) beside a linear map. */
export interface LowRankUpdate {
  /** [rank, inputs]. */
  readonly A: Tensor;
  /** [outputs, rank]. */
  readonly B: Tensor;
}

/**
 * An adapter as low-rank updates by module, exactly; undefined where its method's update is none, or where embeddings are
 * adapted or whole weights were trained.
 * @throws {TuneError} `adapter-mismatch` when it was made for another model.
 */
export function lowRankUpdates(
  model: PretrainedModel,
  adapter: Adapter,
): ReadonlyMap<string, LowRankUpdate> | undefined {
  const { outputModule } = model.architecture;
  const { outputs } = model.decode({ logits: "last" });
  const { trainables } = attach(outputs, { ...adapter, outputModule, training: false });
  checkParameters(trainables, adapter.parameters, model.folder);
  const { asLora } = adapter.choice.method;
  if (asLora === undefined || trainables.some(({ inPlace }) => inPlace)) return undefined;
  const sites = linearModules(outputs);
  const embeddings = embeddingModules(outputs);
  if (trainables.some(({ module }) => embeddings.has(module))) return undefined;
  const tensors = new Map<string, Record<string, Tensor>>();
  for (const { module, key, value } of trainables) {
    const values = adapter.parameters.get(value.name);
    if (values) tensors.set(module, { ...tensors.get(module), [key]: values });
  }
  return new Map(
    [...tensors].map(([module, own]) => {
      const inFeatures = sites.get(module)?.inFeatures ?? 0;
      return [module, asLora(own, configAt(adapter.choice, module), { inFeatures })];
    }),
  );
}
