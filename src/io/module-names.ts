/**
 * What a module exports by name that was imported when it was needed. Some bundlers give a CommonJS module's exports as `default`
 * alone, where Node and others give them by name too.
 */
export function namesOf<T extends object>(module: T): T {
  const { default: whole } = module as { readonly default?: object };
  return whole === undefined ? module : ({ ...whole, ...module } as T); // exports by name win
}
