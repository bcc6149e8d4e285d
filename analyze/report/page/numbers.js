// Exact arithmetic and the command's own ways of writing numbers: Python rounds a tie to the even digit, and so do these.

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=:?@^_`{|}~";

/** Lists of integers from LEB128 in zlib in base 85, a word each (analyze/overviews/packing.py). */
const unpacked = (text) => Promise.all(text.split(" ").map(unpackedWord));

const inflated = (word) => new Response(new Blob([bytesOf(word)]).stream().pipeThrough(new DecompressionStream("deflate")));

async function unpackedWord(word) {
  const data = new Uint8Array(await inflated(word).arrayBuffer());
  let size = 0;
  for (const byte of data) if (byte < 128) size++;
  const numbers = new Float64Array(size);
  for (let i = 0, at = 0; i < size; i++) {
    let value = 0, scale = 1, byte;
    do {
      byte = data[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    numbers[i] = value;
  }
  return numbers;
}

/** Four bytes of each five letters; the last group may be shorter. */
function bytesOf(word) {
  const values = new Uint8Array(128);
  for (let i = 0; i < letters.length; i++) values[letters.charCodeAt(i)] = i;
  const view = new DataView(new ArrayBuffer(4 * Math.ceil(word.length / 5)));
  for (let at = 0, byte = 0; at < word.length; at += 5, byte += 4) {
    let value = 0;
    for (let i = at; i < at + 5; i++) value = value * 85 + (i < word.length ? values[word.charCodeAt(i)] : 84);
    view.setUint32(byte, value);
  }
  return new Uint8Array(view.buffer, 0, Math.floor(word.length * 4 / 5));
}

/** The double nearest to above / below, two BigInts; ties to even. */
function nearestDouble(above, below) {
  if (above === 0n) return 0;
  const size = (value) => value.toString(2).length;
  let shift = 55 - (size(above) - size(below)); // at least 54 bits of quotient, and one that says whether more follow
  const [n, d] = shift > 0 ? [above << BigInt(shift), below] : [above, below << BigInt(-shift)];
  let quotient = n / d;
  if (quotient * d !== n) quotient |= 1n;
  const spare = size(quotient) - 53;
  const unit = 1n << BigInt(spare);
  const rest = quotient & (unit - 1n);
  let kept = quotient >> BigInt(spare);
  if (rest * 2n > unit || (rest * 2n === unit && kept & 1n)) kept += 1n;
  shift -= spare;
  return shift > 1000 ? (Number(kept) / 2 ** 1000) / 2 ** (shift - 1000) : Number(kept) * 2 ** -shift;
}

/** Digits rounded to the first `places`, ties to even: a string of at least that many digits. */
function roundedDigits(digits, places) {
  const kept = BigInt(digits.slice(0, places) || "0");
  const rest = digits.slice(places);
  const half = "5".padEnd(rest.length, "0");
  const up = rest.length > 0 && (rest > half || (rest === half && kept % 2n === 1n));
  return String(up ? kept + 1n : kept).padStart(places, "0");
}

const thousands = (digits) => digits.replace(/\B(?=(\d{3})+$)/g, ",");

/** Python's f"{value:,.{places}f}". */
function fixed(value, places) {
  const [whole, fraction] = value.toFixed(80).split(".");
  const digits = roundedDigits(whole + fraction, whole.length + places);
  const point = digits.length - places;
  return thousands(digits.slice(0, point)) + (places ? "." + digits.slice(point) : "");
}

/** Python's f"{value:.6g}" of a number from 0 on. */
function sixFigures(value) {
  if (value === "inf" || value === Infinity) return "inf";
  if (value === 0) return "0";
  const [mantissa, power] = value.toExponential(80).split("e");
  let digits = roundedDigits(mantissa.replace(".", ""), 6);
  let exponent = Number(power);
  if (digits.length > 6) {
    digits = digits.slice(0, 6);
    exponent += 1;
  }
  if (exponent < -4 || exponent >= 6) {
    const tail = digits.slice(1).replace(/0+$/, "");
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${digits[0]}${tail && "." + tail}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  const padded = exponent < 0 ? "0".repeat(-exponent) + digits : digits;
  const point = exponent < 0 ? 1 : exponent + 1;
  const tail = padded.slice(point).replace(/0+$/, "");
  return padded.slice(0, point) + (tail && "." + tail);
}

const percentText = (value) => (value === null ? "-" : `${fixed(value, 1)}%`);
const countText = (value) => thousands(String(value));

/** The magnitude that a sign-cleared bit pattern stands for. */
function magnitudeOf(pattern, encoding) {
  const view = new DataView(new ArrayBuffer(4));
  if (encoding === "float16") {
    const exponent = pattern >> 10, mantissa = pattern & 1023;
    if (exponent === 31) return Infinity;
    return exponent ? (1 + mantissa / 1024) * 2 ** (exponent - 15) : mantissa * 2 ** -24;
  }
  view.setUint32(0, encoding === "bfloat16" ? pattern * 65536 : pattern);
  return view.getFloat32(0);
}
