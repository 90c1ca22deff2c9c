// Products with binary matrices by table look-up. The twin of every function is in ../reference.ts, with the formulas.
//
// Letters: a table is 16 bytes, the sums ±x0±x1±x2±x3 of four columns in steps of a scale, biased by 128. A block is up
// to 32 tables that share a scale. A pass is one set of tables that covers all columns: one for each plane, group of
// rows and byte of an entry.

const tablesPerBlock: usize = 32;

/** 1.5·2²³: adding it to |v| < 2²² leaves v, rounded to the nearest integer (half to even), in the low bits. */
const magic: f32 = 12582912;
const magicBits: i32 = 0x4b400000;

/**
 * args: rows*, x, x's bytes a row, x's bytes a thread, order or 0, alpha or 0, columns that share an alpha, columns,
 * tables, passes without bytes, bytes of an entry (1 to 3), tables out, scales out, scratch (a thread's 1 KiB).
 */
export function makeTables(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const x = load<usize>(args, 4) + <usize>thread * load<usize>(args, 12);
  const rowBytes = load<usize>(args, 8);
  const order = load<usize>(args, 16);
  const alpha = load<usize>(args, 20);
  const share = load<usize>(args, 24);
  const columns = load<usize>(args, 28);
  const tables = load<usize>(args, 32);
  const passes = load<usize>(args, 36);
  const bytes = load<usize>(args, 40);
  const out = load<usize>(args, 44);
  const scales = load<usize>(args, 48);
  const scratch = load<usize>(args, 52) + (<usize>thread << 10);
  const blocks = (tables + tablesPerBlock - 1) / tablesPerBlock;
  const first = blocks * thread / threads;
  const last = blocks * (thread + 1) / threads;
  const alphas: usize = share == 0 ? <usize>0 : (columns + share - 1) / share;
  for (let row = 0; row < rows; row++) {
    const from = x + <usize>row * rowBytes;
    const rowPass = <usize>row * passes * bytes;
    for (let block = first; block < last; block++) {
      const table = block * tablesPerBlock;
      const count = min(tablesPerBlock, tables - table);
      const column = table << 2;
      gather(from, order, column, columns, count << 2, scratch);
      for (let pass: usize = 0; pass < passes; pass++) {
        const at = rowPass + pass * bytes;
        blockTables(
          scratch,
          alpha == 0 ? 0 : alpha + ((pass * alphas) << 2),
          share,
          column,
          columns,
          count,
          bytes,
          out + ((at * tables + table) << 4),
          <usize>tables << 4,
          scales + ((at * blocks + block) << 2),
          <usize>blocks << 2,
        );
      }
    }
  }
}

/** `count` inputs from `column` on, in the stored order of columns; zeros beyond the last column. */
// @ts-ignore
@inline
function gather(from: usize, order: usize, column: usize, columns: usize, count: usize, to: usize): void {
  const real = columns > column ? min(count, columns - column) : 0;
  if (order == 0) memory.copy(to, from + (column << 2), <usize>real << 2);
  else {
    for (let i: usize = 0; i < real; i++) {
      store<f32>(to + (i << 2), load<f32>(from + (<usize>load<u32>(order + ((column + i) << 2)) << 2)));
    }
  }
  for (let i = real; i < count; i++) store<f32>(to + (i << 2), 0);
}

export function blockTables(
  x: usize,
  alpha: usize,
  share: usize,
  column: usize,
  columns: usize,
  count: usize,
  bytes: usize,
  out: usize,
  outBytes: usize,
  scale: usize,
  scaleBytes: usize,
): void {
  const scaled = x + 512;
  let largest = f32x4.splat(0);
  for (let t: usize = 0; t < count; t++) {
    const at = <usize>t << 4;
    const k = column + (t << 2);
    let v = v128.load(x + at);
    if (alpha != 0) {
      if (share != 1) v = f32x4.mul(v, f32x4.splat(load<f32>(alpha + (min(k, columns - 1) / share << 2))));
      else if (k + 4 <= columns) v = f32x4.mul(v, v128.load(alpha + (k << 2)));
      else v = f32x4.mul(v, tail(alpha, k, columns));
    }
    v128.store(scaled + at, v);
    const a = f32x4.abs(v);
    const b = f32x4.add(a, i32x4.shuffle(a, a, 1, 0, 3, 2));
    largest = f32x4.max(largest, f32x4.add(b, i32x4.shuffle(b, b, 2, 3, 0, 1)));
  }
  const most = f32x4.extract_lane(largest, 0);
  const steps: f32 = <f32>(127 << ((bytes - 1) << 3)); // the highest byte stays within ±127
  const inverse: f32 = most == 0 ? <f32>0 : steps / most;
  const step: f32 = most / steps;
  const even = i32x4(i32.MIN_VALUE, 0, i32.MIN_VALUE, 0);
  const pairs = i32x4(i32.MIN_VALUE, i32.MIN_VALUE, 0, 0);
  const round = f32x4.splat(magic);
  const bits = i32x4.splat(magicBits);
  const bias = i8x16.splat(-128);
  for (let t: usize = 0; t < count; t++) {
    const at = <usize>t << 4;
    const v = f32x4.mul(v128.load(scaled + at), f32x4.splat(inverse));
    const p = f32x4.add(
      v128.xor(i32x4.shuffle(v, v, 0, 0, 0, 0), even),
      v128.xor(i32x4.shuffle(v, v, 1, 1, 1, 1), pairs),
    );
    const x2 = i32x4.shuffle(v, v, 2, 2, 2, 2);
    const x3 = i32x4.shuffle(v, v, 3, 3, 3, 3);
    const sum = f32x4.add(x2, x3);
    const difference = f32x4.sub(x2, x3);
    const s0 = f32x4.sub(p, sum);
    const s1 = f32x4.add(p, difference);
    const s2 = f32x4.sub(p, difference);
    const s3 = f32x4.add(p, sum);
    if (bytes == 1) {
      const v0 = i32x4.sub(f32x4.add(s0, round), bits);
      const v1 = i32x4.sub(f32x4.add(s1, round), bits);
      const v2 = i32x4.sub(f32x4.add(s2, round), bits);
      const v3 = i32x4.sub(f32x4.add(s3, round), bits);
      v128.store(out + at, v128.xor(narrow(v0, v1, v2, v3), bias));
      continue;
    }
    let v0 = i32x4.trunc_sat_f32x4_s(f32x4.nearest(s0));
    let v1 = i32x4.trunc_sat_f32x4_s(f32x4.nearest(s1));
    let v2 = i32x4.trunc_sat_f32x4_s(f32x4.nearest(s2));
    let v3 = i32x4.trunc_sat_f32x4_s(f32x4.nearest(s3));
    for (let byte = bytes - 1; byte > 0; byte--) {
      const l0 = lowByte(v0);
      const l1 = lowByte(v1);
      const l2 = lowByte(v2);
      const l3 = lowByte(v3);
      v128.store(out + byte * outBytes + at, v128.xor(narrow(l0, l1, l2, l3), bias));
      v0 = i32x4.shr_s(i32x4.sub(v0, l0), 8);
      v1 = i32x4.shr_s(i32x4.sub(v1, l1), 8);
      v2 = i32x4.shr_s(i32x4.sub(v2, l2), 8);
      v3 = i32x4.shr_s(i32x4.sub(v3, l3), 8);
    }
    v128.store(out + at, v128.xor(narrow(v0, v1, v2, v3), bias));
  }
  let size = step;
  for (let byte = bytes; byte > 0; byte--) {
    store<f32>(scale + (byte - 1) * scaleBytes, size);
    size *= 256;
  }
}

/** The lowest byte as a number from −128 to 127. */
// @ts-ignore
@inline
function lowByte(v: v128): v128 {
  return i32x4.shr_s(i32x4.shl(v, 24), 24);
}

// @ts-ignore
@inline
function narrow(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}

/** The alphas from column k on, with zeros beyond the last. */
// @ts-ignore
@inline
function tail(alpha: usize, k: usize, columns: usize): v128 {
  let v = f32x4.splat(0);
  if (k < columns) v = f32x4.replace_lane(v, 0, load<f32>(alpha + (k << 2)));
  if (k + 1 < columns) v = f32x4.replace_lane(v, 1, load<f32>(alpha + ((k + 1) << 2)));
  if (k + 2 < columns) v = f32x4.replace_lane(v, 2, load<f32>(alpha + ((k + 2) << 2)));
  return v;
}

/**
 * y[64] += the tables' sums of one tile, one pass: planes [tables][2][16], tables [tables][16] of which there are an
 * even number, one scale a block.
 *
 * A vector of 16 looked-up bytes is added to 16-bit lanes twice: as it is, which gives even + 256·odd, and shifted,
 * which gives odd; so no byte is ever widened. 32 biased entries stay far below 2¹⁶. The planes' order of bytes makes the
 * even lanes the first 8 of 16 rows and the odd lanes the last 8. One half of a tile at a time: four accumulators and two
 * tables fit V8's registers, where eight spill.
 */
export function tile(planes: usize, tables: usize, scales: usize, y: usize, count: usize): void {
  const end = tables + (count << 4);
  while (tables < end) {
    const stop = min(end, tables + (tablesPerBlock << 4));
    const scale = v128.load32_splat(scales);
    halfBlock(planes, tables, stop, scale, y);
    halfBlock(planes + 16, tables, stop, scale, y + 128);
    planes += (stop - tables) << 1;
    tables = stop;
    scales += 4;
  }
}

/** 32 rows of one block. */
// @ts-ignore
@inline
function halfBlock(planes: usize, tables: usize, stop: usize, scale: v128, y: usize): void {
  const mask = i8x16.splat(15);
  let b0 = i16x8.splat(<i16>(0 - ((stop - tables) << 3))); // the bias: 128 a table
  let a0 = i16x8.add(b0, i16x8.shl(b0, 8));
  let a1 = a0;
  let b1 = b0;
  while (tables < stop) {
    const t = v128.load(tables);
    const p = v128.load(planes);
    let v = lookUp(t, v128.and(p, mask));
    a0 = i16x8.add(a0, v);
    b0 = i16x8.add(b0, i16x8.shr_u(v, 8));
    v = lookUp(t, v128.and(i16x8.shr_u(p, 4), mask));
    a1 = i16x8.add(a1, v);
    b1 = i16x8.add(b1, i16x8.shr_u(v, 8));
    const u = v128.load(tables, 16);
    const q = v128.load(planes, 32);
    v = lookUp(u, v128.and(q, mask));
    a0 = i16x8.add(a0, v);
    b0 = i16x8.add(b0, i16x8.shr_u(v, 8));
    v = lookUp(u, v128.and(i16x8.shr_u(q, 4), mask));
    a1 = i16x8.add(a1, v);
    b1 = i16x8.add(b1, i16x8.shr_u(v, 8));
    tables += 32;
    planes += 64;
  }
  flush(y, i16x8.sub(a0, i16x8.shl(b0, 8)), scale, 0);
  flush(y, b0, scale, 32);
  flush(y, i16x8.sub(a1, i16x8.shl(b1, 8)), scale, 64);
  flush(y, b1, scale, 96);
}

// @ts-ignore
@inline
function lookUp(table: v128, indices: v128): v128 {
  // Indices are below 16, where both instructions agree.
  return ASC_FEATURE_RELAXED_SIMD ? i8x16.relaxed_swizzle(table, indices) : i8x16.swizzle(table, indices);
}

// @ts-ignore
@inline
function flush(y: usize, sums: v128, scale: v128, at: usize): void {
  const low = f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(sums));
  const high = f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(sums));
  v128.store(y + at, f32x4.add(v128.load(y + at), f32x4.mul(low, scale)));
  v128.store(y + at + 16, f32x4.add(v128.load(y + at + 16), f32x4.mul(high, scale)));
}

/**
 * args: rows*, planes, tiles, tables, planes of a tile's bytes, passes of a row (planes · groups · bytes), groups of
 * rows, rows in a group, tables, scales, y, y's bytes a row, bias or 0, whether to add to y, scratch (a thread's 1 KiB).
 * Row groups: table passes are [plane][group][byte].
 */
export function product(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const planes = load<usize>(args, 4);
  const tiles = load<usize>(args, 8);
  const tables = load<usize>(args, 12);
  const bits = load<usize>(args, 16);
  const bytes = load<usize>(args, 20);
  const groups = load<usize>(args, 24);
  const groupRows = load<usize>(args, 28);
  const table = load<usize>(args, 32);
  const scales = load<usize>(args, 36);
  const y = load<usize>(args, 40);
  const yBytes = load<usize>(args, 44);
  const bias = load<usize>(args, 48);
  const adds = load<i32>(args, 52);
  const scratch = load<usize>(args, 56) + (<usize>thread << 10);
  const blocks = (tables + tablesPerBlock - 1) / tablesPerBlock;
  const passes = bits * groups * bytes;
  const first = tiles * thread / threads;
  const last = tiles * (thread + 1) / threads;
  for (let at = first; at < last; at++) {
    for (let row = 0; row < rows; row++) {
      const out = y + <usize>row * yBytes + (<usize>at << 8);
      start(out, bias == 0 ? 0 : bias + (<usize>at << 8), adds);
      const low: usize = groups == 1 ? <usize>0 : min((at << 6) / groupRows, groups - 1);
      const high: usize = groups == 1 ? <usize>0 : min(((at << 6) + 63) / groupRows, groups - 1);
      for (let group = low; group <= high; group++) {
        const whole = low == high;
        const into = whole ? out : scratch;
        if (!whole) memory.fill(scratch, 0, 256);
        for (let plane: usize = 0; plane < bits; plane++) {
          const codes = planes + (((plane * tiles + at) * tables) << 5);
          for (let byte: usize = 0; byte < bytes; byte++) {
            const pass = <usize>row * passes + (plane * groups + group) * bytes + byte;
            tile(codes, table + ((pass * tables) << 4), scales + ((pass * blocks) << 2), into, tables);
          }
        }
        if (!whole) addRows(out, scratch, at << 6, group * groupRows, (group + 1) * groupRows);
      }
    }
  }
}

/** What a tile's sums are added to: what is there, a bias, or zeros. */
// @ts-ignore
@inline
function start(out: usize, bias: usize, adds: i32): void {
  if (adds == 0) {
    if (bias == 0) memory.fill(out, 0, 256);
    else memory.copy(out, bias, 256);
  } else if (bias != 0) {
    for (let i: usize = 0; i < 256; i += 16) v128.store(out + i, f32x4.add(v128.load(out + i), v128.load(bias + i)));
  }
}

/** Add those of 64 values whose rows, from `row` on, are within [from, to). */
// @ts-ignore
@inline
function addRows(out: usize, values: usize, row: usize, from: usize, to: usize): void {
  for (let i: usize = 0; i < 64; i++) {
    if (row + i < from || row + i >= to) continue;
    const at = <usize>i << 2;
    store<f32>(out + at, load<f32>(out + at) + load<f32>(values + at));
  }
}

/**
 * Scales along rows. args as `product` up to bytes, then: groups of columns, tables in a group, tables, scales, y, y's
 * bytes a row, bias or 0, whether to add to y, scratch, row scales [planes or 1][groups][tiles·64], offsets
 * [groups][tiles·64] or 0, sums of inputs [rows][groups], whether the planes share their scales (each twice the last).
 */
export function rowProduct(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const planes = load<usize>(args, 4);
  const tiles = load<usize>(args, 8);
  const tables = load<usize>(args, 12);
  const bits = load<usize>(args, 16);
  const bytes = load<usize>(args, 20);
  const groups = load<usize>(args, 24);
  const perGroup = load<usize>(args, 28);
  const table = load<usize>(args, 32);
  const scales = load<usize>(args, 36);
  const y = load<usize>(args, 40);
  const yBytes = load<usize>(args, 44);
  const bias = load<usize>(args, 48);
  const adds = load<i32>(args, 52);
  const scratch = load<usize>(args, 56) + (<usize>thread << 10);
  const rowScales = load<usize>(args, 60);
  const offsets = load<usize>(args, 64);
  const sums = load<usize>(args, 68);
  const shared = load<i32>(args, 72);
  const blocks = (tables + tablesPerBlock - 1) / tablesPerBlock;
  const first = tiles * thread / threads;
  const last = tiles * (thread + 1) / threads;
  for (let at = first; at < last; at++) {
    for (let row = 0; row < rows; row++) {
      const out = y + <usize>row * yBytes + (<usize>at << 8);
      start(out, bias == 0 ? 0 : bias + (<usize>at << 8), adds);
      for (let group: usize = 0; group < groups; group++) {
        const from = group * perGroup;
        const count = min(perGroup, tables - from);
        if (offsets != 0) {
          const total = v128.load32_splat(sums + ((<usize>row * groups + group) << 2));
          addScaled(out, offsets + ((group * tiles + at) << 8), total, 0);
        }
        let weight: f32 = 1;
        for (let plane: usize = 0; plane < bits; plane++) {
          memory.fill(scratch, 0, 256);
          const codes = planes + (((plane * tiles + at) * tables + from) << 5);
          for (let byte: usize = 0; byte < bytes; byte++) {
            const pass = <usize>row * bytes + byte;
            spans(codes, table + ((pass * tables) << 4), scales + ((pass * blocks) << 2), scratch, from, count);
          }
          const scale = rowScales + ((((shared ? 0 : plane) * groups + group) * tiles + at) << 8);
          addScaled(out, scale, f32x4.splat(weight), scratch);
          if (shared) weight *= 2;
        }
      }
    }
  }
}

/** Tables [from, from + count), cut where blocks end. */
// @ts-ignore
@inline
function spans(codes: usize, table: usize, scales: usize, y: usize, from: usize, count: usize): void {
  const end = from + count;
  for (let t = from; t < end; ) {
    const block = t / tablesPerBlock;
    const stop = min(end, (block + 1) * tablesPerBlock);
    tile(codes + (<usize>(t - from) << 5), table + (<usize>t << 4), scales + (<usize>block << 2), y, stop - t);
    t = stop;
  }
}

/** out[64] += values[64]·weight, and ·factors[64] when there are any. */
// @ts-ignore
@inline
function addScaled(out: usize, values: usize, weight: v128, factors: usize): void {
  for (let i: usize = 0; i < 256; i += 16) {
    let v = f32x4.mul(v128.load(values + i), weight);
    if (factors != 0) v = f32x4.mul(v, v128.load(factors + i));
    v128.store(out + i, f32x4.add(v128.load(out + i), v));
  }
}

/** Sums of groups of inputs. args: rows*, x, x's bytes a row, x's bytes a thread, order or 0, columns, columns in a group, out. */
export function groupSums(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const x = load<usize>(args, 4) + <usize>thread * load<usize>(args, 12);
  const rowBytes = load<usize>(args, 8);
  const order = load<usize>(args, 16);
  const columns = load<usize>(args, 20);
  const share = load<usize>(args, 24);
  const out = load<usize>(args, 28);
  const groups = (columns + share - 1) / share;
  const first = groups * thread / threads;
  const last = groups * (thread + 1) / threads;
  for (let row = 0; row < rows; row++) {
    const from = x + <usize>row * rowBytes;
    for (let group = first; group < last; group++) {
      let sum: f32 = 0;
      const end = min(columns, (group + 1) * share);
      for (let k = group * share; k < end; k++) {
        const input = order == 0 ? k : load<u32>(order + (k << 2));
        sum += load<f32>(from + (<usize>input << 2));
      }
      store<f32>(out + ((<usize>row * groups + group) << 2), sum);
    }
  }
}
