// What a decoder computes beside its large products, in float32. The twin of every function is in ../reference.ts.
// A thread computes its share; where `private` is said, every thread computes all of it into memory of its own.

// @ts-ignore
@inline
function total(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
  );
}

/** How numbers are stored: float32, float16 or bfloat16. */
const half = 1;
const brain = 2;

/** Four float16 as float32: the exponent moved by a product with 2¹¹², which also makes subnormals right. */
// @ts-ignore
@inline
function fromHalf(at: usize): v128 {
  const h = v128.load16x4_u(at);
  const sign = i32x4.shl(v128.and(h, i32x4.splat(0x8000)), 16);
  const rest = i32x4.shl(v128.and(h, i32x4.splat(0x7fff)), 13);
  return v128.or(f32x4.mul(rest, f32x4.splat(reinterpret<f32>(0x77800000))), sign);
}

// @ts-ignore
@inline
function four(kind: i32, at: usize): v128 {
  if (kind == half) return fromHalf(at);
  if (kind == brain) return i32x4.shl(v128.load16x4_u(at), 16);
  return v128.load(at);
}

// @ts-ignore
@inline
function one(kind: i32, at: usize): f32 {
  if (kind == half) return f32x4.extract_lane(fromHalf1(load<u16>(at)), 0);
  if (kind == brain) return reinterpret<f32>(<u32>load<u16>(at) << 16);
  return load<f32>(at);
}

// @ts-ignore
@inline
function fromHalf1(bits: u16): v128 {
  const rest = reinterpret<f32>((<u32>bits & 0x7fff) << 13) * reinterpret<f32>(0x77800000);
  return f32x4.splat(bits & 0x8000 ? -rest : rest);
}

// @ts-ignore
@inline
function widthOf(kind: i32): usize {
  return kind == 0 ? 4 : 2;
}

/** Σ a·b over n values; a is stored as `kind` says. */
export function dot(kind: i32, a: usize, b: usize, n: usize): f32 {
  const width = widthOf(kind);
  const whole = n & ~7;
  let s = f32x4.splat(0);
  let r = f32x4.splat(0);
  let i: usize = 0;
  if (kind == half) {
    for (; i < whole; i += 8) {
      s = f32x4.add(s, f32x4.mul(fromHalf(a), v128.load(b)));
      r = f32x4.add(r, f32x4.mul(fromHalf(a + 8), v128.load(b, 16)));
      a += 16;
      b += 32;
    }
  } else if (kind == brain) {
    for (; i < whole; i += 8) {
      s = f32x4.add(s, f32x4.mul(four(brain, a), v128.load(b)));
      r = f32x4.add(r, f32x4.mul(four(brain, a + 8), v128.load(b, 16)));
      a += 16;
      b += 32;
    }
  } else {
    for (; i < whole; i += 8) {
      s = f32x4.add(s, f32x4.mul(v128.load(a), v128.load(b)));
      r = f32x4.add(r, f32x4.mul(v128.load(a, 16), v128.load(b, 16)));
      a += 32;
      b += 32;
    }
  }
  let sum = total(f32x4.add(s, r));
  for (; i < n; i++) {
    sum += one(kind, a) * load<f32>(b);
    a += width;
    b += 4;
  }
  return sum;
}

/**
 * Rows of an embedding. args: rows*, ids, table, kind, hidden, scale (f32), out, out's bytes a row, positions' table or 0,
 * its kind, positions. One after the other: every thread takes rows.
 */
export function embed(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const ids = load<usize>(args, 4);
  const table = load<usize>(args, 8);
  const kind = load<i32>(args, 12);
  const hidden = load<usize>(args, 16);
  const scale = load<f32>(args, 20);
  const out = load<usize>(args, 24);
  const outBytes = load<usize>(args, 28);
  const places = load<usize>(args, 32);
  const placesKind = load<i32>(args, 36);
  const positions = load<usize>(args, 40);
  for (let row = thread; row < rows; row += threads) {
    const at = <usize>row << 2;
    const from = table + <usize>load<u32>(ids + at) * hidden * widthOf(kind);
    const to = out + <usize>row * outBytes;
    for (let i: usize = 0; i < hidden; i++) store<f32>(to + (i << 2), one(kind, from + i * widthOf(kind)) * scale);
    if (places == 0) continue;
    const place = places + <usize>load<u32>(positions + at) * hidden * widthOf(placesKind);
    for (let i: usize = 0; i < hidden; i++) {
      const to4 = to + (i << 2);
      store<f32>(to4, load<f32>(to4) + one(placesKind, place + i * widthOf(placesKind)));
    }
  }
}

/** Root-mean-square or layer norm of n values. */
export function normRow(x: usize, n: usize, weight: usize, bias: usize, epsilon: f32, centred: i32, out: usize): void {
  let mean: f32 = 0;
  if (centred) {
    for (let i: usize = 0; i < n; i++) mean += load<f32>(x + (i << 2));
    mean /= <f32>n;
  }
  const whole = n & ~3;
  const m = f32x4.splat(mean);
  let squares = f32x4.splat(0);
  let i: usize = 0;
  for (; i < whole; i += 4) {
    const v = f32x4.sub(v128.load(x + (i << 2)), m);
    squares = f32x4.add(squares, f32x4.mul(v, v));
  }
  let sum = total(squares);
  for (; i < n; i++) {
    const v = load<f32>(x + (i << 2)) - mean;
    sum += v * v;
  }
  const inverse: f32 = 1 / sqrt<f32>(sum / <f32>n + epsilon);
  const scale = f32x4.splat(inverse);
  for (i = 0; i < whole; i += 4) {
    const at = <usize>i << 2;
    let v = f32x4.mul(f32x4.mul(f32x4.sub(v128.load(x + at), m), scale), v128.load(weight + at));
    if (bias) v = f32x4.add(v, v128.load(bias + at));
    v128.store(out + at, v);
  }
  for (; i < n; i++) {
    const at = <usize>i << 2;
    let v = (load<f32>(x + at) - mean) * inverse * load<f32>(weight + at);
    if (bias) v += load<f32>(bias + at);
    store<f32>(out + at, v);
  }
}

/**
 * Norms of rows. args: rows*, x, x's bytes a row, n, weight, bias or 0, epsilon (f32), centred, out, out's bytes a row,
 * out's bytes a thread. With bytes a thread it is private; without, threads take rows.
 */
export function norm(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const x = load<usize>(args, 4);
  const rowBytes = load<usize>(args, 8);
  const n = load<usize>(args, 12);
  const weight = load<usize>(args, 16);
  const bias = load<usize>(args, 20);
  const epsilon = load<f32>(args, 24);
  const centred = load<i32>(args, 28);
  const outBytes = load<usize>(args, 36);
  const perThread = load<usize>(args, 40);
  const out = load<usize>(args, 32) + <usize>thread * perThread;
  const step = perThread == 0 ? threads : 1;
  for (let row = perThread == 0 ? thread : 0; row < rows; row += step) {
    normRow(x + <usize>row * rowBytes, n, weight, bias, epsilon, centred, out + <usize>row * outBytes);
  }
}

/** x += y, by rows. args: rows*, x, x's bytes a row, y, y's bytes a row, n. Threads take rows. */
export function addRows(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const n = load<usize>(args, 20);
  for (let row = thread; row < rows; row += threads) {
    const x = load<usize>(args, 4) + <usize>row * load<usize>(args, 8);
    const y = load<usize>(args, 12) + <usize>row * load<usize>(args, 16);
    for (let i: usize = 0; i < n; i++) {
      const at = <usize>i << 2;
      store<f32>(x + at, load<f32>(x + at) + load<f32>(y + at));
    }
  }
}

/** eˣ: 2ⁿ·p(r), r within ±ln2/2; coefficients of Cephes' expf, error about 1 ulp. */
// @ts-ignore
@inline
function exp4(value: v128): v128 {
  const x = f32x4.max(f32x4.splat(-87), f32x4.min(f32x4.splat(88), value));
  const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.44269504)));
  let r = f32x4.sub(x, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(-2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1));
  const power = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  return f32x4.mul(p, power);
}

// @ts-ignore
@inline
function exp1(x: f32): f32 {
  return f32x4.extract_lane(exp4(f32x4.splat(x)), 0);
}

/** 1/(1 + e⁻ˣ). */
// @ts-ignore
@inline
function sigmoid(x: v128): v128 {
  return f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), exp4(f32x4.neg(x))));
}

/** tanh x = 2·sigmoid(2x) − 1. */
// @ts-ignore
@inline
function tanh4(x: v128): v128 {
  return f32x4.sub(f32x4.mul(f32x4.splat(2), sigmoid(f32x4.add(x, x))), f32x4.splat(1));
}

/** erf by Abramowitz & Stegun 7.1.26, |error| ≤ 1.5e-7. */
// @ts-ignore
@inline
function erf4(x: v128): v128 {
  const a = f32x4.abs(x);
  const t = f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), f32x4.mul(f32x4.splat(0.3275911), a)));
  let p = f32x4.splat(1.061405429);
  p = f32x4.add(f32x4.mul(p, t), f32x4.splat(-1.453152027));
  p = f32x4.add(f32x4.mul(p, t), f32x4.splat(1.421413741));
  p = f32x4.add(f32x4.mul(p, t), f32x4.splat(-0.284496736));
  p = f32x4.add(f32x4.mul(p, t), f32x4.splat(0.254829592));
  const y = f32x4.sub(f32x4.splat(1), f32x4.mul(f32x4.mul(p, t), exp4(f32x4.neg(f32x4.mul(a, a)))));
  return v128.or(y, v128.and(x, i32x4.splat(i32.MIN_VALUE)));
}

// The order of `activationKinds` in ../../decode.
function activate4(kind: i32, x: v128): v128 {
  if (kind == 0) return f32x4.mul(x, sigmoid(x));
  if (kind == 1) {
    const inner = f32x4.mul(
      f32x4.splat(0.7978845608),
      f32x4.add(x, f32x4.mul(f32x4.splat(0.044715), f32x4.mul(x, f32x4.mul(x, x)))),
    );
    return f32x4.mul(f32x4.mul(f32x4.splat(0.5), x), f32x4.add(f32x4.splat(1), tanh4(inner)));
  }
  if (kind == 2) {
    const e = erf4(f32x4.mul(x, f32x4.splat(0.7071067812)));
    return f32x4.mul(f32x4.mul(f32x4.splat(0.5), x), f32x4.add(f32x4.splat(1), e));
  }
  if (kind == 3) return f32x4.max(x, f32x4.splat(0));
  return tanh4(x);
}

/**
 * out = f(gate)·up, or f(gate) without up. args: rows*, gate, gate's bytes a row, up or 0, up's bytes a row, n, kind of
 * f, out, out's bytes a row. n is cut into shares of 4; buffers hold a multiple of 4.
 */
export function activate(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const up = load<usize>(args, 12);
  const fours = (load<usize>(args, 20) + 3) >> 2;
  const kind = load<i32>(args, 24);
  const first = fours * thread / threads;
  const last = fours * (thread + 1) / threads;
  for (let row = 0; row < rows; row++) {
    const from = load<usize>(args, 4) + <usize>row * load<usize>(args, 8);
    const by: usize = up == 0 ? <usize>0 : up + <usize>row * load<usize>(args, 16);
    const to = load<usize>(args, 28) + <usize>row * load<usize>(args, 32);
    for (let i = first; i < last; i++) {
      const at = <usize>i << 4;
      let v = activate4(kind, v128.load(from + at));
      if (by != 0) v = f32x4.mul(v, v128.load(by + at));
      v128.store(to + at, v);
    }
  }
}

/** Rotate pairs (i, i + n/2) of n values by cosines and sines [n/2]. */
// @ts-ignore
@inline
function rotate(x: usize, n: usize, cos: usize, sin: usize): void {
  const pairs = n >> 1;
  for (let i: usize = 0; i < pairs; i++) {
    const at = <usize>i << 2;
    const far = at + (<usize>pairs << 2);
    const c = load<f32>(cos + at);
    const s = load<f32>(sin + at);
    const a = load<f32>(x + at);
    const b = load<f32>(x + far);
    store<f32>(x + at, a * c - b * s);
    store<f32>(x + far, b * c + a * s);
  }
}

/**
 * Attention of a layer with its cache. A thread takes whole groups of query heads with their key head, so that nothing it
 * reads of this call was written by another.
 * args: rows*, positions, caches (a byte offset a row), capacities (tokens, a row), query, key, value, bytes a row of each
 * of them, heads, key heads, head dim, scale (f32), window or 0, cap (f32) or 0, rotated dims, cosines and sines
 * [rows][dims/2], their bytes a row, weights of norms of queries and keys or 0, their epsilon (f32), layer, out, out's
 * bytes a row, scratch, its bytes a thread.
 * Cache of a layer: keys, then values: [key heads][capacity][head dim].
 */
export function attend(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const positions = load<usize>(args, 4);
  const caches = load<usize>(args, 8);
  const capacities = load<usize>(args, 12);
  const query = load<usize>(args, 16);
  const key = load<usize>(args, 20);
  const value = load<usize>(args, 24);
  const queryBytes = load<usize>(args, 28);
  const keyBytes = load<usize>(args, 32);
  const valueBytes = load<usize>(args, 36);
  const heads = load<usize>(args, 40);
  const keyHeads = load<usize>(args, 44);
  const dim = load<usize>(args, 48);
  const scale = load<f32>(args, 52);
  const window = load<usize>(args, 56);
  const cap = load<f32>(args, 60);
  const rotated = load<usize>(args, 64);
  const cos = load<usize>(args, 68);
  const sin = load<usize>(args, 72);
  const tableBytes = load<usize>(args, 76);
  const queryNorm = load<usize>(args, 80);
  const keyNorm = load<usize>(args, 84);
  const epsilon = load<f32>(args, 88);
  const layer = load<usize>(args, 92);
  const out = load<usize>(args, 96);
  const outBytes = load<usize>(args, 100);
  const scores = load<usize>(args, 104) + <usize>thread * load<usize>(args, 108);
  const group = heads / keyHeads;
  const dimBytes = <usize>dim << 2;
  const first = keyHeads * thread / threads;
  const last = keyHeads * (thread + 1) / threads;
  for (let head = first; head < last; head++) {
    for (let row = 0; row < rows; row++) {
      const at = <usize>row << 2;
      const capacity = load<u32>(capacities + at);
      const place = cacheOf(load<usize>(caches + at), layer, keyHeads, head, capacity, dimBytes);
      const slot = <usize>load<u32>(positions + at) * dimBytes;
      const k = key + <usize>row * keyBytes + head * dimBytes;
      if (keyNorm) normRow(k, dim, keyNorm, 0, epsilon, 0, k);
      if (rotated) rotate(k, rotated, cos + <usize>row * tableBytes, sin + <usize>row * tableBytes);
      memory.copy(place + slot, k, dimBytes);
      memory.copy(
        place + <usize>keyHeads * capacity * dimBytes + slot,
        value + <usize>row * valueBytes + head * dimBytes,
        dimBytes,
      );
    }
    for (let row = 0; row < rows; row++) {
      const at = <usize>row << 2;
      const capacity = load<u32>(capacities + at);
      const keys = cacheOf(load<usize>(caches + at), layer, keyHeads, head, capacity, dimBytes);
      const values = keys + <usize>keyHeads * capacity * dimBytes;
      const position = load<u32>(positions + at);
      const from: usize = window != 0 && position + 1 > window ? <usize>(position + 1 - window) : <usize>0;
      for (let i: usize = 0; i < group; i++) {
        const q = query + <usize>row * queryBytes + (head * group + i) * dimBytes;
        if (queryNorm) normRow(q, dim, queryNorm, 0, epsilon, 0, q);
        if (rotated) rotate(q, rotated, cos + <usize>row * tableBytes, sin + <usize>row * tableBytes);
        const to = out + <usize>row * outBytes + (head * group + i) * dimBytes;
        attendHead(q, keys, values, from, position, dim, scale, cap, scores, to);
      }
    }
  }
}

// @ts-ignore
@inline
function cacheOf(cache: usize, layer: usize, keyHeads: usize, head: usize, capacity: usize, dimBytes: usize): usize {
  return cache + (layer * 2 * keyHeads + head) * capacity * dimBytes;
}

/** out = Σ softmax(q·k·scale)·v over positions from…to. */
export function attendHead(
  q: usize,
  keys: usize,
  values: usize,
  from: usize,
  to: usize,
  dim: usize,
  scale: f32,
  cap: f32,
  scores: usize,
  out: usize,
): void {
  const dimBytes = <usize>dim << 2;
  let most: f32 = -Infinity;
  for (let j = from; j <= to; j++) {
    let score = dot(0, keys + j * dimBytes, q, dim) * scale;
    if (cap != 0) score = cap * f32x4.extract_lane(tanh4(f32x4.splat(score / cap)), 0);
    store<f32>(scores + (<usize>(j - from) << 2), score);
    most = max(most, score);
  }
  let sum: f32 = 0;
  for (let j = from; j <= to; j++) {
    const at = scores + (<usize>(j - from) << 2);
    const weight = exp1(load<f32>(at) - most);
    store<f32>(at, weight);
    sum += weight;
  }
  const inverse: f32 = 1 / sum;
  memory.fill(out, 0, dimBytes);
  const whole = dim & ~3;
  for (let j = from; j <= to; j++) {
    const weight = load<f32>(scores + (<usize>(j - from) << 2)) * inverse;
    const v = values + j * dimBytes;
    const w = f32x4.splat(weight);
    let i: usize = 0;
    for (; i < whole; i += 4) {
      const at = <usize>i << 2;
      v128.store(out + at, f32x4.add(v128.load(out + at), f32x4.mul(v128.load(v + at), w)));
    }
    for (; i < dim; i++) {
      const at = <usize>i << 2;
      store<f32>(out + at, load<f32>(out + at) + load<f32>(v + at) * weight);
    }
  }
}

/**
 * y = Wx of a weight that is not packed: W [outputs][inputs] stored as `kind` says. args: rows*, picks of rows or 0, x,
 * x's bytes a row, x's bytes a thread, W, kind, outputs, inputs, y, y's bytes a row, bias or 0, whether to add to y,
 * cap (f32) or 0. Threads take outputs; `rows` counts picks when there are any.
 */
export function dense(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const picks = load<usize>(args, 4);
  const x = load<usize>(args, 8) + <usize>thread * load<usize>(args, 16);
  const rowBytes = load<usize>(args, 12);
  const weight = load<usize>(args, 20);
  const kind = load<i32>(args, 24);
  const outputs = load<usize>(args, 28);
  const inputs = load<usize>(args, 32);
  const y = load<usize>(args, 36);
  const yBytes = load<usize>(args, 40);
  const bias = load<usize>(args, 44);
  const adds = load<i32>(args, 48);
  const cap = load<f32>(args, 52);
  const weightBytes = <usize>inputs * widthOf(kind);
  const first = outputs * thread / threads;
  const last = outputs * (thread + 1) / threads;
  for (let o = first; o < last; o++) {
    const w = weight + <usize>o * weightBytes;
    const at = <usize>o << 2;
    for (let row = 0; row < rows; row++) {
      const from = picks == 0 ? <usize>row : <usize>load<u32>(picks + (<usize>row << 2));
      let sum = dot(kind, w, x + from * rowBytes, inputs);
      if (bias != 0) sum += load<f32>(bias + at);
      if (cap != 0) sum = cap * f32x4.extract_lane(tanh4(f32x4.splat(sum / cap)), 0);
      const to = y + <usize>row * yBytes + at;
      store<f32>(to, adds ? load<f32>(to) + sum : sum);
    }
  }
}

/**
 * y += B(Ax): a low-rank update of a product. args: rows*, x, x's bytes a row, x's bytes a thread, A [rank][inputs],
 * rank, inputs, B [outputs][rank], outputs, y, y's bytes a row, outputs that threads share in multiples of, scratch, its
 * bytes a thread.
 * Every thread computes Ax; then it adds to the outputs that are its own in `product`.
 */
export function update(thread: i32, threads: i32, args: usize): void {
  const rows = load<i32>(load<usize>(args));
  const x = load<usize>(args, 4) + <usize>thread * load<usize>(args, 12);
  const rowBytes = load<usize>(args, 8);
  const a = load<usize>(args, 16);
  const rank = load<usize>(args, 20);
  const inputs = load<usize>(args, 24);
  const b = load<usize>(args, 28);
  const outputs = load<usize>(args, 32);
  const y = load<usize>(args, 36);
  const yBytes = load<usize>(args, 40);
  const share = load<usize>(args, 44);
  const inner = load<usize>(args, 48) + <usize>thread * load<usize>(args, 52);
  const parts = (outputs + share - 1) / share;
  const first = min(outputs, parts * thread / threads * share);
  const last = min(outputs, parts * (thread + 1) / threads * share);
  for (let row = 0; row < rows; row++) {
    const from = x + <usize>row * rowBytes;
    for (let i: usize = 0; i < rank; i++) {
      store<f32>(inner + (i << 2), dot(0, a + ((<usize>i * inputs) << 2), from, inputs));
    }
    for (let o = first; o < last; o++) {
      const to = y + <usize>row * yBytes + (<usize>o << 2);
      store<f32>(to, load<f32>(to) + dot(0, b + ((<usize>o * rank) << 2), inner, rank));
    }
  }
}
