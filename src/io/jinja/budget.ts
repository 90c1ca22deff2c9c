/** What a template went beyond, in words; what `run` throws of it. */
export class OverBudget extends Error {}

/** What a run may still do. A step counts by `run`; a unit is an item that is looked at, or some characters. */
interface Budget {
  units: number;
  readonly characters: number;
  readonly end: number;
  unchecked: number;
}

/** Items and pieces of text that a template may go through besides its steps, and how many a list may hold. */
const [mostUnits, mostItems] = [4_000_000, 1_000_000];

let budget: Budget | undefined;

/**
 * Run with a budget: templates come with models from strangers, and what one expression does (`x in list`, `join`, a
 * comparison of nested lists) must not take long either. The run is synchronous, so the budget can stand in a variable.
 */
export function withBudget<T>(
  limits: { readonly outputChars: number; readonly milliseconds: number },
  run: () => T,
): T {
  const before = budget;
  const end = performance.now() + limits.milliseconds;
  budget = { units: mostUnits, characters: limits.outputChars, end, unchecked: 0 };
  try {
    return run();
  } finally {
    budget = before;
  }
}

/** Take units off the budget of the run. @throws {OverBudget} when it is used up, or its time is. */
export function spend(units: number): void {
  if (budget === undefined) return;
  budget.units -= units;
  if (budget.units < 0) throw new OverBudget(`it went through more than ${mostUnits} items and pieces of text`);
  budget.unchecked += 1 + units;
  if (budget.unchecked < 4096) return;
  budget.unchecked = 0;
  if (performance.now() > budget.end) throw new OverBudget("it ran for too many seconds");
}

/** Take off what going through a text costs. */
export function spendText(text: string): void {
  if (text.length >= 16) spend(text.length / 16);
}

/** Ask for a text of so many characters, before it is made. @throws {OverBudget} when that is more than any may have. */
export function roomForText(characters: number): void {
  if (budget === undefined) return;
  if (characters > budget.characters) throw new OverBudget(`it wrote more than ${budget.characters} characters`);
  spend(characters / 16);
}

/** Ask for a list of so many items. @throws {OverBudget} */
export function roomForItems(items: number): void {
  spend(items);
  if (budget !== undefined && items > mostItems) throw new OverBudget(`a list has more than ${mostItems} items`);
}
