/**
 * What differentially private training costs, in numbers: accountants, the noise that a budget takes, and secret random numbers.
 * Clipping and adding the noise is the training step's matter (`train/`); nothing here knows a tensor of a model.
 */
export { type Accountant, accountants, type Calibration, calibrateNoise, type SpentEpsilon } from "./calibrate.ts";
export { type Generator, newKey, openGenerator } from "./generator.ts";
export { keyFileContent, keyIn } from "./key-file.ts";
export { type Budget, isPrivate, type Ledger, type LedgerEntry, openLedger, readLedger } from "./ledger.ts";
export { type PrvEpsilon, prvEpsilon } from "./prv.ts";
export { rdpEpsilon } from "./rdp.ts";
export type { Spend } from "./spend.ts";
