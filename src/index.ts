/**
 * Scion adapts pretrained models in TypeScript, on stock ONNX Runtime. This is the public API; a platform comes from
 * `scionwood/node` or `scionwood/web`.
 */

export { type AttentionPlan, planFileOf, readPlan } from "./api/attention.ts";
export {
  type ComparedMethod,
  type ComparedRun,
  type CompareEvent,
  type CompareOptions,
  type ComparisonResult,
  compare,
} from "./api/compare.ts";
export {
  type ComparedFederation,
  type ComparedStrategy,
  type CompareFederationsOptions,
  compareFederations,
  comparisonTable,
  type FederationCompareEvent,
  type FederationComparison,
  type FederationOutcome,
  type FederationRateRow,
  type FederationRow,
} from "./api/compare-federations.ts";
export {
  type CompareQuantizedOptions,
  compareQuantized,
  type QuantizeCandidate,
  type QuantizedRow,
  standardCandidates,
} from "./api/compare-quantized.ts";
export type { ComparedRow, RateRow, RunOutcome, Spread } from "./api/comparison-table.ts";
export {
  type ContinualEvent,
  type ContinualOptions,
  type ContinualResult,
  type ContinualTask,
  type StageResult,
  tuneInOrder,
} from "./api/continual.ts";
export { checkTuning, type TuningChoice } from "./api/describe-run.ts";

export {
  type ComparisonOptions,
  type DiagnoseOptions,
  diagnose,
  diagnoseFiles,
  type FileDiagnosisOptions,
  type Mended,
  type MendOptions,
  mend,
  writeMended,
} from "./api/diagnose.ts";
export {
  type AttentionDiagnosisResult,
  type DiagnoseAttentionOptions,
  diagnoseAttention,
} from "./api/diagnose-attention.ts";
export {
  type FederationChoice,
  type FederationEnd,
  type FederationEvent,
  type FederationResult,
  federationDefaults,
  type SimulateOptions,
  simulateFederation,
} from "./api/federate.ts";
export type { FederationMetric } from "./api/federation-folder.ts";
export { federationPage } from "./api/federation-report.ts";
export {
  type ClientStatus,
  type FederationStatus,
  federationReport,
  federationStatus,
  stopFederation,
} from "./api/federation-status.ts";
export { type Forgetting, type ForgettingOptions, measureForgetting } from "./api/forgetting.ts";
export { type Inspection, inspect } from "./api/inspect.ts";
export { type JoinEvent, type JoinOptions, type JoinResult, joinFederation } from "./api/join-federation.ts";
export { type ClientData, type LoadClientsOptions, type LoadedClients, loadClients } from "./api/load-clients.ts";
export {
  type Data,
  dataSize,
  type LoadDataOptions,
  type LoadedData,
  loadData,
  type StreamedData,
  streamData,
} from "./api/load-data.ts";
export { type DownloadProgress, type LoadedModel, type LoadModelOptions, loadModel } from "./api/load-model.ts";
export {
  type CreateFederationOptions,
  createFederation,
  inviteToFederation,
  openClientTransport,
  openCoordinatorTransport,
  withdrawFromFederation,
} from "./api/nats-federation.ts";
export { checkOutput, claimOutput, type OutputFolder } from "./api/outputs.ts";
export { type PlanTuningOptions, planTuning, type Remedy, type TuningPlan } from "./api/plan.ts";
export {
  type NoiseForOptions,
  noiseFor,
  type PrivacySpent,
  type PrivacySpentOptions,
  privacySpent,
} from "./api/privacy.ts";
export {
  calibrationNeed,
  checkQuantizing,
  type QuantizeChoice,
  type QuantizeOptions,
  type QuantizeResult,
  quantize,
  type ScaleTuningEvent,
} from "./api/quantize.ts";
export {
  type EvaluateOptions,
  type Evaluation,
  evaluate,
  type GenerateOptions,
  generate,
  openSession,
  type Prompt,
  type Session,
} from "./api/run-model.ts";
export { findRuns, type RunSummary } from "./api/runs.ts";
export {
  type CombineAdaptersOptions,
  checkExport,
  combine,
  type ExportOptions,
  exportModel,
  loadAdapter,
} from "./api/save.ts";
export { type ServeEvent, type ServeOptions, serveFederation } from "./api/serve-federation.ts";
export { type FindLearningRateOptions, findLearningRate, type TuneOptions, tune } from "./api/tune.ts";
export type { BitPlan, BitsChoice, MatrixReport, MixedBits, PackedReport, QuantiseEvent } from "./compress/index.ts";
export type { Lookups } from "./decode/index.ts";
export {
  type AttentionReport,
  attentionPage,
  type DegreeDiagnosis,
  drawDegrees,
  drawHeads,
  type HeadDiagnosis,
  sayQualified,
  type Verdict,
} from "./diagnose/attention/index.ts";
export {
  type DiagnosisProgress,
  type DiagnosisReport,
  type DiagnosisSettings,
  type DiagnosisWarning,
  diagnosisDefaults,
  diagnosisMethods,
  drawCounts,
  drawSimilarities,
  drawSimilarity,
  drawSpectra,
  drawSpectrum,
  type MatrixDiagnosis,
  mendDefaults,
  remarkable,
  reportPage,
  sayWarning,
} from "./diagnose/index.ts";
export { TuneError } from "./errors.ts";
export { type Combination, type ExportFormName, exportForms, folderKind, pipelineNote } from "./export/index.ts";
export {
  type AggregationOptions,
  type AggregationRule,
  aggregationDefaults,
  aggregationRules,
  type FederationPlan,
  type RoundSummary,
  type Strategy,
  strategies,
  type Transport,
} from "./federated/index.ts";
export { type Generation, resolveSampling, type SampleOptions } from "./generate/index.ts";
export type { ChatMessage } from "./io/chat-template.ts";
export { addFile, checkFolder, checkPicture, guardOutputs, writePicture } from "./io/outputs/index.ts";
export { describeQuantisation, type Quantisation } from "./io/quantised/index.ts";
export type { OutputGuard, Storage } from "./io/storage.ts";
export {
  type Adapter,
  commonRates,
  type Field,
  type InPlace,
  type Method,
  type ModuleRank,
  methods,
  type NamedModules,
  type Patterns,
  parseTargets,
  ranksLeft,
  type SelectedModules,
  type TargetModules,
} from "./methods/index.ts";
export { type HeadPlan, type PlannedHead, supportedModelTypes, type TaskName } from "./models/index.ts";
export { type Optimizer, optimizers } from "./optim/index.ts";
export { type Accountant, isPrivate, type LedgerEntry, readLedger, type Spend } from "./privacy/index.ts";
export { type Scheme, schemes } from "./quant/index.ts";
export type { Device, DeviceOptions } from "./runtime/device.ts";
export type { FindModelOptions, MemoryUse, Platform } from "./runtime/platform.ts";
export type { StopSignal } from "./signal.ts";
export { type BaseWeightsName, baseWeights } from "./train/base-weights.ts";
export type { DataReport, DataSource, DataWarning } from "./train/data/index.ts";
export type { RatePoint, RateSearch } from "./train/learning-rate.ts";
export { chooseObjective, type Objective, type ObjectiveChoice, objectives } from "./train/objectives/index.ts";
export type { RunPlan } from "./train/plan.ts";
export type { PrivacyPlan, RunPrivacy } from "./train/privacy.ts";
export { type RunEvent, type RunResult, refuseOtherRun } from "./train/run.ts";
export { type TrainSettings, trainDefaults } from "./train/settings.ts";
export { taskNames, tasks } from "./train/tasks/index.ts";
