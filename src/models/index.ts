/**
 * Pretrained models: one file per architecture turns `config.json` and tensor names into a graph.
 * Training, adapters and file formats are elsewhere.
 */
export type {
  Architecture,
  KeyValue,
  ModelSizes,
  TensorSpec,
  TrunkInputs,
  TrunkOutputs,
  Weights,
} from "./architecture.ts";
export { attentionBlocks } from "./attention.ts";
export {
  type DecodeOptions,
  decodeGraph,
  likelihoodGraph,
  lossGraph,
  type OpenGraph,
  targetMultiple,
} from "./causal-lm.ts";
export { type ConfigJson, untied } from "./config.ts";
export { assembleModel, openModel, type PretrainedModel } from "./model.ts";
export { findArchitecture, supportedModelTypes } from "./table.ts";
