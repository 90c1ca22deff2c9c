/**
 * Which heads of a model could attend by a polynomial, in nearly linear time: norms, scores, certified and measured errors, and the
 * plan that follows. "Computational Limits of LoRA" (arXiv 2406.03136). What a plan does to a graph is in `models/`.
 */
export { attentionSeconds, chunkFor } from "./cost.ts";
export { diagnoseHeads, type Eligibility, eligibilityDefaults } from "./diagnose.ts";
export { attentionPage, drawDegrees, drawHeads, sayQualified } from "./page.ts";
export { openProbe, wholeLength } from "./probe.ts";
export type { AttentionReport, DegreeDiagnosis, HeadDiagnosis, Verdict } from "./report.ts";
