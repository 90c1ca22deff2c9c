// Programs: steps that threads take together. A step is [operation, whether threads wait for each other after it, args].
import { groupSums, makeTables, product, rowProduct } from "./lut";
import { activate, addRows, attend, dense, embed, norm, update } from "./ops";

export { blockTables, groupSums, makeTables, product, rowProduct, tile } from "./lut";
export {
  activate,
  addRows,
  attend,
  attendHead,
  dense,
  dot,
  embed,
  norm,
  normRow,
  update,
} from "./ops";

/** How often a thread looks before it sleeps: a hand-over takes less than a microsecond, a wake-up twenty. */
const patience = 20000;

/**
 * Take all steps of a program. `sync` is three words: arrivals, generation, sleepers. A page's main thread may not
 * sleep; it looks on.
 */
export function run(thread: i32, threads: i32, steps: usize, count: u32, sync: usize, maySleep: i32): void {
  for (let i: u32 = 0; i < count; i++) {
    const operation = load<i32>(steps);
    const args = load<usize>(steps, 8);
    // The order of `operations` in ../program.ts.
    switch (operation) {
      case 0:
        embed(thread, threads, args);
        break;
      case 1:
        norm(thread, threads, args);
        break;
      case 2:
        makeTables(thread, threads, args);
        break;
      case 3:
        product(thread, threads, args);
        break;
      case 4:
        rowProduct(thread, threads, args);
        break;
      case 5:
        groupSums(thread, threads, args);
        break;
      case 6:
        attend(thread, threads, args);
        break;
      case 7:
        activate(thread, threads, args);
        break;
      case 8:
        dense(thread, threads, args);
        break;
      case 9:
        update(thread, threads, args);
        break;
      case 10:
        addRows(thread, threads, args);
        break;
      default:
        readAll(thread, threads, args);
    }
    if (load<i32>(steps, 4) && threads > 1) meet(threads, sync, maySleep);
    steps += 12;
  }
}

/** Wait until every thread is here. */
export function meet(threads: i32, sync: usize, maySleep: i32): void {
  const generation = atomic.load<i32>(sync, 4);
  if (atomic.add<i32>(sync, 1) == threads - 1) {
    atomic.store<i32>(sync, 0);
    release(sync + 4);
    return;
  }
  waitFor(sync + 4, generation, maySleep);
}

/** Move a generation on and wake who sleeps: `word`, and the number of sleepers after it. */
export function release(word: usize): void {
  atomic.add<i32>(word, 1);
  if (atomic.load<i32>(word, 4) > 0) atomic.notify(word, -1);
}

/** Wait until a generation is another: look for a while, then sleep. */
export function waitFor(word: usize, generation: i32, maySleep: i32): void {
  for (let i = 0; i < patience || !maySleep; i++) if (atomic.load<i32>(word) != generation) return;
  atomic.add<i32>(word, 1, 4);
  while (atomic.load<i32>(word) == generation) atomic.wait<i32>(word, generation, -1);
  atomic.sub<i32>(word, 1, 4);
}

/** Reads memory and does nothing with it: what memory gives. args: from, end, bytes that a thread takes at a time. */
export function readAll(thread: i32, threads: i32, args: usize): void {
  const end = load<usize>(args, 4);
  const piece = load<usize>(args, 8);
  for (let at = load<usize>(args) + <usize>thread * piece; at < end; at += <usize>threads * piece) {
    store<i32>(args + 16 + (<usize>thread << 2), read(at, min(end, at + piece)));
  }
}

/** 64 bytes at a time: what memory gives to one thread. */
export function read(from: usize, end: usize): i32 {
  let a = i32x4.splat(0);
  let b = a;
  let c = a;
  let d = a;
  while (from < end) {
    a = v128.xor(a, v128.load(from));
    b = v128.xor(b, v128.load(from, 16));
    c = v128.xor(c, v128.load(from, 32));
    d = v128.xor(d, v128.load(from, 48));
    from += 64;
  }
  return i32x4.extract_lane(v128.xor(v128.xor(a, b), v128.xor(c, d)), 0);
}
