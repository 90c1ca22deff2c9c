/** Put values behind a list, however many: `push(...values)` overflows the stack at a hundred thousand. */
export function append<Value>(list: Value[], values: Iterable<Value>): void {
  for (const value of values) list.push(value);
}
