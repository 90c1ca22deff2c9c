/**
 * The intermediate representation: immutable values, nodes and graphs, with a printer, a parser and a verifier.
 * It knows no operator, no file format and no runtime.
 */
export * from "./attributes.ts";
export * from "./dims.ts";
export * from "./graph.ts";
export * from "./parse.ts";
export * from "./print.ts";
export * from "./tensor.ts";
export * from "./value.ts";
export * from "./verify.ts";
