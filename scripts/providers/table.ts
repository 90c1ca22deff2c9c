import type { FamilyRun } from "../../tests/helpers/family-training.ts";
import { code, table } from "../reference/markdown.ts";

/** What came of training one family in one place. */
export type Outcome = FamilyRun | { readonly error: string };

/** The text between which the table stands in docs/providers.md. */
export const start = "<!-- made by npm run providers -->";
export const end = "<!-- end -->";

/** Float32 sums in another order, through one update. */
const tolerance = 1e-4;

/** A row a family, a column a place; the first place is what the others are held against. */
export function providersTable(
  places: readonly string[],
  outcomes: ReadonlyMap<string, Readonly<Record<string, Outcome>>>,
): string {
  const rows = [...outcomes].map(([modelType, own]) => {
    const reference = own[places[0] ?? ""];
    return [code(modelType), ...places.map((place) => cell(own[place], reference))];
  });
  return table(["model", ...places], rows);
}

function cell(outcome: Outcome | undefined, reference: Outcome | undefined): string {
  if (outcome === undefined) return "not run";
  if ("error" in outcome) return `no: ${outcome.error}`;
  if (outcome === reference) return "yes";
  if (reference === undefined || "error" in reference) return "yes, held against nothing";
  const difference = Math.max(
    largest(outcome.losses, reference.losses),
    largest(outcome.gradNorms, reference.gradNorms),
  );
  return `${difference <= tolerance ? "yes" : "**differs**"}, ${difference.toExponential(0)}`;
}

/** Largest relative difference; infinite where one is not finite. */
function largest(found: readonly number[], expected: readonly number[]): number {
  const differences = expected.map((value, i) => Math.abs((found[i] ?? Number.NaN) / value - 1));
  return differences.every(Number.isFinite) ? Math.max(...differences) : Number.POSITIVE_INFINITY;
}

/** A page with another table in it. @throws when it has no place for one. */
export function withTable(page: string, made: string): string {
  const [from, to] = [page.indexOf(start), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/providers.md has no "${start}" with an "${end}" after it`);
  return `${page.slice(0, from)}${start}\n\n${made}\n\n${page.slice(to)}`;
}
