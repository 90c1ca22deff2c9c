/** PEFT's `task_type` by what a model is made for; none where PEFT has no class of its own for it. */
const taskTypes: Readonly<Record<string, string>> = {
  "causal-lm": "CAUSAL_LM",
  "sequence-classification": "SEQ_CLS",
  "multi-label-classification": "SEQ_CLS",
  regression: "SEQ_CLS",
  "token-classification": "TOKEN_CLS",
  "seq2seq-lm": "SEQ_2_SEQ_LM",
  "sentence-embedding": "FEATURE_EXTRACTION",
};

/** PEFT's `task_type` of a task. */
export function peftTaskType(task: string): string | null {
  return taskTypes[task] ?? null;
}
