// UTF-8 decoding for the tokenizers. Texts may hold any bytes, so every function says what it does
// with malformed ones. Not for normalisation.

#include "src/model/utf8.h"

size_t utf8_decode(const char *text, size_t bytes, uint32_t *code)
{
    if (bytes == 0) return 0;
    const unsigned char *at = (const unsigned char *)text;
    if (at[0] < 0x80) {
        *code = at[0];
        return 1;
    }
    size_t n = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (at[0] < 0xc2 || at[0] > 0xf4 || bytes < n) return 0;
    uint32_t value = at[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (at[i] & 0x3fu);
    }
    if (value < smallest[n] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return 0;
    *code = value;
    return n;
}

size_t utf8_next(const char *text, size_t bytes, uint32_t *code)
{
    size_t n = utf8_decode(text, bytes, code);
    if (n > 0 || bytes == 0) return n;
    *code = 0x110000u + (unsigned char)text[0];
    return 1;
}

size_t utf8_valid_bytes(const char *text, size_t bytes)
{
    size_t valid_bytes = 0;
    while (valid_bytes < bytes) {
        uint32_t code;
        size_t n = utf8_decode(text + valid_bytes, bytes - valid_bytes, &code);
        if (n == 0) break;
        valid_bytes += n;
    }
    return valid_bytes;
}
