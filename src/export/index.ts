/**
 * What tuning leaves, as files that others read: PEFT and mlx-lm adapters, merged safetensors, transformers.js folders.
 * The formats themselves are in `io/`; here models and adapters are put into them.
 */
export * from "./adapter-files.ts";
export * from "./adapter-task.ts";
export * from "./adapter-tokens.ts";
export * from "./adapterhub-files.ts";
export * from "./as-lora.ts";
export { bibtex } from "./bibtex.ts";
export * from "./combine.ts";
export * from "./forms.ts";
export * from "./merge.ts";
export * from "./mlx-files.ts";
export { chatTemplateFile, tokenizerCompanions } from "./model-files.ts";
export * from "./packed-folder.ts";
export { pipelineNote } from "./pipeline-notes.ts";
export * from "./safetensors-folder.ts";
export * from "./transformers-js.ts";
