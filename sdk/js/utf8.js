// UTF-8 in plain JavaScript: QuickJS has no TextEncoder and no TextDecoder.

const CHUNK = 8192;

/** Text as UTF-8. A surrogate that stands alone becomes U+FFFD. */
export function encode(text) {
  if (globalThis.TextEncoder) return new TextEncoder().encode(text);
  const length = text.length;
  // A UTF-16 unit becomes three bytes at most.
  const bytes = new Uint8Array(length * 3);
  let at = 0;
  for (let index = 0; index < length; index++) {
    let code = text.charCodeAt(index);
    if (code < 0x80) {
      bytes[at++] = code;
      continue;
    }
    if (code >= 0xd800 && code <= 0xdfff) {
      const low = code < 0xdc00 && index + 1 < length ? text.charCodeAt(index + 1) : 0;
      if (low >= 0xdc00 && low <= 0xdfff) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        index++;
      } else {
        code = 0xfffd;
      }
    }
    if (code < 0x800) {
      bytes[at++] = 0xc0 | (code >> 6);
    } else {
      if (code < 0x10000) {
        bytes[at++] = 0xe0 | (code >> 12);
      } else {
        bytes[at++] = 0xf0 | (code >> 18);
        bytes[at++] = 0x80 | ((code >> 12) & 0x3f);
      }
      bytes[at++] = 0x80 | ((code >> 6) & 0x3f);
    }
    bytes[at++] = 0x80 | (code & 0x3f);
  }
  return bytes.slice(0, at);
}

/** UTF-8 as text. Bytes that are none become U+FFFD, as the WHATWG's decoder has it. */
export function decode(bytes) {
  if (globalThis.TextDecoder) return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  const parts = [];
  let units = [];
  const end = bytes.length;
  for (let at = 0; at < end; ) {
    const lead = bytes[at++];
    if (lead < 0x80) {
      units.push(lead);
    } else {
      let more = 0;
      let low = 0x80;
      let high = 0xbf;
      let code = 0;
      if (lead >= 0xc2 && lead <= 0xdf) {
        more = 1;
        code = lead & 0x1f;
      } else if (lead >= 0xe0 && lead <= 0xef) {
        more = 2;
        code = lead & 0x0f;
        if (lead === 0xe0) low = 0xa0;
        if (lead === 0xed) high = 0x9f;
      } else if (lead >= 0xf0 && lead <= 0xf4) {
        more = 3;
        code = lead & 0x07;
        if (lead === 0xf0) low = 0x90;
        if (lead === 0xf4) high = 0x8f;
      } else {
        code = 0xfffd;
      }
      for (; more > 0; more--) {
        const next = at < end ? bytes[at] : 0;
        if (next < low || next > high) {
          code = 0xfffd;
          break;
        }
        code = (code << 6) | (next & 0x3f);
        low = 0x80;
        high = 0xbf;
        at++;
      }
      if (code >= 0x10000) {
        units.push(0xd800 + ((code - 0x10000) >> 10), 0xdc00 + (code & 0x3ff));
      } else {
        units.push(code);
      }
    }
    if (units.length >= CHUNK) {
      parts.push(String.fromCharCode.apply(null, units));
      units = [];
    }
  }
  parts.push(String.fromCharCode.apply(null, units));
  return parts.join("");
}
