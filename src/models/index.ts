/**
 * Pretrained models: one file per architecture turns `config.json` and tensor names into a graph.
 * Training, adapters and file formats are elsewhere.
 */
export type { RecipeActivation } from "./activations.ts";
export { activations } from "./activations.ts";
export type {
  Architecture,
  Attend,
  DecodeOptions,
  Family,
  Form,
  KeyValue,
  ModelSizes,
  OpenGraph,
  SequenceAttention,
  TaskName,
  TensorSpec,
  TrunkInputs,
  TrunkOutputs,
  WatchedHead,
  Weights,
} from "./architecture.ts";
export { exactAttention, exactAttentionFor } from "./attention.ts";
export { decodeGraph, likelihoodGraph, lossGraph, targetMultiple, watchedShares } from "./causal-lm.ts";
export type { ConfigJson } from "./config.ts";
export type { GgufForm, GgufPart } from "./gguf.ts";
export { type Fed, type InputForm, type Numbers, refuseLongerThan } from "./inputs.ts";
export { checkLabels, type Labels, labelConfig, labelNumber, namedLabels } from "./labels.ts";
export type { ConfigWarning, Entry, Ledger, Notes } from "./ledger.ts";
export {
  assembleModel,
  attendingExactly,
  type ModelChoice,
  type OpenChoice,
  openModel,
  type PretrainedModel,
  tensorsOf,
  withAttention,
} from "./model.ts";
export { type HeadPlan, type PlannedHead, plannedAttention, reasonForExact } from "./planned-attention.ts";
export type { DecodeRecipe, LayerRecipe, LinearRecipe, NormRecipe, RopeRecipe } from "./recipe.ts";
export { type SentenceLayer, type SentenceModules, sentenceFiles, sentenceText } from "./sentence.ts";
export type { Pooling } from "./sentence-pooling.ts";
export { findArchitecture, supportedModelTypes } from "./table.ts";
export { featureCount } from "./taylor.ts";
export { outputBound, type TaylorDegree, taylorDegrees, taylorError, taylorRange } from "./taylor-error.ts";
export { vocabularyTensors, withVocabulary } from "./vocabulary.ts";
