/** A parsed `config.json`; `ledger.ts` reads it. */
export type ConfigJson = Readonly<Record<string, unknown>>;
