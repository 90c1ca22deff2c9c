/**
 * Federations: many clients tune one adapter, each on data of its own. Arithmetic on factors, a record for each federated
 * method, and two state machines that talk over a transport. No model, no training and no network: these are handed in.
 */
export {
  type AggregationOptions,
  type AggregationRule,
  aggregationDefaults,
  aggregationRules,
} from "./aggregate.ts";
export {
  type Client,
  type ClientEvent,
  type ClientOptions,
  type LocallyTrained,
  type LocalTraining,
  type TrainingRequest,
  takePart,
  tunedAtEnd,
} from "./client.ts";
export { type CoordinatorEvent, type CoordinatorOptions, type CoordinatorResult, coordinate } from "./coordinator.ts";
export { hashOf, sha256 } from "./digest.ts";
export { type MemoryEngine, type MemoryEngineOptions, openMemoryEngine } from "./engines/memory.ts";
export { countOf, type Factors, piecesOf, type Tuned, trainedPieces } from "./factors.ts";
export {
  type FederationPlan,
  type PrivacyPlan,
  type RoundSummary,
  type RunState,
  readState,
  runState,
  type StopRequest,
  stopState,
} from "./messages.ts";
export { refactor } from "./refactor.ts";
export { awaited } from "./rounds.ts";
export type { Strategy } from "./strategies/strategy.ts";
export { chooseStrategy, type StrategyChoice, type StrategyConfig, strategies } from "./strategies/table.ts";
export type * from "./transport.ts";
export { normBound } from "./validate.ts";
